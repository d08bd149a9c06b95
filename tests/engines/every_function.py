"""A rule that uses every function of the algebra on elements, for engines that write them in another language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepwell import Rule
from stepwell.algebra import absolute, cos, exp, floor, log, maximum, minimum, sign, sqrt, where


@dataclass(frozen=True, kw_only=True)
class EveryFunction(Rule, abstract=True):
    """No way to train. It is in no list of rules, so that no test that goes through all of them meets it."""

    power: float = 1.5

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
        size = absolute(g)
        x = exp(-size) + log(1 + size) + cos(p) + floor(p) + sqrt(size) + sign(g)
        x = x + size**h.power + 2.0**p + g**3 + (-size) ** -2 + minimum(p, g) * maximum(p, h.power) / (1 + absolute(p))
        x = x + where(s.step > 2, 1.0, 0.1) + where(p <= 0, 0.3, size) + 1e-40
        return where(p > g, x, -x), {}
