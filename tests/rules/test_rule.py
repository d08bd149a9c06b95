"""What the base class does for every rule, seen with rules that a user might write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import torch

import stepwell
from rules.walking import Walk
from stepwell import Optimizer, Rule, Slot
from stepwell.algebra.matrices import normal_like
from stepwell.rules import SGD, Adam, AdamW, Lion, ScheduleFreeAdamW
from stepwell.rules.hyper import Range
from stepwell.rules.registry import rule_class, rule_names
from stepwell.rules.rule import hyper_parameters

approx = pytest.approx

pytestmark = pytest.mark.usefixtures("own_rules_are_forgotten")


def descent(*, decorated: bool = True) -> type[Rule]:
    """A rule of the user's with one number of its own; forgotten after the test."""

    class OwnDescent(Rule):
        lr: float = 0.1
        gain: float = 2.0

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            return h.gain * g, {}

    return dataclass(frozen=True, kw_only=True)(OwnDescent) if decorated else OwnDescent


# From direction to update.


def test_the_direction_is_multiplied_by_the_rate(walk: Walk) -> None:
    # 1 − 0.1·2·3 = 0.4
    assert walk(descent()(), 1.0, [3.0]) == [approx({"weight": 0.4})]


def test_decoupled_decay_shrinks_the_weight_by_lr_times_decay(walk: Walk) -> None:
    # It is the base class's default: 1·(1 − 0.1·0.5) − 0.1·2·3 = 0.35
    assert walk(descent()(weight_decay=0.5), 1.0, [3.0]) == [approx({"weight": 0.35})]


def test_coupled_decay_is_added_to_the_gradient(walk: Walk) -> None:
    # 1 − 0.1·2·(3 + 0.5·1) = 0.3
    assert walk(descent()(weight_decay=0.5, decay="coupled"), 1.0, [3.0]) == [approx({"weight": 0.3})]


def test_independent_decay_shrinks_the_weight_by_its_share(walk: Walk) -> None:
    # 1·(1 − 0.05) − 0.1·2·3 = 0.35: the share is λ, whatever the rate
    assert walk(descent()(weight_decay=0.05, decay="independent"), 1.0, [3.0]) == [approx({"weight": 0.35})]
    assert walk(descent()(lr=0.01, weight_decay=0.05, decay="independent"), 1.0, [3.0]) == [approx({"weight": 0.89})]


def test_proximal_decay_divides_after_the_step(walk: Walk) -> None:
    # (1 − 0.1·2·3)/(1 + 0.1·0.5)
    assert walk(descent()(weight_decay=0.5, decay="proximal"), 1.0, [3.0]) == [approx({"weight": 0.4 / 1.05})]


def test_a_rate_of_the_rules_own_leaves_the_decay_at_lr(walk: Walk) -> None:
    @dataclass(frozen=True, kw_only=True)
    class OwnRate(Rule):
        lr: float = 0.1

        def rate(self, s: Any, h: Any) -> Any:
            return h.lr / s.step

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            return g, {}

    # 0.95·1 − 0.1·2 = 0.75; 0.95·0.75 − 0.05·2 = 0.6125
    path = walk(OwnRate(weight_decay=0.5), 1.0, [2.0, 2.0])
    assert path == [approx({"weight": 0.75}), approx({"weight": 0.6125})]


def test_decay_inside_is_left_to_the_direction(walk: Walk) -> None:
    assert walk(descent()(weight_decay=0.5, decay="inside"), 1.0, [3.0]) == [approx({"weight": 0.4})]


def test_a_rule_needs_a_direction_or_an_update() -> None:
    class Nowhere(Rule):
        pass

    parameter = torch.ones(2, requires_grad=True)
    parameter.grad = torch.ones(2)
    with pytest.raises(TypeError, match=r"^Nowhere defines neither direction\(\) nor update\(\)$"):
        Optimizer([parameter], Nowhere(), engine="reference").step()


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda _: None, "None"),
        (lambda g: g, r"\w+"),
        (lambda g: (g,), r"\w+"),
        (lambda g: (g, g, {}), r"\w+, \w+, dict"),
        (lambda g: (g, None), r"\w+, None"),
    ],
)
def test_a_direction_comes_with_the_slots(returned: Callable[[Any], Any], got: str, engine: Any) -> None:
    class Unfinished(Rule):
        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return returned(g)

    parameter = torch.ones(2, requires_grad=True)
    parameter.grad = torch.ones(2)
    message = r"Unfinished.direction must return the direction and a dict of the new slots \({} where it has none\)"
    with pytest.raises(TypeError, match=rf"^{message}, got {got}$"):
        Optimizer([parameter], Unfinished(), engine=engine).step()


