"""Python's own numbers: what a schedule gets for one step and what a hyper-parameter is before it meets a tensor."""

from __future__ import annotations

import math

from stepwell.algebra.kinds import interpolated, register


class Plain:
    """The algebra on `int` and `float`, in float64, with IEEE results where Python would raise."""

    def sqrt(self, x: float) -> float:
        return math.sqrt(x) if x >= 0 else math.nan

    def reciprocal(self, x: float) -> float:
        return 1.0 / x if x else math.copysign(math.inf, x)

    def absolute(self, x: float) -> float:
        return abs(x)

    def sign(self, x: float) -> float:
        return float((x > 0) - (x < 0))

    def exp(self, x: float) -> float:
        try:
            return math.exp(x)
        except OverflowError:
            return math.inf

    def log(self, x: float) -> float:
        if x > 0:
            return math.log(x)
        return -math.inf if x == 0 else math.nan

    def cos(self, x: float) -> float:
        return math.cos(x) if math.isfinite(x) else math.nan

    def floor(self, x: float) -> float:
        return math.floor(x) if math.isfinite(x) else x

    def minimum(self, x: float, y: float) -> float:
        return y if y < x or y != y else x

    def maximum(self, x: float, y: float) -> float:
        return y if y > x or y != y else x

    def where(self, condition: bool, x: float, y: float) -> float:
        return x if condition else y

    def lerp(self, x: float, y: float, weight: float) -> float:
        found: float = interpolated(x, y, weight)
        return found

    def total(self, x: float) -> float:
        return x

    def mean(self, x: float) -> float:
        return x

    def row_mean(self, x: float) -> float:
        return x

    def column_mean(self, x: float) -> float:
        return x


PLAIN = Plain()
register(float, PLAIN)
register(int, PLAIN)
register(bool, PLAIN)
