"""The torch object that runs schedules: it writes every scheduled hyper-parameter of every group before each step."""

from __future__ import annotations

import logging
import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepwell.optimizer.snapshot import is_open
from stepwell.optimizer.uncompiled import uncompiled
from stepwell.scheduler.announcing import Readings, next_values, other_bases
from stepwell.scheduler.hearing import hear
from stepwell.scheduler.saved import check_same, read, written
from stepwell.scheduler.tracks import (
    Entry,
    Group,
    Selector,
    Track,
    by_selector,
    copied,
    find_entry,
    is_number,
    plain,
    selects,
)
from stepwell.schedules import Length, Schedule
from stepwell.schedules.extending import extended
from stepwell.schedules.fields import check_horizon
from stepwell.text.naming import nearest
from stepwell.text.values import shown

_LOG = logging.getLogger("stepwell")

Schedules = Schedule | Callable[[Any], Any] | Mapping[Selector, Schedule | Callable[[Any], Any]]


class Scheduler(LRScheduler):
    """Runs schedules of the learning rate, or of any other hyper-parameter, on any torch optimizer.

        scheduler = Scheduler(optimizer, lr=Cosine(warmup=0.1), weight_decay=Linear(end=0.5), horizon=10_000)

    The constructor sets the values of step 0; call `step()` after each `optimizer.step()`. In every group that has the
    hyper-parameter, the value is the group's base times the schedule's factor, so groups keep their ratios. The base is
    what stands in the group when the scheduler first sees it, and is kept there as torch does: `initial_lr`,
    `initial_weight_decay`, … A group added in mid-training is scheduled from the next optimizer step on.

    Groups may have schedules of their own, by name, by index, or by a function of the group. The first selector that
    matches decides; a group that none matches keeps its values. (A function is asked again when groups are added or
    loaded: let it look at what does not change.)

        Scheduler(optimizer, lr={"embedding": Constant(warmup=0.1), "*": Cosine(warmup=0.1)}, horizon=10_000)

    It is a torch `LRScheduler`, whose only state is the step: `last_epoch`, `base_lrs`, `get_last_lr()` and
    `state_dict()` are what torch users expect. Unlike torch's own, it neither patches the optimizer nor warns about the
    order of the first calls, which cannot be told from a first step that a GradScaler skipped.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        horizon: total optimizer steps, at least 1, for the schedules that have no horizon of their own.
        last_epoch: the last step done, to go on without a state dict, as in torch; the scheduled groups must then hold
            their `initial_…` values, as those of a loaded optimizer do. -1 starts at step 0.
        counts: "calls" counts calls of `step()`, as torch does: one after each optimizer step. "steps" counts the
            optimizer's own steps, those alone that were taken (not the ones that a GradScaler or
            `on_nonfinite="skip"` left out), and sets the values right after each: `step()` need not be called, and
            however often it is (once for each process, as Accelerate does; for each micro-batch; for each epoch), it
            changes nothing. Not for steps that Python does not see: in a captured graph, or in DeepSpeed's ZeRO, which
            steps its optimizer once for each of its own groups.
        tensors: keep scheduled learning rates in tensors, written in place, for a compiled training step or a captured
            graph, which would take a new Python number for a reason to compile again. (Of other hyper-parameters,
            torch's optimizers take no tensors.)
        schedules: the schedule of each hyper-parameter, under its name in the groups, or a dict of them by selector. A
            Python function of the step is one too. An element of a tuple goes by its index:
            `**{"betas[0]": Linear(end=0.9)}`.

    Attributes:
        resumes_under: what `load_state_dict` does about other schedules unless it is told: "same" refuses them. Who
            resumes through a library that calls it without an argument sets "this" or "saved" here.

    Raises:
        TypeError: an unknown hyper-parameter, or one that is not a number; something that is not a schedule.
        ValueError: no schedule; a horizon that is needed and not known; a length that does not fit in it; a selector
            that matches no group; or `last_epoch` is given and a scheduled group lacks its base.
    """

    resumes_under: Literal["same", "this", "saved"] = "same"

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        horizon: int | None = None,
        last_epoch: int = -1,
        counts: Literal["calls", "steps"] = "calls",
        tensors: bool = False,
        **schedules: Schedules,
    ) -> None:
        # torch's constructor is not called: it wraps optimizer.step() to count calls for a warning that is wrong
        # where a GradScaler skips the first step.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if not schedules:
            raise ValueError("a Scheduler needs at least one schedule, such as lr=Cosine(warmup=0.1)")
        if counts not in ("calls", "steps"):
            raise ValueError(f"counts must be 'calls' or 'steps', got {shown(counts)}")
        _check_step("last_epoch", last_epoch, least=-1)
        self.optimizer = optimizer
        self.horizon = check_horizon("horizon", horizon)
        self.counts = counts
        self.tensors = tensors
        self._entries = {name: find_entry(name, optimizer.param_groups) for name in schedules}
        self._given = {name: by_selector(name, given, optimizer.param_groups) for name, given in schedules.items()}
        self._set(
            {
                name: {key: one.resolve(self.horizon) for key, one in those.items()}
                for name, those in self._given.items()
            }
        )
        self.last_epoch = last_epoch
        if last_epoch >= 0:
            self._check_bases()
        self._initial_step()
        self._made_with = self._read(Entry.base)
        self._follow()

    def __repr__(self) -> str:
        schedules = ", ".join(f"{name}={schedule!r}" for name, schedule in self.schedules.items())
        return f"<{type(self).__name__} at step {self.last_epoch:,}: {schedules}>"

    @property
    def schedules(self) -> dict[str, Any]:
        """The schedule of each hyper-parameter, every length in steps; by selector where there are several."""
        return {name: chosen["*"] if list(chosen) == ["*"] else dict(chosen) for name, chosen in self._resolved.items()}

    @property
    def base_lrs(self) -> list[Any]:
        """The learning rate of each group that its factor multiplies; kept in the group as `initial_lr`."""
        return [plain(group.get("initial_lr", group["lr"])) for group in self.optimizer.param_groups]

    @base_lrs.setter
    def base_lrs(self, values: list[Any]) -> None:
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["initial_lr"] = value

    @property
    def last(self) -> dict[str, list[Any]]:
        """What stands in the groups now, for each scheduled hyper-parameter; None in a group that lacks it."""
        return {
            name: [copied(entry.read(group)) if entry.stands_in(group) else None for group in self._groups]
            for name, entry in self._entries.items()
        }

    @uncompiled
    def step(self, epoch: int | None = None) -> None:
        """Set every scheduled hyper-parameter for the next optimizer step, or for step `epoch`."""
        if is_open(self.optimizer):  # within `find_lr`, which takes its steps back
            return
        self._step_count += 1
        if self.counts == "calls" or epoch is not None or self._step_count == 1:
            self._update_lr(epoch)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at the current step: its base times the schedule's factor."""
        factors = {
            id(group): track.schedule(self.last_epoch)
            for track in self._tracks
            if track.entry == Entry("lr")
            for group in track.groups
        }
        return [
            base * factors[id(group)] if id(group) in factors else copied(group["lr"])
            for group, base in zip(self._groups, self.base_lrs, strict=True)
        ]

    def extend(
        self, horizon: int, *, how: Literal["stretch", "hold", "rewarm"], warmup: Length | None = None
    ) -> dict[str, list[Any]]:
        """Train longer than was planned, and say how; says "next lr = …, was …" on the logger "stepwell" (INFO).

        Args:
            horizon: the new total of optimizer steps, more than are done.
            how: "stretch" lays every schedule over the new horizon, as if it had been known from the start, also one
                that has a horizon of its own: in mid-decay the values jump up. "hold" goes on at the value that each
                schedule ends with. "rewarm" goes in a line from the present value to where each schedule begins without
                its own warm-up, and lays it over the steps that are left (Ibrahim et al. 2024, arXiv:2403.08763). That
                is its peak, but where the rise is part of the shape: `OneCycle`, `Cyclic`, `Noam` and each turn of
                `repeat` begin low, and rise again.
            warmup: how long "rewarm" takes to there: steps, or a share of the steps that are left; by default 0.01.
                The other ways have none.

        Returns:
            The values set, as `last`.

        Raises:
            ValueError: a horizon that is not beyond the steps done, an unknown way, a warm-up for one that has none, or
                "rewarm" to a schedule that begins at 0. Nothing has changed then.
        """
        wanted = check_horizon("horizon", horizon)
        if wanted is None or wanted <= self.last_epoch:
            raise ValueError(f"horizon must be more than the {self.last_epoch} steps that are done, got {horizon!r}")
        self._given, resolved = extended(
            self._given, self._resolved, how=how, done=self.last_epoch, horizon=wanted, warmup=warmup
        )
        self.horizon = wanted
        self._change(f"extended to {wanted} steps ({how})", lambda: self._set(resolved))
        return self.last

    def override(self, **bases: float) -> dict[str, list[Any]]:
        """Change the base value of a scheduled hyper-parameter in mid-training: `override(lr=3e-4)`.

        The schedule goes on as before, from the new base; says "next lr = …, was …" on the logger "stepwell" (INFO).
        After a resume this is how a new learning rate comes into force: groups bring their old base with them.

        Args:
            bases: the new base of the first scheduled group whose base is not 0; the other scheduled ones keep their
                ratio to it, and those that are not scheduled keep their values.

        Returns:
            The values set, as `last`.

        Raises:
            TypeError: a hyper-parameter that is not scheduled, or a value that is not a number.
            ValueError: a value that is not finite; every group's base is 0. Nothing has changed then.
        """
        changes: list[tuple[Entry, Group, float]] = []
        for name, value in bases.items():
            if name not in self._entries:
                there = ", ".join(self._entries)
                raise TypeError(f"{name!r} is not scheduled here; there are {there}{nearest(name, self._entries)}")
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {shown(value)}")
            if not value - value == 0:
                raise ValueError(f"{name} must be a finite number, got {shown(value)}")
            entry = self._entries[name]
            groups = list(self._scheduled(entry).values())
            old = next((base for group in groups if (base := entry.base(group))), 0.0)
            if value < 0 < old:
                raise ValueError(f"{name} must be at least 0, got {shown(value)}")
            if not old:
                raise ValueError(
                    f"every group's base of {name} is 0, and keeps no ratio to {value!r}: set the groups' own"
                )
            changes += [(entry, group, entry.base(group) / old * float(value)) for group in groups]

        def change() -> None:
            for entry, group, base in changes:
                entry.set_base(group, base)

        self._change("overridden", change)
        self._made_with = self._read(Entry.base)
        return self.last

    def state_dict(self) -> dict[str, Any]:
        """The step, and the schedules as text, so that a resume under another schedule is noticed.

        "schedules" has every length in steps; "given", under "horizon", is what `extend` lays over a longer one.
        """
        schedules, given = written(self._resolved), written(self._given)
        return {"step": self.last_epoch, "schedules": schedules, "given": given, "horizon": self.horizon}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], *, schedule: Literal["same", "this", "saved"] | None = None
    ) -> None:
        """Go to the saved step and set its values at once; says "next lr = …, was …" on the logger "stepwell".

        It says so at level INFO, and at WARNING, which Python shows unless told otherwise, where in a scheduled group a
        value jumps or a base is another than this scheduler was made with: groups bring their old base with them.

        Args:
            state_dict: what `state_dict()` gave.
            schedule: "same" refuses a state that was saved under other schedules; "this" goes on at the saved step
                under the schedules of this scheduler, "saved" under those that were saved. By default `resumes_under`,
                which is "same" unless changed.

        Raises:
            ValueError: the state is not a Scheduler's, or was saved under other schedules. Nothing has changed then.
        """
        schedule = self.resumes_under if schedule is None else schedule
        if schedule not in ("same", "this", "saved"):
            raise ValueError(f"schedule must be 'same', 'this' or 'saved', got {shown(schedule)}")
        if not isinstance(state_dict, Mapping) or "step" not in state_dict:
            found = f"it has no 'step', but {list(state_dict)}" if isinstance(state_dict, Mapping) else repr(state_dict)
            raise ValueError(f"not the state of a stepwell Scheduler: {found}")
        _check_step("step", state_dict["step"], least=-1)
        saved = state_dict.get("schedules") or {}
        if schedule == "same":
            check_same(written(self._resolved), saved)
        resolved, given, horizon = self._resolved, self._given, self.horizon
        if schedule == "saved":
            resolved = read(saved, self._resolved)
            # Earlier states lack these, and know the lengths in steps alone.
            given = read(state_dict["given"], self._resolved) if "given" in state_dict else resolved
            horizon = check_horizon("horizon", state_dict.get("horizon", horizon))

        def go() -> None:
            self._given, self.horizon = given, horizon
            self._set(resolved)
            self.last_epoch = state_dict["step"]

        if state_dict["step"] < 0:  # inside a SequentialLR, where its turn has not come: it has nothing to set
            go()
        else:
            self._change(f"resumed at step {state_dict['step']}", go, resumed=True)

    # How it is done.

    @property
    def _groups(self) -> list[Group]:
        return self.optimizer.param_groups

    def _set(self, resolved: dict[str, dict[Selector, Schedule]]) -> None:
        self._resolved = resolved
        self._seen: list[Group] = []

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is not None:
            _check_step("epoch", epoch, least=0)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._write()

    def _write(self) -> None:
        """Set the values of the current step."""
        self._keep_up()
        for track in self._tracks:
            track.write(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        if any(rate.__class__ is not float for rate in self._last_lr):
            self._last_lr = [copied(rate) for rate in self._last_lr]

    def _keep_up(self) -> None:
        """Survey the groups where some were added, or came anew from a state dict."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self._seen) or not all(map(operator.is_, groups, self._seen)):
            self._survey()

    def _survey(self) -> None:
        """Find the groups of every schedule, and the bases that they multiply."""
        self._seen = list(self._groups)
        self._tracks: list[Track] = []
        for name, chosen in self._resolved.items():
            entry = self._entries[name]
            tracks = {selector: Track(entry, schedule) for selector, schedule in chosen.items()}
            for index, group in enumerate(self._seen):
                selector = next((one for one in chosen if selects(one, group, index)), None)
                if selector is not None and entry.stands_in(group):
                    base = entry.base(group)
                    if self.tensors and entry == Entry("lr"):
                        entry.as_tensor(group)
                    elif not isinstance(entry.read(group), Tensor):
                        entry.set_base(group, base)  # a number, also where torch has kept a tensor
                    tracks[selector].groups.append(group)
            self._tracks += [track for track in tracks.values() if track.groups]

    def _change(self, what: str, change: Callable[[], None], *, resumed: bool = False) -> None:
        """Make a change, set the values, and say what becomes of them."""
        before = self._read(Entry.read)
        change()
        self._write()
        after = self._read(Entry.read)
        said = next_values(before, after, len(self._groups))
        ignored = other_bases(self._made_with, self._read(Entry.base)) if resumed else ""
        level = logging.WARNING if resumed and (ignored or before != after) else logging.INFO
        _LOG.log(level, "%s: %s", what, said + ignored)

    def _check_bases(self) -> None:
        for name, entry in self._entries.items():
            for index, group in enumerate(self._groups):
                scheduled = any(selects(one, group, index) for one in self._resolved[name])
                if scheduled and entry.stands_in(group) and entry.base_name not in group:
                    raise ValueError(
                        f"group {index} has no {entry.base_name!r}, the base that the schedule of {name} multiplies: "
                        "load the optimizer's state before giving last_epoch"
                    )

    def _scheduled(self, entry: Entry) -> dict[int, Group]:
        """The groups in which a schedule sets the entry, by their index."""
        self._keep_up()
        found = {id(group) for track in self._tracks if track.entry == entry for group in track.groups}
        return {
            index: group for index, group in enumerate(self._groups) if id(group) in found and entry.stands_in(group)
        }

    def _read(self, look: Callable[[Entry, Group], Any]) -> Readings:
        """What each scheduled group says, for each scheduled hyper-parameter."""
        return {
            name: {index: float(look(entry, group)) for index, group in self._scheduled(entry).items()}
            for name, entry in self._entries.items()
        }

    def _follow(self) -> None:
        """Hear of the optimizer's steps: of new groups before each and, where its own steps count, of each itself."""
        scheduler = weakref.ref(self)  # one that nobody steps any more has nothing to say to new groups
        counts = self.counts == "steps"
        held = self._held = [self] if counts else []  # one that nobody has to step, nobody has to keep

        def before() -> None:
            if (found := scheduler()) is not None:
                found._welcome()

        def taken() -> None:
            found = held[0] if held else scheduler()
            if found is not None:
                found._advance()

        hear(self.optimizer, before=before, taken=taken if counts else None)

    def _let_go(self) -> None:
        """Hear of the optimizer's steps only while somebody keeps this: who drops it puts another in its place."""
        self._held.clear()

    def _advance(self) -> None:
        if self.last_epoch >= 0:  # below 0 inside a SequentialLR, where its turn has not come
            self._update_lr()

    def _welcome(self) -> None:
        """Set the values of the current step in groups that were added since the last."""
        if len(self._groups) == len(self._seen) or self.last_epoch < 0:
            return
        known = set(map(id, self._seen))
        self._survey()
        for track in self._tracks:
            new = [group for group in track.groups if id(group) not in known]
            Track(track.entry, track.schedule, new).write(self.last_epoch)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_seen", "_tracks", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._survey()
        self._follow()


def _check_step(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of steps (int), got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