def test_a_returned_slot_must_be_declared() -> None:
    class Forgetful(Rule):
        slots = ("momentum_buffer",)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            return g, {"momentum": g}

    parameter = torch.ones(2, requires_grad=True)
    parameter.grad = torch.ones(2)
    message = (
        r"^Forgetful returns the slot 'momentum', which `slots` does not declare \(did you mean 'momentum_buffer'\?\)$"
    )
    with pytest.raises(TypeError, match=message):
        Optimizer([parameter], Forgetful(), engine="reference").step()


def test_one_slot_needs_a_tuple_too() -> None:
    class Stringy(Rule):
        slots = "momentum_buffer"

    with pytest.raises(
        TypeError, match=r"^slots of Stringy must be a tuple, got 'momentum_buffer'; write \('momentum_buffer',\)$"
    ):
        Stringy().slot_list()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("p", "the weights"),
        ("g", "the gradient"),
        ("step", "the number of the update"),
        ("gradient_factor", "what gradients are multiplied with"),
    ],
)
def test_a_slot_is_not_called_as_something_else_that_an_update_is_given(name: str, what: str) -> None:
    class Taken(Rule):
        slots = ("exp_avg", name)

    parameter = torch.ones(2, requires_grad=True)
    parameter.grad = torch.ones(2)
    with pytest.raises(TypeError, match=rf"^a slot of Taken may not be called '{name}': {what}$"):
        Optimizer([parameter], Taken()).step()


def test_two_slots_have_two_names() -> None:
    class Twice(Rule):
        slots = ("exp_avg", Slot("exp_avg", scalar=True))

    with pytest.raises(TypeError, match=r"^Twice has two slots called 'exp_avg'; give one another name$"):
        Twice().slot_list()


def test_a_slot_is_not_called_as_one_of_a_wrapper_around_it() -> None:
    class OwnAverage(Rule):
        slots = ("ema",)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            return s.ema, {"ema": g}

    with pytest.raises(TypeError, match=r"^ema\(OwnAverage\) has two slots called 'ema'; give one another name$"):
        Optimizer([torch.ones(2, requires_grad=True)], stepwell.ema(OwnAverage()))


def test_slots_are_named_or_described() -> None:
    class TwoSlots(Rule):
        slots = ("exp_avg", Slot("z", start="weights"), Slot("count", scalar=True))

    assert TwoSlots().slot_list() == (Slot("exp_avg"), Slot("z", start="weights"), Slot("count", scalar=True))
    assert descent()().slot_list() == ()


class Random(Rule):
    """Goes along a slot that starts with normal numbers."""

    slots = (Slot("along", start="normal"),)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return s.along, {}


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize(
    ("state_dtype", "error"), [(None, 1e-6), ("bfloat16", 2**-7), ("8bit", 2**-4), ("4bit", 0.5)], ids=str
)
def test_a_slot_may_start_with_normal_numbers(engine: Any, state_dtype: Any, error: float) -> None:
    parameter = torch.zeros(64, 96, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    Optimizer([parameter], Random(lr=1.0), engine=engine, state_dtype=state_dtype).step()
    expected = -normal_like(torch.zeros(64, 96), seed=0)
    torch.testing.assert_close(parameter.detach(), expected, rtol=error, atol=error / 4)


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (2, 3, 4)], ids=str)
def test_normal_numbers_have_any_shape(shape: tuple[int, ...]) -> None:
    parameter = torch.zeros(shape, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    Optimizer([parameter], Random(lr=1.0), engine="reference").step()
    matrix = torch.zeros(shape if len(shape) > 1 else (1, parameter.numel()))
    torch.testing.assert_close(parameter.detach(), -normal_like(matrix, seed=0).reshape(shape))


# What makes a rule.


def test_a_forgotten_decorator_is_named() -> None:
    message = r"^decorate OwnDescent with @dataclass\(frozen=True, kw_only=True\): it has fields of its own$"
    with pytest.raises(TypeError, match=message):
        descent(decorated=False)()


def test_without_fields_of_its_own_a_rule_needs_no_decorator(walk: Walk) -> None:
    class UpHill(SGD):
        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
            return -g, {}

    assert walk(UpHill(lr=0.1), 1.0, [3.0]) == [approx({"weight": 1.3})]


def test_hyper_parameters_go_by_name() -> None:
    with pytest.raises(TypeError):
        Lion(0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("gian", "unknown hyper-parameter 'gian' for OwnDescent (did you mean 'gain'?)"),
        ("weight_deacy", "unknown hyper-parameter 'weight_deacy' for OwnDescent (did you mean 'weight_decay'?)"),
        ("learning_rate", "unknown hyper-parameter 'learning_rate' for OwnDescent; write 'lr', as it is called here"),
        (
            "momentum",
            "unknown hyper-parameter 'momentum' for OwnDescent; it takes lr, gain, weight_decay, decay, maximize",
        ),
    ],
)
def test_unknown_names(wrong: str, message: str) -> None:
    kind = descent()
    with pytest.raises(TypeError) as raised:
        kind(**{wrong: 1.0})
    assert str(raised.value) == message
    with pytest.raises(TypeError) as raised:
        kind.check_names([wrong], " (group 'norms')")
    assert str(raised.value) == f"{message} (group 'norms')"


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_plain_float_keeps_the_range_of_the_base_class(name: str) -> None:
    # `lr: float = 0.1` says nothing about the range, and a negative learning rate is wrong in every rule.
    with pytest.raises(ValueError, match=rf"^{name} must be at least 0, got -0\.1$"):
        descent()(**{name: -0.1})
    assert hyper_parameters(descent())["lr"] == hyper_parameters(Rule)["lr"]


