from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from stepwell.pictures.charts import Series
from stepwell.pictures.plots import drawing, page
from stepwell.pictures.sampled import sampled, thinned
from stepwell.pictures.sketch import sketch
from stepwell.schedules import CosineRestarts, Cyclic, Function, Linear

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_goes_from_corner_to_corner():
    text = sketch([[(0, 0.0), (10, 1.0)]], width=4, height=2, x_name="", y_name="y")
    # Eight dots by eight, on the diagonal: from the lower left to the upper right.
    assert text == "  y\n1 │⠀⠀⡠⠊\n0 │⡠⠊\n  ╰0 10\n"


def test_the_axes_say_what_they_count():
    text = sketch(
        [[(1e-4, 3.0), (1.0, 2.0)], [(1e-4, 2.5), (1.0, float("nan"))]], log=True, x_name="rate", y_name="loss"
    )
    lines = text.splitlines()
    assert lines[0].split() == ["loss"]
    assert lines[-1].startswith("    ╰1e-4")
    assert " rate " in lines[-1]
    assert any(line.startswith("2.8 │") for line in lines)


def test_numbers_beside_a_narrow_range_differ():
    text = sketch([[(0, 1.0), (1_000_000, 1.0004)]])
    beside = [line.partition("│")[0].strip() for line in text.splitlines() if "│" in line]
    assert [number for number in beside if number] == ["1.0004", "1.0003", "1.0002", "1.0001", "1"]
    assert text.splitlines()[-1].split("─")[-1] == "1,000,000"


def test_a_flat_line_has_room_above_and_below():
    lines = sketch([[(0, 1.0), (5, 1.0)]], width=10, height=5).splitlines()
    drawn = [index for index, line in enumerate(lines[:-1]) if any(0x2800 < ord(c) < 0x2900 for c in line)]
    assert drawn == [2]


def test_a_schedule_is_sampled_at_every_step_or_at_many():
    few = sampled("line", Linear(horizon=4), 4, base=2.0)
    assert few.points == [(0, 2.0), (1, 1.5), (2, 1.0), (3, 0.5), (4, 0.0)]
    many = sampled("line", Linear(horizon=10_000), 10_000, points=100)
    assert len(many.points) == 101
    assert (many.points[0], many.points[-1]) == ((0, 1.0), (10_000, 0.0))


def test_cycles_between_two_samples_are_covered():
    # Each of 600 strides of 100 steps is a whole cycle: 0.1 at its ends, 1 in its middle.
    found = sampled("line", Cyclic(up=50, horizon=60_000), 60_000)
    assert found.points[:5] == [(0, 0.1), (50, 1.0), (100, 0.1), (150, 1.0), (200, 0.1)]
    assert len(found.points) == 1201
    # A wave falls from 1 to 0 and starts anew.
    waves = sampled("line", CosineRestarts(first=100, horizon=60_000), 60_000)
    assert waves.points[:3] == [(0, 1.0), (99, pytest.approx((1 + math.cos(0.99 * math.pi)) / 2)), (100, 1.0)]


def test_a_peak_between_two_samples_is_found():
    found = sampled("line", Linear(warmup=334_000, horizon=1_000_000), 1_000_000, base=0.1)
    assert max(value for _, value in found.points) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "function",
    [
        lambda step: 0.5 if step % 100 else 1.0,  # takes no arrays
        lambda step: 0.5 + 0.5 * (step % 100 == 0),
        lambda step: math.cos(step * math.pi / 50) / 4 + 0.75,
    ],
)
def test_a_function_of_the_step_is_looked_at_between_samples_too(function):
    found = sampled("line", Function(function=function), 50_000, points=500)
    assert {value for _, value in found.points} == {0.5, 1.0}


def test_a_function_that_gives_no_factor_is_refused():
    with pytest.raises(ValueError, match=r"gave -1\.0 at step 7777; a factor must be a finite number"):
        sampled("line", Function(function=lambda step: 1.0 - 2.0 * (step == 7777)), 50_000)


def test_a_picture_stands_alone():
    series = [
        Series(name="a < b", colour=0, points=[(0, 0.0), (10, 1.0)]),
        sampled("line", Linear(horizon=10), 10, colour=1),
    ]
    drawn = drawing(series, x_name="step", y_name="factor", low=0.0, marks=[("here", 5.0)])
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    words = ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
    assert {"a < b", "line", "step", "factor", "here 5"} <= set(words)
    paths = [one.get("d") for one in root.iter(f"{SVG}path") if one.get("class") == "line"]
    assert len(paths) == 2
    assert "http" not in page("Schedules", drawn).replace("http://www.w3.org/2000/svg", "")
    assert page("Schedules", drawn).startswith("<!doctype html>")


def test_a_long_line_is_thinned_and_keeps_its_peaks():
    line = [(float(step), 1.0 + (step == 70_001) - (step == 30_003)) for step in range(100_000)]
    found = thinned(line)
    assert len(found) <= 602
    assert {line[0], line[-1], line[70_001], line[30_003]} <= set(found)
    assert list(found) == sorted(found)
    assert thinned(line[:600]) == line[:600]


def test_a_long_name_has_lines_of_its_own_in_the_legend():
    name = " ".join(f"word{index}" for index in range(30))
    series = [Series(name=one, colour=i, points=[(0, 1.0), (1, 1.0001)]) for i, one in enumerate((name, "short"))]
    root = ElementTree.fromstring(drawing(series, x_name="step", y_name="lr"))
    labels = {one.text: float(one.get("y")) for one in root.iter(f"{SVG}text") if one.get("class") == "label"}
    assert " ".join([*labels][:-1]) == name
    assert all(len(text) <= 80 for text in labels)
    assert len(set(labels.values())) == len(labels) > 3
    assert max(labels.values()) < float(root.get("viewBox").split()[-1])
    ticks = [one.text for one in root.iter(f"{SVG}text") if one.get("class") == "tick end"]
    assert len(set(ticks)) == len(ticks) > 3
    assert [one.text for one in root.iter(f"{SVG}text") if one.get("class") == "tick middle"] == ["0", "1"]


@pytest.mark.parametrize("colour", [0, 7, 8])
def test_colours_come_round(colour):
    drawn = drawing([Series(name="x", colour=colour, points=[(0, 0.0), (1, 1.0)])], x_name="x", y_name="y")
    assert f'class="s{colour % 8}"' in drawn
