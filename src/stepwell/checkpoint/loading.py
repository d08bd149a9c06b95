"""From a checkpoint on the disk to a model, an optimizer and a scheduler: all of it, or nothing."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepwell.checkpoint import folder, generators, manifest
from stepwell.checkpoint.differences import Difference, Differences
from stepwell.checkpoint.errors import CheckpointError, DamagedError, MismatchError, one_line
from stepwell.checkpoint.manifest import Manifest
from stepwell.checkpoint.matching import Fill, Library, Match, match_model, match_optimizer
from stepwell.checkpoint.names import EXTRA_STATE, bare, named_tensors, plain_name
from stepwell.checkpoint.plain import decode
from stepwell.checkpoint.saving import MODEL, OPTIMIZER, VALUES, check_kinds, class_name, remember
from stepwell.checkpoint.tensorfile import TensorFile, in_parallel
from stepwell.checkpoint.unwrapping import inner_optimizer, inner_scheduler
from stepwell.optimizer import Optimizer as StepwellOptimizer
from stepwell.scheduler import Scheduler

_LOG = logging.getLogger("stepwell")


class Extra(dict[str, Any]):
    """What was saved as `extra`, and what the load has found.

    Attributes:
        checkpoint: the folder of the checkpoint that was loaded.
        differences: how it differs from what it was loaded into.
    """

    checkpoint: Path
    differences: Differences


def load(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    strict: bool = True,
    schedule: Literal["same", "this", "saved"] = "same",
    random: bool | None = None,
) -> Extra:
    """Go on where `save` was: `extra = load("runs/gpt", model=model, optimizer=optimizer, scheduler=scheduler)`.

    Everything is matched by name and read in place, so that no second copy of it comes to be in memory; slots keep the
    dtype that they were saved in. (An optimizer that is not ours gets new slots for those that it has, and may cast
    them, as torch does to their parameter's dtype.) Nothing is changed before all files are known to be whole and all
    of it is known to fit. How to run (engine, clipping, foreach, fused) stays as it is here.

    Args:
        path: a folder of checkpoints, of which the newest is loaded, or one of them: "runs/gpt/000012".
        model, optimizer, scheduler: what to load into, made as for a new training. What is None is left in the file.
        strict: raise where something is missing, unexpected, reshaped, of another dtype or changed, with the list.
            False loads what fits, takes the checkpoint's hyper-parameters, leaves the rest fresh, and tells all of it
            as warnings on the logger "stepwell". A number in a group that has no base beside it (`initial_lr`) may have
            been moved by the training loop: it is taken and told in both ways.
        schedule: where the schedules differ, as `Scheduler.load_state_dict` takes it: "same" refuses, "this" goes on
            under the scheduler's, "saved" under the checkpoint's.
        random: restore the global random generators; by default where an optimizer is resumed.

    Returns:
        What was given as `extra`, with `.checkpoint` and `.differences`.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged (`DamagedError`; the message offers the one before
            it), of a newer format, or of something else (`MismatchError`). Nothing has changed.
    """
    if schedule not in ("same", "this", "saved"):
        raise ValueError(f"schedule must be 'same', 'this' or 'saved', got {schedule!r}")
    check_kinds(model, optimizer)
    optimizer, scheduler = inner_optimizer(optimizer), inner_scheduler(scheduler)
    if random is None:
        random = optimizer is not None
    while True:
        where = folder.find(Path(path))
        try:
            found = manifest.read(where)
            with contextlib.ExitStack() as stack:
                return _Load(where, found, stack, model, optimizer, scheduler, schedule)(strict, random)
        except DamagedError as error:
            if where.exists() or where == Path(path):  # else it has just been deleted, and there is a newer one
                raise DamagedError(f"{error}{_offer(where)}") from error


def _offer(where: Path) -> str:
    """A clause that names the newest older checkpoint that looks whole."""
    before = folder.one_before(where)
    while before is not None:
        with contextlib.suppress(CheckpointError, OSError):
            files = manifest.read(before).files
            if all((before / name).stat().st_size == record.size for name, record in files.items()):
                return f"; the checkpoint before it is {before}"
        before = folder.one_before(before)
    return ""


class _Load:
    """One load: what goes where, and the steps in which it is done."""

    def __init__(
        self,
        where: Path,
        found: Manifest,
        stack: contextlib.ExitStack,
        model: nn.Module | None,
        optimizer: Optimizer | None,
        scheduler: Any,
        schedule: Literal["same", "this", "saved"],
    ) -> None:
        self.where, self.found, self.stack = where, found, stack
        self.model, self.optimizer, self.scheduler, self.schedule = model, optimizer, scheduler, schedule

    def __call__(self, strict: bool, random: bool) -> Extra:
        values = self._library(VALUES)
        weights = self._match("model", self.model, self._of_model())
        slots = self._match("optimizer", self.optimizer, self._of_optimizer())
        steps = self._match("scheduler", self.scheduler, lambda section: self._of_scheduler(section, values))
        with self._reading("random"):
            states = decode(self.found.random, values.read) if random and self.found.random else None
        if states is not None:
            generators.check(states)
        with self._reading("extra"):
            extra = Extra({**decode(self.found.extra, values.read)})
        extra.checkpoint = self.where
        extra.differences = Differences((*weights.differences, *slots.differences, *steps.differences))
        if strict and extra.differences.refuse:
            raise MismatchError(
                f"{self.where} was not saved from what it is to be loaded into, and nothing has been loaded; "
                f"strict=False loads what fits:\n{extra.differences}",
                extra.differences,
            )
        # Slots before weights: if the disk fails now, the weights are still what they were.
        fills = [*slots.fills, *weights.fills]
        in_parallel([fill.first for fill in fills])
        with undoing(self.optimizer, self.scheduler):
            self._apply(slots, steps)
            with _undoing_extra_state(self.model, weights.state):
                self._fill(fills)
        if states is not None:
            for line in generators.restore(states):
                _LOG.warning("%s: %s", self.where, line)
        remember(self.found.training, self.model, self.optimizer)
        if isinstance(self.optimizer, StepwellOptimizer):  # now that weights and slots are those that belong together
            self.optimizer._settle()
        if extra.differences:
            _LOG.warning("%s was loaded with differences:\n%s", self.where, extra.differences)
        return extra

    def _library(self, file: str) -> Library:
        """The tensors of a section: in the file of this name, if there is one."""
        record = self.found.files.get(file)
        if record is None:
            return Library([])
        return Library([self.stack.enter_context(TensorFile(self.where / file, record))])

    def _match(self, name: str, target: Any, match: Callable[[dict[str, Any]], Match]) -> Match:
        if target is None:
            return Match()
        section = getattr(self.found, name)
        if section is None:
            return Match(differences=[Difference("missing", f"the {name}: the checkpoint holds none")])
        with self._reading(name):
            return match(section)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Within this context a section that is not as it should be is a damaged one.

        A lack of memory is another matter, and so is what the user's own code raises, which is called outside.
        """
        try:
            yield
        except DamagedError:
            raise
        except CheckpointError as error:
            raise CheckpointError(f"{self.where}: {error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {one_line(error)}"
            raise DamagedError(f"{self.where / manifest.NAME} is damaged in its section {name!r}: {what}") from error

    def _of_model(self) -> Callable[[dict[str, Any]], Match]:
        named = [] if self.model is None else list(named_tensors(self.model))  # asks modules for their extra state
        return lambda section: match_model(section, named, self._library(MODEL))

    def _of_optimizer(self) -> Callable[[dict[str, Any]], Match]:
        optimizer = self.optimizer
        if optimizer is None:
            return lambda _: Match()
        live = optimizer.state_dict()["param_groups"]  # runs hooks
        return lambda section: match_optimizer(section, optimizer, live, self.model, self._library(OPTIMIZER))

    def _of_scheduler(self, section: dict[str, Any], values: Library) -> Match:
        state, there, here = decode(section["state"], values.read), section["class"], class_name(self.scheduler)
        # Ours looks at what it is given by itself.
        if there != here and not isinstance(self.scheduler, Scheduler):
            return Match(differences=[Difference("changed", "the scheduler", here, there)])
        return Match(state={"state": state})

    def _apply(self, slots: Match, steps: Match) -> None:
        """Hand over the states. Raises CheckpointError where one is refused."""
        try:
            if isinstance(self.optimizer, StepwellOptimizer) and slots.state:
                self.optimizer.load_state_dict(slots.state, copy=False)
            elif self.optimizer is not None and slots.state:
                self.optimizer.load_state_dict(slots.state)
            if isinstance(self.scheduler, Scheduler) and steps.state:
                self.scheduler.load_state_dict(steps.state["state"], schedule=self.schedule)
            elif steps.state:
                self.scheduler.load_state_dict(steps.state["state"])
        except Exception as error:  # a state dict of another package may be refused in any way
            text = one_line(error).replace("load_state_dict(state, ", "load(…, ")
            raise CheckpointError(f"{self.where} cannot be loaded: {text}") from error

    def _fill(self, fills: Sequence[Fill]) -> None:
        try:
            in_parallel([fill.last for fill in fills])
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}, after it had been found whole: the disk fails, or the file was written to. Some weights may "
                "have been loaded and others not: load them again"
            ) from error


