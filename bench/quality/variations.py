"""What single claims ask for beside the protocol: a rule at its best settings, with one thing changed.

A variation is run from the fresh seeds, so that it stands beside the rule's own runs from the same weights and batches.
Its stages lie in the rule's folder, under the variation's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stepwell.compare.contestants import Contestant, ContestantError
from stepwell.compare.fair import FairTest, TaskOf, lowest
from stepwell.compare.fair_contestants import BASELINE, RULES
from stepwell.compare.standing import tries
from stepwell.compare.task import Task
from stepwell.schedules import WSD, Constant, Cosine, Linear
from stepwell.text.naming import nearest

Settings = Mapping[str, Any]

# With and without warm-up, at the best rate and where a rule is about to break.
STRAINED = 4.0
# λ·η stays where a rate is divided (Chen et al. 2023, arXiv:2302.06675, sec. 5).
THIRD = 3.0
LAYER_DECAY = 0.8
BATCH_FACTORS = {"same": 1.0, "root": 2**0.5, "twice": 2.0}
NO_WARMUP = {"schedule-free": Constant()}


@dataclass(frozen=True)
class Variation:
    """A rule with one thing changed, on one task. `last` is the stage that is run last."""

    rule: str
    name: str
    last: str
    run: Callable[[FairTest], None]


def contestant(name: str) -> Contestant:
    """The rule, or the entrant, of that name."""
    known = {**RULES, **_ENTRANTS}
    if name not in known:
        raise ValueError(f"unknown rule {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    return known[name]


def entrants(task: str, *, quick: bool = False) -> list[str]:
    """Who takes part in the whole protocol on this task, beside the rules: AdamW under other schedules, or with
    layer-wise rates."""
    if quick:
        return []
    return {
        "vit": ["adamw-linear", "adamw-wsd"],
        "gpt": ["adamw-linear", "adamw-wsd"],
        "adapting": ["adamw-layerwise"],
    }.get(task, [])


def on(task: str) -> list[Variation]:
    """The variations that are run on this task."""
    return _ON.get(task, [])


def named(task: str, rule: str, name: str) -> Variation:
    """One of them."""
    return next(one for one in on(task) if (one.rule, one.name) == (rule, name))


def best_settings(test: FairTest, rule: str) -> dict[str, Any]:
    """Those of the rule's best try. Raises ContestantError where it has none yet."""
    best = lowest(tries(test.runs.of(rule)))
    if best is None:
        raise ContestantError(f"rule {rule!r} has no finished try yet, and its variations go from the best of them")
    return best.order.settings


def _with_recipe(name: str, change: str, **fields: Any) -> Contestant:
    before = contestant(name)
    return dataclasses.replace(before, name=change, recipe=before.recipe.replace(**fields))


def _under_schedule(title: str, name: str, **fields: Any) -> Contestant:
    return dataclasses.replace(_with_recipe(BASELINE, name, **fields), title=title)


_ENTRANTS: dict[str, Contestant] = {}
_ENTRANTS.update(
    {
        one.name: one
        for one in (
            _under_schedule("AdamW, linear to 0", "adamw-linear", schedules={"lr": Linear(warmup=0.1)}),
            _under_schedule("AdamW, WSD", "adamw-wsd", schedules={"lr": WSD(warmup=0.1, decay=0.2)}),
            _under_schedule("AdamW, layer-wise rates", "adamw-layerwise", layer_decay=LAYER_DECAY),
        )
    }
)


def _from_fresh_seeds(
    test: FairTest,
    stage: str,
    changed: Contestant,
    settings: Settings,
    *,
    steps: int | None = None,
    task_of: TaskOf | None = None,
) -> None:
    for index in range(1, test.protocol.fresh + 1):
        seed = test.protocol.seed + index
        test.carry_out(f"{stage}-{index}", changed, settings, seed=seed, steps=steps, task_of=task_of)


def _recipe_changed(
    rule: str, name: str, task_of: Callable[[TaskOf], TaskOf] | None = None, **fields: Any
) -> Variation:
    def run(test: FairTest) -> None:
        changed = _with_recipe(rule, rule, **fields)
        varied = None if task_of is None else task_of(test.task_of)
        _from_fresh_seeds(test, name, changed, best_settings(test, rule), task_of=varied)

    return Variation(rule, name, f"{name}-3", run)


def _without_warmup(rule: str) -> Variation:
    """Cold from the first step, and warmed up, at the best rate and at four times that."""

    def run(test: FairTest) -> None:
        warm = contestant(rule)
        schedule = NO_WARMUP.get(rule, Cosine())
        cold = _with_recipe(rule, rule, schedules={"lr": schedule})
        settings = best_settings(test, rule)
        strained = {**settings, "lr": STRAINED * settings["lr"]}
        test.carry_out("cold", cold, settings)
        test.carry_out("cold-strained", cold, strained)
        test.carry_out("warm-strained", warm, strained)

    return Variation(rule, "cold", "warm-strained", run)


