"""Plans as pictures and pages."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import stepwell
from small_models import Language
from stepwell import Recipe, Route

RECIPE = Recipe(
    routes=(
        Route(rule="Muon", name="hidden", select="role('hidden matrix')", hyper_parameters={"lr": 0.02}),
        Route(rule="AdamW", hyper_parameters={"lr": 1e-3}),
    ),
    schedules={"lr": "Cosine(warmup=0.1)", "weight_decay": "Linear()"},
)


THERE = "there are betas[0], betas[1], eps, lr, weight_decay"


class Reader(HTMLParser):
    """What a page is made of; raises where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        for name, value in attributes:
            assert name not in ("src", "href") or value.startswith("data:"), f"{name} leads outside: {value}"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data.split()


def text_of(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


class TestPlot:
    def test_a_line_for_each_rate(self):
        svg = stepwell.plan(Language(), RECIPE, horizon=1000).plot()
        texts = text_of(svg)
        assert {"hidden: Cosine(warmup=0.1)", "adamw, adamw undecayed: Cosine(warmup=0.1)"} <= set(texts)
        assert {"learning rate", "step", "0.02"} <= set(texts)
        assert svg._repr_svg_() == svg

    def test_it_brings_its_own_ground(self):
        """A page may be light where the reader's system, which the picture's colours follow, is dark."""
        svg = ElementTree.fromstring(stepwell.plan(Language(), RECIPE, horizon=1000).plot())
        ground = next(svg.iter("{http://www.w3.org/2000/svg}rect"))
        assert ground.get("style") == "fill:var(--card)"
        assert svg.get("viewBox").split()[2:] == [ground.get("width"), ground.get("height")]

    def test_another_hyper_parameter(self):
        texts = text_of(stepwell.plan(Language(), RECIPE, horizon=1000).plot("weight_decay"))
        assert {"weight_decay", "hidden: Linear()", "adamw undecayed: Linear()"} <= set(texts)

    def test_one_that_is_not_scheduled_stands_still(self):
        texts = text_of(stepwell.plan(Language(), RECIPE, horizon=1000).plot("betas[0]"))
        assert "adamw, adamw undecayed: Constant()" in texts

    def test_a_schedule_that_needs_no_horizon(self):
        assert text_of(stepwell.plan(Language(), "t5-adafactor").plot())

    def test_without_a_horizon_a_long_warm_up_is_drawn_whole(self):
        slow = RECIPE.replace(schedules={"lr": "Constant(warmup=5000)"})
        # Up to the rate at its end, 0.02, and over all its 5000 steps.
        assert {"0.02", "5,000"} <= set(text_of(stepwell.plan(Language(), slow).plot()))

    @pytest.mark.parametrize(
        ("recipe", "name", "message"),
        [
            ("adamw", "lr", "the schedule of lr needs a horizon: give plan(…, horizon=…)"),
            ("adamw", "lrr", f"no group of the plan has a number 'lrr'; {THERE} (did you mean 'lr'?)"),
            ("adamw", "betas", f"no group of the plan has a number 'betas'; {THERE} (did you mean 'betas[1]'?)"),
        ],
    )
    def test_what_cannot_be_drawn(self, recipe, name, message):
        with pytest.raises(ValueError) as error:
            stepwell.plan(Language(), recipe).plot(name)
        assert str(error.value) == message


class TestPage:
    def test_a_document_by_itself(self):
        page = Reader(stepwell.plan(Language(), RECIPE.replace(name="mine"), horizon=1000).to_html())
        assert page.tags.count("table") == 2
        assert page.tags.count("svg") == 2  # the rate and the decay
        text = " ".join(page.words)
        assert "mine for Language" in text
        assert "hidden Muon 4 512 0 → 0.02 → 0 0.1 hidden matrix: role('hidden matrix')" in text
        assert "blocks.0.up.weight, blocks.0.down.weight and 2 more" in text
        assert "mine 3 KiB 3 KiB" in text

    def test_warnings_stand_in_it(self):
        model = Language()
        model.embed.requires_grad_(False)
        page = stepwell.plan(model, RECIPE, horizon=1000).to_html()
        assert "Warning: embed.weight (88 numbers) will not be trained" in page
        assert "frozen" in page

    def test_names_are_escaped(self):
        model = nn.Module()
        model.register_parameter("a<b>&", nn.Parameter(torch.ones(2, 2)))
        page = stepwell.plan(model, Recipe(routes=Route(rule="AdamW", why="<script>"))).to_html()
        assert "a&lt;b&gt;&amp;" in page
        assert "<script>" not in page

    def test_without_a_horizon_nothing_is_drawn(self):
        page = Reader(stepwell.plan(Language(), RECIPE).to_html())
        assert "svg" not in page.tags
        assert "Schedules" not in page.words


class TestNotebooks:
    def test_the_style_of_a_notebook_is_left_alone(self):
        shown = stepwell.plan(Language(), RECIPE, horizon=1000)._repr_html_()
        page = Reader(shown)
        assert "style" not in page.tags
        assert page.tags.count("img") == 2
        encoded = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', shown)
        assert "hidden: Cosine(warmup=0.1)" in text_of(base64.b64decode(encoded[1]).decode())
