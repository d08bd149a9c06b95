"""`python -m bench stub`: src/stepwell/facades.pyi, the optimizers as a type checker and an editor see them.

The classes themselves are made of the rules when stepwell is imported, which no type checker can follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from bench.gallery import own_entries
from stepwell import facades
from stepwell.optimizer.one_rule import Named

STUB = Path(__file__).parent.parent / "src" / "stepwell" / "facades.pyi"

_HEAD = """\
# Written by `python -m bench stub` from the signatures that the classes have when stepwell runs.

from collections.abc import Iterable
from typing import Any, Literal

from torch.distributed.device_mesh import DeviceMesh

from stepwell.optimizer.one_rule import Named
"""


def write(stub: Path = STUB) -> Path:
    """Write the stub from the classes."""
    stub.write_text(text(), encoding="utf-8")
    return stub


def text() -> str:
    """The stub: a class for each optimizer, in the order of the module."""
    kinds = [each for each in vars(facades).values() if isinstance(each, type) and issubclass(each, Named)]
    about = {entry.name: entry.about for entry in own_entries()}
    return "\n".join([_HEAD, *(_class(kind, about[kind.__name__]) for kind in kinds)])


def _class(kind: type[Named], about: str) -> str:
    arguments = "".join(f"        {each},\n" for each in _arguments(inspect.signature(kind)))
    return (
        f'class {kind.__name__}(Named):\n    """{about}."""\n\n'
        f"    def __init__(\n        self,\n{arguments}    ) -> None: ...\n"
    )


def _arguments(signature: inspect.Signature) -> Iterator[str]:
    by_name = False
    for each in signature.parameters.values():
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not by_name:
            by_name = True
            yield "*"
        default = "" if each.default is inspect.Parameter.empty else f" = {_value(each.default)}"
        yield f"{each.name}: {_annotation(each.annotation)}{default}"


def _annotation(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"Literal[{', '.join(map(_value, inner))}]"
    if origin in (Union, UnionType):
        return " | ".join(map(_annotation, inner))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_annotation, inner))}]"
    return {NoneType: "None", Ellipsis: "..."}.get(kind) or str(kind.__name__)


def _value(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
