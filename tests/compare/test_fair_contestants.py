from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.compare.contestants import ContestantError
from stepwell.compare.fair_contestants import RULES, choose_fairly
from stepwell.recipes import PRESETS


def test_rules_of_the_evidence_have_its_ranges() -> None:
    assert choose_fairly(["muon", "ADAMW"]) == [RULES["muon"], RULES["adamw"]]
    assert choose_fairly(["rmsprop", "Schedule_Free"]) == [RULES["rmsprop"], RULES["schedule-free"]]


def test_a_typing_mistake_names_rules_of_the_evidence_too() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown recipe 'prodgy' \(did you mean 'prodigy'\?\); .* adamw, .*, prodigy$"
    ):
        choose_fairly(["prodgy"])


def test_other_recipes_are_searched_as_widely_and_clipped_alike() -> None:
    (muon,) = choose_fairly(["muon-original"])
    rate, decay = muon.space
    assert (rate.name, decay.name) == ("lr", "weight_decay")
    # A factor of 100 around 0.02 and 0.01: a tenth of each to ten times that.
    assert (rate.low, rate.high) == (pytest.approx(0.002), pytest.approx(0.2))
    assert (decay.low, decay.high) == (pytest.approx(0.001), pytest.approx(0.1))
    assert PRESETS["muon-original"].clip_norm is None
    assert muon.recipe.clip_norm == 1.0
    assert muon.name == "muon-original"


def test_a_recipe_keeps_the_clipping_that_it_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    PRESETS["adam"].replace(clip_norm=0.3).save(path)
    (mine,) = choose_fairly([str(path)])
    assert mine.recipe.clip_norm == 0.3
    assert (mine.name, mine.title) == ("mine", "mine")


def test_each_is_named_once() -> None:
    with pytest.raises(ContestantError, match=r"^recipe 'adamw' is named twice; name each recipe once$"):
        choose_fairly(["adamw", "AdamW"])
