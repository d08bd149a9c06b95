"""Whatever the shapes, hyper-parameters and gradients: in float64 every engine gives what the reference gives."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conformance.cases import CASES, Case, acting_on, assert_near, rows
from conformance.training import numbers_of, parameters_of, slots_of
from stepwell import Optimizer
from stepwell.rules import Rule
from stepwell.rules.hyper import Range
from stepwell.rules.rule import hyper_parameters

ELEMENTWISE = acting_on("elements")
ENGINES = ("foreach", "fused")

# 0-d, empty, one, odd, and just around the widths of vector registers.
SHAPES = st.one_of(
    st.just(()),
    st.just((0,)),
    st.tuples(st.integers(0, 3), st.integers(0, 5)),
    st.sampled_from([(1,), (7,), (8,), (9,), (31,), (33,), (127,), (2, 3, 5), (1, 1, 1, 1)]),
)

# Some at rest, some tiny, some large: no two alike in size.
SIZES = st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e3])

# Kept where steps say something: rates that do not blow the weights up, and no division by (almost) nothing.
WITHIN: dict[str, tuple[float, float]] = {
    "lr": (0.0, 0.1),
    "weight_decay": (0.0, 1.0),
    "eps": (1e-10, 1e-2),
    "r": (0.0, 2.0),
    "weight_lr_power": (0.0, 3.0),
    "momentum": (0.1, 0.99),
    "dampening": (0.0, 1.0),
    "warmup_steps": (0, 4),
    "t0": (0, 4),
    "lr_decay": (0.0, 1.0),
    "initial_accumulator_value": (0.0, 1.0),
    "etas[1]": (1.1, 2.0),
    "step_sizes[0]": (0.0, 1e-3),
    "step_sizes[1]": (0.1, 10.0),
    "sync_period": (1, 3),
}


def _numbers(name: str, annotation: Any, default: Any) -> st.SearchStrategy[Any]:
    """Values of one field: numbers within its range, flags as they are."""
    if get_origin(annotation) is tuple:
        elements = [
            _numbers(f"{name}[{index}]", each, default[index]) for index, each in enumerate(get_args(annotation))
        ]
        return st.tuples(*elements)
    if get_origin(annotation) is not Annotated or not isinstance(default, (int, float)):
        return st.just(default)
    limits = next(mark for mark in get_args(annotation) if isinstance(mark, Range))
    low, high = WITHIN.get(name, (0.1, 0.99))
    assert low in limits
    assert high in limits
    if limits.whole:
        return st.integers(int(low), int(high))
    return st.floats(low, high) if default or name != "momentum" else st.just(default)


def _rules(case: Case) -> st.SearchStrategy[Rule]:
    values = case.rule.values()
    fields = {name: _numbers(name, hint, values[name]) for name, hint in hyper_parameters(type(case.rule)).items()}
    if values.get("nesterov"):
        fields["dampening"] = st.just(0.0)
    return st.fixed_dictionaries({**fields, "maximize": st.booleans()}).map(lambda given_: type(case.rule)(**given_))


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _trained(rule: Rule, engine: str, shapes: list[tuple[int, ...]], sizes: list[float], **options: Any) -> Optimizer:
    """Three steps; in the second, every second parameter has no gradient."""
    parameters = [_normal(shape, seed).requires_grad_() for seed, shape in enumerate(shapes)]
    optimizer = Optimizer(parameters, rule, engine=engine, **options)  # type: ignore[arg-type]
    for step, size in enumerate(sizes):
        for index, p in enumerate(parameters):
            missing = step == 1 and index % 2
            p.grad = None if missing else size * _normal(tuple(p.shape), 1000 * (step + 1) + index)
        optimizer.step()
    return optimizer


@rows(ELEMENTWISE)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_engine_is_the_reference(case: Case, data: st.DataObject) -> None:
    rule = data.draw(_rules(case), label="rule")
    shapes = data.draw(st.lists(SHAPES, min_size=1, max_size=4), label="shapes")
    sizes = data.draw(st.lists(SIZES, min_size=3, max_size=3), label="sizes of the gradients")
    limit = data.draw(st.sampled_from([None, 0.5]), label="clip_norm")
    expected = _trained(rule, "reference", shapes, sizes, clip_norm=limit)
    for engine in ENGINES:
        actual = _trained(rule, engine, shapes, sizes, clip_norm=limit)
        # Numbers of gradients are up to 1e3 and enter squared: a weight may owe its last bits to a difference of those.
        assert_near(parameters_of(actual), parameters_of(expected), 1e-9)
        assert_near(slots_of(actual), slots_of(expected), 1e-9)
        for ours, theirs in zip(numbers_of(actual), numbers_of(expected), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-12)


@rows([case for case in ELEMENTWISE if case.name in ("SGD", "AdamW", "Lion", "ScheduleFreeAdamW")])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_cut_of_a_tensor_gives_the_same(case: Case, data: st.DataObject) -> None:
    # What a rule on elements claims, at any number of cuts anywhere.
    rule = data.draw(_rules(case), label="rule")
    length = data.draw(st.integers(1, 40), label="length")
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=3), label="cuts"))
    bounds = list(zip([0, *cuts], [*cuts, length], strict=True))
    for engine in ENGINES:
        whole = _normal((length,), 1).requires_grad_()
        pieces = [whole.detach()[a:b].clone().requires_grad_() for a, b in bounds]
        for parameters in ([whole], pieces):
            optimizer = Optimizer(parameters, rule, engine=engine)  # type: ignore[arg-type]
            for step in (1, 2):
                gradient = _normal((length,), 100 + step)
                parts = [gradient] if parameters[0] is whole else [gradient[a:b] for a, b in bounds]
                for p, part in zip(parameters, parts, strict=True):
                    p.grad = part.clone()
                optimizer.step()
        joined = torch.cat([piece.detach() for piece in pieces])
        assert_near([joined], [whole.detach()], 1e-14)


def test_all_elementwise_rules_are_here() -> None:
    assert {case.name.split("-")[0] for case in ELEMENTWISE} == {
        case.name.split("-")[0] for case in CASES if case.rule.acts_on == "elements"
    }
    assert len(ELEMENTWISE) >= 8