def _at_a_third() -> Variation:
    """Lion at a third of AdamW's best rate and three times its decay, not tuned."""

    def run(test: FairTest) -> None:
        adamw = best_settings(test, BASELINE)
        settings = {"lr": adamw["lr"] / THIRD, "weight_decay": adamw["weight_decay"] * THIRD}
        _from_fresh_seeds(test, "third", contestant("lion"), settings)

    return Variation("lion", "third", "third-3", run)


def _doubled_batch(rule: str) -> Variation:
    """Half as many steps on twice the batch, at the best rate times 1, √2 and 2."""

    def run(test: FairTest) -> None:
        settings = best_settings(test, rule)
        for name, factor in BATCH_FACTORS.items():
            changed = {**settings, "lr": factor * settings["lr"]}
            steps, twice = test.protocol.steps // 2, doubled(test.task_of)
            _from_fresh_seeds(test, f"batch-{name}", contestant(rule), changed, steps=steps, task_of=twice)

    return Variation(rule, "batch", "batch-twice-3", run)


def _at_every_horizon() -> tuple[Variation, Variation]:
    """Schedule-Free once over the longest horizon, warmed up for a tenth of the usual one, and AdamW over a half and
    over two of the usual ones: with those of the protocol, four horizons."""

    def endless(test: FairTest) -> None:
        steps = test.protocol.steps
        warmed = _with_recipe("schedule-free", "schedule-free", schedules={"lr": Constant(warmup=steps // 10)})
        seed = test.protocol.seed + 1
        settings = best_settings(test, "schedule-free")
        test.carry_out("endless", warmed, settings, seed=seed, steps=test.protocol.longer * steps)

    def cosines(test: FairTest) -> None:
        adamw, settings = contestant(BASELINE), best_settings(test, BASELINE)
        seed, steps = test.protocol.seed + 1, test.protocol.steps
        test.carry_out("horizon-half", adamw, settings, seed=seed, steps=steps // 2)
        test.carry_out("horizon-twice", adamw, settings, seed=seed, steps=2 * steps)

    return (
        Variation("schedule-free", "endless", "endless", endless),
        Variation(BASELINE, "horizons", "horizon-twice", cosines),
    )


class SixteenBits(nn.Module):
    """A model whose weights are stored in bfloat16 and computed with in float32, so that only the storage differs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()

    def forward(self, *inputs: Tensor) -> Tensor:
        wide = {name: parameter.float() for name, parameter in self.model.named_parameters()}
        return torch.as_tensor(functional_call(self.model, wide, inputs))


def sixteen_bits(task_of: TaskOf) -> TaskOf:
    """The task with its weights in bfloat16."""

    def varied(seed: int) -> Task:
        task = task_of(seed)
        return dataclasses.replace(task, model=lambda: SixteenBits(task.model()))

    return varied


def doubled(task_of: TaskOf) -> TaskOf:
    """The task with two of its batches in one."""

    def varied(seed: int) -> Task:
        task = task_of(seed)
        return dataclasses.replace(task, batch=lambda step: _joined(task.batch(2 * step), task.batch(2 * step + 1)))

    return varied


def _joined(one: Any, other: Any) -> Any:
    """Tensors one after the other, or tuples of them."""
    if isinstance(one, Tensor):
        return torch.cat((one, other))
    return tuple(_joined(*pair) for pair in zip(one, other, strict=True))


def _storages() -> Sequence[Variation]:
    return (
        _recipe_changed(BASELINE, "8bit", state_dtype="8bit"),
        _recipe_changed(BASELINE, "stochastic", sixteen_bits, master="stochastic"),
        _recipe_changed(BASELINE, "nearest", sixteen_bits),
    )


_ON: dict[str, list[Variation]] = {
    "vit": [
        *_storages(),
        *_at_every_horizon(),
        _at_a_third(),
        _recipe_changed(BASELINE, "all-decayed", undecayed="~everything()"),
        *(_doubled_batch(rule) for rule in (BASELINE, "sgd")),
        *(_without_warmup(rule) for rule in RULES),
    ],
    "resnet": [_at_a_third(), *(_doubled_batch(rule) for rule in (BASELINE, "sgd"))],
    "gpt": [
        *_storages(),
        *_at_every_horizon(),
        _at_a_third(),
        _recipe_changed(BASELINE, "all-decayed", undecayed="~everything()"),
        *(_without_warmup(rule) for rule in (BASELINE, "sgd", "lion", "muon")),
    ],
}
