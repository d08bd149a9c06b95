"""The path of each rule over a valley of two numbers, drawn from runs: docs/paths.svg."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import stepwell
from stepwell.pictures.markup import Markup, joined, tag
from stepwell.rules import Rule
from stepwell.rules.registry import rule_class

Point = tuple[float, float]

# Rosenbrock's function with a valley that is 5 times less steep, so that the figure has room for what goes astray.
STEEPNESS, START, STEPS = 20.0, (-1.2, 0.6), 120
# Each rule takes the rate, of 1, 2 and 5 in each power of ten, that brings it lowest.
RATES = (*(digit * 10.0**power for power in (-3, -2, -1) for digit in (1, 2, 5)), 1.0, 2.0, 5.0)
# Beside the rate, and no decay, which would move the minimum: no ball that does not hold it, and the usual momentum.
SETTINGS: dict[str, dict[str, Any]] = {"Scion": {"unconstrained": True}, "SGD": {"momentum": 0.9}}
CAPTIONS = {"SGD": "SGD, momentum 0.9"}

_X, _Y = (-1.7, 1.7), (-0.7, 1.9)
_WIDTH, _HEIGHT, _COLUMNS, _GAP, _TITLE = 150.0, 115.0, 6, 12.0, 20.0
_LEVELS = (0.05, 0.3, 1.0, 3.0, 8.0, 20.0)
_STYLE = """
.frame { fill: #f6f8fa; stroke: #d1d9e0 } .level { fill: none; stroke: #c3ccd6; stroke-width: 0.8 }
.path { fill: none; stroke: #0f766e; stroke-width: 1.3; stroke-linejoin: round } .end { fill: #0f766e }
.start { fill: none; stroke: #1f2328 } .least { fill: none; stroke: #b45309; stroke-width: 1.5 }
.name { fill: #1f2328; font-size: 12px; font-weight: 600 } .rate { fill: #59636e; font-size: 11px }
@media (prefers-color-scheme: dark) {
.frame { fill: #151b23; stroke: #3d444d } .level { stroke: #3a444f }
.path { stroke: #2dd4bf } .end { fill: #2dd4bf } .start { stroke: #e6edf3 } .least { stroke: #f0a868 }
.name { fill: #e6edf3 } .rate { fill: #9198a1 }
}
"""


@dataclass(frozen=True)
class Walk:
    """A run: the rule's name, its rate, and all points from the first to the last."""

    name: str
    lr: float
    points: tuple[Point, ...]


def height(x: float, y: float) -> float:
    """The valley: 0 at (1, 1), and small along y = x²."""
    return (1 - x) ** 2 + STEEPNESS * (y - x * x) ** 2


def slope(x: float, y: float) -> Point:
    """Its gradient."""
    across = y - x * x
    return -2 * (1 - x) - 4 * STEEPNESS * x * across, 2 * STEEPNESS * across


def walk(rule: Rule) -> Walk:
    """The run of a rule, in float64. The two numbers are a matrix of 1 × 2, so that rules of matrices take them."""
    p = torch.tensor([START], dtype=torch.float64, requires_grad=True)
    optimizer = stepwell.Optimizer([p], rule, engine="reference")
    points = [START]
    for _ in range(STEPS):
        p.grad = torch.tensor([slope(*points[-1])], dtype=torch.float64)
        optimizer.step()
        x, y = p.detach()[0].tolist()
        points.append((x, y))
        if not height(x, y) < 1e6:
            break
    return Walk(type(rule).__name__, rule.lr, tuple(points))


def best_walk(name: str) -> Walk:
    """The run at the rate that brings the rule lowest, of those that never leave the picture."""
    kind = rule_class(name)
    settings: dict[str, Any] = {"weight_decay": 0.0, **SETTINGS.get(name, {})}
    walks = [walk(kind(lr=lr, **settings)) for lr in RATES]
    inside = [one for one in walks if all(map(_in_picture, one.points))]
    return min(inside or walks, key=lambda one: height(*one.points[-1]))


def drawing(walks: Sequence[Walk]) -> Markup:
    """The runs as small pictures side by side, in one SVG."""
    rows = math.ceil(len(walks) / _COLUMNS)
    width = _COLUMNS * (_WIDTH + _GAP) + _GAP
    total = rows * (_HEIGHT + _TITLE + _GAP) + _GAP
    about = (
        f"{STEPS} steps of each rule over a curved valley, from the circle on the left to the minimum on the right, at "
        "the rate in the corner. Lines join points of one height."
    )
    panels = []
    for index, one in enumerate(walks):
        left = _GAP + (index % _COLUMNS) * (_WIDTH + _GAP)
        top = _GAP + (index // _COLUMNS) * (_HEIGHT + _TITLE + _GAP)
        panels.append(tag("g", *_panel(one), transform=f"translate({left:g} {top:g})"))
    return tag(
        "svg",
        tag("title", "The path of each rule over a valley"),
        tag("desc", about),
        tag("style", Markup(_STYLE)),
        tag("defs", tag("g", *_ground(), id="ground"), _clip()),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {total:g}",
        role="img",
        font_family="ui-sans-serif, system-ui, sans-serif",
    )


def _panel(one: Walk) -> list[Markup]:
    places = [_place(*point) for point in one.points if _finite(point)]
    end_x, end_y = places[-1]
    return [
        tag("text", CAPTIONS.get(one.name, one.name), x=0, y=13, class_="name"),
        tag("use", href="#ground"),
        tag(
            "g",
            tag("path", d=_line(places), class_="path"),
            tag("circle", cx=round(end_x, 1), cy=round(end_y, 1), r=2.6, class_="end"),
            clip_path="url(#panel)",
        ),
        tag("text", f"{one.lr:g}", x=6, y=_TITLE + _HEIGHT - 6, class_="rate"),
    ]


def _ground() -> list[Markup]:
    (start_x, start_y), (least_x, least_y) = _place(*START), _place(1, 1)
    return [
        tag("rect", x=0, y=_TITLE, width=_WIDTH, height=_HEIGHT, rx=5, class_="frame"),
        tag("g", *(tag("path", d=_contour(level), class_="level") for level in _LEVELS), clip_path="url(#panel)"),
        tag("circle", cx=round(start_x, 1), cy=round(start_y, 1), r=3, class_="start"),
        tag("path", d=_cross(least_x, least_y), class_="least"),
    ]


def _clip() -> Markup:
    return tag("clipPath", tag("rect", x=0, y=_TITLE, width=_WIDTH, height=_HEIGHT, rx=5), id="panel")


def _contour(level: float) -> Markup:
    """Where the valley has this height: y = x² ± √((level − (1 − x)²) / steepness) for |1 − x| ≤ √level."""
    reach, count = math.sqrt(level), 48
    # By angle, so that points are dense where the curve turns back.
    xs = [1 - reach * math.cos(math.pi * i / count) for i in range(count + 1)]
    across = [math.sqrt(max(level - (1 - x) ** 2, 0.0) / STEEPNESS) for x in xs]
    upper = [_place(x, x * x + d) for x, d in zip(xs, across, strict=True)]
    lower = [_place(x, x * x - d) for x, d in zip(xs, across, strict=True)]
    return joined(_line([*upper, *reversed(lower)]), "Z")


def _cross(x: float, y: float) -> str:
    return f"M{x - 3.5:.1f} {y:.1f}h7M{x:.1f} {y - 3.5:.1f}v7"


def _line(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _place(x: float, y: float) -> Point:
    """Where a point of the valley is in its picture; what is far outside is brought near."""
    x, y = min(max(x, -9.0), 9.0), min(max(y, -9.0), 9.0)
    return (
        (x - _X[0]) / (_X[1] - _X[0]) * _WIDTH,
        _TITLE + (_Y[1] - y) / (_Y[1] - _Y[0]) * _HEIGHT,
    )


def _in_picture(point: Point) -> bool:
    return _X[0] < point[0] < _X[1] and _Y[0] < point[1] < _Y[1]


def _finite(point: Point) -> bool:
    return all(map(math.isfinite, point))
