"""Trees of plain values go through JSON and come back as they were."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.plain import decode, encode


def through(value: Any) -> Any:
    """The value after a way through JSON text."""
    held: dict[str, Tensor] = {}

    def keep(path: str, tensor: Tensor) -> str:
        held[path] = tensor
        return path

    return decode(json.loads(json.dumps(encode(value, "v", keep), allow_nan=False)), held.__getitem__)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, NaN to NaN, −0 to −0."""
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and len(a) == len(b) and all(map(same, a.items(), b.items()))
    if isinstance(a, float):
        return (
            type(b) is float
            and (a == b or (math.isnan(a) and math.isnan(b)))
            and math.copysign(1, a) == (math.copysign(1, b) if not math.isnan(a) else math.copysign(1, a))
        )
    return type(a) is type(b) and a == b


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@given(TREES)
def test_trees_come_back(value: Any) -> None:
    assert same(value, through(value))


def test_marks_in_the_users_own_keys_are_no_marks() -> None:
    for value in ({"$tuple": [1]}, {"$float": "inf", "a": 1}, {"": {"$": 2}}):
        assert through(value) == value


def test_other_containers() -> None:
    found = through(Counter({3: 2, 5: 1}))
    assert type(found) is Counter
    assert found == Counter({3: 2, 5: 1})
    queue = through(deque([1.5, math.inf], maxlen=4))
    assert (type(queue), list(queue), queue.maxlen) == (deque, [1.5, math.inf], 4)
    assert through(OrderedDict(a=1)) == through(defaultdict(int, a=1)) == {"a": 1}


def test_tensors_are_taken_out_of_the_tree() -> None:
    a, b = torch.ones(2), torch.zeros(3, dtype=torch.bfloat16)
    value = {"a": a, "list": [1, (b,)]}
    held: dict[str, Tensor] = {}

    def keep(path: str, tensor: Tensor) -> str:
        held[path] = tensor
        return path

    assert encode(value, "v", keep) == {"a": {"$tensor": "v/a"}, "list": [1, {"$tuple": [{"$tensor": "v/list/1/0"}]}]}
    assert held["v/a"] is a
    assert held["v/list/1/0"] is b


def test_numpy() -> None:
    assert same(through(np.float32(0.5)), 0.5)
    assert same(through(np.int64(3)), 3)
    assert same(through(np.bool_(True)), True)
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    found = through(array)
    assert found.dtype == np.dtype("int32")
    assert (found == array).all()


@pytest.mark.parametrize("value", [object(), lambda: 3, {1, 2}, complex(1, 2), torch.float32, np.longdouble(1)])
def test_what_is_not_plain_is_named(value: Any) -> None:
    kind = type(value).__name__
    message = rf"^extra/loader/0 is a {kind}, which a checkpoint cannot hold: it takes numbers, strings, bytes, None, "
    with pytest.raises(CheckpointError, match=message):
        encode({"loader": [value]}, "extra", lambda path, _: path)


@pytest.mark.parametrize(("value", "dtype"), [(np.array(["a"]), "<U1"), (np.ones(2, np.longdouble), r"float\d+")])
def test_arrays_of_other_dtypes_are_named(value: Any, dtype: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^extra/noise is a ndarray of {dtype}, which a checkpoint cannot hold"):
        encode({"noise": value}, "extra", lambda path, _: path)


@pytest.mark.parametrize(
    "value",
    [
        {"$float": "1e5"},
        {"$float": []},
        {"$set": [1]},
        {"$tuple": 3},
        {"$tuple": [1], "$list": []},
        {"$bytes": "a"},
        {"$bytes": 3},
        {"$dict": [1]},
        {"$dict": [[[1], 2]]},
        {"$deque": [1]},
        {"$tensor": "nowhere"},
        {"a": {"$counter": [[1, "x", 3]]}},
    ],
)
def test_what_encode_never_gives_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="it holds a value that this stepwell does not know"):
        decode(value, {}.__getitem__)
