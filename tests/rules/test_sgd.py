"""SGD: momentum, dampening, the averaged form, Nesterov, and the kinds of decay, worked out by hand."""

from __future__ import annotations

import pytest

from rules.walking import Walk
from stepwell.rules import SGD

approx = pytest.approx


def test_two_plain_steps(walk: Walk) -> None:
    # 1 − 0.1·2 = 0.8; 0.8 − 0.1·(−3) = 1.1
    assert walk(SGD(lr=0.1), 1.0, [2.0, -3.0]) == [approx({"weight": 0.8}), approx({"weight": 1.1})]


def test_two_steps_with_momentum(walk: Walk) -> None:
    # v₁ = 2, θ₁ = 1 − 0.1·2 = 0.8; v₂ = 0.9·2 − 3 = −1.2, θ₂ = 0.8 + 0.1·1.2 = 0.92
    assert walk(SGD(lr=0.1, momentum=0.9), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.8, "momentum_buffer": 2.0}),
        approx({"weight": 0.92, "momentum_buffer": -1.2}),
    ]


def test_the_first_gradient_is_not_dampened(walk: Walk) -> None:
    # v₁ = g₁ = 2, not 0.5·2; v₂ = 0.9·2 + 0.5·4 = 3.8; v₃ = 0.9·3.8 − 0.5·1 = 2.92
    assert walk(SGD(lr=0.1, momentum=0.9, dampening=0.5), 1.0, [2.0, 4.0, -1.0]) == [
        approx({"weight": 0.8, "momentum_buffer": 2.0}),
        approx({"weight": 0.42, "momentum_buffer": 3.8}),
        approx({"weight": 0.128, "momentum_buffer": 2.92}),
    ]


def test_full_dampening_keeps_the_first_gradient(walk: Walk) -> None:
    first, second = walk(SGD(lr=0.1, momentum=0.5, dampening=1.0), 0.0, [2.0, 100.0])
    assert first == approx({"weight": -0.2, "momentum_buffer": 2.0})
    assert second == approx({"weight": -0.3, "momentum_buffer": 1.0})


def test_two_steps_with_nesterov(walk: Walk) -> None:
    # v₁ = 2: step 2 + 0.9·2 = 3.8; v₂ = 0.9·2 − 3 = −1.2: step −3 + 0.9·(−1.2) = −4.08
    assert walk(SGD(lr=0.1, momentum=0.9, nesterov=True), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.62, "momentum_buffer": 2.0}),
        approx({"weight": 1.028, "momentum_buffer": -1.2}),
    ]


def test_two_steps_of_the_averaged_form(walk: Walk) -> None:
    # v₁ = 0.1·2 = 0.2; v₂ = 0.9·0.2 − 0.1·3 = −0.12
    assert walk(SGD(lr=0.1, momentum=0.9, average=True), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.98, "momentum_buffer": 0.2}),
        approx({"weight": 0.992, "momentum_buffer": -0.12}),
    ]


def test_two_steps_of_the_averaged_form_with_nesterov(walk: Walk) -> None:
    # 0.1·2 + 0.9·0.2 = 0.38; 0.1·(−3) + 0.9·(−0.12) = −0.408
    assert walk(SGD(lr=0.1, momentum=0.9, average=True, nesterov=True), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.962, "momentum_buffer": 0.2}),
        approx({"weight": 1.0028, "momentum_buffer": -0.12}),
    ]


def test_dampening_differs_from_the_averaged_form_by_the_first_gradient(walk: Walk) -> None:
    # With dampening the whole first gradient enters v, where a tenth of it should: 1.8 too much, that fades with 0.9ᵗ.
    gradients = [2.0, -3.0, 0.5, 1.0]
    averaged = walk(SGD(momentum=0.9, average=True), 1.0, gradients)
    dampened = walk(SGD(momentum=0.9, dampening=0.9), 1.0, gradients)
    excess = [a["momentum_buffer"] - b["momentum_buffer"] for a, b in zip(dampened, averaged, strict=True)]
    assert excess == approx([1.8 * 0.9**t for t in range(4)])


def test_independent_decay_takes_its_share_at_any_rate(walk: Walk) -> None:
    # θ₁ = 0.95·1 − 0.1·2 = 0.75; θ₂ = 0.95·0.75 + 0.1·3 = 1.0125; and at a rate of 0 it goes on
    rule = SGD(lr=0.1, weight_decay=0.05, decay="independent")
    assert walk(rule, 1.0, [2.0, -3.0]) == [approx({"weight": 0.75}), approx({"weight": 1.0125})]
    rule = SGD(lr=0.0, weight_decay=0.05, decay="independent")
    assert walk(rule, 1.0, [2.0, -3.0]) == [approx({"weight": 0.95}), approx({"weight": 0.9025})]


def test_coupled_decay_goes_through_the_momentum(walk: Walk) -> None:
    # g₁ + λθ = 2 + 0.5·1 = 2.5: θ₁ = 0.75; g₂ + λθ = −3 + 0.5·0.75 = −2.625; v₂ = 0.9·2.5 − 2.625 = −0.375
    assert walk(SGD(lr=0.1, momentum=0.9, weight_decay=0.5), 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.75, "momentum_buffer": 2.5}),
        approx({"weight": 0.7875, "momentum_buffer": -0.375}),
    ]


def test_decoupled_decay_leaves_the_momentum_alone(walk: Walk) -> None:
    # θ₁ = 0.95·1 − 0.1·2 = 0.75; θ₂ = 0.95·0.75 + 0.1·1.2 = 0.8325
    rule = SGD(lr=0.1, momentum=0.9, weight_decay=0.5, decay="decoupled")
    assert walk(rule, 1.0, [2.0, -3.0]) == [
        approx({"weight": 0.75, "momentum_buffer": 2.0}),
        approx({"weight": 0.8325, "momentum_buffer": -1.2}),
    ]


def test_without_momentum_both_kinds_of_decay_are_one(walk: Walk) -> None:
    coupled = walk(SGD(lr=0.1, weight_decay=0.5), 1.0, [2.0, -3.0])
    assert coupled == [approx({"weight": 0.75}), approx({"weight": 1.0125})]
    decoupled = walk(SGD(lr=0.1, weight_decay=0.5, decay="decoupled"), 1.0, [2.0, -3.0])
    assert decoupled == [approx(each) for each in coupled]


def test_momentum_has_a_slot_only_where_there_is_momentum() -> None:
    assert SGD().slots == ()
    assert SGD(momentum=0.9).slots == ("momentum_buffer",)


@pytest.mark.parametrize(("momentum", "dampening"), [(0.0, 0.0), (0.9, 0.1)])
def test_nesterov_needs_momentum_and_no_dampening(momentum: float, dampening: float) -> None:
    message = (
        f"^nesterov=True needs momentum above 0 and dampening 0, got momentum {momentum} and dampening {dampening}$"
    )
    with pytest.raises(ValueError, match=message):
        SGD(momentum=momentum, dampening=dampening, nesterov=True)


def test_the_averaged_form_takes_no_dampening() -> None:
    with pytest.raises(ValueError, match=r"^average=True takes no dampening, got 0\.1$"):
        SGD(momentum=0.9, dampening=0.1, average=True)
