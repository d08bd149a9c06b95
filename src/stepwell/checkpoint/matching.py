"""What of a checkpoint goes where: tensors and values matched by name, and a list of what does not match.

Nothing is changed here. Big tensors are only given their places, to be read once all is known to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stepwell.checkpoint.differences import Difference, compare_groups
from stepwell.checkpoint.errors import CheckpointError, one_line
from stepwell.checkpoint.grouping import matched_groups
from stepwell.checkpoint.names import EXTRA_STATE, as_saved, parameter_names
from stepwell.checkpoint.plain import decode, tensor_keys
from stepwell.checkpoint.saving import dtype_name
from stepwell.checkpoint.tensorfile import TensorFile, check_dtype
from stepwell.optimizer import Optimizer as StepwellOptimizer
from stepwell.optimizer.groups import NOTES
from stepwell.optimizer.loading import loaded
from stepwell.text.naming import ENGINE_FLAGS

SMALL = 1 << 16  # bytes: smaller tensors are read at once, for a number in them may be looked at

_NOT_COMPARED = frozenset(("params", "rule", "fingerprint", "decoupled_weight_decay", *NOTES)) | ENGINE_FLAGS


class Library:
    """The tensors of one section, in one file or several."""

    def __init__(self, files: Sequence[TensorFile]) -> None:
        self.place = {name: file for file in files for name in file.entries}

    def of(self, key: Any) -> TensorFile:
        """The file that holds a tensor. Raises CheckpointError where none does."""
        if not isinstance(key, str) or key not in self.place:
            raise CheckpointError(f"its tensor {key!r} is in none of its files")
        return self.place[key]

    def read(self, key: Any) -> Tensor:
        """A new tensor with the saved numbers."""
        return self.of(key).read(key)

    def close(self) -> None:
        """Close the files."""
        for file in set(self.place.values()):
            file.close()


@dataclass
class Fill:
    """A tensor that is read into a place: a new one, of which nobody knows yet, or a live one."""

    file: TensorFile
    key: str
    target: Tensor
    live: bool

    def first(self) -> None:
        """What is done before anything may change: read a new one, and see that the bytes for a live one are sound."""
        if self.live:
            self.file.verify(self.key)
        else:
            self.file.read(self.key, self.target)

    def last(self) -> None:
        """Read into a live tensor."""
        if self.live:
            self.file.read(self.key, self.target)


@dataclass
class Match:
    """What a section gives.

    Attributes:
        fills: the tensors to read.
        differences: what does not fit.
        state: what to hand to `load_state_dict`, or the modules' extra state by name.
    """

    fills: list[Fill] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


def match_model(section: Mapping[str, Any], named: Iterable[tuple[str, Any]], library: Library) -> Match:
    """Where the weights go, the model's `named_tensors`. Tied ones are read once, wherever they were tied."""
    found = Match()
    tied, beside = section["tied"], section["extra_state"]
    saved = {*weight_keys(section, library), *tied, *beside}
    for target in tied.values():
        library.of(target)
    read: dict[int, str] = {}
    for name, value in named:
        if name not in saved:
            found.differences.append(Difference("missing", f"weight {name!r}"))
            continue
        saved.discard(name)
        is_extra = name.endswith(EXTRA_STATE)
        if is_extra != (name in beside):
            found.differences.append(
                Difference("changed", f"{name!r}, extra state on one side and a weight on the other")
            )
        elif is_extra:
            found.state[name] = decode(beside[name], library.read)
        elif id(value) not in read:
            key = read[id(value)] = tied.get(name, name)
            _match_weight(found, name, value, library.of(key), key)
        elif read[id(value)] != tied.get(name, name):
            text = f"weight {name!r}, which is tied to {read[id(value)]!r} here"
            found.differences.append(Difference("unexpected", text))
    found.differences += [Difference("unexpected", f"weight {name!r}") for name in sorted(saved)]
    return found


def weight_keys(section: Mapping[str, Any], library: Library) -> Iterator[str]:
    """The names that a state dict has for the tensors of the model's file; those inside extra state have none."""
    beside = section["extra_state"]
    inside = {*tensor_keys(beside)} - beside.keys()
    return (name for name in library.place if name not in inside)


