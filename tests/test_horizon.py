"""The number of optimizer steps, worked by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

from stepwell import horizon


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def loader(samples: int, batch_size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(list(range(samples)), batch_size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "options", "steps"),
    [
        (10, {}, 10),
        (10, {"epochs": 3}, 30),
        (10, {"accumulation": 4}, 3),  # 4 + 4 + 2
        (10, {"accumulation": 4, "epochs": 3}, 9),
        (10, {"accumulation": 4, "epochs": 3, "remainder": "drop"}, 6),  # 4 + 4 in every epoch
        (10, {"accumulation": 4, "epochs": 3, "remainder": "carry"}, 7),  # 30 batches, 2 left over
        (10, {"accumulation": 16}, 1),
        (10, {"world_size": 4}, 3),
        (10, {"world_size": 4, "drop_last": True}, 2),
        (10, {"world_size": 4, "accumulation": 2}, 2),
        (100, {"batch_size": 8}, 13),
        (100, {"batch_size": 8, "drop_last": True}, 12),
        (100, {"batch_size": 8, "world_size": 3}, 5),  # 13 batches on 3 processes
        (100, {"batch_size": 8, "world_size": 3, "drop_last": True}, 4),  # 12 on 3
        # 34 samples a process: 4 whole batches; dealt out in batches, 14 on 3 processes.
        (100, {"batch_size": 7, "world_size": 3, "drop_last": True, "sharding": "samples"}, 4),
        (9, {"batch_size": 5, "world_size": 2, "drop_last": True, "sharding": "samples"}, 1),
        (10, {"epochs": 0.25}, 3),
        (10, {"epochs": 1.5, "accumulation": 4}, 5),  # 1.5 · 3
        (10, {"steps": 7}, 7),
        (10, {"steps": 70, "epochs": 2}, 20),
        (10, {"steps": 7, "epochs": 2}, 7),
    ],
)
def test_by_hand(length: int, options: dict[str, Any], steps: int) -> None:
    found = horizon(length, **({} if "steps" in options else {"epochs": 1}) | options)
    assert found == steps
    assert type(found) is int


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_loader_knows_its_batches(drop_last: bool) -> None:
    given = loader(10, 4, drop_last=drop_last)
    assert horizon(given, epochs=2) == (4 if drop_last else 6)
    assert horizon(given, epochs=2, world_size=2) == (2 if drop_last else 4)
    assert horizon(given, epochs=2, world_size=2, sharding="samples") == (2 if drop_last else 4)
    own = DataLoader(list(range(10)), batch_sampler=BatchSampler(SequentialSampler(range(10)), 4, drop_last))  # type: ignore[arg-type]
    assert horizon(own, epochs=2, world_size=2) == (2 if drop_last else 4)


def test_a_loader_that_is_shared_out_is_counted_as_it_is() -> None:
    data = list(range(10))
    given = loader(10, 2, sampler=DistributedSampler(data, 3, rank=0))  # type: ignore[arg-type]
    assert horizon(given, epochs=1) == horizon(given, epochs=1, world_size=3) == 2  # four samples


def test_what_has_a_length() -> None:
    assert horizon([[1, 2], [3, 4], [5]], epochs=2) == 6  # batches
    assert horizon(torch.zeros(10, 3), epochs=1, batch_size=4) == 3
    assert horizon(Stream(), steps=5) == 5


@given(
    samples=st.integers(1, 200),
    batch_size=st.integers(1, 30),
    world_size=st.integers(1, 9),
    accumulation=st.integers(1, 9),
    epochs=st.integers(1, 4),
)
def test_the_formula(samples: int, batch_size: int, world_size: int, accumulation: int, epochs: int) -> None:
    options = {"epochs": epochs, "world_size": world_size, "accumulation": accumulation}
    found = horizon(samples, batch_size=batch_size, **options)
    # ⌈⌈⌈N/B⌉/W⌉/A⌉ = ⌈N/(B·W·A)⌉: dealt out in batches or in samples, it is the same as long as nothing is left out.
    assert found == epochs * math.ceil(samples / (batch_size * world_size * accumulation))
    assert found == horizon(samples, batch_size=batch_size, sharding="samples", **options)
    assert found == horizon(loader(samples, batch_size), **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, {}), ValueError, "give epochs (passes over the data) or steps (where it ends), or both"),
        ((0, {"epochs": 1}), ValueError, "the length of an epoch must be at least 1, got 0"),
        ((10.0, {"epochs": 1}), TypeError, "the length of an epoch must be a whole number (int), got 10.0"),
        (("10", {"epochs": 1}), TypeError, "the length of an epoch must be a whole number (int), got '10'"),
        (([], {"epochs": 1}), ValueError, "the length of the list must be at least 1, got 0"),
        ((10, {"epochs": 0}), ValueError, "epochs must be a finite number above 0, got 0"),
        ((10, {"epochs": float("nan")}), ValueError, "epochs must be a finite number above 0, got nan"),
        ((10, {"epochs": "3"}), TypeError, "epochs must be a number, got '3'"),
        ((10, {"epochs": 1, "steps": 0}), ValueError, "steps must be at least 1, got 0"),
        ((10, {"epochs": 1, "accumulation": 0}), ValueError, "accumulation must be at least 1, got 0"),
        ((10, {"epochs": 1, "accumulation": 2.0}), TypeError, "accumulation must be a whole number (int), got 2.0"),
        ((10, {"epochs": 1, "world_size": 0}), ValueError, "world_size must be at least 1, got 0"),
        ((10, {"epochs": 1, "batch_size": 0}), ValueError, "batch_size must be at least 1, got 0"),
        ((10, {"epochs": 1, "drop_last": 1}), TypeError, "drop_last must be True or False, got 1"),
        (
            (10, {"epochs": 1, "sharding": "sample"}),
            ValueError,
            "sharding must be one of 'batches', 'samples', got 'sample' (did you mean 'samples'?)",
        ),
        ((10, {"epochs": 1, "remainder": "kept"}), ValueError, "remainder must be one of 'step', 'carry', 'drop', got"),
        ((torch.zeros(10), {"epochs": 1}), ValueError, "a data set needs batch_size, the samples of a batch on one"),
        ((iter([1]), {"epochs": 1}), TypeError, "a list_iterator does not know its length: give the number of batches"),
        ((loader(10, 4), {"epochs": 1, "batch_size": 4}), ValueError, "batch_size is not for a loader, which knows"),
        ((loader(10, 4), {"epochs": 1, "drop_last": True}), ValueError, "drop_last=True, but the DataLoader keeps its"),
        (
            (DataLoader(Stream()), {"epochs": 1}),
            TypeError,
            "the DataLoader does not know its length, for its data do not: give the number of batches, or steps alone",
        ),
        (
            (loader(10, 2, sampler=DistributedSampler(range(10), 3, rank=0)), {"epochs": 1, "world_size": 2}),
            ValueError,
            "the DataLoader is shared out over 3 processes already, got world_size=2",
        ),
        (
            (loader(3, 4, drop_last=True), {"epochs": 1}),
            ValueError,
            "an epoch has no whole batch, and drop_last=True leaves the rest out: make batch_size smaller, or keep",
        ),
        (
            (9, {"epochs": 1, "batch_size": 5, "world_size": 2, "drop_last": True}),
            ValueError,
            "an epoch has no whole batch on 2 processes, and drop_last=True leaves the rest out",
        ),
        (
            (9, {"epochs": 1, "world_size": 2, "drop_last": True, "sharding": "samples"}),
            ValueError,
            "sharding='samples' with drop_last=True needs the number of samples, and batch_size",
        ),
        (
            (
                DataLoader(range(9), batch_sampler=[[0, 1], [2, 3]]),  # type: ignore[arg-type]
                {"epochs": 1, "world_size": 2, "sharding": "samples"},
            ),
            ValueError,
            "sharding='samples' needs the number of samples, which the DataLoader does not say: give that number and",
        ),
        (
            (3, {"epochs": 1, "accumulation": 4, "remainder": "drop"}),
            ValueError,
            "no optimizer step: 3 batches a process and epoch do not fill an accumulation of 4, and remainder='drop'",
        ),
    ],
)
def test_errors(arguments: Any, error: type[Exception], message: str) -> None:
    length, options = arguments
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        horizon(length, **options)
