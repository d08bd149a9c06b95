"""From a model, an optimizer and a scheduler to a checkpoint on the disk."""

from __future__ import annotations

import errno
import logging
import math
import numbers
import os
import secrets
import shutil
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepwell.checkpoint import folder, generators, manifest, tensorfile
from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.manifest import Manifest
from stepwell.checkpoint.names import EXTRA_STATE, bare, named_tensors, parameter_names, plain_name
from stepwell.checkpoint.plain import encode, readable
from stepwell.checkpoint.unwrapping import inner_optimizer, inner_scheduler
from stepwell.roles import parameter_roles
from stepwell.text.naming import ENGINE_FLAGS, nearest

MODEL, OPTIMIZER, VALUES = "model.safetensors", "optimizer.safetensors", "values.safetensors"

_LOG = logging.getLogger("stepwell")
# The training that a model and an optimizer belong to: a new name at the first save, the checkpoint's after a load.
_TRAININGS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints of a training stay: the last few, and the best.

    Args:
        last: how many of the newest, at least 1.
        best: the name of a number in `extra`; the checkpoint where it is best stays too. None keeps none for that.
        highest: whether the best number is the highest; it is the lowest otherwise, as of a loss.
    """

    last: int = 1
    best: str | None = None
    highest: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.last, bool) or not isinstance(self.last, int) or self.last < 1:
            raise ValueError(f"keep must be a whole number of at least 1, got {self.last!r}")
        if not isinstance(self.best, str | None):
            raise TypeError(f"keep.best must be the name of a number in extra, got {self.best!r}")

    def check(self, extra: Mapping[str, Any]) -> None:
        """Raise CheckpointError where `extra` has no number of the name. NaN is one, but never the best."""
        if self.best is not None and not isinstance(extra.get(self.best), numbers.Real):
            names = [str(name) for name in extra]
            there = f"it is {extra[self.best]!r}" if self.best in extra else f"it has {', '.join(names) or 'nothing'}"
            hint = "" if self.best in extra else nearest(self.best, names)
            raise CheckpointError(f"keep.best needs a number called {self.best!r} in extra, but {there}{hint}")


def save(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    extra: Mapping[str, Any] | None = None,
    keep: int | Keep | None = None,
) -> Path:
    """Save a training, so that `load` goes on with the same bits: `save("runs/gpt", model=model, optimizer=…, keep=3)`.

    `path` is a folder of checkpoints; each save adds one, numbered on, and it is there whole or not at all: a kill, a
    full disk or a second writer leaves the others as they are. A checkpoint is a folder of safetensors files, in which
    tensors have their parameter's name (`blocks.3.mlp.up.weight/exp_avg`) and their dtype, and of `checkpoint.json`
    with all plain values. The states of the global random generators (Python's, NumPy's, torch's) are saved too.

    Args:
        path: the folder, made where it is missing.
        model: its parameters and persistent buffers. An optimizer whose groups carry no names gets them from it.
        optimizer: any torch optimizer: its state and its groups. How it runs (engine, foreach, fused) is left out.
        scheduler: anything with `state_dict()`. Of what Accelerate has prepared, the inside is saved, here and above.
        extra: what else the training needs, as a dict by name: plain values, tensors, NumPy arrays, in lists, tuples
            and dicts.
        keep: how many of this training's checkpoints stay, this one included: the last so many, or `Keep` for the best
            one too. Others, and those of another training in the same folder, are never deleted. A training is known
            by its model and its optimizer: a save without either is one of its own. None keeps all.

    Returns:
        The new checkpoint's folder.

    Raises:
        CheckpointError: something cannot be saved, or the folder not written. Nothing that was there has changed.
    """
    where = Path(path)
    if all(given is None for given in (model, optimizer, scheduler, extra)):
        raise CheckpointError("there is nothing to save: give model=, optimizer=, scheduler= or extra=")
    check_kinds(model, optimizer)
    if not isinstance(extra, Mapping | None):
        raise CheckpointError(f"extra must be a dict of values by name, got a {type(extra).__name__}")
    rule = Keep(last=keep) if isinstance(keep, int) else keep
    if not isinstance(rule, Keep | None):
        raise TypeError(f"keep must be a whole number of at least 1, or a Keep, got {keep!r}")
    if rule is not None:
        rule.check(extra or {})
    optimizer, scheduler = inner_optimizer(optimizer), inner_scheduler(scheduler)
    training = _training_of(model, optimizer)
    sections, tensors = _sections(model, optimizer, scheduler, extra)
    try:
        with folder.writing(where) as new:
            files = {name: tensorfile.write(new / name, held) for name, held in tensors.items() if held}
            manifest.write(new, Manifest(training=training, files=files, **sections))
            final = folder.publish(new)
    except OSError as error:
        raise CheckpointError(_cannot(where, error, tensors)) from error
    remember(training, model, optimizer)
    if rule is not None:
        _forget_others(where, rule, training)
    return final


def check_kinds(model: Any, optimizer: Any) -> None:
    """Raise CheckpointError where one of them is no such thing: they are easily swapped."""
    for name, given, kind in (("model", model, nn.Module), ("optimizer", optimizer, Optimizer)):
        if not isinstance(given, kind | None):
            raise CheckpointError(f"{name} must be a torch {kind.__name__}, got {type(given).__name__}")


def remember(training: str, *objects: Any) -> None:
    """From now on these belong to the training."""
    for each in objects:
        if each is not None:
            _TRAININGS[each] = training


def _training_of(*objects: Any) -> str:
    known = (_TRAININGS.get(each) for each in objects if each is not None)
    return next((name for name in known if name), None) or secrets.token_hex(8)


def _sections(
    model: nn.Module | None, optimizer: Optimizer | None, scheduler: Any, extra: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The sections of the manifest, and the tensors of each file."""
    tensors: dict[str, dict[str, Tensor]] = {MODEL: {}, OPTIMIZER: {}, VALUES: {}}

    def keep_in(file: str) -> Any:
        def keep(name: str, tensor: Tensor) -> str:
            tensorfile.check_dtype(tensor, name)
            while name in tensors[file]:  # a slash in a name makes two of them one
                name += "'"
            tensors[file][name] = tensor
            return name

        return keep

    random = encode(generators.states(), "random", keep_in(VALUES))
    return {
        "step": None if optimizer is None else _step(optimizer),
        "model": None if model is None else _of_model(model, keep_in(MODEL)),
        "optimizer": None if optimizer is None else _of_optimizer(optimizer, model, keep_in(OPTIMIZER)),
        "scheduler": None if scheduler is None else _of_scheduler(scheduler, keep_in(VALUES)),
        "random": random,
        "extra": encode(dict(extra or {}), "extra", keep_in(VALUES)),
    }, tensors


def _of_model(model: nn.Module, keep: Any) -> dict[str, Any]:
    """Each tensor under its first name; which other names it has; what modules keep beside tensors; and what
    parameters are for, so that a migration knows without the model."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    beside: dict[str, Any] = {}
    for name, value in named_tensors(model):
        if not isinstance(value, Tensor) or name.endswith(EXTRA_STATE):
            beside[name] = encode(value, name, keep)
        elif id(value) in first:
            tied[name] = first[id(value)]
        else:
            first[id(value)] = keep(name, value)
    roles = {plain_name(entry.name): entry.role for entry in parameter_roles(bare(model))}
    return {"class": class_name(model), "tied": tied, "extra_state": beside, "roles": roles}


def _of_optimizer(optimizer: Optimizer, model: nn.Module | None, keep: Any) -> dict[str, Any]:
    names = parameter_names(optimizer, model)
    content = optimizer.state_dict()
    name_of = dict(
        pair
        for group, those in zip(content["param_groups"], names, strict=True)
        for pair in zip(group["params"], those, strict=True)
    )
    if strange := [key for key in content["state"] if key not in name_of]:
        raise CheckpointError(f"the optimizer has state for {strange[0]!r}, which is none of its parameters")
    groups = [
        {
            key: encode(value, f"group {index}/{key}", keep)
            for key, value in group.items()
            if key not in ENGINE_FLAGS and key != "param_names"
        }
        | {"params": those}
        for index, (group, those) in enumerate(zip(content["param_groups"], names, strict=True))
    ]
    parameters = {
        name: {"shape": list(p.shape), "dtype": dtype_name(p)}
        for group, those in zip(optimizer.param_groups, names, strict=True)
        for name, p in zip(those, group["params"], strict=True)
    }
    state = {name_of[key]: encode(slots, name_of[key], keep) for key, slots in content["state"].items() if slots}
    return {
        "class": class_name(optimizer),
        "recipe": encode(getattr(optimizer, "recipe", None), "recipe", keep),
        "parameters": parameters,
        "groups": groups,
        "state": state,
    }


def _of_scheduler(scheduler: Any, keep: Any) -> dict[str, Any]:
    if not hasattr(scheduler, "state_dict"):
        raise CheckpointError(f"scheduler must have a state_dict(), and a {type(scheduler).__name__} has none")
    return {"class": class_name(scheduler), "state": encode(scheduler.state_dict(), "scheduler", keep)}


def _step(optimizer: Optimizer) -> int:
    """The most updates that a parameter has had."""
    steps = [state["step"] for state in optimizer.state.values() if isinstance(state, Mapping) and "step" in state]
    return max((int(step) for step in steps), default=0)


def class_name(thing: Any) -> str:
    """A class's module and name; the package instead of the module where the package shows it.

    So a class can move within its package, and a checkpoint of before says the same as one of after.
    """
    of = type(thing)
    package = of.__module__.rpartition(".")[0]
    shown = of.__qualname__ in getattr(sys.modules.get(package), "__all__", ())
    return f"{package if shown else of.__module__}.{of.__qualname__}"


def dtype_name(tensor: Tensor) -> str:
    """A dtype as text: "bfloat16"."""
    return str(tensor.dtype).removeprefix("torch.")


def _cannot(path: Path, error: OSError, tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Why a save has failed, in one line."""
    text = f"cannot save to {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        needed = sum(t.numel() * t.element_size() for held in tensors.values() for t in held.values())
        text += f" (a checkpoint needs {-(-needed // 2**20):,} MiB"
        text += f", {shutil.disk_usage(path).free // 2**20:,} MiB are free)" if path.exists() else ")"
    return f"{text}; the checkpoints that are there have not changed"


def _forget_others(path: Path, rule: Keep, training: str) -> None:
    """Delete this training's checkpoints that nothing keeps."""
    own: list[tuple[Path, Manifest]] = []
    strangers = 0
    for one in folder.checkpoints(path):
        try:
            found = manifest.read(one)
        except CheckpointError:
            continue  # whatever it is, it is not ours to delete
        if found.training == training:
            own.append((one, found))
        else:
            strangers += 1
    if strangers:
        _LOG.warning(
            "%s also holds %d checkpoint%s of another training, which keep= leaves alone: give each its own folder",
            path, strangers, "s" * (strangers > 1),
        )  # fmt: skip
    kept = {one for one, _ in own[-rule.last :]}
    if rule.best is not None:
        sign = -1.0 if rule.highest else 1.0
        marks = [(sign * mark, one) for one, found in own if (mark := _number(found.extra, rule.best)) is not None]
        # Of equal ones the newest.
        best = min(marks, key=lambda pair: (pair[0], -int(pair[1].name)), default=None)
        kept |= {best[1]} if best else set()
    for one, _ in own:
        if one not in kept:
            try:
                folder.remove(one)
            except OSError as error:
                _LOG.warning("%s cannot be deleted: %s", one, error.strerror)


def _number(extra: Any, name: str) -> float | None:
    """A number that can be the best, or None: NaN and infinity cannot."""
    value = extra.get(name) if isinstance(extra := readable(extra), Mapping) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
