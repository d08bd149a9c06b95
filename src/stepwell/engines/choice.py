"""Which engine runs a batch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor

from stepwell.codecs import Codec
from stepwell.engines.batch import REAL_DTYPES, Engine, names_of
from stepwell.engines.foreach import Foreach
from stepwell.engines.large_matrices import LargeMatrices
from stepwell.engines.matrices import Matrices
from stepwell.engines.ranks.reducing import Reducing
from stepwell.engines.ranks.sharing import Sharing
from stepwell.engines.reference import Reference
from stepwell.layout.parts import Layout
from stepwell.rules.rule import Rule
from stepwell.text.naming import nearest

if TYPE_CHECKING:
    from stepwell.engines.fused.engine import Fused
    from stepwell.engines.fused.triton_engine import Triton

    FusedEngine = Fused | Triton

EngineName = Literal["auto", "reference", "foreach", "fused"]
ENGINES = ("auto", "reference", "foreach", "fused")

_LOG = logging.getLogger("stepwell")
REFERENCE, FOREACH, MATRICES = Reference(), Foreach(), Matrices()
# The engine of whole matrices, by what was asked for; by default kernels do what is element by element on a CPU.
_OF_MATRICES = {"reference": REFERENCE, "foreach": MATRICES}
_WITH_KERNELS = LargeMatrices(lambda: _cpu_kernels())
# The same for parameters that lie on many ranks; rules that act on elements need none.
_REDUCING = {"reference": Reducing(exactly=True), "foreach": Reducing()}
_SHARING = {name: Sharing(engine) for name, engine in {**_OF_MATRICES, "auto": _WITH_KERNELS}.items()}


def check_engine(name: str) -> None:
    """Raise ValueError for a name that is no engine's."""
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {name!r}{nearest(name, ENGINES)}")


def engine_for(
    name: str,
    rule: Rule,
    weight: Tensor,
    codecs: Mapping[str, Codec] | None = None,
    layout: Layout | None = None,
) -> Engine:
    """The engine for a parameter like `weight` under `rule`, stored by these codecs (as plain tensors by default).

    `layout` says how the parameter lies on many ranks, if it does: `weight` is then a part, and where ranks share
    new weights the same one on all: they send one message for what runs together. Raises ValueError
    where the engine asked for cannot.
    """
    if layout is not None and rule.acts_on == "matrices":
        return _SHARING.get(name, _SHARING["auto"])
    if layout is not None and rule.acts_on != "elements":
        return _REDUCING["reference" if name == "reference" else "foreach"]
    if rule.acts_on == "matrices":
        return _OF_MATRICES.get(name, _WITH_KERNELS)
    if name == "reference":
        return REFERENCE
    if name == "foreach":
        return FOREACH
    engine, reason = _load(weight.device.type)
    if engine is None:
        pass
    elif not engine.serves(weight):
        reason = f"it serves tensors of {names_of(REAL_DTYPES)} that lie in the device's memory without gaps"
    elif not engine.serves_rule(rule, weight):
        reason = f"for {type(rule).__name__} it serves contiguous matrices"
    elif (limit := engine.limit(rule, weight, codecs or {})) is not None:
        reason = limit
    else:
        return engine
    if name == "fused":
        raise ValueError(
            f"engine='fused' cannot run a {weight.dtype} parameter of shape {tuple(weight.shape)} with strides "
            f"{weight.stride()} on {weight.device}: {reason}; use engine='auto'"
        )
    _say_fallback(weight.device.type, str(weight.dtype), reason)
    return FOREACH


def fused(device: str) -> FusedEngine | None:
    """The fused engine for devices of this type ("cpu", "cuda"), or None where there is none or it cannot be used."""
    return _load(device)[0]


def _cpu_kernels() -> Fused | None:
    return cast("Fused | None", fused("cpu"))


def judging(device: str) -> Triton | None:
    """The fused engine for devices of this type, where it reaches verdicts on gradients (`Batch.verdict`)."""
    engine = fused(device)
    return None if engine is None or engine.judges is False else engine


@functools.cache
def _load(device: str) -> tuple[FusedEngine | None, str]:
    """The fused engine for a type of device, or why there is none. What it needs is imported now."""
    try:
        if device == "cpu":
            from stepwell.engines.fused.engine import Fused
            from stepwell.machine.compiler import problem as problem_of_numba

            why_not = problem_of_numba()
            return (None, f"it cannot be loaded ({why_not})") if why_not else (Fused(), "")
        if device == "cuda":
            from stepwell.engines.fused.triton_engine import Triton, problem

            why_not = problem()
            return (None, f"it cannot be used ({why_not})") if why_not else (Triton(), "")
    except ImportError as error:
        return None, f"it cannot be loaded ({error})"
    return None, "it serves the devices 'cpu' and 'cuda'"


@functools.cache
def _say_fallback(device: str, dtype: str, reason: str) -> None:
    """Once for each kind of parameter: a fallback is never silent."""
    _LOG.warning("the foreach engine runs %s parameters on %s, not the fused one: %s", dtype, device, reason)
