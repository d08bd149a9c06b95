"""What a step takes: bytes, operations and the least time, worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import stepwell
from small_models import Language
from stepwell import Recipe, Route
from stepwell.planning.memory import state_of
from stepwell.planning.rehearsal import rehearse
from stepwell.rules import Rule
from stepwell.text import numbers

SIZE = 768  # numbers in Language


def cost_of(rule: str, *, model: nn.Module | None = None, **fields) -> stepwell.planning.cost.Cost:
    return stepwell.plan(model or Language(), Recipe(routes=Route(rule=rule), **fields)).cost()


class TestBytes:
    @pytest.mark.parametrize(
        ("rule", "numbers_moved"),
        [
            ("SGD", 3),  # reads p and g, writes p
            ("Lion", 5),  # reads p, g, m, writes p, m
            ("AdamW", 7),  # reads p, g, m, v, writes p, m, v
            # One pass reads p, g, m, v and writes m, v for the norms of p and of the update; another reads p, m, v and
            # writes p.
            ("LAMB", 10),
        ],
    )
    def test_of_rules_of_elements(self, rule, numbers_moved):
        assert cost_of(rule).moved == 4 * numbers_moved * SIZE

    def test_state_in_16_bits_is_half_as_much(self):
        assert cost_of("AdamW", model=Language().bfloat16()).moved == 2 * 7 * SIZE

    @pytest.mark.parametrize("stage", [{"clip_norm": 1.0}, {"on_nonfinite": "skip"}])
    def test_a_look_at_the_gradients_beforehand(self, stage):
        assert cost_of("AdamW", **stage).moved == 4 * (7 + 1) * SIZE

    def test_slots_of_rows_and_columns_count_little(self):
        """Adafactor on 11 × 8 reads g twice and p twice, g once more and writes p: rows and columns beside them."""
        model = nn.Linear(8, 11, bias=False)
        phases = 4 * 88 * (2 + 1 + 3)
        assert cost_of("Adafactor", model=model).moved == phases + 2 * 4 * (11 + 8)

    def test_of_a_matrix_rule(self):
        """Everything read once and, but for the gradient, written once: p, g, m, then p, m."""
        assert cost_of("Muon", model=nn.Linear(8, 16, bias=False)).moved == 4 * 5 * 128


class TestOperations:
    def test_rules_of_elements_have_no_products(self):
        assert cost_of("AdamW").flops == 0

    def test_newton_and_schulz(self):
        """On 8 × 16: the products X·Xᵀ and P·X, 2·8·8·16 each, and 17 of Gram matrices, 2·8³ each."""
        model = nn.Linear(16, 8, bias=False, dtype=torch.float64)
        assert cost_of("Muon", model=model).flops == 2 * (2 * 8 * 8 * 16) + 17 * 2 * 8**3

    def test_each_matrix_counts(self):
        one = nn.Sequential(nn.Linear(16, 8, bias=False, dtype=torch.float64))
        three = nn.Sequential(*(nn.Linear(16, 8, bias=False, dtype=torch.float64) for _ in range(3)))
        assert cost_of("Muon", model=three).flops == 3 * cost_of("Muon", model=one).flops

    @pytest.mark.parametrize(
        ("function", "flops"),
        [
            # 2·4²·(6 − 4/3) for R, and as many for the four columns of Q.
            (lambda x: torch.linalg.qr(x)[0], 4 * 4**2 * (6 - 4 / 3)),
            (lambda x: torch.linalg.householder_product(*torch.geqrf(x)), 4 * 4**2 * (6 - 4 / 3)),
            # The product and 9·4³.
            (lambda x: x @ torch.linalg.eigh(x.mT @ x)[1], 2 * (2 * 6 * 4 * 4) + 9 * 4**3),
            # 4² for each of the six columns on the right.
            (lambda x: torch.linalg.solve_triangular(torch.eye(4), x.mT, upper=True).mT, 4**2 * 6),
        ],
        ids=["QR", "QR in two", "eigenvectors", "triangle"],
    )
    def test_factorisations(self, function, flops):
        @dataclass(frozen=True, kw_only=True)
        class Factored(Rule, abstract=True):
            acts_on = "matrices"

            def direction(self, p, g, s, h):
                return function(g), {}

        found = rehearse(Factored(), [torch.empty(6, 4)], "cpu", "matrices", state_of)
        assert found.flops == pytest.approx(flops)


class TestTime:
    def test_the_longer_of_the_two(self):
        plan = stepwell.plan(Language(), "muon", horizon=10)
        slow_memory, slow_products = plan.cost(bandwidth=1.0, rate=1e30), plan.cost(bandwidth=1e30, rate=1.0)
        assert slow_memory.seconds == slow_memory.moved == slow_products.moved
        assert slow_products.seconds == pytest.approx(slow_products.flops)
        assert [line.split()[-1] for line in str(slow_products).splitlines()[1:3]] == ["products", "memory"]

    def test_as_text(self):
        text = str(stepwell.plan(Language(), "lion", horizon=10).cost(bandwidth=100e9, rate=2e12))
        heading, decayed, *_, total, given = text.splitlines()
        assert heading.split() == ["group", "moved", "flops", "least", "time", "bound", "by"]
        # Lion: 20 bytes a number, 688 of them decayed.
        assert decayed.split() == [
            "lion",
            "13.4",
            "KiB",
            "0",
            numbers.duration(20 * 688 / 100e9).split()[0],
            "µs",
            "memory",
        ]
        assert total.split()[:3] == ["total", "15", "KiB"]
        assert given == "at 100 GB/s and 2 TFLOP/s"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"bandwidth": 0.0}, "bandwidth must be above 0, got 0.0"),
            ({"bandwidth": float("nan")}, "bandwidth must be above 0, got nan"),
            ({"rate": -1.0}, "rate must be above 0, got -1.0"),
            ({"rate": float("inf")}, "rate must be a finite number above 0, got inf"),
        ],
    )
    def test_what_no_machine_has(self, arguments, message):
        with pytest.raises(ValueError) as error:
            stepwell.plan(Language(), "lion", horizon=10).cost(**arguments)
        assert str(error.value) == message