def _match_weight(found: Match, name: str, value: Tensor, file: TensorFile, key: str) -> None:
    entry, what = file.entries[key], f"weight {name!r}"
    check_dtype(value, what)
    if tuple(value.shape) != entry.shape:
        found.differences.append(Difference("reshaped", what, str(tuple(value.shape)), str(entry.shape)))
        return
    if value.dtype != entry.dtype:
        there = str(entry.dtype).removeprefix("torch.")
        found.differences.append(Difference("retyped", what, dtype_name(value), there))
        if entry.dtype.is_complex and not value.is_complex():
            return
    if any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True)):
        raise CheckpointError(f"{what} has elements that share memory, as expand() makes them; clone() it first")
    found.fills.append(Fill(file, key, value.detach(), live=True))


def match_optimizer(
    section: Mapping[str, Any],
    optimizer: Optimizer,
    live_groups: list[dict[str, Any]],
    model: nn.Module | None,
    library: Library,
) -> Match:
    """Where the optimizer's state goes, as a state dict in the order and groups that its own, `live_groups`, has.

    A live slot is filled once the state dict has been handed over. So only an optimizer of ours is given one, as it
    takes what it gets: others may copy or cast it, as torch's do, and so may hooks; a copy would stay unfilled.
    """
    found = Match()
    names = as_saved(parameter_names(optimizer, model), section["parameters"])
    groups = list(matched_groups(section, optimizer, live_groups, names, library.read, found.differences))
    state: dict[int, Any] = {}
    takes_over = isinstance(optimizer, StepwellOptimizer) and not optimizer._optimizer_load_state_dict_pre_hooks
    unknown = dict.fromkeys(section["parameters"])
    for group, live_group, those in zip(groups, optimizer.param_groups, names, strict=True):
        for index, name, p in zip(group.values["params"], those, live_group["params"], strict=True):
            unknown.pop(name, None)
            if (
                _fits(name, p, section["parameters"], found.differences, told=model is not None)
                and name in section["state"]
                and group.keeps_state
            ):
                live = optimizer.state.get(p) or {} if takes_over else {}
                home = optimizer._home_of(p) if isinstance(optimizer, StepwellOptimizer) else p.device
                state[index] = {
                    slot: decode(value, _placing(library, home, live.get(slot), found.fills))
                    for slot, value in section["state"][name].items()
                }
    found.differences += [Difference("unexpected", f"state of {name!r}") for name in unknown]
    found.state = {"state": state, "param_groups": [group.values for group in groups]}
    after: Sequence[Mapping[str, Any]] = found.state["param_groups"]
    if isinstance(optimizer, StepwellOptimizer):
        try:
            after = loaded(optimizer.param_groups, found.state, optimizer._name_of, optimizer._home_of, copy=False)[1]
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"its optimizer's state does not fit: {one_line(error)}") from error
    for group, live_group, new in zip(groups, optimizer.param_groups, after, strict=True):
        if group.comparable:
            found.differences += compare_groups(group.where, live_group, new, _NOT_COMPARED)
    return found


def _fits(name: str, p: Tensor, saved: Mapping[str, Any], differences: list[Difference], *, told: bool) -> bool:
    """Whether a parameter's saved state is of its shape. What is said of a weight is not `told` again of its state."""
    if name not in saved:
        differences.append(Difference("missing", f"state of {name!r}"))
        return False
    shape = tuple(saved[name]["shape"])
    if shape != tuple(p.shape):
        differences.append(Difference("reshaped", f"state of {name!r}", str(tuple(p.shape)), str(shape)))
        return False
    if saved[name]["dtype"] != dtype_name(p) and not told:
        differences.append(Difference("retyped", f"parameter {name!r}", dtype_name(p), str(saved[name]["dtype"])))
    return True


def _placing(library: Library, home: torch.device, live: Any, fills: list[Fill]) -> Callable[[Any], Tensor]:
    """Finds the tensors of one slot: a small one is read, a big one gets a place, which may be the live slot's."""

    def place(key: Any) -> Tensor:
        file = library.of(key)
        entry = file.entries[key]
        if entry.size <= SMALL:
            return file.read(key)
        saved = entry.dtype, entry.shape, home
        if isinstance(live, Tensor) and (live.dtype, tuple(live.shape), live.device) == saved:
            fills.append(Fill(file, key, live, live=True))
            return live
        new = torch.empty(entry.shape, dtype=entry.dtype, device=home)
        fills.append(Fill(file, key, new, live=False))
        return new

    return place