@contextlib.contextmanager
def undoing(*objects: Any) -> Iterator[None]:
    """Within this context an error puts back what these objects, their groups and their state held.

    Tensors are not copied: what is put back are the ones that were there.
    """
    known = _with_inner(objects)
    states = [state for each in known if isinstance(state := getattr(each, "state", None), dict)]
    held = [group for each in known for group in getattr(each, "param_groups", ())] + states
    held += [slots for state in states for slots in state.values() if isinstance(slots, dict)]
    before = [(each, dict(each)) for each in [*held, *map(vars, known)]]
    try:
        yield
    except BaseException:
        for each, content in before:
            each.clear()
            each.update(content)
        raise


# Where schedulers and optimizers hold others: SequentialLR and ChainedScheduler, wrappers, and what `offload` made.
_INNER = ("_schedulers", "scheduler", "optimizer", "_there")


def _with_inner(objects: Sequence[Any]) -> list[Any]:
    """The objects that have state, and those inside them."""
    found: dict[int, Any] = {}
    waiting = list(objects)
    while waiting:
        each = waiting.pop()
        if isinstance(each, (list, tuple)):
            waiting += each
        elif id(each) not in found and hasattr(each, "state_dict"):
            found[id(each)] = each
            waiting += [getattr(each, name, None) for name in _INNER]
    return list(found.values())


@contextlib.contextmanager
def _undoing_extra_state(model: nn.Module | None, states: Mapping[str, Any]) -> Iterator[None]:
    """Hand the modules their extra state; an error within this context gives them back what they had."""
    modules = {} if model is None or not states else {
        f"{plain_name(name)}.{EXTRA_STATE}".removeprefix("."): module
        for name, module in bare(model).named_modules(remove_duplicate=False)
    }  # fmt: skip
    before = {name: modules[name].get_extra_state() for name in states}
    try:
        for name, state in states.items():
            modules[name].set_extra_state(state)
        yield
    except BaseException:
        for name, state in before.items():
            modules[name].set_extra_state(state)
        raise
