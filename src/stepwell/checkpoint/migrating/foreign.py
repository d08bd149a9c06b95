"""State dicts and files of other packages, brought under our names.

Files are read by torch with `weights_only=True`, so that nothing in them is run. Told apart are: `torch.optim` (and
packages that keep its names), `bitsandbytes` (32 and 8 bits), `schedulefree`, `prodigyopt`, the folders of
transformers' Trainer and of Accelerate (`optimizer.pt`, `scheduler.pt`, `model.safetensors`) and the checkpoints of
timm's train script.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.matching import Library
from stepwell.checkpoint.migrating.source import SavedGroup, Source, scheduler_step
from stepwell.checkpoint.tensorfile import TensorFile
from stepwell.optimizer.loading import in_our_words
from stepwell.text.naming import ENGINE_FLAGS

_WEIGHTS = ("state_dict", "model", "model_state_dict")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict")
_SCHEDULERS = ("scheduler", "lr_scheduler", "scheduler_state_dict")


def of_file(path: Path, rule: str = "") -> Source:
    """What a file of torch's or of safetensors holds; `rule` is the optimizer's, where that cannot be told.

    Raises CheckpointError where it cannot be read, or holds nothing that a training goes on from.
    """
    if path.suffix == ".safetensors":
        return Source(str(path), weights=_safetensors(path))
    return of_object(unpickled(path), str(path), rule)


def of_folder(path: Path, rule: str = "") -> Source:
    """What a checkpoint of transformers' Trainer, or of Accelerate's `save_state`, holds."""
    state = _one_of(path, "optimizer.pt", "optimizer.bin")
    if state is None:
        raise CheckpointError(f"{path} holds neither a checkpoint of stepwell's nor an optimizer.pt of transformers'")
    source = of_object(unpickled(state), str(path), rule)
    source.weights = _weights_in(path)
    if (scheduler := _one_of(path, "scheduler.pt", "scheduler.bin")) is not None:
        source.step = scheduler_step(unpickled(scheduler))
    if (path / "trainer_state.json").is_file():
        progress = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        source.extra = {name: progress[name] for name in ("global_step", "epoch") if name in progress}
    if any(path.glob("rng_state*.pth")):
        source.notes.append("its random generators' states are left out: they were pickled")
    return source


def _one_of(path: Path, *names: str) -> Path | None:
    return next((file for name in names if (file := path / name).is_file()), None)


def of_object(content: Any, title: str, rule: str = "") -> Source:
    """What a state dict holds, of an optimizer or of a whole training."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{title} is no state dict, but a {type(content).__name__}")
    if "param_groups" in content and "state" in content:
        return Source(title, groups=_groups(content, title, rule))
    weights, optimizer, scheduler = (
        next((content[name] for name in names if isinstance(content.get(name), Mapping)), None)
        for names in (_WEIGHTS, _OPTIMIZERS, _SCHEDULERS)
    )
    if weights is None and content and all(isinstance(value, Tensor) for value in content.values()):
        weights = content
    if weights is None and optimizer is None:
        raise CheckpointError(f"{title} holds no optimizer's state and no weights, but {', '.join(map(str, content))}")
    source = Source(title)
    if weights is not None:
        source.weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if optimizer is not None:
        source.groups = _groups(optimizer, title, rule)
    if scheduler is not None:
        source.step = scheduler_step(scheduler)
    source.extra = {name: value for name, value in content.items() if isinstance(value, (int, float, str))}
    return source


def unpickled(path: Path) -> Any:
    """The content of a file of torch's: tensors and plain values, and the options of a command line (timm)."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Of other protocols than torch.save's: what cannot be read is refused, in words of ours.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} {_why_not(path, error)}") from error


def _why_not(path: Path, error: Exception) -> str:
    """Why torch has not read a file; its own words are many, and some of them advise to run what is in it."""
    if (more := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))) and isinstance(error, pickle.UnpicklingError):
        return f"holds more than tensors and plain values ({more[1]}), and is not opened: save a state_dict() instead"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror or unreadable}"
    if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return "is cut off"
    return f"is no file of torch.save: {'it is not written as one' if start else 'it is empty'}"


def _safetensors(path: Path) -> dict[str, Tensor]:
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def _weights_in(path: Path) -> dict[str, Tensor] | None:
    """The weights in a folder of transformers', in one file or in several."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        library = Library([TensorFile(path / Path(name).name) for name in files])
        try:
            return {name: library.read(name) for name in library.place}
        finally:
            library.close()
    if (path / "model.safetensors").is_file():
        return _safetensors(path / "model.safetensors")
    if (path / "pytorch_model.bin").is_file():
        found: dict[str, Tensor] = dict(unpickled(path / "pytorch_model.bin"))
        return found
    return None


# State dicts of optimizers.


def _groups(content: Mapping[str, Any], title: str, rule: str) -> list[SavedGroup]:
    try:
        return [_group(group, content["state"], rule) for group in content["param_groups"]]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{title} is no optimizer's state dict: {type(error).__name__}: {error}") from error


def _group(group: Mapping[str, Any], state: Mapping[Any, Any], rule: str) -> SavedGroup:
    states = [_flat(state.get(key) or {}) for key in group["params"]]
    rule = rule or (str(group["rule"]) if "rule" in group else _rule(group, states))
    if any("state1" in slots for slots in states):
        states = [_of_bitsandbytes(slots, rule) for slots in states]
    if rule in _RESHAPED:
        states = list(map(_RESHAPED[rule], states))
    values = {key: v for key, v in in_our_words(rule, group).items() if key not in ENGINE_FLAGS and key != "params"}
    if (decoupled := values.pop("decoupled_weight_decay", None)) is not None:
        values.setdefault("decay", "decoupled" if decoupled else "coupled")
    names = values.pop("param_names", None)
    shared = _counted(group, rule)
    if "train_mode" in values:
        values["holds"] = "training" if values["train_mode"] else "averaged"
        shared |= {"lr_max": max(group["lr_max"], 0.0), "weight_sum": group["weight_sum"]}
    states = [{**shared, **slots} if slots else {} for slots in states]
    return SavedGroup(rule, values, None if names is None else list(names), states)