def test_a_plain_float_of_its_own_takes_any_finite_number() -> None:
    assert descent()(gain=-3.0).values()["gain"] == -3.0
    with pytest.raises(ValueError, match=r"^gain must be a finite number, got inf$"):
        descent()(gain=float("inf"))


def test_a_rule_may_narrow_a_range() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OwnNarrow(Rule):
        lr: Annotated[float, Range(low=0.5, high=2)] = 1.0

    with pytest.raises(ValueError, match=r"^lr must be in \[0\.5, 2\], got 3\.0$"):
        OwnNarrow(lr=3.0)


def test_names_come_in_the_order_of_the_signature() -> None:
    # The class that has `lr` leads, then what it inherits.
    assert descent().field_names() == ("lr", "gain", "weight_decay", "decay", "maximize")
    assert AdamW.field_names()[:4] == ("lr", "betas", "eps", "weight_decay") == Adam.field_names()[:4]
    assert next(iter(AdamW(lr=0.5).values().items())) == ("lr", 0.5)


# The registry.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lion", Lion),
        ("Lion", Lion),
        ("ADAMW", AdamW),
        ("schedule-free-adamw", ScheduleFreeAdamW),
        ("schedule_free_adamw", ScheduleFreeAdamW),
        ("Schedule Free AdamW", ScheduleFreeAdamW),
    ],
)
def test_rules_by_name(name: str, kind: type[Rule]) -> None:
    assert rule_class(name) is kind


def test_the_names_of_the_rules() -> None:
    names = rule_names()
    offered = {name for name in stepwell.rules.__all__ if isinstance(getattr(stepwell.rules, name), type)}
    made_of = {"Rule", "Slot", "MatrixRule", "OneMatrixRule"}
    assert offered - made_of <= set(names)
    assert names == sorted(names, key=str.casefold)
    assert not {*made_of, "ScheduleFree"} & set(names)  # what has no update of its own


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AdamWScheduleFree", "ScheduleFreeAdamW"),  # as the package of its authors has it
        ("adamw_schedule_free", "ScheduleFreeAdamW"),
        ("RAdamScheduleFree", "ScheduleFreeRAdam"),
        ("SGDScheduleFree", "ScheduleFreeSGD"),
        ("adamw_hf", "AdamW"),
    ],
)
def test_names_of_rules_elsewhere(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"^unknown rule '{name}' \(did you mean '{meant}'\?\); known are "):
        stepwell.rules.registry.rule_class(name)


def test_unknown_rules() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown rule 'lionn' \(did you mean 'Lion'\?\); known are .*LAMB, .*Lion, .*Muon"
    ):
        rule_class("lionn")
    with pytest.raises(ValueError, match=r"^unknown rule 'xyzzy'; known are .*Adam, .*AdamW, "):
        rule_class("xyzzy")


def test_a_users_rule_has_a_name_at_once() -> None:
    assert "OwnDescent" not in rule_names()
    kind = descent()
    assert rule_class("own-descent") is kind
    parameter = torch.ones(1, requires_grad=True)
    optimizer = Optimizer([{"params": [parameter], "rule": "OwnDescent", "gain": 5.0}], SGD())
    assert optimizer.param_groups[0]["rule"] == "OwnDescent"
    assert optimizer.param_groups[0]["gain"] == 5.0
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_later_rule_of_the_same_name_replaces_the_earlier() -> None:
    first, second = descent(), descent()
    assert first is not second
    assert rule_class("OwnDescent") is second


def test_what_a_rule_acts_on_is_one_of_three() -> None:
    with pytest.raises(ValueError) as raised:
        type("OwnNorm", (Rule,), {"acts_on": "tensor"})
    assert str(raised.value) == (
        "acts_on of OwnNorm must be one of 'elements', 'tensors', 'matrices', got 'tensor' (did you mean 'tensors'?)"
    )


def test_a_misspelt_name_in_a_rule_is_told_the_nearest() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Misspelling(Rule):
        slots = ("exp_avg",)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g * h.weight_decy, {}

    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.ones(2)
    message = r"there is no 'weight_decy' among lr, .* \(did you mean 'weight_decay'"
    for engine in ("reference", "foreach", "fused"):
        with pytest.raises(AttributeError, match=message):
            Optimizer([weight], Misspelling(), engine=engine).step()
