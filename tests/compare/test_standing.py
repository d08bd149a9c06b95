from __future__ import annotations

import pytest
from test_fair import outcome

from stepwell.compare.standing import divergences, part_to, standings


def run(stage: str, *losses: float, recipe: str = "adamw", steps: int = 100, diverged_at: int | None = None):
    """A run that was evaluated at even distances from step 0 to its last."""
    places = tuple(round(index * steps / max(len(losses) - 1, 1)) for index in range(len(losses)))
    settings = {"lr": 0.1}
    return outcome(
        tuple(zip(places, losses, strict=True)), diverged_at, stage=stage, recipe=recipe, steps=steps, settings=settings
    )


def stages(*runs):
    return {one.order.stage: one for one in runs}


ADAMW = stages(
    *(run("try-00", 4.0, 2.5), run("try-01", 4.0, 2.0), run("try-02", 4.0, 5.0)),
    *(run("half", 4.0, 2.2), run("twice", 4.0, 3.0)),
    *(run("seed-1", 4.0, 3.0, 2.0), run("seed-2", 4.0, 3.0, 1.0), run("seed-3", 4.0, 3.0, 1.5)),
    run("longer", 4.0, 1.0, 0.5, steps=400),
)
MUON = stages(
    run("try-00", 4.0, 1.0),
    *(run("seed-1", 4.0, 2.0, 1.0), run("seed-2", 4.0, 2.0, 1.5), run("seed-3", 4.0, 2.5, 0.5)),
    run("longer", 4.0, 0.6, 0.4, steps=400),
)


def test_a_standing_by_hand():
    adamw, muon = standings({"adamw": ADAMW, "muon": MUON})
    assert (adamw.settings, adamw.tries, adamw.diverged) == ({"lr": 0.1}, 3, 1)
    assert adamw.losses == (2.0, 1.0, 1.5)
    assert (adamw.mean, adamw.spread) == (1.5, 1.0)
    assert adamw.half == pytest.approx(2.2 / 2.0)
    assert adamw.twice == pytest.approx(3.0 / 2.0)
    assert (adamw.steps_to_baseline, adamw.longer_to_baseline) == (1, 1)
    # seed 1 is at 2.0 at half of the steps; seed 2 never at 1.0; seed 3 at 1.5 after 2.5 → 0.5 is half way: 75 steps
    assert muon.steps_to_baseline == pytest.approx(0.75)
    # 0.6 at 200, 0.4 at 400: 0.5 at 300
    assert muon.longer_to_baseline == pytest.approx(0.75)
    assert muon.half is None


def test_a_recipe_that_was_not_tried_has_no_line():
    assert [one.recipe for one in standings({"adamw": ADAMW, "lion": {}})] == ["adamw"]
    assert standings({}) == []


def test_a_seed_that_diverged_leaves_no_mean():
    broken = MUON | stages(run("seed-2", 4.0, 2.0, diverged_at=60))
    _, muon = standings({"adamw": ADAMW, "muon": broken})
    assert (muon.mean, muon.spread, muon.losses) == (None, None, (1.0, 0.5))
    assert muon.steps_to_baseline == pytest.approx(0.75)  # the seed that did not get there counts as infinitely many


def test_most_seeds_have_to_get_there():
    slow = MUON | stages(run("seed-1", 4.0, 3.5, 3.0))
    _, muon = standings({"adamw": ADAMW, "muon": slow})
    assert muon.steps_to_baseline is None


def test_there_is_no_way_to_a_baseline_that_diverged():
    assert part_to(MUON["seed-1"], None) is None
    assert part_to(MUON["seed-1"], run("seed-1", 4.0, diverged_at=3)) is None


def test_what_diverged_after_the_tries_is_told_with_its_step():
    broken = stages(
        *(run("try-00", 4.0, diverged_at=3), run("seed-2", 4.0, diverged_at=12), run("seed-3", 4.0, 9.0)),
        *(run("twice", 4.0, diverged_at=2), run("longer", 4.0, diverged_at=37, steps=400)),
    )
    assert divergences(broken) == [
        "seed 2 diverged at step 12",
        "the run at twice the rate diverged at step 2",
        "the longer run diverged at step 37",
    ]
    assert divergences(ADAMW) == []
