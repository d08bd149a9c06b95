"""What a fair test tests: rules, and the ranges in which their settings are searched.

The ranges were fixed before the first run, and are the same on every task. All are as wide: a factor of 100 for rates
and for decay, 30 for how long an average forgets (1 − β), 10 for what else a rule has of its own. They stand around
what the papers recommend, and for rates a little above it, since models here are small and runs are short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from stepwell.compare.contestants import CLIP_NORM, Axis, Contestant, chosen, contestant
from stepwell.recipes import PRESETS, Recipe, Route, spelled
from stepwell.schedules import Cosine
from stepwell.select import role

BASELINE = "adamw"
RATES_APART = 100.0


def _rate(low: float, name: str = "lr") -> Axis:
    return Axis(name=name, low=low, high=100 * low)


def _decay(low: float) -> Axis:
    return Axis(name="weight_decay", low=low, high=100 * low)


def _forgetting(name: str, low: float, index: int | None = None) -> Axis:
    return Axis(name=name, low=low, high=30 * low, index=index, complement=True)


_BETA1, _BETA2 = _forgetting("betas", 0.02, 0), _forgetting("betas", 0.003, 1)


def _rule(title: str, recipe: Recipe, *space: Axis) -> Contestant:
    return Contestant(name=recipe.name, title=title, recipe=recipe.replace(clip_norm=CLIP_NORM), space=space)


def _alone(name: str, rule: str, **hyper_parameters: Any) -> Recipe:
    """One rule for all parameters, under the schedule that the presets have too."""
    return Recipe(
        name=name,
        routes=(Route(rule=rule, hyper_parameters=hyper_parameters),),
        schedules={"lr": Cosine(warmup=0.1)},
    )


def _of_matrices(name: str) -> Recipe:
    """The preset of that name, its rule of matrices also for the kernels of convolutions."""
    preset = PRESETS[name]
    first, *others = preset.routes
    hidden = Route(
        rule=first.rule,
        name=first.name,
        select=role("hidden matrix", "convolution"),
        hyper_parameters=first.hyper_parameters,
        why=first.why,
    )
    return preset.replace(routes=(hidden, *others))


_ALL = (
    # The baseline has one number more than the others: it shall not lose for want of tuning.
    _rule("AdamW", PRESETS["adamw"], _rate(3e-4), _decay(0.01), _BETA1, _BETA2),
    _rule(
        "SGD + momentum",
        PRESETS["sgd"].set(nesterov=True, momentum=0.9),
        *(_rate(0.01), _decay(1e-5), _forgetting("momentum", 0.02)),
    ),
    _rule("RMSprop", _alone("rmsprop", "RMSprop"), _rate(1e-4), _decay(1e-5), _forgetting("alpha", 0.003)),
    _rule(
        "Adagrad",
        _alone("adagrad", "Adagrad"),
        *(_rate(1e-3), _decay(1e-5), Axis(name="initial_accumulator_value", low=1e-6, high=1e-5)),
    ),
    _rule("Lion", PRESETS["lion"], _rate(1e-4), _decay(0.03), _BETA2),
    _rule("LAMB", PRESETS["lamb"], _rate(1e-3), _decay(0.01), _BETA2),
    _rule(
        "Adafactor",
        _alone("adafactor", "Adafactor", relative_step=False, lr=0.03),
        *(_rate(3e-3), _decay(0.01), Axis(name="clip_threshold", low=0.3, high=3.0)),
    ),
    _rule("Cautious AdamW", _alone("cautious", "cautious(AdamW)"), _rate(3e-4), _decay(0.01), _BETA2),
    _rule("Schedule-Free AdamW", PRESETS["schedule-free"], _rate(6e-4), _decay(0.01), _BETA1),
    _rule(
        "Prodigy",
        _alone("prodigy", "Prodigy"),
        *(_rate(0.1), _decay(0.01), Axis(name="d_coef", low=0.3, high=3.0)),
    ),
    _rule("Muon + AdamW", _of_matrices("muon"), _rate(2e-3), _decay(0.003), _rate(3e-4, "adamw_lr")),
    _rule("SOAP + AdamW", _of_matrices("soap"), _rate(3e-4), _decay(0.01), _BETA2),
)

RULES = {contestant.name: contestant for contestant in _ALL}
"""By name, the baseline first."""


def choose_fairly(names: Iterable[str]) -> list[Contestant]:
    """The contestants of these names for a fair test, in this order; the first is the baseline.

    A name in `RULES` is searched in the ranges there. Any other recipe is searched around the rate and the decay (where
    it has one) of its first route, in ranges as wide as those, and clipped as they are unless it says otherwise.

    Raises as `stepwell.compare.contestants.choose`.
    """
    return chosen(names, _fairly_named)


def _fairly_named(name: str) -> Contestant:
    if spelled(name) in RULES:
        return RULES[spelled(name)]
    found = contestant(name, beside=RULES)
    recipe = found.recipe if found.recipe.clip_norm is not None else found.recipe.replace(clip_norm=CLIP_NORM)
    return replace(Contestant.of(recipe, found.name, rates_apart=RATES_APART), title=found.title)
