"""A plan: a recipe laid over one model and one horizon, before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from typing import TYPE_CHECKING, Any, Literal

from torch import nn, optim

from stepwell.codecs import Storage
from stepwell.optimizer import Optimizer
from stepwell.planning.course import Course, course
from stepwell.planning.doubts import Doubt, doubts
from stepwell.planning.laying import OWN_RATE, Laid, PlannedGroup, lay
from stepwell.recipes import Recipe, named
from stepwell.roles import ROLES, ParameterRole
from stepwell.scheduler import Scheduler
from stepwell.scheduler.tracks import entry_called
from stepwell.schedules import Constant, Schedule
from stepwell.schedules.fields import check_horizon
from stepwell.text.tabular import WIDTH, room_beside, some, text_table, wrapped
from stepwell.text.values import shown

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from stepwell.planning.cost import Cost
    from stepwell.planning.memory import Memory
    from stepwell.planning.spreading import Sharded
    from stepwell.planning.traffic import Traffic

BESIDE = (Storage("8bit"), Storage("bfloat16"), "adamw", "lion", "muon", "t5-adafactor")
"""What a plan's memory is compared with: the same with its state in fewer bits, and presets."""
HEADINGS = ("group", "rule", "tensors", "parameters", "lr", "decay")
EXAMPLES = 2
ROOM = 32  # characters in which a reason is read with ease
INDENT = "  "


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What a recipe will do to a model, known before step 0. `print(plan)` shows the table.

    Attributes:
        model: the model that the recipe is laid over; nothing in it is changed.
        recipe: the recipe.
        horizon: total optimizer steps, or None where it is not known.
        groups: the parameter groups to be, in the order in which the optimizer will have them.
        frozen: parameters that are not trained.
        warnings: what is likely not meant, each in one line.
        deepest: the depth that layer-wise rates are counted from.
    """

    model: nn.Module
    recipe: Recipe
    horizon: int | None
    groups: tuple[PlannedGroup, ...]
    frozen: tuple[ParameterRole, ...]
    warnings: tuple[Doubt, ...]
    deepest: int

    # What it says.

    def __repr__(self) -> str:
        model = type(self.model).__name__
        return f"<Plan for {model}: {self.headline}, {len(self.groups)} groups, {self.parameters:,} parameters>"

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = WIDTH) -> str:
        """The table as plain text, lines of at most `width` characters, and the warnings below it.

        Where the numbers leave no room beside them, the reasons stand below, each once.
        """
        if self.has_room(width):
            lines = [(cells, "\n".join(filter(None, (why, names)))) for cells, why, names in self.lines()]
            text = [text_table((HEADINGS, "why"), lines, width, left_aligned=2)]
        else:
            rows = [(cells, "") for cells, *_ in self.lines()]
            text = [text_table((HEADINGS, ""), rows, width, left_aligned=2, widest=width // 2)]
            for groups, why, names in self.reasons():
                text += ["", *wrapped(f"{groups}: {why}", width, INDENT)]
                text += [f"{INDENT}{line}" for line in wrapped(names, width - len(INDENT))]
        return "\n".join((*text, *(f"\nwarning: {doubt}" for doubt in self.warnings)))

    def has_room(self, width: int) -> bool:
        """Whether lines of this width have room for the reasons beside the numbers."""
        return room_beside([HEADINGS, *(cells for cells, *_ in self.lines())], width, left_aligned=2) >= ROOM

    def reasons(self) -> list[tuple[str, str, str]]:
        """Groups, why they are what they are, and the first names: a line for those that have the same reason."""
        apart: dict[str, list[PlannedGroup]] = {}
        for group in self.groups:
            apart.setdefault(group.why, []).append(group)
        lines = []
        for why, groups in apart.items():
            present = {role for group in groups for role in group.roles}
            roles = ", ".join(role for role in ROLES if role in present)
            members = [member.name for group in groups for member in group.members]
            lines.append((some([group.name for group in groups], EXAMPLES), f"{roles}: {why}", some(members, EXAMPLES)))
        rest = [(cells[0], why, names) for cells, why, names in self.lines()[len(self.groups) :]]
        return [*lines, *rest]

    def lines(self) -> list[tuple[tuple[str, ...], str, str]]:
        """The table line by line: cells under `HEADINGS`, the reason, and the first names. Groups, then what they come
        to, then what is frozen."""
        lines = [self._line(group) for group in self.groups]
        tensors = sum(len(group.members) for group in self.groups)
        lines.append((("total", "", f"{tensors:,}", f"{self.parameters:,}", "", ""), self.headline, ""))
        if self.frozen:
            count = sum(entry.parameter.numel() for entry in self.frozen)
            cells = ("frozen", "", f"{len(self.frozen):,}", f"{count:,}", "", "")
            lines.append((cells, "requires_grad=False: in no group, never changed", ""))
        return lines

    def _line(self, group: PlannedGroup) -> tuple[tuple[str, ...], str, str]:
        counts = (f"{len(group.members):,}", f"{group.parameters:,}")
        cells = (group.name, type(group.rule).__name__, *counts, self._rate(group), f"{group.rule.weight_decay:g}")
        return cells, f"{', '.join(group.roles)}: {group.why}", some([each.name for each in group.members], EXAMPLES)

    def _rate(self, group: PlannedGroup) -> str:
        """The rate at start, peak and end, as far as it can be known."""
        if group.rule.values()["lr"] is None:
            return f"its own {OWN_RATE}"
        way = self.course(group, "lr")
        text = f"{group.rule.lr:g}, scheduled" if way is None else str(way)
        return f"{text} {OWN_RATE}" if group.rule.own_rate else text

    @property
    def headline(self) -> str:
        """Recipe, hash and horizon in a line."""
        name = f"recipe {self.recipe.name} " if self.recipe.name else ""
        steps = "no horizon" if self.horizon is None else f"{self.horizon:,} steps"
        return f"{name}{self.recipe.hash}, {steps}"

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(group.parameters for group in self.groups)

    def course(self, group: PlannedGroup, name: str) -> Course | None:
        """How a hyper-parameter of a group goes: at step 0, at its highest, at the horizon (None for a schedule that
        none ends and that does not come to rest). None where it is no number, and where a schedule needs a horizon and
        none is known."""
        if not entry_called(name).stands_in(group.rule.values()):
            return None
        return course(self.base(group, name), group.schedules.get(name), self.horizon)

    def base(self, group: PlannedGroup, name: str) -> float:
        """The value of a hyper-parameter (`lr`, `betas[0]`) that a group's schedule multiplies."""
        return float(entry_called(name).read(group.rule.values()))

    def explain(self, name: str) -> str:
        """One parameter's whole story, in lines: what it is, which route takes it and why, and its values.

        Raises ValueError with the nearest name.
        """
        from stepwell.planning.explaining import explanation

        return explanation(self, name)

    # What it costs.

    def memory(
        self,
        *,
        world_size: int = 1,
        sharded: Sharded = False,
        replicas: int = 1,
        beside: str | Recipe | Storage | Sequence[str | Recipe | Storage] = BESIDE,
    ) -> Memory:
        """Bytes of weights, gradients and state, and the peak of a step, for this recipe and others beside it.

        Args:
            world_size: on how many ranks, at least 1.
            sharded: what the ranks share: True for weights, gradients and state, as FSDP does, "state" for the state
                alone, as `shard_state` does; each tensor is cut along its first dimension. The figures are those of
                the first rank, which holds the most.
            replicas: into how many groups the ranks are divided, each of which shares everything among its own (HSDP).
            beside: recipes, or their names as `stepwell.plan` takes them, that could be taken in its place, or a
                `stepwell.codecs.Storage` for the same recipe stored so; one, or several. What does not fit the model,
                or cannot be stored so on the ranks, or needs the same as another, is left out.

        Raises:
            TypeError, ValueError: a number of ranks that is none, an unknown recipe, or a plan whose optimizer would be
                refused on these ranks, as where a rule of matrices is to store parts in 8 bits.
        """
        from stepwell.planning.memory import memory
        from stepwell.planning.spreading import Spread

        return memory(self, Spread.of(world_size, sharded, replicas), beside)

    def traffic(self, *, world_size: int, sharded: Sharded = False, replicas: int = 1) -> Traffic:
        """Bytes that a rank sends in a step, message by message: what DDP or FSDP2 send to train, and what the
        optimizer sends. See `docs/scale.md` for how they are counted.

        Args:
            world_size, sharded, replicas: as for `memory`, as are the errors.
        """
        from stepwell.planning.spreading import Spread
        from stepwell.planning.traffic import traffic

        return traffic(self, Spread.of(world_size, sharded, replicas))

    def cost(self, *, bandwidth: float = 20e9, rate: float = 1e12) -> Cost:
        """Bytes moved and operations done by one step of the optimizer, and the time that these take at least.

        Args:
            bandwidth: of the memory, in bytes per second.
            rate: of matrix products, in floating-point operations per second.
        """
        from stepwell.planning.cost import cost

        return cost(self, bandwidth=bandwidth, rate=rate)

    # What it shows.

    def plot(self, name: str = "lr") -> str:
        """A hyper-parameter over the steps, a line for each course that it takes, as an SVG picture. Notebooks show it;
        `pathlib.Path("lr.svg").write_text(plan.plot())` keeps it.

        Raises ValueError for a hyper-parameter that no group has, or whose schedule needs a horizon.
        """
        from stepwell.planning.page import drawing

        return drawing(self, name)

    def to_html(self) -> str:
        """The plan as one HTML page that needs nothing else."""
        from stepwell.planning.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from stepwell.planning.page import fragment

        return fragment(self)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for `json.dumps`; rates as [start, peak, end], which is None for one that goes on."""
        return {
            "recipe": self.recipe.to_dict(),
            "hash": self.recipe.hash,
            "horizon": self.horizon,
            "parameters": self.parameters,
            "frozen": [entry.name for entry in self.frozen],
            "groups": [self._group_as_dict(group) for group in self.groups],
            "warnings": [str(doubt) for doubt in self.warnings],
        }

    def _group_as_dict(self, group: PlannedGroup) -> dict[str, Any]:
        rate = self.course(group, "lr")
        return {
            "name": group.name,
            "rule": type(group.rule).__name__,
            "values": group.rule.values(),
            "schedules": {name: repr(schedule) for name, schedule in group.schedules.items()},
            "why": group.why,
            **group.storage._asdict(),
            "roles": list(group.roles),
            "tensors": len(group.members),
            "parameters": group.parameters,
            "lr": None if rate is None else [rate.start, rate.peak, rate.end],
            "own_rate": group.rule.own_rate,
            "names": [member.name for member in group.members],
        }

    # What becomes of it.

    def build(self, *, rounding_seed: int = 0, shard_state: bool | DeviceMesh = False) -> tuple[Optimizer, Scheduler]:
        """The optimizer and the scheduler.

        Args:
            rounding_seed, shard_state: as `stepwell.Optimizer` takes them.

        Raises ValueError where a schedule needs a horizon and the plan has none.
        """
        optimizer = self.build_optimizer(rounding_seed=rounding_seed, shard_state=shard_state)
        return optimizer, self.build_scheduler(optimizer)

    def build_optimizer(self, *, rounding_seed: int = 0, shard_state: bool | DeviceMesh = False) -> Optimizer:
        """The optimizer alone, for a training that sets its rates by other means; `rounding_seed` and `shard_state` as
        `stepwell.Optimizer` takes them."""
        recipe = self.recipe
        optimizer = Optimizer(
            [group.as_param_group() for group in self.groups],
            self.groups[0].rule,
            engine=recipe.engine,
            clip_norm=recipe.clip_norm,
            on_nonfinite=recipe.on_nonfinite,
            state_dtype=recipe.state_dtype,
            master=recipe.master,
            rounding_seed=rounding_seed,
            shard_state=shard_state,
        )
        optimizer.recipe = recipe.to_dict()
        return optimizer

    def build_scheduler(self, optimizer: optim.Optimizer, *, counts: Literal["calls", "steps"] = "calls") -> Scheduler:
        """The scheduler alone, for an optimizer that this plan, or one of the same recipe and model, has built.

        `counts` is as `stepwell.Scheduler` takes it. Raises ValueError where a schedule needs a horizon and the plan
        has none, or does not fit in the one that it has.
        """
        for doubt in self.warnings:
            if doubt.kind == "schedule":
                whose = f"recipe {self.recipe.name!r}: " if self.recipe.name else ""
                raise ValueError(
                    f"{whose}{doubt.text}; train for more steps, or give the recipe another schedule, as "
                    "Recipe.replace(schedules={'lr': Cosine(warmup=0.1)}) does"
                )
            if doubt.kind == "horizon" and self.horizon is None:
                raise ValueError(f"{doubt.text}: give horizon=…, as in plan(model, recipe, horizon=10_000)")
        return Scheduler(optimizer, horizon=self.horizon, counts=counts, **self._schedules())

    def _schedules(self) -> dict[str, Any]:
        """Schedules by hyper-parameter, as the scheduler takes them: by the name of the group where groups differ."""
        by_name: dict[str, dict[str, Schedule]] = {}
        for group in self.groups:
            for name, schedule in group.schedules.items():
                by_name.setdefault(name, {})[escape(group.name)] = schedule  # a name, and no pattern
        if "lr" not in by_name:
            # A scheduler there must be, whose step() and state any loop can use; where every rule finds its rate
            # itself, it holds the decay.
            held = "lr" if self._groups_with("lr") else "weight_decay"
            by_name.setdefault(held, {escape(group.name): Constant() for group in self._groups_with(held)})
        alike = {
            name: len(set(map(repr, chosen.values()))) == 1 and len(chosen) == len(self._groups_with(name))
            for name, chosen in by_name.items()
        }
        return {name: next(iter(chosen.values())) if alike[name] else chosen for name, chosen in by_name.items()}

    def _groups_with(self, name: str) -> list[PlannedGroup]:
        """The groups that have a hyper-parameter as a number."""
        return [group for group in self.groups if entry_called(name).stands_in(group.rule.values())]

    def diff(self, other: Plan) -> str:
        """What differs between this plan and another of the same model, a line for each; an empty text for nothing."""
        if not isinstance(other, Plan):
            raise TypeError(f"a plan is compared with another stepwell.Plan, got {type(other).__name__}")
        from stepwell.planning.differences import differences

        return "\n".join(differences(self, other))


def plan(
    model: nn.Module,
    recipe: Recipe | str = "adamw",
    *,
    horizon: int | None = None,
    loader: Any = None,
    **counting: Any,
) -> Plan:
    """Lay a recipe over a model. Nothing is allocated and nothing changed; the model may stand on the meta device.

    Args:
        model: the model, on any device.
        recipe: a `Recipe`, or the name of a preset, a rule (alone, without a schedule), or a file (.toml, .json).
        horizon: total optimizer steps, at least 1. Left out, it is counted from the loader.
        loader: the data loader, or its length in batches.
        counting: how long the loader is gone through (`epochs`, `accumulation`, …), as `stepwell.horizon` takes it.

    Raises:
        TypeError: for a model that is no module, or what is no recipe.
        ValueError: for an unknown recipe, a horizon below 1, or a model with nothing to train.
        RecipeError: where recipe and model do not fit, naming every mistake.
    """
    if isinstance(recipe, nn.Module) and not isinstance(model, nn.Module):
        raise TypeError(f"plan takes the model first, then the recipe, got {shown(model)} and {shown(recipe)}")
    chosen = named(recipe)
    counted = None
    if loader is not None:
        from stepwell.horizon import horizon as count

        counted = count(loader, **counting)
    elif counting:
        raise TypeError(f"{', '.join(counting)} count the steps of a loader: give loader=… too")
    steps = check_horizon("horizon", counted if horizon is None else horizon)
    laid: Laid = lay(model, chosen)
    warnings = tuple(doubts(laid, steps, counted))
    return Plan(model, chosen, steps, laid.groups, laid.frozen, warnings, laid.deepest)
