from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.pictures import charts
from stepwell.pictures.charts import NARROW, SMALL, WIDE, Series
from stepwell.text import numbers


def drawings(markup: str) -> list[ElementTree.Element]:
    """The drawings in the markup, which must be well-formed."""
    return ElementTree.fromstring(f"<div>{markup}</div>").findall(".//svg")


def texts(svg: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in svg.iter("text")]


def two_series() -> list[Series]:
    return [
        Series(name="base", colour=0, points=[(10, 3.0), (20, 2.0), (40, 1.5)]),
        Series(name="a & b", colour=1, points=[(10, 2.5), (40, 1.0)], reach=(30.0, 1.5)),
    ]


def test_curves_are_drawn_wide_and_narrow():
    drawn = drawings(charts.curves(two_series(), unit="steps", losses=(0.9, 3.0), target=1.5, write=numbers.count))
    assert [svg.get("viewBox") for svg in drawn] == ["0 0 580 380", "0 0 340 300"]
    for svg in drawn:
        assert svg.get("role") == "img"
        assert svg.get("aria-label") == "Validation loss against steps: base ends at 1.500; a & b ends at 1.000."
        assert [group.get("data-series") for group in svg.iter("g") if group.get("data-series")] == ["0", "1"]
    assert "a & b" in texts(drawn[0])
    assert "a & b" not in texts(drawn[1])


def test_a_curve_ends_where_its_scale_says():
    wide, _ = drawings(charts.curves(two_series(), unit="steps", losses=(1.0, 3.0), target=None, write=numbers.count))
    lines = [path.get("d") for path in wide.iter("path") if path.get("class") == "line"]
    x, y = WIDE.x(0, 40), WIDE.y(1.0, 3.0)
    assert lines[0] == f"M{x(10):.1f} {y(3.0):.1f}L{x(20):.1f} {y(2.0):.1f}L{x(40):.1f} {y(1.5):.1f}"
    assert (wide.get("data-start"), wide.get("data-end"), wide.get("data-high")) == ("44", "420", "40")


def test_the_point_at_the_baselines_loss_is_marked():
    wide, _ = drawings(charts.curves(two_series(), unit="steps", losses=(1.0, 3.0), target=1.5, write=numbers.count))
    ring = next(circle for circle in wide.iter("circle") if circle.get("class") == "reach-dot")
    assert float(ring.get("cx")) == pytest.approx(WIDE.x(0, 40)(30), abs=0.01)
    assert float(ring.get("cy")) == pytest.approx(WIDE.y(1.0, 3.0)(1.5), abs=0.01)
    assert "30" in [text.text for text in wide.iter("text") if text.get("class") == "reach-text"]


def test_where_recipes_reach_it_is_written_side_by_side():
    # Three reaches within 3 % of the axis: texts of 11 pixels a letter at most 0.8 as wide as high.
    near = [
        Series(name=f"r{n}", colour=n, points=[(0, 3.0), (400, 1.0)], reach=(110.0 + 4 * n, 1.5)) for n in (1, 2, 3)
    ]
    write = "{:.0f} ms".format
    for svg in drawings(charts.curves(near, unit="seconds", losses=(1.0, 3.0), target=1.5, write=write)):
        places = sorted(float(text.get("x")) for text in svg.iter("text") if text.get("class") == "reach-text")
        assert all(after - before >= 0.8 * 11 * len("118 ms") for before, after in pairwise(places))


def test_more_of_them_than_a_row_has_room_for_stand_in_rows_within_the_chart():
    many = [Series(name=f"r{n}", colour=n, points=[(0, 3.0), (400, 1.0)], reach=(390.0 - n, 1.5)) for n in range(1, 30)]
    for svg in drawings(charts.curves(many, unit="seconds", losses=(1.0, 3.0), target=1.5, write="{:,.0f} s".format)):
        found = [text for text in svg.iter("text") if text.get("class") == "reach-text"]
        rows = {text.get("y"): [] for text in found}
        for text in found:
            rows[text.get("y")].append(float(text.get("x")))
        assert len(found) == 29
        assert len(rows) > 1
        start, end = float(svg.get("data-start")), float(svg.get("data-end"))
        for places in map(sorted, rows.values()):
            assert all(after - before >= 0.8 * 11 * len("389 s") for before, after in pairwise(places))
            assert start <= places[0] - 20
            assert places[-1] + 20 <= end + 12


def test_a_long_name_is_shortened_beside_its_line_and_told_whole():
    name = "/runs/of/november/muon-with-everything-v12.toml"
    wide, _ = drawings(
        charts.curves(
            [Series(name=name, colour=0, points=[(0, 3.0), (4, 1.0)])],
            unit="steps",
            losses=(1.0, 3.0),
            target=None,
            write=numbers.count,
        )
    )
    (label,) = (text for text in wide.iter("text") if text.get("class") == "label")
    assert label.find("title").text == name
    assert (label.find("title").tail, len(label.find("title").tail)) == ("/runs/of/…-v12.toml", charts.LABEL)


