from __future__ import annotations

from stepwell.report.finding import caution, finding


def test_the_first_to_reach_the_baseline(make_comparison):
    # 1.6 + 3·e^(−t/20) meets the baseline's last loss, 1.8 + 3·e^(−5) = 1.820214, at t = 52.2, and a step takes 1.4
    # times as long.
    assert finding(make_comparison(3)) == (
        "Muon + AdamW reached the final loss of AdamW + cosine in 52 % of its steps and 73 % of its seconds."
    )


def test_no_recipe_reaches_the_baseline(make_comparison):
    assert finding(make_comparison(2)) == "No recipe reached the final loss of AdamW + cosine, 1.820."


def test_one_recipe_alone(make_comparison):
    assert finding(make_comparison(1)) == "AdamW + cosine ended at 1.820 after 100 steps."


def test_a_baseline_that_diverged(make_comparison):
    comparison = make_comparison(3)
    comparison.runs[0].diverged_at = 12
    comparison.runs[0].step_seconds = [0.1] * 12
    assert finding(comparison) == "AdamW + cosine diverged; Muon + AdamW ended lowest, at 1.620."
    assert caution(comparison) == "AdamW + cosine diverged after 12 steps."


def test_all_diverged(make_comparison):
    comparison = make_comparison(1)
    comparison.runs[0].diverged_at = 12
    assert finding(comparison) == "Every run diverged."


def test_an_interrupt(make_comparison):
    comparison = make_comparison(2, steps=40, interrupted=True)
    assert caution(comparison) == (
        "Interrupted after 40 of 100 steps: schedules had not ended, and losses are compared after step 40."
    )
    comparison.runs[1].step_seconds.pop()
    comparison.runs[1].evaluations.pop()
    assert caution(comparison) == (
        "Interrupted after 39 to 40 of 100 steps: schedules had not ended, and losses are compared after step 36."
    )


def test_an_interrupt_before_the_first_evaluation(make_comparison):
    comparison = make_comparison(2, steps=2, interrupted=True)
    assert finding(comparison) == "No loss was measured."
    assert caution(comparison) == "Interrupted after 2 of 100 steps: schedules had not ended."


def test_an_interrupt_in_the_sweep(make_comparison):
    comparison = make_comparison(0, interrupted=True)
    assert finding(comparison) == "No loss was measured."
    assert caution(comparison) == "Interrupted during the sweep: no comparison was run."


def test_a_busy_machine(make_comparison):
    comparison = make_comparison(2)
    comparison.runs[1].step_seconds = [0.1] * 90 + [1.1] * 10  # on average 0.2 s, twice the median
    assert caution(comparison) == (
        "The machine was busy elsewhere: steps took up to 2.0 times their median on average, so read the seconds with "
        "care."
    )


def test_nothing_to_be_cautious_about(make_comparison):
    assert caution(make_comparison()) == ""
