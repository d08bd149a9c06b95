"""How many optimizer steps a training takes: the horizon that schedules are laid over."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any, Literal

from stepwell.schedules.fields import check_choice, check_count, check_flag, check_number

Sharding = Literal["batches", "samples"]
Remainder = Literal["step", "carry", "drop"]


def horizon(
    loader_or_length: Any,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    accumulation: int = 1,
    world_size: int = 1,
    batch_size: int | None = None,
    drop_last: bool = False,
    sharding: Sharding = "batches",
    remainder: Remainder = "step",
) -> int:
    """The optimizer steps of a training as they will happen, remainders included.

        scheduler = stepwell.create_scheduler(optimizer, "cosine", horizon=horizon(loader, epochs=3, accumulation=4))

    With N samples, a batch size B, W processes and an accumulation of A, an epoch has ⌈⌈N / B⌉ / W⌉ batches on each
    process, and the last accumulation of an epoch may be a smaller one:

        steps = ⌈epochs · ⌈batches / A⌉⌉

    So count transformers' Trainer (5), Accelerate and Lightning. Where they differ, the last two arguments choose.

    Args:
        loader_or_length: what is trained on in an epoch, before it is shared out: a loader that knows its length, or
            the number of batches, or, with a `batch_size`, a data set or the number of samples. A loader that is
            shared out already (by a `DistributedSampler`, or by Accelerate) is counted as it is, on this process.
        epochs: passes over it, above 0; a fraction ends within an epoch.
        steps: end after so many optimizer steps, at least 1. With `epochs` the earlier end counts, as in Lightning;
            the Trainer's `max_steps` sets `num_train_epochs` aside: give it alone.
        accumulation: batches whose gradients are added up to one step, at least 1.
        world_size: processes that share the data, at least 1.
        batch_size: samples of a batch on one process, at least 1. Not for a loader, which knows it.
        drop_last: leave out the last batch where it is smaller. A loader knows this, too.
        sharding: what the processes share. "batches": whole batches are dealt out, as Accelerate and the Trainer do.
            "samples": every process makes batches of its own share, as torch's `DistributedSampler` and so Lightning
            do. With `drop_last` the former leave out more: of 9 samples in batches of 5 on 2 processes "batches" keep
            none, and "samples" one batch of 5 on each (one sample twice).
        remainder: what becomes of the batches that do not fill an accumulation. "step": they are one, at the end of
            every epoch. "carry": the next epoch fills it, and only the last is left over (Accelerate with
            `sync_with_dataloader=False`, or with a loader that it has not prepared). "drop": there is no step for
            them (a loop that asks `(i + 1) % accumulation == 0`).

    Returns:
        The number of optimizer steps, at least 1. Steps that a GradScaler skips are among them.

    Raises:
        TypeError: an argument of the wrong type, or something that does not know its length.
        ValueError: an argument out of range; neither `epochs` nor `steps`; an argument that contradicts the loader; or
            a training without a step.
    """
    if epochs is None and steps is None:
        raise ValueError("give epochs (passes over the data) or steps (where it ends), or both")
    accumulation = check_count("accumulation", accumulation)
    world_size = check_count("world_size", world_size)
    check_flag("drop_last", drop_last)
    check_choice("sharding", sharding, ("batches", "samples"))
    check_choice("remainder", remainder, ("step", "carry", "drop"))
    batch_size = None if batch_size is None else check_count("batch_size", batch_size)
    last = math.inf if steps is None else check_count("steps", steps)
    if epochs is None:
        return int(last)
    passes = check_number("epochs", epochs, above=0)
    batches = _batches(loader_or_length, batch_size, world_size, drop_last, sharding)
    if remainder == "carry":
        count = math.ceil(passes * batches) // accumulation
    else:
        whole, rest = divmod(batches, accumulation)
        count = math.ceil(passes * (whole + (rest > 0 and remainder == "step")))
    if count == 0:
        raise ValueError(
            f"no optimizer step: {batches} batches a process and epoch do not fill an accumulation of {accumulation}, "
            f"and remainder={remainder!r} leaves them out"
        )
    return int(min(count, last))


def _batches(given: Any, batch_size: int | None, world_size: int, drop_last: bool, sharding: Sharding) -> int:
    """The batches of one epoch on each process, at least 1."""
    if hasattr(given, "batch_sampler"):
        if batch_size is not None:
            raise ValueError(f"batch_size is not for a loader, which knows its own, got {batch_size}")
        found = _batches_of_a_loader(given, world_size, drop_last, sharding)
    elif batch_size is not None:
        found = _batches_of_samples(_length(given, batch_size), batch_size, world_size, drop_last, sharding)
    elif sharding == "samples" and world_size > 1 and drop_last:
        raise ValueError(
            "sharding='samples' with drop_last=True needs the number of samples, and batch_size: a number of batches "
            "does not say what is left out"
        )
    else:
        found = _quotient(_length(given, batch_size), world_size, drop_last)
    if not found:
        shared = f" on {world_size} processes" if world_size > 1 else ""
        raise ValueError(
            f"an epoch has no whole batch{shared}, and drop_last=True leaves the rest out: make batch_size smaller, or "
            "keep the last batch"
        )
    return found


def _length(given: Any, batch_size: int | None) -> int:
    """The number of batches or samples."""
    kind = type(given).__name__
    if isinstance(given, Sized) and not isinstance(given, (str, bytes)):
        if batch_size is None and hasattr(given, "__getitem__") and not isinstance(given, (list, tuple)):
            raise ValueError(
                f"a data set needs batch_size, the samples of a batch on one process; got a {kind} without"
            )
        return check_count(f"the length of the {kind}", len(given))
    if hasattr(given, "__iter__") and not isinstance(given, (str, bytes)):
        raise TypeError(f"a {kind} does not know its length: give the number of batches, or steps alone")
    return check_count("the length of an epoch", given)


def _batches_of_a_loader(loader: Any, world_size: int, drop_last: bool, sharding: Sharding) -> int:
    kind = type(loader).__name__
    try:
        length = len(loader)
    except TypeError:
        raise TypeError(
            f"the {kind} does not know its length, for its data do not: give the number of batches, or steps alone"
        ) from None
    batches = loader.batch_sampler
    sampler = getattr(batches, "sampler", getattr(loader, "sampler", None))
    drops = bool(getattr(batches, "drop_last", getattr(loader, "drop_last", False)))
    if drop_last and not drops:
        raise ValueError(f"drop_last=True, but the {kind} keeps its last batch: make it with drop_last=True")
    if not drops:
        check_count(f"the length of the {kind}", length)
    shares = _shares(loader, batches, sampler, getattr(loader, "dataset", None))
    if shares > 1:
        if world_size not in (1, shares):
            raise ValueError(f"the {kind} is shared out over {shares} processes already, got world_size={world_size}")
        return length
    if sharding == "samples" and world_size > 1:
        size = getattr(batches, "batch_size", None)
        if size is None or not isinstance(sampler, Sized):
            raise ValueError(
                f"sharding='samples' needs the number of samples, which the {kind} does not say: give that number and "
                "batch_size"
            )
        return _batches_of_samples(len(sampler), size, world_size, drops, sharding)
    return _quotient(length, world_size, drops)


def _shares(loader: Any, *parts: Any) -> int:
    """Over how many processes torch's DistributedSampler or Accelerate has shared out a loader."""
    counts = [getattr(part, name, None) for part in (loader, *parts) for name in ("num_replicas", "num_processes")]
    counts.append(getattr(getattr(loader, "state", None), "num_processes", None))  # Accelerate's dispatcher
    return max((count for count in counts if isinstance(count, int)), default=1)


def _batches_of_samples(samples: int, batch_size: int, world_size: int, drop_last: bool, sharding: Sharding) -> int:
    if sharding == "samples":
        return _quotient(math.ceil(samples / world_size), batch_size, drop_last)
    return _quotient(_quotient(samples, batch_size, drop_last), world_size, drop_last)


def _quotient(whole: int, part: int, drop_last: bool) -> int:
    return whole // part if drop_last else -(-whole // part)
