"""Wrappers that clip gradients, element by element or tensor by tensor, in the pass that uses them.

Clipping by the norm over all parameters is the optimizer's: `clip_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.algebra import maximum, minimum, norm
from stepwell.rules.hyper import Positive
from stepwell.rules.rule import Rule
from stepwell.rules.wrapping import Wrapper, wrapped


class _Clipped(Wrapper):
    """Gives the rule other gradients."""

    @classmethod
    def misfit(cls, rule: type[Rule]) -> str | None:
        if rule.measure is Rule.measure:
            return None
        return "it measures the gradients of all parameters before they are clipped"

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return super().update(p, self.clipped(p, g, h), s, h)

    def clipped(self, p: Any, g: Any, h: Any) -> Any:
        """The gradient that the rule gets."""
        raise NotImplementedError


class ClipValue(_Clipped):
    """Each element of the gradient within bounds, as `torch.nn.utils.clip_grad_value_` has it.

        g ← min(max(g, −c), c)

    NaN stays NaN. Gradients themselves are not changed.

    Args:
        value_limit: c, above 0.
    """

    word = "clip_value"

    value_limit: Positive = 1.0

    def clipped(self, p: Any, g: Any, h: Any) -> Any:
        return minimum(maximum(g, -h.value_limit), h.value_limit)


class AdaptiveClip(_Clipped):
    """Each tensor's gradient, no longer than a share of its weights (Brock et al. 2021, arXiv:2102.06171, eq. 3).

        g ← g·min(1, λ·max(‖θ‖, ε) / ‖g‖)

    The norms are those of a whole parameter; the paper takes those of its rows, one for each unit.

    Args:
        agc_ratio: λ, above 0.
        agc_eps: ε, the least norm that weights count with, so that those that start at 0 can move; above 0.
    """

    word = "agc"
    reduces = True

    agc_ratio: Positive = 0.01
    agc_eps: Positive = 1e-3

    def clipped(self, p: Any, g: Any, h: Any) -> Any:
        longest = h.agc_ratio * maximum(norm(p), h.agc_eps)
        # The paper's code keeps the divisor from 0 in the same way.
        return g * minimum(longest / maximum(norm(g), 1e-6), 1.0)


def clip_value(rule: Rule, limit: float = 1.0) -> Rule:
    """The rule, on gradients whose elements are clipped to [−limit, limit]: see `ClipValue`."""
    return wrapped(ClipValue, rule, value_limit=limit)


def agc(rule: Rule, ratio: float = 0.01, eps: float = 1e-3) -> Rule:
    """The rule, on gradients clipped tensor by tensor to a share of the weights' norm: see `AdaptiveClip`."""
    return wrapped(AdaptiveClip, rule, agc_ratio=ratio, agc_eps=eps)
