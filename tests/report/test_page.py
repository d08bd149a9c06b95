from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stepwell.pictures import charts
from stepwell.report import render
from stepwell.report.page import protocol


class Outline(HTMLParser):
    """The ids, the tables by caption with their cells, and whatever the page would fetch."""

    VOID = frozenset({"meta", "link", "br", "hr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "caption":
            self.rows: list[list[str]] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "caption":
            self.tables[data] = self.rows
        elif "th" in self.open or "td" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def outline(make_comparison):
    return lambda *given, **changes: Outline(render(make_comparison(*given, **changes)))


def test_the_page_is_whole_and_fetches_nothing(make_comparison):
    page = render(make_comparison())
    outline = Outline(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert outline.open == []
    assert outline.links == ["data:,"]
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    assert "://" not in page


def test_a_long_run_makes_no_longer_page(make_comparison):
    def size(steps: int) -> int:
        comparison = make_comparison(1)
        (run,) = comparison.runs
        run.lr = {name: [0.01 * (1 + step % 7) for step in range(steps)] for name in run.lr}
        comparison.steps = run.planned_steps = steps
        return len(render(comparison))

    assert abs(size(50_000) - size(5_000)) < 1000


def test_its_sections(outline):
    ids = outline().ids
    assert len(ids) == len(set(ids))
    for section in ("results", "curves", "schedules", "groups", "sweep", "protocol"):
        assert section in ids


def test_the_results_table(outline):
    heading, adamw, lion, muon, _ = outline().tables["Results of each recipe"]
    assert heading == [
        "recipe",
        "final validation loss",
        "steps to the baseline’s final loss",
        "seconds to it",
        "time a step",
        "optimizer’s share",
        "optimizer state",
    ]
    assert adamw == ["AdamW + cosinebaseline", "1.820", "100", "10.0 s", "100 ms", "2.0 %", "8.19 kB"]
    assert lion == ["Lion + cosine", "1.920+0.100", "not reached", "not reached", "100 ms", "1.0 %", "8.19 kB"]
    assert muon == ["Muon + AdamW", "1.620−0.200", "5252 %", "7.3 s73 %", "140 ms", "30 %", "8.19 kB"]


def test_the_group_table(outline):
    _, first, second, *_ = outline().tables["Parameter groups of each recipe"]
    assert first == ["AdamW + cosine", "hidden", "R", "4", "1,000", "0.004", "0.1", "hidden matrix: a"]
    assert second == ["AdamW + cosine", "rest", "R", "2", "24", "0.002", "0", "norm: b"]


def test_the_settings_and_what_the_sweep_says(outline):
    _, adamw, *_ = outline().tables["Settings of each recipe"]
    assert adamw == ["AdamW + cosine", "lr = 0.004, betas = (0.9, 0.95)", "5", "1", "2.000"]


def test_the_numbers_behind_the_curves(outline):
    heading, first, *rest = outline(2).tables["Validation loss and seconds at every evaluation"]
    assert heading == ["step", "AdamW + cosine", "seconds", "Lion + cosine", "seconds"]
    assert first == ["4", "4.256", "400 ms", "4.356", "400 ms"]
    assert len(rest) == 24


def test_small_losses_are_told_apart(make_comparison):
    comparison = make_comparison()
    for run in comparison.runs:
        run.evaluations = [replace(one, loss=one.loss * 1e-6) for one in run.evaluations]
    page = render(comparison)
    _, adamw, lion, *_ = Outline(page).tables["Results of each recipe"]
    assert (adamw[1], lion[1]) == ("1.820e-6", "1.920e-6+1.000e-7")
    assert ">2.0e-6</text>" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert data[0]["loss"] == [one.loss for one in comparison.runs[0].evaluations]


def test_colours_come_round_with_other_lines_and_marks(make_comparison):
    comparison = make_comparison(2)
    comparison.runs = [
        replace(comparison.runs[index > 0], recipe=f"r{index}", title=f"Recipe {index}") for index in range(10)
    ]
    page = render(comparison)
    assert set(re.findall(r'class="(?:icon |bar )?(s\d+)"', page)) == {f"s{colour}" for colour in range(8)}
    groups = re.findall(r'<g class="(s[01])" data-series="([0189])">(.*?)</g>', page)
    assert {series: (colour, "dasharray" in drawn) for colour, series, drawn in groups} == {
        "0": ("s0", False),
        "1": ("s1", False),
        "8": ("s0", True),
        "9": ("s1", True),
    }
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert [run["class"] for run in data][7:] == ["s7", "s0", "s1"]
    assert charts.mark(8, 0.0, 0.0) != charts.mark(0, 0.0, 0.0)


def test_text_is_escaped(make_comparison):
    page = render(make_comparison(task="</script><b>", about="A small model & a <large> text."))
    assert "A small model &amp; a &lt;large&gt; text." in page
    assert "<b>" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page).group(1)
    assert "<" not in data


def test_a_diverged_run_says_so(make_comparison):
    comparison = make_comparison()
    comparison.runs[1].diverged_at = 50
    outline = Outline(render(comparison))
    assert outline.tables["Results of each recipe"][2][1] == "diverged"
    assert "Lion + cosine diverged after 100 steps." in render(comparison)


def test_an_interrupted_sweep_has_a_report_without_results(outline):
    found = outline(0, interrupted=True)
    assert "sweep" in found.ids
    assert "results" not in found.ids


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_of_hardly_any_steps(outline, steps):
    assert "curves" in outline(2, steps=steps).ids


def test_without_a_sweep(outline):
    assert "sweep" not in outline(sweep={}).ids


def test_a_recipe_whose_rate_was_not_searched_has_no_chart_of_its_tries(make_comparison):
    comparison = make_comparison(2)
    assert "has no chart" not in render(comparison)
    comparison.sweep["tries"]["lion"] = [{"settings": {"weight_decay": 0.1}, "loss": 2.5}]
    page = render(comparison)
    sweep = page[page.index('id="sweep"') :]
    assert sweep.count("<figcaption>") == 1
    assert "A recipe whose learning rate is 0 keeps it, and has no chart." in sweep
    assert Outline(page).tables["Settings of each recipe"][2][2:] == ["1", "0", "2.500"]


def test_the_protocol(make_comparison):
    lines = " ".join(protocol(make_comparison()))
    assert "same weights and sees the same batches" in lines
    assert (
        "Settings are the best of 5 tries for each recipe, the baseline’s betas and decay included, found by" in lines
    )
    assert "clipped to a global norm of 1 in every recipe" in lines
    other = " ".join(protocol(make_comparison(task="lines:fit")))
    assert "found on another task (bytegpt), not on this one by a sweep" in other
