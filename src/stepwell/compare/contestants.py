"""What `stepwell compare` compares: recipes, and the ranges in which a sweep looks for their settings.

The settings of the four that come with stepwell are data: `sweep.json` beside this file holds every try of the
committed sweep, and each is run at the best of its own tries. Any other recipe runs as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stepwell.optimizer import Optimizer
from stepwell.planning import plan
from stepwell.recipes import PRESETS, Recipe, named, spelled
from stepwell.scheduler import Scheduler

# The same for each that comes with stepwell: a common and cheap guard, which the baseline gains most from.
CLIP_NORM = 1.0
# How wide a sweep looks around a recipe's own values, as in the ranges below.
RATES_APART, DECAYS_APART = 20.0, 100.0

Settings = Mapping[str, Any]


class ContestantError(ValueError):
    """Recipes that cannot be compared. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The range of one hyper-parameter in a sweep, searched on a logarithmic scale.

    Args:
        name: the hyper-parameter, as `Recipe.set` takes it.
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

    @property
    def middle(self) -> float:
        """Half way on the logarithmic scale."""
        return float((self.low * self.high) ** 0.5)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One column of the comparison: a recipe, and the ranges that a sweep searches.

    Args:
        name: what `--recipes` calls it.
        title: what the report calls it.
        recipe: the recipe.
        space: the hyper-parameters that a sweep searches.
        keeps_ratios: whether a setting scales the values of all routes, so that they keep their ratio to the first
            route's, which it sets; otherwise it is set for all.
    """

    name: str
    title: str
    recipe: Recipe
    space: tuple[Axis, ...]
    keeps_ratios: bool = False

    @classmethod
    def of(cls, recipe: Recipe, name: str, *, rates_apart: float = RATES_APART) -> Contestant:
        """A recipe as it is written. A search looks around the rate and the decay of its first route."""
        first = recipe.rule_of(recipe.routes[0])
        apart = {"lr": rates_apart, "weight_decay": DECAYS_APART}
        space = tuple(
            Axis(name=each, low=value / width**0.5, high=value * width**0.5)
            for each, width in apart.items()
            if (value := first.values()[each]) > 0
        )
        return cls(name=name, title=name, recipe=recipe, space=space, keeps_ratios=True)

    def build(self, model: nn.Module, settings: Settings, steps: int) -> tuple[Optimizer, Scheduler]:
        """The optimizer and the scheduler of one run of `steps` steps."""
        return plan(model, self._set(settings), horizon=steps).build()

    def _set(self, settings: Settings) -> Recipe:
        if not self.keeps_ratios:
            return self.recipe.set(**settings)
        own = self.recipe.rule_of(self.recipe.routes[0]).values()
        return self.recipe.scaled(**{name: value / own[name] for name, value in settings.items()})

    def searched(self) -> tuple[Axis, ...]:
        """`space`, for a search.

        Raises:
            ContestantError: it is empty.
        """
        if not self.space:
            raise ContestantError(
                f"recipe {self.name!r} has no range to search: no rate or decay above 0 in its first route; give it "
                "one, or compare it as it is written"
            )
        return self.space

    def settings(self, values: Sequence[float]) -> dict[str, Any]:
        """The settings at one point of `space`; three significant digits, so that they read well."""
        found: dict[str, Any] = {}
        for axis, value in zip(self.space, values, strict=True):
            rounded = float(f"{value:.3g}")
            if axis.complement:
                rounded = round(1 - rounded, 6)
            if axis.index is None:
                found[axis.name] = rounded
            else:
                # What of a pair is not searched stays as the recipe has it.
                own = self.recipe.rule_of(self.recipe.routes[0]).values()
                found.setdefault(axis.name, list(own[axis.name]))[axis.index] = rounded
        return found


# A first sweep over wider ranges found where each recipe is good. These ranges are centred there, and are equally wide
# for every recipe: a factor of 20 for learning rates, 100 for weight decay, 7 and 20 for the momenta.
_DECAY = Axis(name="weight_decay", low=0.03, high=3.0)
_BETAS = (
    Axis(name="betas", index=0, low=0.05, high=0.35, complement=True),
    Axis(name="betas", index=1, low=0.003, high=0.06, complement=True),
)


def _own(name: str, title: str, *space: Axis) -> Contestant:
    return Contestant(name=name, title=title, recipe=PRESETS[name].replace(clip_norm=CLIP_NORM), space=space)


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        _own("adamw", "AdamW + cosine", Axis(name="lr", low=1e-3, high=2e-2), _DECAY, *_BETAS),
        _own(
            "lion",
            "Lion + cosine",
            Axis(name="lr", low=4e-4, high=8e-3),
            Axis(name="weight_decay", low=0.01, high=1.0),
            *_BETAS,
        ),
        _own(
            "muon",
            "Muon + AdamW",
            Axis(name="lr", low=8e-3, high=1.6e-1),
            Axis(name="weight_decay", low=0.003, high=0.3),
            Axis(name="momentum", low=0.05, high=0.35, complement=True),
            Axis(name="adamw_lr", low=8e-4, high=1.6e-2),
        ),
        _own("schedule-free", "Schedule-Free AdamW", Axis(name="lr", low=1e-3, high=2e-2), _DECAY, *_BETAS),
    )
}


def choose(names: Iterable[str]) -> list[Contestant]:
    """The contestants of these names, in this order; the first is the baseline.

    A name is that of one in `CONTESTANTS`, of another preset, or of a file that ends in .toml or .json.

    Raises:
        ContestantError: if a name comes twice, or there is none.
        ValueError: if a name is unknown, or a file holds no recipe.
    """
    return chosen(names, contestant)


def chosen(names: Iterable[str], find: Callable[[str], Contestant]) -> list[Contestant]:
    """What is found under these names, in this order; each once, and at least one."""
    found: dict[str, Contestant] = {}
    for name in names:
        one = find(name)
        if one.name in found:
            if found[one.name].recipe != one.recipe:
                raise ContestantError(
                    f"two recipes are called {one.name!r}, the second is {name!r}; rename a file, whose recipe is "
                    "called by the file's name"
                )
            raise ContestantError(f"recipe {one.name!r} is named twice; name each recipe once")
        found[one.name] = one
    if not found:
        raise ContestantError(f"no recipe is named; recipes are {', '.join(PRESETS)}")
    return list(found.values())


def contestant(name: str, *, beside: Iterable[str] = ()) -> Contestant:
    """The one of this name, as `choose` has it; an error also lists names that would have done `beside` them."""
    if spelled(name) in CONTESTANTS:
        return CONTESTANTS[spelled(name)]
    recipe = named(name, beside=beside, rules=False)  # a rule alone has no schedule to be compared under
    return Contestant.of(recipe, Path(name).stem if Path(name).suffix else recipe.name)
