"""`TrainingArguments` that name every optimizer, recipe and schedule of stepwell besides transformers' own."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, cast, get_args

from stepwell.integrations.huggingface.choosing import Choice, RunsOn, choose
from stepwell.integrations.huggingface.optim_args import applied, as_text, parse
from stepwell.integrations.huggingface.optimizers import TransformersAdafactor
from stepwell.integrations.huggingface.package import transformers
from stepwell.integrations.huggingface.scheduling import OF_RECIPE, Name, is_theirs, name_of, named_schedule
from stepwell.recipes import Recipe
from stepwell.scheduler.tracks import is_number
from stepwell.schedules import Schedule
from stepwell.text.naming import nearest
from stepwell.text.values import shown

_LOG = logging.getLogger("stepwell")
_STAND_INS = {"optim": "adamw_torch", "lr_scheduler_type": "linear"}
_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")

_Mixin: Any = object  # a class of arguments, which comes after it


@dataclass
class TrainingArgumentsMixin(_Mixin):  # type: ignore[misc]
    """What stepwell adds to the arguments of a Trainer; put it before the class of arguments that it is added to.

        @dataclass
        class Arguments(TrainingArgumentsMixin, SFTConfig):
            pass

    An argument that is None, as all of these are unless given, is what the optimizer itself says, and where that says
    nothing, what the other class has for a default. Where another `optim` is set afterwards, as a search does, so is
    again what was neither given nor set.

    Args:
        optim: transformers' name of an optimizer ("adamw_torch"), a preset ("muon"), a rule ("Lion",
            "cautious(AdamW)") or a recipe's file ("mine.toml").
        optim_args: hyper-parameters, as "betas=(0.9, 0.95), nesterov=true" or as a dict.
        optim_runs_on: "transformers" leaves transformers' names to transformers, "stepwell" runs those that it can.
        learning_rate: per step. Of a recipe whose routes have several, the first's; the others keep their ratio to it.
        weight_decay: at least 0, for all rules; biases and norms are left out, as the Trainer or the recipe has it.
        adam_beta1, adam_beta2, adam_epsilon: for a rule with `betas` and `eps`; with optim="sgd" the first is the
            momentum.
        max_grad_norm: the global norm that the Trainer clips gradients to; 0 leaves them.
        lr_scheduler_type: transformers' name of a schedule, the name of one of ours ("wsd"), one written out
            ("WSD(decay=0.2)"), or "recipe" for the recipe's own.
        warmup_ratio: the share of all steps that is warm-up, from 0 to 1, rounded up to a step; `warmup_steps` above 0
            goes before it.
        layer_decay: multiplies the rate once for each block between a parameter and the head, in (0, 1).

    Raises:
        ValueError: an unknown name, with the nearest ones; a value out of range; an `optim_args` that does not parse,
            with the position.
        TypeError: a hyper-parameter or an argument that the optimizer or schedule does not have.
    """

    optim: str | None = field(default=None, metadata={"help": "A name of transformers', a rule, a preset or a file."})
    optim_args: dict | str | None = field(default=None, metadata={"help": "Such as 'betas=(0.9, 0.95), eps=1e-6'."})  # type: ignore[type-arg]
    optim_runs_on: str = field(
        default="stepwell", metadata={"help": "'transformers' leaves transformers' names to transformers."}
    )
    learning_rate: float | None = field(default=None, metadata={"help": "Per step; by default the optimizer's own."})
    weight_decay: float | None = field(default=None, metadata={"help": "By default the optimizer's own."})
    adam_beta1: float | None = field(default=None, metadata={"help": "The first of betas, where the rule has them."})
    adam_beta2: float | None = field(default=None, metadata={"help": "The second of betas, where the rule has them."})
    adam_epsilon: float | None = field(default=None, metadata={"help": "eps, where the rule has it."})
    max_grad_norm: float | None = field(default=None, metadata={"help": "By default the recipe's, else 1."})
    lr_scheduler_type: str | None = field(
        default=None, metadata={"help": "A name of transformers' or stepwell's; 'recipe' for the recipe's own."}
    )
    warmup_ratio: float | None = field(default=None, metadata={"help": "The share of all steps that is warm-up."})
    layer_decay: float | None = field(default=None, metadata={"help": "Multiplies the rate once a block."})

    def __post_init__(self) -> None:
        if self.optim_runs_on not in get_args(RunsOn):
            known = get_args(RunsOn)
            raise ValueError(
                f"optim_runs_on must be one of {', '.join(map(repr, known))}, got {self.optim_runs_on!r}"
                f"{nearest(self.optim_runs_on, known)}"
            )
        self.optim = self._default("optim") if self.optim is None else self.optim
        filled = self._chosen()
        for name, least, most in (("warmup_ratio", 0, 1), ("warmup_steps", 0, math.inf)):
            value = getattr(self, name)
            allowed = f"in [{least}, {most}]" if most < math.inf else f"at least {least}"
            if value is not None and not is_number(value):
                raise TypeError(f"{name} must be a number {allowed}, got {shown(value, typed=True)}")
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} must be {allowed}, got {value!r}")
        if self.warmup_steps and self.warmup_ratio:
            _LOG.warning("warmup_steps=%s goes before warmup_ratio=%s", self.warmup_steps, self.warmup_ratio)
        ours = self.recipe() is not None
        # transformers turns both names into members of its enumerations, which do not have ours. A warmup_ratio must
        # be a number to its version 4, overrides warmup_steps in 5.0, and is unknown later: it sees its own default.
        stand_ins: dict[str, Any] = {**_STAND_INS, "warmup_ratio": getattr(super(), "warmup_ratio", None)}
        if self.warmup_ratio is None:
            self.warmup_ratio = stand_ins["warmup_ratio"]
        own = {"optim": ours, "lr_scheduler_type": not is_theirs(name_of(self.lr_scheduler_type)), "warmup_ratio": True}
        kept = {name: getattr(self, name) for name, is_ours in own.items() if is_ours}
        for name in kept:
            setattr(self, name, stand_ins[name])
        super().__post_init__()
        for name, value in kept.items():
            setattr(self, name, value)
        self.schedule()
        self.__dict__["_filled"] = filled

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an argument. With another `optim`, what was neither given nor set before is the new optimizer's own."""
        if name in _STAND_INS and value is not None:
            value = Name(value)
        before = dict(self.__dict__)
        super().__setattr__(name, value)
        if "_filled" not in before:  # it is being made
            return
        self.__dict__["_filled"] = before["_filled"] - {name}
        if name == "optim":
            self.__dict__.update(dict.fromkeys(self._filled))
            try:
                self.__dict__["_filled"] = self._chosen()
            except (TypeError, ValueError):
                self.__dict__.update(before)
                raise

    def _chosen(self) -> frozenset[str]:
        """What `optim` comes to: fills what is None, and returns its names."""
        choice = self.choice
        filled = self._fill(choice)
        if choice.recipe is None:
            _say_once(choice.name, self.optim_runs_on)
            self.optim_args = as_text(self.optim_args)
            if self.layer_decay is not None:
                raise ValueError(f"layer_decay needs an optimizer of stepwell, and optim={choice.name!r} is not")
        return filled

    def _fill(self, choice: Choice) -> frozenset[str]:
        """Give what is None a value: the optimizer's own, else the default of the class that this is mixed into.
        Returns the names of what was None."""
        own: dict[str, Any] = {}
        given = {name: getattr(self, name) for name in _ADAM if getattr(self, name) is not None}
        if choice.recipe is not None:
            first = choice.recipe.rule_of(choice.recipe.routes[0]).values()
            if choice.origin != "transformers":
                own = {"learning_rate": first["lr"], "weight_decay": first["weight_decay"]}
                own |= _adam_values(choice, first)
            if choice.name == "sgd":
                own["adam_beta1"] = first["momentum"]
            if choice.recipe.clip_norm is not None:
                own["max_grad_norm"] = choice.recipe.clip_norm
            if choice.averages:
                own["lr_scheduler_type"] = "constant"
            if _has_schedule(choice.recipe):
                own["lr_scheduler_type"] = OF_RECIPE
        if choice.origin != "transformers":
            for name, value in given.items():
                if name not in own and value != self._default(name):
                    raise ValueError(
                        f"{name}={value!r} says nothing to optim={choice.name!r}; what that takes goes into optim_args"
                    )
        names = ("learning_rate", "weight_decay", *_ADAM, "max_grad_norm", "lr_scheduler_type")
        filled = frozenset(each for each in names if getattr(self, each) is None)
        for each in filled:
            setattr(self, each, own.get(each, self._default(each)))
        return filled

    def _default(self, name: str) -> Any:
        """What the class that this is mixed into has for a default."""
        classes = type(self).__mro__
        for other in classes[classes.index(TrainingArgumentsMixin) + 1 :]:
            for each in fields(other) if "__dataclass_fields__" in vars(other) else ():
                if each.name == name:
                    return each.default
        raise TypeError(f"{type(self).__name__} has no {name}: put TrainingArgumentsMixin before a TrainingArguments")

    @property
    def choice(self) -> Choice:
        """What `optim` names."""
        theirs = [each.value for each in transformers.training_args.OptimizerNames]
        return choose(name_of(self.optim), cast(RunsOn, self.optim_runs_on), theirs)

    def recipe(self) -> Recipe | None:
        """The recipe that these arguments come to, or None where transformers makes the optimizer.

        Clipping is left to the Trainer, and `warmup_steps` of a Schedule-Free rule to the number of steps.
        """
        choice = self.choice
        recipe = choice.recipe
        if recipe is None:
            return None
        first = recipe.rule_of(recipe.routes[0]).values()
        rates = {recipe.rule_of(route).values()["lr"] for route in recipe.routes}
        if self.learning_rate != first["lr"]:
            if len(rates) == 1 or not first["lr"] or not self.learning_rate:
                recipe = recipe.set(lr=self.learning_rate)
            else:
                recipe = recipe.scaled(lr=self.learning_rate / first["lr"])
        if self.weight_decay != first["weight_decay"]:
            recipe = recipe.set(weight_decay=self.weight_decay)
        recipe = recipe.set(**self._adam(choice, first))
        hint = "; optim_runs_on='transformers' leaves it to transformers" * (choice.origin == "transformers")
        arguments = parse(self.optim_args)
        recipe = applied(recipe, arguments, hint)
        own = recipe.rule_of(recipe.routes[0]).values().get("warmup_steps")
        if own and self.rule_warms_up and (self.warmup_steps or self.warmup_ratio):
            raise ValueError(
                f"the warm-up is given twice: warmup_steps={own!r} in optim_args, and warmup_steps or warmup_ratio; "
                "leave one out"
            )
        if _finds_its_rates(recipe):
            self._check_no_rate({each.name: each.value for each in arguments})
            recipe = recipe.set(lr=None)
        if self.layer_decay is not None:
            recipe = recipe.replace(layer_decay=self.layer_decay)
        return recipe.replace(clip_norm=None)

    def _adam(self, choice: Choice, values: dict[str, Any]) -> dict[str, Any]:
        """What `adam_beta1`, `adam_beta2` and `adam_epsilon` come to."""
        found: dict[str, Any] = {}
        for name in choice.filled:
            if name == "betas":
                found[name] = (self.adam_beta1, self.adam_beta2, *values[name][2:])
            else:
                found[name] = self.adam_epsilon if name == "eps" else self.adam_beta1
        return {name: value for name, value in found.items() if value != values[name]}

    def _check_no_rate(self, optim_args: Mapping[str, Any]) -> None:
        """Raise ValueError for what speaks of the rate to an Adafactor that finds it itself."""
        names = ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "layer_decay")
        given = {name: value for name in names if (value := self._other(name))} | {"lr": optim_args.get("lr")}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} says nothing to an Adafactor with relative_step=true, which finds its rates "
                    "itself; leave it out, or write relative_step=false into optim_args (warmup_init=true is its "
                    "warm-up)"
                )

    @property
    def finds_its_rates(self) -> bool:
        """Whether the rule is transformers' Adafactor with relative steps, whose rates `AdafactorSchedule` tells."""
        recipe = self.recipe()
        return recipe is not None and _finds_its_rates(recipe)

    def named(self, argument: str) -> str:
        """What names another optimizer ("optim") or schedule ("lr_scheduler_type") than the class that this is mixed
        into has by default, as "optim='muon'"; "" where nothing does."""
        for name in (argument, "layer_decay") if argument == "optim" else (argument,):
            if value := self._other(name):
                return f"{name}={value!r}"
        return ""

    def _other(self, name: str) -> Any:
        """The value of an argument; None where it is that of the class that this is mixed into."""
        value = getattr(self, name)
        if name in ("optim", "lr_scheduler_type"):
            return None if name_of(value) == name_of(self._default(name)) else name_of(value)
        if name in ("layer_decay", "warmup_ratio"):
            return value or None
        return None if value == self._default(name) else value

    def schedule(self) -> Any:
        """The schedule that `lr_scheduler_type` names: one of ours, a `SchedulerType`, or "recipe"."""
        name = name_of(self.lr_scheduler_type)
        if name == OF_RECIPE:
            if self.lr_scheduler_kwargs:
                raise TypeError("lr_scheduler_type='recipe' takes no lr_scheduler_kwargs: they stand in the recipe")
            recipe = self.choice.recipe
            if recipe is None or not _has_schedule(recipe):
                raise ValueError(f"lr_scheduler_type='recipe' needs a recipe with a schedule, got optim={self.optim!r}")
            return name
        found = named_schedule(name, self.lr_scheduler_kwargs)
        return found if isinstance(found, Schedule) else name

    def set_optimizer(
        self,
        name: str | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        epsilon: float | None = None,
        args: dict[str, Any] | str | None = None,
    ) -> Any:
        """Set all that speaks of the optimizer, and return these arguments.

        What is None is again what it is where it is not given; `args` are `optim_args`. The schedule, `max_grad_norm`
        and `layer_decay` stay as they are: `set_lr_scheduler("recipe")` takes a recipe's own schedule.

        Raises as the arguments themselves do, and leaves them as they were.
        """
        return self._set(
            optim=name,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            adam_beta1=beta1,
            adam_beta2=beta2,
            adam_epsilon=epsilon,
            optim_args=args,
        )

    def set_lr_scheduler(
        self,
        name: str | None = None,
        num_epochs: float = 3.0,
        max_steps: int = -1,
        *,
        warmup_steps: float = 0,
        warmup_ratio: float | None = None,
    ) -> Any:
        """Set all that speaks of the schedule and of the length of the training, and return these arguments.

        Args:
            name: as `lr_scheduler_type`; None is the optimizer's own, or else transformers' default.
            num_epochs: epochs of the training; the last may be a part of one.
            max_steps: steps of the training, which go before the epochs; -1 leaves it to them.
            warmup_steps: steps of warm-up, at least 0.
            warmup_ratio: the share of all steps that is warm-up, from 0 to 1; `warmup_steps` above 0 goes before it.

        Raises as the arguments themselves do, and leaves them as they were.
        """
        return self._set(
            lr_scheduler_type=name,
            num_train_epochs=num_epochs,
            max_steps=max_steps,
            warmup_steps=warmup_steps,
            warmup_ratio=warmup_ratio,
        )

    def _set(self, **values: Any) -> Any:
        made = replace(self, **values)
        self.__dict__.update(made.__dict__, _filled=made._filled | (self._filled - values.keys()))
        return self

    @property
    def rule_warms_up(self) -> bool:
        """Whether the rule itself has the warm-up: Schedule-Free does where the schedule is constant."""
        choice = self.choice
        if choice.origin == "recipe" or name_of(self.lr_scheduler_type) != "constant":
            return False
        if choice.recipe is None:
            return choice.name in ("schedule_free_adamw", "schedule_free_sgd")
        return "warmup_steps" in choice.recipe.rule_of(choice.recipe.routes[0]).values()

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """The steps of warm-up in a training of so many: `warmup_steps` (below 1 a share), else `warmup_ratio`."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * (self.warmup_steps or self.warmup_ratio or 0))


@dataclass
class TrainingArguments(TrainingArgumentsMixin, transformers.TrainingArguments):  # type: ignore[misc]
    """transformers' `TrainingArguments`, whose `optim` and `lr_scheduler_type` take stepwell's names too.

    See `TrainingArgumentsMixin` for what is added; everything else is transformers'.
    """


def _finds_its_rates(recipe: Recipe) -> bool:
    rules = [recipe.rule_of(route) for route in recipe.routes]
    return all(isinstance(rule, TransformersAdafactor) and rule.relative_step for rule in rules)


def _has_schedule(recipe: Recipe) -> bool:
    return any("lr" in recipe.schedules_of(route) for route in recipe.routes)


def _adam_values(choice: Choice, values: dict[str, Any]) -> dict[str, Any]:
    """What the rule itself has where `adam_beta1`, `adam_beta2` and `adam_epsilon` would fill it."""
    found: dict[str, Any] = {}
    if "betas" in choice.filled:
        found |= {"adam_beta1": values["betas"][0], "adam_beta2": values["betas"][1]}
    if "eps" in choice.filled:
        found["adam_epsilon"] = values["eps"]
    return found


@cache
def _say_once(name: str, runs_on: str) -> None:
    if runs_on == "stepwell":
        _LOG.info("optim=%r runs on transformers' own optimizer", name)
