"""How a rule is made of another: the machinery of the wrappers in `stepwell.rules.wrappers`."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from stepwell.rules.registry import enter_wrapper, rule_class
from stepwell.rules.rule import Rule, Shape, hyper_parameters
from stepwell.text.values import shown

if TYPE_CHECKING:
    _Mixin = Rule
else:
    _Mixin = object


class Wrapper(_Mixin):
    """Changes what another rule does. It stands before that rule in the order of inheritance, so `super()` is the rule.

    Its annotated attributes become hyper-parameters beside the rule's own. The class that `wrapped` makes is called
    `word(Rule)`, and a parameter group and a checkpoint keep that name.
    """

    word: ClassVar[str]
    # Takes a mean or a norm over the tensor, so that a rule of elements becomes one of tensors.
    reduces: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "word" in vars(cls):
            enter_wrapper(cls.word, functools.partial(wrapped_class, cls))

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        """Why this wrapper does not fit the rule, or None where it does. None says that it fits all."""
        del rule
        return None

    def fit(self, shape: Shape) -> Rule:
        inner = self.inner(**{name: getattr(self, name) for name in self.inner.field_names()})
        fitted = inner.fit(shape)
        if fitted is inner:
            return self
        mine = {name: getattr(self, name) for name in self.wrapper_fields}
        return wrapped_class(self.wrapper, type(fitted))(**fitted.values(), **mine)

    wrapper: ClassVar[type[Wrapper]]
    wrapper_fields: ClassVar[tuple[str, ...]]
    inner: ClassVar[type[Rule]]

    def __reduce__(self) -> Any:
        return _again, (type(self).__name__, self.values())


def _again(name: str, values: dict[str, Any]) -> Rule:
    return rule_class(name)(**values)


def wrapped(wrapper: type[Wrapper], rule: Rule, **values: Any) -> Rule:
    """The rule inside the wrapper, with the rule's hyper-parameters and the wrapper's.

    Raises TypeError where the wrapper does not fit the rule, and says why.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"{wrapper.word} takes a stepwell.Rule such as stepwell.rules.AdamW(), got {shown(rule)}")
    return wrapped_class(wrapper, type(rule))(**rule.values(), **values)


_MADE: dict[tuple[type[Wrapper], type[Rule]], type[Rule]] = {}


def wrapped_class(wrapper: type[Wrapper], rule: type[Rule]) -> type[Rule]:
    """The class of the rule inside the wrapper: one class, however often it is asked for."""
    if (wrapper, rule) not in _MADE:
        _MADE[wrapper, rule] = _make(wrapper, rule)
    return _MADE[wrapper, rule]


def _make(wrapper: type[Wrapper], rule: type[Rule]) -> type[Rule]:
    reason = wrapper.misfit(rule)
    if reason is not None:
        raise TypeError(f"{wrapper.word} does not fit {rule.__name__}: {reason}")
    own = {name: hint for ancestor in reversed(wrapper.__mro__) for name, hint in _hyper_parameters_of(ancestor)}
    for name in own:
        if name in hyper_parameters(rule):
            raise TypeError(f"{wrapper.word} does not fit {rule.__name__}: both have a hyper-parameter called {name!r}")
    content = {
        "__doc__": "\n\n".join((inspect.getdoc(wrapper) or "", "Around this rule:", inspect.getdoc(rule) or "")),
        "__module__": wrapper.__module__,
        "__annotations__": own,
        "acts_on": "tensors" if wrapper.reduces and rule.acts_on == "elements" else rule.acts_on,
        "stackable": rule.stackable and not wrapper.reduces,
        "wrapper": wrapper,
        "wrapper_fields": tuple(own),
        "inner": rule,
        **{name: getattr(wrapper, name) for name in own},
    }
    made = type(f"{wrapper.word}({rule.__name__})", (wrapper, rule), content, abstract=True)
    return dataclass(frozen=True, kw_only=True)(made)


def _hyper_parameters_of(ancestor: type) -> list[tuple[str, Any]]:
    if not issubclass(ancestor, Wrapper):
        return []
    hints = inspect.get_annotations(ancestor).items()
    return [(name, hint) for name, hint in hints if not str(hint).startswith("ClassVar")]


def gives_a_direction(rule: type[Rule]) -> bool:
    """Whether the rule leaves the update to the base class and says only where to go."""
    owner = next(
        ancestor for ancestor in rule.__mro__ if "update" in vars(ancestor) and not issubclass(ancestor, Wrapper)
    )
    return owner is Rule
