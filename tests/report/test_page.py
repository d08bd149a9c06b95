from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

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
