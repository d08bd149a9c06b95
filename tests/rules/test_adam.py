"""Adam and AdamW, worked out by hand."""

from __future__ import annotations

import math

import pytest

from rules.walking import Walk
from stepwell.rules import Adam, AdamW

approx = pytest.approx

# β₁ = 0.9, β₂ = 0.99, ε = 0.1, g₁ = 2, g₂ = −1, as in the paper's Algorithm 1:
M1, V1 = 0.1 * 2, 0.01 * 2**2
M2, V2 = 0.9 * 0.2 - 0.1 * 1, 0.99 * 0.04 + 0.01 * 1
STEP1 = 2 / (2 + 0.1)  # both corrections undo what a start from zero has taken: m̂₁ = g₁, v̂₁ = g₁²
STEP2 = (0.08 / 0.19) / (math.sqrt(0.0496 / 0.0199) + 0.1)


def test_two_steps_of_adam(walk: Walk) -> None:
    assert walk(Adam(lr=0.5, betas=(0.9, 0.99), eps=0.1), 1.0, [2.0, -1.0]) == [
        approx({"weight": 1 - 0.5 * STEP1, "exp_avg": M1, "exp_avg_sq": V1}),
        approx({"weight": 1 - 0.5 * STEP1 - 0.5 * STEP2, "exp_avg": M2, "exp_avg_sq": V2}),
    ]


def test_two_steps_of_adamw(walk: Walk) -> None:
    # lr·λ = 0.5·0.2 = 0.1: the weight is first cut to nine tenths. The moments know nothing of it.
    after1 = 0.9 * 1 - 0.5 * STEP1
    after2 = 0.9 * after1 - 0.5 * STEP2
    assert walk(AdamW(lr=0.5, betas=(0.9, 0.99), eps=0.1, weight_decay=0.2), 1.0, [2.0, -1.0]) == [
        approx({"weight": after1, "exp_avg": M1, "exp_avg_sq": V1}),
        approx({"weight": after2, "exp_avg": M2, "exp_avg_sq": V2}),
    ]


