"""What optimizers there are, and their classes by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import stepwell
from stepwell import rules
from stepwell.catalogue import Entry, entries, state_numbers
from stepwell.rules import Rule
from stepwell.rules.registry import rule_class, rule_names

NAMES = sorted(name for name in rules.__all__ if name in rule_names())  # the others are what rules are made of


def ours(**filters: Any) -> list[str]:
    """The names of the package's own rules: other tests define rules, too."""
    return [name for name in stepwell.list_optimizers(**filters) if name in NAMES]


def entry(name: str) -> Entry:
    (found,) = (one for one in entries() if one.name == name)
    return found


def test_every_rule_is_listed_in_alphabetical_order() -> None:
    assert ours() == sorted(NAMES, key=str.casefold)


def test_what_they_act_on() -> None:
    matrices = ["AdaMuon", "Dion", "Kron", "Muon", "NorMuon", "Scion", "Shampoo", "SOAP"]
    assert ours(acts_on="matrices") == matrices
    assert "LAMB" in ours(acts_on="tensors")
    assert "AdamW" in ours(acts_on="elements")
    split = [name for kind in ("elements", "tensors", "matrices") for name in ours(acts_on=kind)]
    assert sorted(split) == NAMES


def test_the_most_memory() -> None:
    assert ours(memory=0) == ["SGD", "SignSGD"]
    assert ours(memory=0.5) == ["Adafactor", "SGD", "SignSGD"]
    assert {"Lion", "AdamMini", "Muon"} <= set(ours(memory=1))
    assert "Adam" not in ours(memory=1.99)
    assert ours(memory=1, acts_on="matrices") == ["Muon", "NorMuon", "Scion"]
    assert ours(memory=math.inf) == ours()


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("SGD", 0.0),
        ("Lion", 1.0),
        ("AdamW", 2.0),
        ("Adan", 4.0),
        ("Adafactor", 0.00163),  # (768 + 3072) / (768·3072) = 1/3072 + 1/768 = 0.0016276
        ("AdamMini", 1.0),  # 1 + 1/3072
        ("Shampoo", 4.25),  # (768² + 3072²) / (768·3072) = 1/4 + 4
        ("SOAP", 10.5),  # 2 + 2·4.25
    ],
)
def test_state_of_a_parameter_of_768_by_3072(name: str, memory: float) -> None:
    assert entry(name).memory == memory


def test_state_of_other_shapes() -> None:
    assert state_numbers(rules.Adafactor(), (5, 7)) == 12
    assert state_numbers(rules.Adafactor(), (5,)) == 5  # a vector keeps the whole second moment
    assert state_numbers(rules.SGD(momentum=0.9), (5, 7)) == 35
    assert state_numbers(rules.SOAP(), (5,)) == 10  # Adam's
    assert state_numbers(rules.NAdam(), (5, 7)) == 71  # the product of its momenta is one number


def test_an_entry_is_read_from_the_docstring() -> None:
    assert entry("Lion") == Entry(
        name="Lion",
        about="Sign of an interpolated momentum",
        source="Chen et al. 2023, arXiv:2302.06675, Alg. 2",
        formula="θₜ = θₜ₋₁ − η·(sign(β₁·mₜ₋₁ + (1 − β₁)·gₜ) + λ·θₜ₋₁)\nmₜ = β₂·mₜ₋₁ + (1 − β₂)·gₜ",
        acts_on="elements",
        slots=("exp_avg",),
        memory=1.0,
    )


def test_brackets_within_a_source_and_a_sentence_around_it() -> None:
    assert entry("LAMB").source == "You et al. 2020, arXiv:1904.00962, Alg. 2, with φ(x) = x"
    assert entry("ScheduleFreeSGD").about == "Schedule-Free SGD: d = g"


def test_a_formula_is_inherited_and_keeps_its_columns() -> None:
    assert entry("AdamW").formula == entry("Adam").formula
    assert entry("Rprop").formula.splitlines()[1].startswith("     max(")


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_says_what_it_does_and_where_it_is_from(name: str) -> None:
    found = entry(name)
    assert found.about
    assert found.source
    assert found.formula


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            {"acts_on": "matrix"},
            r"^acts_on must be one of 'elements', 'tensors', 'matrices', got 'matrix' \(did you",
        ),
        ({"memory": -1}, r"^memory must be a number of at least 0, got -1$"),
        ({"memory": math.nan}, r"^memory must be a number of at least 0, got nan$"),
        ({"memory": "1"}, r"^memory must be a number of at least 0, got '1'$"),
    ],
)
def test_filters_that_are_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stepwell.list_optimizers(**filters)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_of_a_name_is_the_public_one(name: str) -> None:
    assert stepwell.optimizer_class(name) is getattr(stepwell, name)
    assert stepwell.optimizer_class(name.lower()) is getattr(stepwell, name)


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^unknown rule 'loin' \(did you mean 'Lion'\?\); known are AdaBelief, "):
        stepwell.optimizer_class("loin")


def test_a_rule_of_ones_own_and_a_wrapped_one() -> None:
    @dataclass(frozen=True, kw_only=True)
    class CatalogueRule(Rule):
        """Half a step (no paper)."""

        slots = ("one", "another")

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
            return 0.5 * g, {}

    assert "CatalogueRule" in stepwell.list_optimizers(memory=2)
    assert "CatalogueRule" not in stepwell.list_optimizers(memory=1)
    assert entry("CatalogueRule").about == "Half a step"
    assert entry("CatalogueRule").formula == ""
    p = torch.ones(2, requires_grad=True)
    optimizer = stepwell.optimizer_class("catalogue-rule")([p], lr=0.5)
    assert isinstance(optimizer, stepwell.Optimizer)
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [0.75, 0.75]
    wrapped = stepwell.optimizer_class("cautious(adamw)")
    assert wrapped([p]).rule == stepwell.cautious(rule_class("AdamW")())
    assert wrapped is stepwell.optimizer_class("Cautious(AdamW)")


def test_a_rule_that_needs_arguments_is_left_out() -> None:
    @dataclass(frozen=True, kw_only=True)
    class CatalogueNeedy(Rule):
        """Needs a width (no paper)."""

        width: float

    assert "CatalogueNeedy" not in stepwell.list_optimizers()
