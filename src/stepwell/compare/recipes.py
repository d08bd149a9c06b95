"""The recipes that `stepwell compare` compares, and the ranges in which a sweep looks for their settings.

The settings themselves are data: `sweep.json` beside this file holds every try of the committed sweep, and a recipe
is run at the best of its own tries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from stepwell.naming import nearest
from stepwell.optimizer import Optimizer
from stepwell.routing import create_optimizer
from stepwell.scheduler import Scheduler, create_scheduler

# The same for every recipe: a common and cheap guard, which the baseline gains most from.
CLIP_NORM = 1.0

Settings = Mapping[str, Any]


class RecipeError(ValueError):
    """A recipe that does not exist or cannot be run. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The range of one hyper-parameter in a sweep, searched on a logarithmic scale.

    Args:
        name: the hyper-parameter, as `stepwell.create_optimizer` takes it.
        low, high: the range of the first tries.
        index: the place in the hyper-parameter where that is a pair, such as `betas`.
        complement: whether `low` and `high` bound 1 − value, which is the natural scale of a decay rate near 1.
    """

    name: str
    low: float
    high: float
    index: int | None = None
    complement: bool = False

    @property
    def label(self) -> str:
        return self.name if self.index is None else f"{self.name}[{self.index}]"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One column of the comparison: an optimizer, a schedule, and the ranges that a sweep searches.

    Args:
        name: what `--recipes` calls it.
        title: what the report calls it.
        optimizer: the recipe's name in `stepwell.create_optimizer`.
        schedule: the schedule's name in `stepwell.create_scheduler`.
        warmup: share of the steps over which the learning rate rises from zero.
        space: the hyper-parameters that a sweep searches.
    """

    name: str
    title: str
    optimizer: str
    schedule: str
    warmup: float
    space: tuple[Axis, ...]

    def build(self, model: nn.Module, settings: Settings, steps: int) -> tuple[Optimizer, Scheduler]:
        """The optimizer and the scheduler of one run of `steps` steps."""
        optimizer = create_optimizer(model, self.optimizer, clip_norm=CLIP_NORM, **settings)
        return optimizer, create_scheduler(optimizer, self.schedule, horizon=steps, warmup=self.warmup)

    def settings(self, values: Sequence[float]) -> dict[str, Any]:
        """The arguments of the optimizer at one point of `space`; three significant digits, so that they read well."""
        found: dict[str, Any] = {}
        for axis, value in zip(self.space, values, strict=True):
            rounded = float(f"{value:.3g}")
            if axis.complement:
                rounded = round(1 - rounded, 6)
            if axis.index is None:
                found[axis.name] = rounded
            else:
                found[axis.name] = [*found.get(axis.name, []), rounded]
        return found


# A first sweep over wider ranges found where each recipe is good. These ranges are centred there, and are equally wide
# for every recipe: a factor of 20 for learning rates, 100 for weight decay, 7 and 20 for the momenta.
_DECAY = Axis(name="weight_decay", low=0.03, high=3.0)
_BETAS = (
    Axis(name="betas", index=0, low=0.05, high=0.35, complement=True),
    Axis(name="betas", index=1, low=0.003, high=0.06, complement=True),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="adamw",
            title="AdamW + cosine",
            optimizer="adamw",
            schedule="cosine",
            warmup=0.1,
            space=(Axis(name="lr", low=1e-3, high=2e-2), _DECAY, *_BETAS),
        ),
        Recipe(
            name="lion",
            title="Lion + cosine",
            optimizer="lion",
            schedule="cosine",
            warmup=0.1,
            space=(Axis(name="lr", low=4e-4, high=8e-3), Axis(name="weight_decay", low=0.01, high=1.0), *_BETAS),
        ),
        Recipe(
            name="muon",
            title="Muon + AdamW",
            optimizer="muon",
            schedule="cosine",
            warmup=0.1,
            space=(
                Axis(name="lr", low=8e-3, high=1.6e-1),
                Axis(name="weight_decay", low=0.003, high=0.3),
                Axis(name="momentum", low=0.05, high=0.35, complement=True),
                Axis(name="adamw_lr", low=8e-4, high=1.6e-2),
            ),
        ),
        Recipe(
            name="schedule-free",
            title="Schedule-Free AdamW",
            optimizer="schedule-free",
            schedule="constant",
            warmup=0.1,
            space=(Axis(name="lr", low=1e-3, high=2e-2), _DECAY, *_BETAS),
        ),
    )
}


def choose_recipes(names: Iterable[str]) -> list[Recipe]:
    """The recipes of these names, in this order; the first is the baseline.

    Raises:
        RecipeError: if a name is unknown or comes twice, or there is none.
    """
    chosen: dict[str, Recipe] = {}
    for name in names:
        if name not in RECIPES:
            raise RecipeError(f"unknown recipe {name!r}; allowed are {', '.join(RECIPES)}{nearest(name, RECIPES)}")
        if name in chosen:
            raise RecipeError(f"recipe {name!r} is named twice; name each recipe once")
        chosen[name] = RECIPES[name]
    if not chosen:
        raise RecipeError(f"no recipe is named; allowed are {', '.join(RECIPES)}")
    return list(chosen.values())
