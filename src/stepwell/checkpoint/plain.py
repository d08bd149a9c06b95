"""Trees of plain values as JSON, and back without loss: tuples stay tuples, infinity stays infinity.

JSON has strings, numbers, lists and objects with strings for keys. All else is an object with one key, which says what
it is: `{"$tuple": [1, 2]}`. A tensor is taken out of the tree, and `{"$tensor": key}` stands in its place.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.checkpoint.errors import CheckpointError

MARK = "$"

Keep = Callable[[str, Tensor], str]
"""Takes a tensor out of a tree, given where it stood, and says under which key it is found again."""


def encode(value: Any, path: str, keep: Keep) -> Any:
    """The tree as values that `json.dumps` takes. Raises CheckpointError where something in it is not plain.

    Args:
        value: None, bool, int, float, str, bytes, a tensor, a NumPy number or array, or lists, tuples, dicts, counters
            and queues of such.
        path: where the value stands, in words of the user's: "extra", "scheduler/_schedulers/0".
        keep: called with each tensor.
    """

    def inside(each: Any, key: Any) -> Any:
        return encode(each, f"{path}/{key}", keep)

    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic) and not isinstance(plain := value.item(), np.generic):  # as a longdouble's is
        return encode(plain, path, keep)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"$tensor": keep(path, value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.char != "g":  # a longdouble
        return {"$array": keep(path, torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="))))}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        if not isinstance(value, Counter) and all(type(key) is str and not key.startswith(MARK) for key in value):
            return {key: inside(each, key) for key, each in value.items()}
        kind = "$counter" if isinstance(value, Counter) else "$dict"
        return {kind: [[encode(key, f"{path} (a key)", keep), inside(each, key)] for key, each in value.items()]}
    if isinstance(value, (list, tuple, deque)):
        items = [inside(each, index) for index, each in enumerate(value)]
        if isinstance(value, deque):
            return {"$deque": [items, value.maxlen]}
        return items if isinstance(value, list) else {"$tuple": items}
    kind = type(value).__name__ + (f" of {value.dtype}" if isinstance(value, np.ndarray) else "")
    raise CheckpointError(
        f"{path} is a {kind}, which a checkpoint cannot hold: it takes numbers, strings, bytes, None, "
        "tensors, arrays, and lists, tuples and dicts of them"
    )


def decode(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """What `encode` was given, from the values that `json.loads` gave. Raises CheckpointError where it gave no such.

    Args:
        value: the tree.
        tensor: finds a tensor by its key.
    """
    if isinstance(value, list):
        return [decode(each, tensor) for each in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith(MARK) for key in value):
        return {key: decode(each, tensor) for key, each in value.items()}
    ((kind, content),) = value.items() if len(value) == 1 else (("several marks", None),)
    try:
        return _DECODED[kind](content, tensor)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"it holds a value that this stepwell does not know: {kind!r}") from error


def _pairs(content: Any, tensor: Callable[[str], Tensor]) -> list[tuple[Any, Any]]:
    return [(decode(key, tensor), decode(each, tensor)) for key, each in content]


def _queue(content: Any, tensor: Callable[[str], Tensor]) -> deque[Any]:
    items, longest = content
    return deque(decode(items, tensor), maxlen=longest)


_DECODED: dict[str, Callable[[Any, Callable[[str], Tensor]], Any]] = {
    "$float": lambda content, _: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content],
    "$tensor": lambda content, tensor: tensor(content),
    "$array": lambda content, tensor: tensor(content).numpy(),
    "$bytes": lambda content, _: base64.b64decode(content, validate=True),
    "$tuple": lambda content, tensor: tuple(decode(list(content), tensor)),
    "$deque": _queue,
    "$dict": lambda content, tensor: dict(_pairs(content, tensor)),
    "$counter": lambda content, tensor: Counter(dict(_pairs(content, tensor))),
}


def readable(value: Any) -> Any:
    """What `encode` was given, with the names of tensors in their places."""
    return decode(value, lambda key: _Named(f"<tensor {key}>"))  # type: ignore[arg-type, return-value]


class _Named(str):
    """The name of a tensor, where one is expected."""

    __slots__ = ()

    __repr__ = str.__str__

    def numpy(self) -> _Named:
        return self


def tensor_keys(value: Any) -> list[str]:
    """The keys of the tensors in a tree that `encode` has made, in their order."""
    if isinstance(value, list):
        return [key for each in value for key in tensor_keys(each)]
    if not isinstance(value, dict):
        return []
    if len(value) == 1 and (key := value.get("$tensor", value.get("$array"))) is not None:
        return [key]
    return [key for each in value.values() for key in tensor_keys(each)]
