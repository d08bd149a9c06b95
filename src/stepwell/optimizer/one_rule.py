"""Optimizers of one rule, as classes: their signatures are derived from the fields of the rule."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, get_type_hints

from stepwell.engines.choice import ENGINES
from stepwell.optimizer import Optimizer
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, hyper_parameters
from stepwell.text.naming import meant_or_known

_OPTIONS = ("engine", "clip_norm", "on_nonfinite", "state_dtype", "master", "rounding_seed", "shard_state")
# Come last and by name only: fields of every rule, as torch has `maximize`, and what torch's rule of the name has not.
_BY_NAME = ("decay", "maximize", "correct_bias", "average", "conv1d", "split", "split_dim", "polar_express")
# In the place of parameters: None is a value that somebody may have passed.
_NOT_GIVEN = object()


class Named(Optimizer):
    """An optimizer whose rule is known."""

    rule_type: ClassVar[type[Rule]]

    def __init__(self, params: Any = _NOT_GIVEN, *args: Any, **kwargs: Any) -> None:
        if params is _NOT_GIVEN:
            name = type(self).__name__
            raise TypeError(f"{name} needs parameters to train: write {name}(model.parameters(), ...)")
        positional = [name for name in hyper_parameters(self.rule_type) if name not in _BY_NAME]
        if len(args) > len(positional):
            raise TypeError(
                f"{type(self).__name__} takes at most {len(positional)} hyper-parameters by position, got {len(args)}"
            )
        given = dict(zip(positional, args, strict=False))
        for name in given:
            if name in kwargs:
                raise TypeError(f"{type(self).__name__} got {name!r} twice: by position and by name")
        for name in kwargs:
            if name not in hyper_parameters(self.rule_type) and name not in _OPTIONS:
                known = [*hyper_parameters(self.rule_type), *_OPTIONS]
                asked = name in ENGINES and kwargs[name] is True
                hint = f"; write engine={name!r}" if asked else meant_or_known(name, known)
                raise TypeError(f"unknown hyper-parameter {name!r} for {self.rule_type.__name__}{hint}")
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        super().__init__(params, self.rule_type(**given, **kwargs), **options)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is not class_of(self.rule_type):  # a class of somebody's own
            return super().__reduce_ex__(protocol)
        # By the rule: a class that was made for one, as for cautious(AdamW), is found in no module.
        return _without_content, (self.rule,), self.__getstate__()


def _without_content(rule: Rule) -> Named:
    made = class_of(type(rule))
    return made.__new__(made)


def optimizer_class(name: str) -> type[Named]:
    """The class of the optimizers of that name: `optimizer_class("lion")` is `stepwell.Lion`.

    Args:
        name: as `stepwell.list_optimizers` gives it; case, dashes and underscores do not matter. The name of a rule of
            your own or of another package, and one like "cautious(AdamW)", gives a class that is made for it.

    Raises:
        ValueError: for a name that is not known, with the nearest one, and for a rule of another package that cannot be
            loaded.
    """
    return class_of(rule_class(name))


def class_of(rule: type[Rule]) -> type[Named]:
    """The class of optimizers of one rule, with the signature and the documentation of that rule; always the same."""
    if rule not in _MADE:
        content = {
            "rule_type": rule,
            "__signature__": _signature(rule),
            "__doc__": _doc(rule),
            "__module__": "stepwell",
        }
        _MADE[rule] = type(rule.__name__, (Named,), content)
    return _MADE[rule]


_MADE: dict[type[Rule], type[Named]] = {}


def _signature(rule: type[Rule]) -> inspect.Signature:
    defaults, hints = rule().values(), get_type_hints(rule)
    fields = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY if name in _BY_NAME else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=defaults[name],
            annotation=hints[name],
        )
        for name in sorted(defaults, key=lambda name: name in _BY_NAME)
    ]
    known = inspect.signature(Optimizer.__init__, eval_str=True).parameters
    return inspect.Signature([known["params"], *fields, *(known[name] for name in _OPTIONS)])


def _doc(rule: type[Rule]) -> str:
    return f"{inspect.cleandoc(rule.__doc__ or '')}\n\nThe other arguments, and what it is: `stepwell.Optimizer`."