def test_two_steps_of_adam_with_coupled_decay(walk: Walk) -> None:
    # The gradient is g + λθ: 2 + 0.5·4 = 4, then with θ₁ = 4 − 0.5·4/(4 + 0) = 3.5: −1 + 0.5·3.5 = 0.75.
    m1, v1 = 0.1 * 4, 0.01 * 16
    m2, v2 = 0.9 * m1 + 0.1 * 0.75, 0.99 * v1 + 0.01 * 0.75**2
    after2 = 3.5 - 0.5 * (m2 / 0.19) / math.sqrt(v2 / 0.0199)
    assert walk(Adam(lr=0.5, betas=(0.9, 0.99), eps=0.0, weight_decay=0.5), 4.0, [2.0, -1.0]) == [
        approx({"weight": 3.5, "exp_avg": m1, "exp_avg_sq": v1}),
        approx({"weight": after2, "exp_avg": m2, "exp_avg_sq": v2}),
    ]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_step_is_independent_of_the_gradients_scale(walk: Walk, scale: float) -> None:
    rule, gradients = Adam(lr=0.1, betas=(0.9, 0.99), eps=0.0), [1.0, -0.5, 3.0]
    expected = [after["weight"] for after in walk(rule, 1.0, gradients)]
    assert [after["weight"] for after in walk(rule, 1.0, [scale * g for g in gradients])] == approx(expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_decay_of_adamw_is_independent_of_the_gradients_scale(walk: Walk, scale: float) -> None:
    # Without decay the first step is −lr whatever the scale; decay takes lr·λ = 2 % of the weight besides.
    (after,) = walk(AdamW(lr=0.1, eps=0.0, weight_decay=0.2), 5.0, [scale])
    assert after["weight"] == approx(5.0 * 0.98 - 0.1)


def test_the_decay_of_adam_drowns_in_a_large_gradient(walk: Walk) -> None:
    # Coupled decay is a gradient of 0.2·5 = 1: alone it makes the whole step; beside a gradient of 1000, none of it.
    rule = Adam(lr=0.1, eps=0.0, weight_decay=0.2)
    assert walk(rule, 5.0, [0.0])[0]["weight"] == approx(4.9)
    assert walk(rule, 5.0, [1000.0])[0]["weight"] == approx(4.9)
    assert walk(rule, 5.0, [-0.5])[0]["weight"] == approx(4.9)  # and it wins against a small one
    assert walk(rule, 5.0, [-1000.0])[0]["weight"] == approx(5.1)


def test_amsgrad_divides_by_the_largest_mean_so_far(walk: Walk) -> None:
    # β₂ = 0.5: v = 8, then 0.5·8 + 0 = 4: the largest stays 8, divided by its own step's correction 0.75.
    assert walk(Adam(lr=1.0, betas=(0.0, 0.5), eps=0.0, amsgrad=True), 0.0, [4.0, 0.0, 2.0]) == [
        approx({"weight": -1.0, "exp_avg": 4.0, "exp_avg_sq": 8.0, "max_exp_avg_sq": 8.0}),
        approx({"weight": -1.0, "exp_avg": 0.0, "exp_avg_sq": 4.0, "max_exp_avg_sq": 8.0}),
        approx(
            {
                "weight": -1.0 - 2 / math.sqrt(8 / 0.875),
                "exp_avg": 2.0,
                "exp_avg_sq": 4.0,
                "max_exp_avg_sq": 8.0,
            }
        ),
    ]


def test_amsgrad_never_lets_the_denominator_shrink(walk: Walk) -> None:
    gradients = [3.0, 0.1, -0.2, 5.0, 0.0, 0.3, -0.1]
    path = walk(Adam(betas=(0.9, 0.5), amsgrad=True), 1.0, gradients)
    largest = [after["max_exp_avg_sq"] for after in path]
    assert largest == sorted(largest)
    assert all(after["max_exp_avg_sq"] >= after["exp_avg_sq"] for after in path)
    assert [after["exp_avg_sq"] for after in path] != sorted(after["exp_avg_sq"] for after in path)


def test_epsilon_stands_outside_the_root(walk: Walk) -> None:
    # g/(√g² + ε) with g = ε = 0.1 is a half; √(g² + ε) would give 0.3.
    (after,) = walk(Adam(lr=1.0, eps=0.1), 0.0, [0.1])
    assert after["weight"] == approx(-0.5)


def test_two_steps_without_bias_correction(walk: Walk) -> None:
    # m/(√v + ε) as they are: 0.2/(0.2 + 0.1), then 0.08/(√0.0496 + 0.1)
    after1 = 1 - 0.5 * 0.2 / 0.3
    after2 = after1 - 0.5 * 0.08 / (math.sqrt(0.0496) + 0.1)
    for rule in (Adam, AdamW):
        uncorrected = rule(lr=0.5, betas=(0.9, 0.99), eps=0.1, weight_decay=0.0, correct_bias=False)
        assert walk(uncorrected, 1.0, [2.0, -1.0]) == [
            approx({"weight": after1, "exp_avg": M1, "exp_avg_sq": V1}),
            approx({"weight": after2, "exp_avg": M2, "exp_avg_sq": V2}),
        ]


def test_without_bias_correction_the_first_steps_are_larger(walk: Walk) -> None:
    # (1 − β₁)/√(1 − β₂) = 0.1/√0.001
    (after,) = walk(Adam(lr=0.1, eps=0.0, correct_bias=False), 0.0, [5.0])
    assert after["weight"] == approx(-0.1 * 0.1 / math.sqrt(0.001))


def test_what_adamw_changes() -> None:
    assert (Adam().weight_decay, Adam().decay) == (0.0, "coupled")
    assert (AdamW().weight_decay, AdamW().decay) == (0.01, "decoupled")
    assert {**AdamW().values(), "weight_decay": 0.0, "decay": "coupled"} == Adam().values()
    assert [slot.name for slot in Adam().slot_list()] == ["exp_avg", "exp_avg_sq"]
    assert [slot.name for slot in Adam(amsgrad=True).slot_list()] == ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