def test_names_beside_many_curves_have_room():
    many = [Series(name=f"r{n}", colour=n, points=[(0, 3.0), (4, 1.0)]) for n in range(40)]
    wide, _ = drawings(charts.curves(many, unit="steps", losses=(1.0, 3.0), target=None, write=numbers.count))
    places = sorted(float(text.get("y")) for text in wide.iter("text") if text.get("class") == "label")
    assert all(after - before >= 12 for before, after in pairwise(places))
    assert places[0] > 0
    assert places[-1] < float(wide.get("viewBox").split()[-1])


def test_long_numbers_have_room_beside_the_axis():
    series = [Series(name="a", colour=0, points=[(1, 123_456.5), (4, 123_455.5)])]
    for svg in drawings(
        charts.curves(series, unit="steps", losses=(123_455.5, 123_456.5), target=None, write=numbers.count)
    ):
        ticks = [text for text in svg.iter("text") if text.get("class") == "tick end"]
        assert "123,456.0" in texts(svg)
        assert all(float(text.get("x")) >= 6 * len(text.text) for text in ticks)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_only_whole_numbers_of_steps_are_named(steps):
    series = [Series(name="a", colour=0, points=[(0, 3.0), (steps, 1.0)])]
    drawn = drawings(charts.curves(series, unit="steps", losses=(1.0, 3.0), target=None, write=numbers.count))
    for svg in [*drawn, *drawings(charts.schedule(series, steps=steps))]:
        named = [text.text for text in svg.iter("text") if text.get("class") == "tick middle"]
        assert named == [str(step) for step in range(steps + 1)]


def test_curves_without_a_point():
    empty = [Series(name="a", colour=0, points=[])]
    assert "Nothing was measured." in charts.curves(
        empty, unit="steps", losses=(0, 1), target=None, write=numbers.count
    )


def test_the_range_of_losses_leaves_the_first_fall_out():
    series = [Series(name="a", colour=0, points=[(1, 9.0), (20, 2.0), (100, 1.0)])]
    low, high = charts.loss_range(series, 10)
    assert (low, high) == pytest.approx((1.0 - 0.07, 2.0 + 0.07))
    assert charts.loss_range([], 10) == pytest.approx((-0.07, 1.07))
    assert charts.loss_range([Series(name="a", colour=0, points=[(1, 2.0)])], 10) == pytest.approx((1.9, 2.1))


def test_a_schedule_with_two_rates():
    series = [
        Series(name="hidden", colour=2, points=[(0, 0.0), (1, 0.02), (2, 0.0)]),
        Series(name="rest", colour=2, points=[(0, 0.0), (1, 0.01), (2, 0.0)]),
        Series(name="empty", colour=2, points=[]),
    ]
    (svg,) = drawings(charts.schedule(series, steps=2))
    assert svg.get("aria-label") == "Learning rate against steps, at most 0.02."
    assert len([path for path in svg.iter("path") if path.get("class") == "line"]) == 2


def test_the_tries_of_a_sweep():
    points = [(0.001, 2.5), (0.01, 1.5), (0.1, 9.0)]
    (svg,) = drawings(charts.tries(points, (0.01, 1.5), 1, low=1.0, high=3.0))
    dots = [(circle.get("class"), float(circle.get("cy"))) for circle in svg.iter("circle")]
    y = SMALL.y(1.0, 3.0)
    assert [kind for kind, _ in dots] == ["try", "best", "try"]
    assert dots[2][1] == pytest.approx(y(3.0), abs=0.01)  # a loss above the axis stands at its top
    assert svg.get("aria-label") == "3 tries; the best at learning rate 0.01 ended at 1.500."


def test_every_colour_of_four_has_a_mark_of_its_own():
    shapes = [re.sub(r"[\d.\- ]+", "", charts.mark(colour, 10.0, 10.0)) for colour in range(4)]
    assert len(set(shapes)) == 4


def test_labels_are_moved_apart_in_their_order():
    assert charts.spread([50, 51, 90], gap=10, low=0, high=100) == [50, 60, 90]
    assert charts.spread([98, 97], gap=10, low=0, high=100) == [100, 90]
    assert charts.spread([], gap=10, low=0, high=100) == []
    assert charts.spread([50, 50, 50], gap=80, low=0, high=100) == [0, 50, 100]


@given(st.lists(st.floats(0, 100), max_size=5))
def test_spread_labels_keep_their_distance(places):
    found = charts.spread(places, gap=16, low=0, high=100)
    order = sorted(found)
    assert all(b - a >= 16 - 1e-9 for a, b in pairwise(order))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in found)


def test_frames_fit_their_screens():
    assert NARROW.width < 360 < WIDE.width


def test_the_label_of_a_run_that_leaves_the_chart_hangs_on_its_edge() -> None:
    series = [
        Series(name="a", colour=0, points=[(1, 3.0), (9, 1.0)]),
        Series(name="b", colour=1, points=[(1, 3.0), (4, 1e9)]),
    ]
    wide, _ = drawings(charts.curves(series, unit="steps", losses=(1.0, 3.0), target=None, write=numbers.count))
    leaders = [one.attrib["d"] for one in wide.iter("path") if one.attrib.get("class") == "leader"]
    assert len(leaders) == 2
    heights = [float(point.split()[1]) for drawn in leaders for point in drawn.removeprefix("M").split("L")]
    assert all(0 <= height <= WIDE.height for height in heights)
