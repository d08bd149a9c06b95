"""Rules of matrices that step in three: what is true of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import stepwell
from stepwell import rules
from stepwell.rules.matrix_rule import OneMatrixRule, steps_in_three
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import namespace

IN_THREE = [name for name in stepwell.list_optimizers() if steps_in_three(rule_class(name))]


def test_muon_and_scion_need_one_matrix() -> None:
    assert {"Muon", "Scion"} <= set(IN_THREE)


def test_what_has_another_direction_or_update_does_not() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Backwards(rules.Muon, abstract=True):
        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            direction, slots = super().direction(p, g, s, h)
            return -direction, slots

    wrapped = stepwell.cautious(rules.Muon()), stepwell.lookahead(rules.Muon(), k=2)
    assert not any(map(steps_in_three, (Backwards, rules.NorMuon, rules.SOAP, rules.AdamW, *map(type, wrapped))))


@pytest.mark.parametrize("name", IN_THREE)
@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent"])
def test_the_three_make_one_step(name: str, decay: str) -> None:
    rule = rule_class(name)(lr=0.1, weight_decay=0.2, decay=decay)
    assert isinstance(rule, OneMatrixRule)
    weight, gradient = torch.randn(2, 4, 6, dtype=torch.float64).unbind()
    slots = namespace({"step": 1, **{slot.name: torch.randn_like(weight) for slot in rule.slot_list()}})
    h = namespace(rule.values())
    made, new = rule.mix(weight, gradient, slots, h)
    turned, none = rule.turn(made, made, slots, h)
    moved, nothing = rule.move(weight, turned, slots, h)
    expected, expected_new = rule.update(weight, gradient, slots, h)
    assert none == nothing == {}
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(new, expected_new, rtol=0, atol=0)
