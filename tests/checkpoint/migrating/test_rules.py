"""What of one rule's state another rule begins with."""

from __future__ import annotations

import pytest
import torch

from stepwell.checkpoint.migrating.rules import brought
from stepwell.rules.registry import rule_class

MOMENTS = {"step": 7, "exp_avg": torch.full((2, 3), 0.5), "exp_avg_sq": torch.full((2, 3), 0.25)}
MOMENTUM = {"step": 7, "momentum_buffer": torch.full((2, 3), 0.5)}


def state(names: str, **values: float) -> dict[str, object]:
    return {"step": 7, **{name: torch.full((2, 3), 0.5) for name in names.split()}, **values}


@pytest.mark.parametrize(
    ("old", "new", "before", "how", "what"),
    [
        ("AdamW", "AdamW", "exp_avg exp_avg_sq", "kept", "exp_avg, exp_avg_sq"),
        ("AdamW", "LAMB", "exp_avg exp_avg_sq", "kept", "exp_avg, exp_avg_sq"),
        ("Adam", "AdamW", "exp_avg exp_avg_sq max_exp_avg_sq", "kept", "exp_avg, exp_avg_sq"),  # amsgrad is off there
        ("Adam", "Lion", "exp_avg exp_avg_sq", "kept", "exp_avg"),
        ("AdamW", "Muon", "exp_avg exp_avg_sq", "converted", "exp_avg as momentum_buffer"),
        ("AdEMAMix", "Lion", "exp_avg_fast exp_avg_slow exp_avg_sq", "converted", "exp_avg_fast as exp_avg"),
        ("Muon", "Lion", "momentum_buffer", "converted", "momentum_buffer as exp_avg"),
        ("AdamW", "cautious(AdamW)", "exp_avg exp_avg_sq", "kept", "exp_avg, exp_avg_sq"),
        ("lookahead(AdamW)", "AdamW", "exp_avg exp_avg_sq slow_weights", "kept", "exp_avg, exp_avg_sq"),
        ("AdamW", "ema(AdamW)", "exp_avg exp_avg_sq", "kept", "exp_avg, exp_avg_sq"),
        ("cautious(AdamW)", "Lion", "exp_avg exp_avg_sq", "kept", "exp_avg"),
        ("", "AdamW", "exp_avg exp_avg_sq", "kept", "exp_avg, exp_avg_sq"),
        ("SGD", "SGD", "", "kept", "the step"),
        # A second moment from 0 in mid-training would make the first steps huge.
        ("Lion", "AdamW", "exp_avg", "fresh", "Lion's state means nothing to AdamW"),
        ("Muon", "AdamW", "momentum_buffer", "fresh", "Muon's state means nothing to AdamW"),
        # SGD's buffer is a sum, not a mean; RMSprop's second moment is not corrected.
        ("SGD", "Lion", "momentum_buffer", "fresh", "SGD's state means nothing to Lion"),
        ("RMSprop", "AdamW", "square_avg", "fresh", "RMSprop's state means nothing to AdamW"),
        ("AdamW", "ScheduleFreeAdamW", "exp_avg exp_avg_sq", "fresh", "it starts from the weights"),
        ("AdamW", "schedule_free(AdamW)", "exp_avg exp_avg_sq", "fresh", "it starts from the weights"),
        ("ScheduleFreeAdamW", "AdamW", "exp_avg_sq z", "fresh", "ScheduleFreeAdamW's state means nothing to AdamW"),
        ("", "AdamW", "ghost", "fresh", "there was no exp_avg or exp_avg_sq"),
    ],
)
def test_what_means_something_is_brought(old: str, new: str, before: str, how: str, what: str) -> None:
    rule = rule_class(new)().fit((2, 3))
    found = brought(state(before), old, new, rule, (2, 3))
    assert (found.how, found.what) == (how, what)
    assert ("step" in found.state) == (how != "fresh")
    assert set(found.state) - {"step"} <= {slot.name for slot in rule.slot_list()}


def test_scalar_slots_and_shapes() -> None:
    nadam = rule_class("NAdam")()
    found = brought(state("exp_avg exp_avg_sq", mu_product=0.25), "NAdam", "NAdam", nadam, (2, 3))
    assert found.state["mu_product"] == 0.25
    other = brought(MOMENTS, "AdamW", "AdamW", rule_class("AdamW")(), (3, 2))
    assert (other.how, other.what) == ("fresh", "its slot 'exp_avg' has another shape")
    assert brought({}, "AdamW", "AdamW", rule_class("AdamW")(), (2, 3)).what == "there was no state"


def test_an_optimizer_of_another_package_is_given_what_there_is() -> None:
    assert brought(MOMENTS, "Prodigy", "Prodigy", None, (2, 3)).state == MOMENTS