def _counted(group: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """The numbers that a group counts for all of its parameters: the steps in some packages (timm's LAMB, apex,
    pytorch_optimizer), as `k` in those of Schedule-Free's and Prodigy's authors."""
    steps = group.get("k", group.get("step"))
    found = {} if steps is None else {"step": int(steps)}
    if rule == "Prodigy" and "d_max" in group:
        found |= {"next_d": group["d"], "d_max": group["d_max"], "d_numerator": group["d_numerator"]}
    return found


def _flat(slots: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's slots; newer versions of bitsandbytes put the 8-bit ones into a dict of their own."""
    return {**slots, **slots.get("__bnb_optimizer_quant_state__", {})}


def _of_prodigyopt(slots: Mapping[str, Any]) -> dict[str, Any]:
    """Slots in their parameter's shape, where each of its numbers has one."""
    like = slots.get("exp_avg_sq")
    flat = {name: slots[name] for name in ("s", "p0") if isinstance(slots.get(name), Tensor)}
    shaped = {name: x.view_as(like) for name, x in flat.items() if like is not None and x.numel() == like.numel()}
    return {**slots, **shaped}


def _of_adafactor(slots: Mapping[str, Any]) -> dict[str, Any]:
    """Slots under torch's names; in transformers rows and columns have a dimension less."""
    found = dict(slots)
    if "exp_avg_sq" in found:
        found["variance"] = found.pop("exp_avg_sq")
    if "exp_avg_sq_row" in found:
        found["row_var"] = found.pop("exp_avg_sq_row").unsqueeze(-1)
        found["col_var"] = found.pop("exp_avg_sq_col").unsqueeze(-2)
    return found


_RESHAPED = {"Prodigy": _of_prodigyopt, "Adafactor": _of_adafactor}


# What a group has that no other optimizer's has, and the rule that this tells.
_TELLING = (
    ("weight_lr_power", "silent_sgd_phase", "ScheduleFreeRAdam"),
    ("weight_lr_power", "betas", "ScheduleFreeAdamW"),
    ("weight_lr_power", "momentum", "ScheduleFreeSGD"),
    ("d0", "d_coef", "Prodigy"),
    ("d0", "numerator_weighted", "DAdaptAdam"),
    ("ns_coefficients", "", "Muon"),
    ("beta2_decay", "", "Adafactor"),
    ("clip_threshold", "decay_rate", "Adafactor"),
    ("momentum_decay", "", "NAdam"),
    ("lambd", "t0", "ASGD"),
    ("etas", "step_sizes", "Rprop"),
    ("dampening", "nesterov", "SGD"),
    ("alpha", "centered", "RMSprop"),
    ("rho", "eps", "Adadelta"),
    ("lr_decay", "initial_accumulator_value", "Adagrad"),
)


def _rule(group: Mapping[str, Any], states: list[dict[str, Any]]) -> str:
    """The rule that a state dict without names of rules was written by, as far as its values and slots tell."""
    for one, two, rule in _TELLING:
        if one in group and (not two or two in group):
            return rule
    slots = {name for state in states for name in state}
    if "betas" in group and {"exp_avg", "exp_inf"} <= slots:
        return "Adamax"
    if "betas" in group and ({"exp_avg", "exp_avg_sq"} <= slots or "state2" in slots):
        # Their state is the same, and torch says since 2.7 how they decay.
        return "Adam" if group.get("decoupled_weight_decay") is False and "amsgrad" in group else "AdamW"
    if "betas" in group and (slots <= {"exp_avg", "step"} or "state1" in slots) and slots:
        return "Lion"
    return ""


# bitsandbytes calls a first slot state1 and a second one state2, whatever they are.
_BITSANDBYTES = {
    **dict.fromkeys(("Adam", "AdamW", "LAMB"), ("exp_avg", "exp_avg_sq")),
    "Lion": ("exp_avg",),
    "SGD": ("momentum_buffer",),
    "RMSprop": ("square_avg",),
    "Adagrad": ("sum",),
}


def _of_bitsandbytes(slots: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """Slots under torch's names, in 32 bits."""
    found: dict[str, Any] = {"step": slots["step"]} if "step" in slots else {}
    for number, name in enumerate(_BITSANDBYTES.get(rule, ()), start=1):
        if (state := slots.get(f"state{number}")) is not None:
            found[name] = _dequantised(state, slots, number)
    return found


def _dequantised(state: Tensor, slots: Mapping[str, Any], number: int) -> Tensor:
    """q·a, where q is what the code stands for in the table, and a the largest magnitude of its block."""
    if state.dtype != torch.uint8:
        return state.float()
    values = slots[f"qmap{number}"].float()[state.long()]
    largest = slots.get(f"absmax{number}")
    if largest is None:  # one block a tensor, in old versions
        return torch.as_tensor(values * slots[f"max{number}"].float())
    count = state.numel()
    block = next(size for size in (256, 2048, 4096) if -(-count // size) == largest.numel())
    spread = largest.float().repeat_interleave(block)[:count]
    return torch.as_tensor(values * spread.view(state.shape))
