"""What `optim=` names: one of transformers' optimizers, a rule, a preset or a recipe's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stepwell.integrations.huggingface.optimizers import TransformersAdafactor
from stepwell.optimizer.averaging import has_average
from stepwell.recipes import PRESETS, Recipe, Route, named
from stepwell.rules.registry import UnknownRuleError, rule_class, rule_names
from stepwell.text.naming import nearest

Origin = Literal["transformers", "rule", "recipe"]
RunsOn = Literal["stepwell", "transformers"]

_ADAM: tuple[str, ...] = ("betas", "eps")


@dataclass(frozen=True)
class Twin:
    """Our rule that does what transformers' optimizer of a name does.

    Attributes:
        rule: the rule's name.
        adam: which of its hyper-parameters transformers fills from `adam_beta1`, `adam_beta2` and `adam_epsilon`.
        fixed: what else transformers sets.
        state_dtype: how its state is stored.
    """

    rule: str
    adam: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    state_dtype: Literal["8bit"] | None = None


TWINS: Mapping[str, Twin] = {
    "adamw_torch": Twin("AdamW", _ADAM),
    "adamw_torch_fused": Twin("AdamW", _ADAM),
    "adamw_8bit": Twin("AdamW", _ADAM, state_dtype="8bit"),
    "adamw_bnb_8bit": Twin("AdamW", _ADAM, state_dtype="8bit"),
    "lion_8bit": Twin("Lion", ("betas",), state_dtype="8bit"),
    "adafactor": Twin(
        TransformersAdafactor.__name__, (), (("lr", 1e-3), ("scale_parameter", False), ("relative_step", False))
    ),
    "ademamix": Twin("AdEMAMix", _ADAM, (("alpha", 5.0),)),
    "sgd": Twin("SGD"),
    "adagrad": Twin("Adagrad"),
    "rmsprop": Twin("RMSprop"),
    "stable_adamw": Twin("StableAdamW", _ADAM),
    "schedule_free_adamw": Twin("ScheduleFreeAdamW", _ADAM),
    "schedule_free_radam": Twin("ScheduleFreeRAdam", _ADAM),
    "schedule_free_sgd": Twin("ScheduleFreeSGD"),
}
"""transformers' names that run on our rules."""


@dataclass(frozen=True)
class Choice:
    """What `optim=` has named.

    Attributes:
        name: as it was given.
        origin: whose name it is: that of one of transformers' optimizers, of a rule, or of a recipe.
        recipe: what our optimizer is made from, or None where transformers makes its own. A rule is a recipe of one
            route.
    """

    name: str
    origin: Origin
    recipe: Recipe | None

    @property
    def averages(self) -> bool:
        """Whether a rule keeps an average of the weights, which takes the place of a schedule."""
        return self.recipe is not None and any(has_average(route.rule) for route in self.recipe.routes)

    @property
    def filled(self) -> tuple[str, ...]:
        """Which hyper-parameters `adam_beta1`, `adam_beta2` and `adam_epsilon` fill."""
        if self.recipe is None or len(self.recipe.routes) > 1:
            return ()
        values = self.recipe.rule_of(self.recipe.routes[0]).values()
        if self.origin == "transformers":
            own = TWINS[self.name].adam or (("momentum",) if self.name == "sgd" else ())
        else:
            own = ("betas", "eps") if "betas" in values else ()
        return tuple(name for name in own if name in values and not (name == "eps" and isinstance(values[name], tuple)))


def choose(name: str, runs_on: RunsOn, theirs: Iterable[str]) -> Choice:
    """What a name means: first one of transformers' that has a twin here, then a recipe's file or a preset, then a
    rule, then what is left of transformers' own.

    Args:
        name: what `optim=` was given.
        runs_on: "transformers" leaves transformers' names to transformers.
        theirs: the names that transformers knows.

    Raises:
        ValueError: nobody knows the name; with the nearest ones.
        RecipeError: a recipe's file has mistakes.
    """
    known = [str(each) for each in theirs]
    if runs_on == "transformers" and name in known:
        return Choice(name, "transformers", None)
    if name in TWINS:
        twin = TWINS[name]
        route = Route(rule=twin.rule, name=name, hyper_parameters=dict(twin.fixed))
        return Choice(name, "transformers", Recipe(name=name, routes=(route,), state_dtype=twin.state_dtype))
    if name.casefold().replace("_", "-") in PRESETS or Path(name).suffix in (".toml", ".json"):
        return Choice(name, "recipe", named(name))
    try:
        rule = rule_class(name).__name__
    except UnknownRuleError:
        if name in known:
            return Choice(name, "transformers", None)
    else:
        return Choice(name, "rule", Recipe(name=name, routes=(Route(rule=rule),)))
    everything = [*rule_names(), *PRESETS, *known, *TWINS]
    raise ValueError(
        f"unknown optim {name!r}{nearest(name, everything, 3)}; it takes a name of transformers', a preset "
        f"({', '.join(PRESETS)}), a rule of stepwell.list_optimizers(), or a recipe's file (.toml, .json)"
    )
