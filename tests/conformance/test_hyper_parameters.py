"""Hyper-parameters: live, in tensors, and refused where they are not what the rule takes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch

from conformance.cases import CASES, PLAIN_CASES, Case, assert_near, assert_same_bits, rows, rows_and_engines
from conformance.training import parameter, parameters_of, slots_of, train, weights
from stepwell import Optimizer
from stepwell.engines.choice import fused
from stepwell.rules.hyper import Range
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import hyper_parameters


def _other_numbers(case: Case) -> dict[str, Any]:
    """Every number of the rule, changed to another that it may take."""
    values = case.rule.values()
    others = {"betas": (0.7, 0.95), "momentum": 0.7, "dampening": 0.1, "eps": 1e-3, "r": 2.0}
    changed = {name: value for name, value in others.items() if _is_like(values.get(name), value)}
    return {"lr": 0.5 * values["lr"], "weight_decay": values["weight_decay"] + 0.1, **changed}


def _is_like(value: Any, other: Any) -> bool:
    """Whether a field that has one value may have the other: a number above 0, or as many numbers."""
    if isinstance(value, tuple) and isinstance(other, tuple):
        return len(value) == len(other)
    return bool(value) and not isinstance(value, tuple) and not isinstance(other, tuple)


@rows_and_engines(CASES)
def test_the_next_step_reads_the_group(case: Case, engine: str) -> None:
    # From the same weights and state, a changed group is a fresh optimizer that was made with the changed values.
    changed = _other_numbers(case)
    live = weights(case)
    optimizer = Optimizer(live, case.rule, engine=engine)
    train(optimizer, live, last=2)
    fresh = [p.detach().clone().requires_grad_() for p in live]
    other = Optimizer(fresh, case.but(**changed).rule, engine=engine)
    other.load_state_dict(optimizer.state_dict())
    for group in (optimizer.param_groups[0], other.param_groups[0]):
        group.update(changed)
    assert {name: other.param_groups[0][name] for name in changed} == changed
    train(optimizer, live, first=3)
    train(other, fresh, first=3)
    assert_same_bits(parameters_of(optimizer), parameters_of(other))

    unchanged = weights(case)
    train(Optimizer(unchanged, case.rule, engine=engine), unchanged)
    assert not torch.equal(unchanged[3], live[3])


@rows(CASES)
def test_new_numbers_compile_nothing(case: Case) -> None:
    engine = fused("cpu")
    assert engine is not None
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule)
    train(optimizer, parameters, last=1)
    kernels, programs = len(engine._kernels), len(engine._programs)
    optimizer.param_groups[0].update(_other_numbers(case))
    train(optimizer, parameters, first=2, last=3)
    again = weights(case)
    train(Optimizer(again, case.but(**_other_numbers(case)).rule), again, last=1)
    assert (len(engine._kernels), len(engine._programs)) == (kernels, programs)


@rows_and_engines(PLAIN_CASES)
def test_flags_are_live_too(case: Case, engine: str) -> None:
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine)
    train(optimizer, parameters, last=2)
    fresh = [p.detach().clone().requires_grad_() for p in parameters]
    other = Optimizer(fresh, case.but(maximize=True).rule, engine=engine)
    state = optimizer.state_dict()
    state["param_groups"][0]["maximize"] = True
    other.load_state_dict(state)
    optimizer.param_groups[0]["maximize"] = True
    train(optimizer, parameters, first=3)
    train(other, fresh, first=3)
    assert_same_bits(parameters_of(optimizer), parameters_of(other))


@rows_and_engines(CASES)
def test_a_learning_rate_in_a_tensor(case: Case, engine: str) -> None:
    lr = torch.tensor(case.rule.lr, dtype=torch.float64)
    parameters, expected = weights(case), weights(case)
    optimizer = Optimizer(parameters, case.but(lr=lr).rule, engine=engine)
    plain = Optimizer(expected, case.rule, engine=engine)
    train(optimizer, parameters, last=2)
    train(plain, expected, last=2)
    assert optimizer.param_groups[0]["lr"] is lr
    lr.mul_(0.5)  # as torch's schedulers write it
    plain.param_groups[0]["lr"] *= 0.5
    train(optimizer, parameters, first=3)
    train(plain, expected, first=3)
    assert_near(parameters_of(optimizer), parameters_of(plain), case.tolerance(torch.float32))
    assert_near(slots_of(optimizer), slots_of(plain), case.tolerance(torch.float32))
    assert all(p.dtype == torch.float32 for p in parameters)


# What is refused, from the annotation of each field: what the values may be is worked out here once more, in words.

FIELDS = [
    pytest.param(case.rule, name, annotation, id=f"{case.name}.{name}")
    for case in PLAIN_CASES
    for name, annotation in hyper_parameters(type(case.rule)).items()
]


def _in_words(limits: Range) -> str:
    if limits == Range():
        return "a finite number"
    whole = "a whole number " if limits.whole else ""
    if limits.high == math.inf:
        return f"{whole}at least {limits.low:g}" if not limits.open_low else f"{whole}above {limits.low:g}"
    opening, closing = "(" if limits.open_low else "[", ")" if limits.open_high else "]"
    return f"{whole}in {opening}{limits.low:g}, {limits.high:g}{closing}"


def _out_of_range(limits: Range) -> Iterator[float]:
    yield from (math.nan, math.inf, -math.inf)
    if limits.low > -math.inf:
        yield limits.low - 1
        if limits.open_low:
            yield limits.low
    if limits.high < math.inf:
        yield limits.high + 1
        if limits.open_high:
            yield limits.high
    if limits.whole:
        yield limits.low + 0.5


def _numbers(name: str, annotation: Any, value: Any) -> Iterator[tuple[str, Range, bool, Any]]:
    """The numbers of a field: what an error calls each, its range, whether it is a count, and how to put one in."""
    if get_origin(annotation) is tuple:
        for index, element in enumerate(get_args(annotation)):
            for _, limits, count, _ in _numbers(name, element, value[index]):
                yield f"{name}[{index}]", limits, count, lambda x, i=index: (*value[:i], x, *value[i + 1 :])
    elif get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        yield name, next(mark for mark in marks if isinstance(mark, Range)), base is int, lambda x: x
    elif annotation is float:
        yield name, Range(), False, lambda x: x


def _is_number(field: Any) -> bool:
    rule, name, annotation = field.values
    return any(True for _ in _numbers(name, annotation, rule.values()[name]))


@pytest.mark.parametrize(("rule", "name", "annotation"), [field for field in FIELDS if _is_number(field)])
def test_numbers_out_of_range(rule: Any, name: str, annotation: Any) -> None:
    for called, limits, count, put in _numbers(name, annotation, rule.values()[name]):
        words = _in_words(limits)
        for bad in _out_of_range(limits):
            if count and not isinstance(bad, int):
                bad = int(bad) if math.isfinite(bad) and float(bad).is_integer() else bad
            too_large = bad == limits.high == math.inf > -limits.low and not limits.whole
            finite = f"a finite number {'above' if limits.open_low else 'of at least'} {limits.low:g}"
            expected = f"{called} must be {finite if too_large else words}, got {bad!r}"
            if count and not isinstance(bad, int):
                with pytest.raises(TypeError, match=rf"^{re.escape(called)} must be a whole number, got "):
                    type(rule)(**{name: put(bad)})
                continue
            with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
                type(rule)(**{name: put(bad)})
            group = {"params": [parameter((2, 2))], "rule": type(rule).__name__, "name": "norms", name: put(bad)}
            with pytest.raises(ValueError, match=f"^{re.escape(expected)} \\(group 'norms'\\)$"):
                Optimizer([group], rule)


@pytest.mark.parametrize(("rule", "name", "annotation"), FIELDS)
def test_values_of_the_wrong_type(rule: Any, name: str, annotation: Any) -> None:
    def refused(value: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=f"^{re.escape(message)}"):
            type(rule)(**{name: value})

    if annotation is bool:
        refused("yes", TypeError, f"{name} must be True or False, got 'yes'")
        refused(1, TypeError, f"{name} must be True or False, got 1")
    elif get_origin(annotation) is Literal or Literal in map(get_origin, get_args(annotation)):
        alone = get_origin(annotation) is Literal and len(get_args(annotation)) == 1
        choices = f"{get_args(annotation)[0]!r}, got" if alone else "one of "
        refused("sideways", ValueError, f"{name} must be {choices}")
        refused(2, ValueError, f"{name} must be {choices}")
    elif get_origin(annotation) is tuple:
        count = len(get_args(annotation))
        refused(0.5, ValueError, f"{name} must be {count} numbers, got 0.5")
        refused((0.5,) * (count + 1), ValueError, f"{name} must be {count} numbers, got (0.5, ")
        refused("ab", ValueError, f"{name} must be {count} numbers, got 'ab'")
    for called, limits, _, put in _numbers(name, annotation, rule.values()[name]):
        words = _in_words(limits)
        if not words.startswith("a "):
            words = f"a number {words}"
        for bad in ("fast", True, [0.5], *([] if name in rule.may_be_none else [None])):
            with pytest.raises(TypeError, match=rf"^{re.escape(f'{called} must be {words}, got {bad!r}')} of type "):
                type(rule)(**{name: put(bad)})
        with pytest.raises(TypeError, match=rf"^{re.escape(called)} must be .*, got a tensor of shape \(2,\)$"):
            type(rule)(**{name: put(torch.ones(2))})


@pytest.mark.parametrize(("rule", "name", "annotation"), FIELDS)
def test_unknown_names(rule: Any, name: str, annotation: Any) -> None:
    kind = type(rule)
    misspelled = f"{name}_"
    message = f"unknown hyper-parameter '{misspelled}' for {kind.__name__} (did you mean '{name}'?)"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        kind(**{misspelled: 1})
    if name.startswith("initial_"):  # torch's schedulers keep `initial_lr` in a group, and ours more of the kind
        return
    with pytest.raises(TypeError, match=f"^{re.escape(message)} \\(group 0\\)$"):
        Optimizer([{"params": [parameter((2, 2))], misspelled: 1}], rule)


@rows(PLAIN_CASES)
def test_a_name_that_is_near_to_none_hears_what_there_is(case: Case) -> None:
    names = ", ".join(case.rule.field_names())
    with pytest.raises(TypeError) as raised:
        rule_class(case.name)(xyzzy=1)
    assert str(raised.value) == f"unknown hyper-parameter 'xyzzy' for {case.name}; it takes {names}"


@rows(PLAIN_CASES)
def test_a_rule_cannot_be_changed(case: Case) -> None:
    with pytest.raises(AttributeError, match="cannot assign to field 'lr'"):
        case.rule.lr = 1.0  # type: ignore[misc]
