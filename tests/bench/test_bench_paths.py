from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch

from bench import gallery, paths
from stepwell import rules

SVG = "{http://www.w3.org/2000/svg}"


def _numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", path)]


def _drawn() -> dict[str, tuple[str, str]]:
    """The rate and the path in the picture of each rule."""
    root = ElementTree.fromstring(gallery.PICTURE.read_text(encoding="utf-8"))
    panels = [group for group in root if group.get("transform")]
    found = {}
    for panel in panels:
        name, rate = ("".join(text.itertext()) for text in panel.iter(f"{SVG}text"))
        (line,) = (path for path in panel.iter(f"{SVG}path") if path.get("class") == "path")
        found[name] = (rate, line.get("d", ""))
    return found


def test_the_slope_is_the_derivative_of_the_height() -> None:
    x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (-0.7, 0.3))
    height = paths.height(x, y)  # type: ignore[arg-type]
    height.backward()  # type: ignore[attr-defined]
    assert (x.grad.item(), y.grad.item()) == pytest.approx(paths.slope(-0.7, 0.3))
    assert paths.height(1.0, 1.0) == 0.0


def test_a_walk_is_the_rules_own() -> None:
    # Each of the first steps of sign descent is ±lr in either number.
    walk = paths.walk(rules.SignSGD(lr=0.01))
    (x0, y0), (x1, y1) = walk.points[:2]
    gx, gy = paths.slope(*paths.START)
    assert (x1 - x0, y1 - y0) == pytest.approx((-0.01 if gx > 0 else 0.01, -0.01 if gy > 0 else 0.01))
    assert (walk.name, walk.lr, len(walk.points)) == ("SignSGD", 0.01, paths.STEPS + 1)


def test_a_walk_that_leaves_the_valley_ends() -> None:
    assert len(paths.walk(rules.SGD(lr=1.0)).points) < 10


def test_lines_of_one_height() -> None:
    level = 3.0
    for place in re.findall(r"(-?\d+\.\d) (-?\d+\.\d)", paths._contour(level)):
        px, py = map(float, place)
        x = paths._X[0] + px / paths._WIDTH * (paths._X[1] - paths._X[0])
        y = paths._Y[1] - (py - paths._TITLE) / paths._HEIGHT * (paths._Y[1] - paths._Y[0])
        steepest = max(map(abs, paths.slope(x, y)))
        assert paths.height(x, y) == pytest.approx(level, abs=0.003 * steepest)  # a tenth of a pixel


def test_the_picture_shows_every_rule() -> None:
    names = [entry.name for entry in gallery.own_entries()]
    assert list(_drawn()) == [paths.CAPTIONS.get(name, name) for name in names]


def _is_as_drawn(name: str) -> None:
    rate, line = _drawn()[paths.CAPTIONS.get(name, name)]
    walk = paths.best_walk(name)
    assert rate == f"{walk.lr:g}"
    ours = _numbers(paths._line([paths._place(*point) for point in walk.points]))
    assert _numbers(line) == pytest.approx(ours, abs=0.15)  # rounding of a tenth of a pixel


@pytest.mark.parametrize("name", ["Lion", "AdamW"])
def test_the_picture_is_drawn_from_runs(name: str) -> None:
    _is_as_drawn(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in gallery.own_entries() if entry.acts_on != "matrices"])
def test_every_path_is_drawn_from_a_run(name: str) -> None:
    _is_as_drawn(name)
