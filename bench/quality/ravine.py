"""The lecture's ravine: a quadratic that is 100 times as steep across as along, and SGD without and with momentum."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch

import stepwell
from stepwell.pictures.charts import Point, path
from stepwell.pictures.markup import Markup, tag
from stepwell.pictures.scales import Scale
from stepwell.rules import SGD

STEEPNESS, START, MOST_STEPS = 100.0, (-1.0, 0.3), 500
# Relative to the distance at the start.
NEAR = 0.01
RATES = (0.002, 0.005, 0.01, 0.015, 0.019, 0.025, 0.035)
MOMENTUM = 0.9

_WIDTH, _HEIGHT, _GAP, _TEXT = 420.0, 110.0, 16.0, 22.0
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #59636e }
.frame { fill: none; stroke: #d1d9e0 } .level { fill: none; stroke: #c3ccd6; stroke-width: .8 }
.path { fill: none; stroke: #0f766e; stroke-width: 1.2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
.frame { stroke: #3d444d } .level { stroke: #3a444f } .path { stroke: #2dd4bf } text { fill: #9198a1 }
}
"""


@dataclass(frozen=True)
class Walk:
    """A run to near the minimum: its momentum and rate, and the points."""

    momentum: float
    lr: float
    points: tuple[Point, ...]

    @property
    def steps(self) -> int:
        return len(self.points) - 1

    @property
    def turns(self) -> float:
        """In what share of the steps the way across the ravine is turned back."""
        across = [after[1] - before[1] for before, after in itertools.pairwise(self.points)]
        pairs = list(itertools.pairwise(across))
        return sum(one * next_one < 0 for one, next_one in pairs) / max(len(pairs), 1)


def walk(momentum: float, lr: float) -> Walk:
    """SGD on ½·(x² + 100·y²), in float64, until it is near the minimum, or gone, or out of steps."""
    p = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, STEEPNESS], dtype=torch.float64)
    optimizer = stepwell.Optimizer([p], SGD(lr=lr, momentum=momentum), engine="reference")
    points = [START]
    near = NEAR * math.hypot(*START)
    for _ in range(MOST_STEPS):
        p.grad = scale * p.detach()
        optimizer.step()
        x, y = p.tolist()
        points.append((x, y))
        if not near < math.hypot(x, y) < 1e3:
            break
    return Walk(momentum, lr, tuple(points))


@functools.cache
def walks() -> tuple[Walk, Walk]:
    """Without and with momentum, each at the rate that is near the minimum first."""
    plain, smooth = (
        min((one for lr in RATES if arrived(one := walk(momentum, lr))), key=lambda one: one.steps)
        for momentum in (0.0, MOMENTUM)
    )
    return plain, smooth


def arrived(one: Walk) -> bool:
    """Whether the run came near the minimum."""
    return math.hypot(*one.points[-1]) <= NEAR * math.hypot(*START)


def drawing() -> Markup:
    """Both runs, one under the other, over lines of one height."""
    x = Scale(-1.05, 0.35, 0, _WIDTH)
    panels = []
    for index, one in enumerate(walks()):
        top = index * (_HEIGHT + _TEXT + _GAP) + _TEXT
        y = Scale(-0.35, 0.35, top + _HEIGHT, top)
        name = "SGD" if not one.momentum else f"SGD, momentum {one.momentum:g}"
        clip = f"ravine-{index}"
        panels.append(
            tag(
                "g",
                tag("text", f"{name}, rate {one.lr:g}: {one.steps} steps", x=0, y=top - 7),
                tag("clipPath", tag("rect", x=0, y=top, width=_WIDTH, height=_HEIGHT), id=clip),
                tag("rect", x=0, y=top, width=_WIDTH, height=_HEIGHT, class_="frame"),
                tag(
                    "g",
                    *(tag("path", d=_ellipse(level, x, y), class_="level") for level in (0.01, 0.1, 0.5, 1.5, 4.0)),
                    tag("path", d=path([(x(a), y(b)) for a, b in one.points]), class_="path"),
                    clip_path=f"url(#{clip})",
                ),
            )
        )
    height = 2 * (_HEIGHT + _TEXT) + _GAP
    return tag(
        "svg",
        tag("title", "Momentum in a ravine"),
        tag("style", Markup(_STYLE)),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"-8 0 {_WIDTH + 16:g} {height + 8:g}",
        role="img",
    )


def _ellipse(level: float, x: Scale, y: Scale) -> str:
    """Where ½·(x² + 100·y²) has this height."""
    along, across = math.sqrt(2 * level), math.sqrt(2 * level / STEEPNESS)
    angles = [math.tau * index / 60 for index in range(61)]
    return path([(x(along * math.cos(angle)), y(across * math.sin(angle))) for angle in angles])
