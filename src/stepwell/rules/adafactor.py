"""Adafactor: Adam's second moment from its row and column means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from stepwell.algebra import column_mean, lerp, maximum, mean, minimum, row_mean, sqrt, square
from stepwell.rules.hyper import Fraction, NonNegative, Positive, Range, Switch
from stepwell.rules.rule import Rule, Shape, Slot, column_wise, row_wise


@dataclass(frozen=True, kw_only=True)
class Adafactor(Rule):
    """Adam's second moment from row and column means, in sublinear memory (Shazeer & Stern 2018,
    arXiv:1804.04235, Alg. 4 and 5; sec. 3–7).

        R = β̂₂·R + (1 − β̂₂)·row_mean(G² + ε₁),   C likewise of columns,   β̂₂ = 1 − t^τ
        U = G / √(R·C / mean(R)),   Û = U / max(1, RMS(U)/d)
        θ = θ − α·Û,   α = max(ε₂, RMS(θ))·ρ,   ρ = min(η, 1/√t)

    Parameters of less than two dimensions keep the whole second moment.

    The defaults are those of both implementations in use. Arguments of `transformers` (4.34) have their names and their
    order here; its `lr=None` with `relative_step=True` is lr = 0.01, the cap of the relative step.
    `torch.optim.Adafactor` has `clip_threshold` as `d`, `decay_rate` as `beta2_decay`, and differs where the paper is
    silent: it is `eps_as_floor=True, decay="decoupled", eps=(2**-23, 1e-3)`; its state dict is read as that.

    Args:
        lr: η, at least 0: the cap of ρ; without `relative_step` it is ρ. None is 0.01, where there is a relative step.
        eps: (ε₁, ε₂), each at least 0.
        clip_threshold: d, above 0.
        decay_rate: τ, at most 0.
        beta1: β₁ in [0, 1) of a momentum of the steps α·Û, or None for none.
        weight_decay: λ, at least 0.
        scale_parameter: multiply ρ by max(ε₂, RMS(θ)).
        relative_step: let ρ fall as 1/√t.
        warmup_init: cap ρ by 10⁻⁶·t in place of η.
        eps_as_floor: hold mean(R) at ε₁ and the estimate of G² at ε₁² or above, rather than add ε₁ to G².
        factored: False keeps the whole second moment for every parameter.
        decay: "inside" shrinks the weights by α·λ, "decoupled" by η·λ, "independent" by λ; "coupled" adds λθ to the
            gradient.
    """

    lr: NonNegative = 1e-2
    eps: tuple[Annotated[NonNegative, Switch()], NonNegative] = (1e-30, 1e-3)
    clip_threshold: Positive = 1.0
    decay_rate: Annotated[float, Range(high=0)] = -0.8
    beta1: Fraction | None = None
    weight_decay: NonNegative = 0.0
    scale_parameter: bool = True
    relative_step: bool = True
    warmup_init: bool = False
    eps_as_floor: bool = False
    factored: bool = True
    decay: Literal["inside", "coupled", "decoupled", "independent"] = "inside"

    acts_on = "tensors"
    may_be_none = ("lr",)

    def __post_init__(self) -> None:
        given: Any = self.lr
        if given is None and self.relative_step:
            object.__setattr__(self, "lr", 1e-2)
        super().__post_init__()
        if self.warmup_init and not self.relative_step:
            raise ValueError("warmup_init=True needs relative_step=True")
        if self.eps_as_floor and not self.eps[0]:
            raise ValueError(f"eps_as_floor=True needs the first of eps above 0, got eps={self.eps}")

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        factors = (Slot("row_var", shape=row_wise), Slot("col_var", shape=column_wise))
        moment = factors if self.factored else (Slot("variance", positive=True),)
        return moment if self.beta1 is None else (*moment, "exp_avg")

    def fit(self, shape: Shape) -> Rule:
        return self.but(factored=False) if self.factored and len(shape) < 2 else self

    @property
    def own_rate(self) -> str:
        return relative_in_words("10⁻⁶·t" if self.warmup_init else "lr", self)

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        if h.decay == "coupled":
            g = g + h.weight_decay * p
        step, slots = self.unit_step(g, s, h)
        alpha = self.relative_rate(s, h)
        if h.scale_parameter:
            alpha = alpha * maximum(root_mean_square(p), h.eps[1])
        step = alpha * step
        if h.beta1 is not None:
            step = slots["exp_avg"] = lerp(s.exp_avg, step, 1 - h.beta1)
        rates = {"inside": alpha, "decoupled": h.lr, "independent": 1.0, "coupled": 0.0}
        return p * (1 - rates[h.decay] * h.weight_decay) - step, slots

    def relative_rate(self, s: Any, h: Any) -> Any:
        """ρ."""
        if not h.relative_step:
            return h.lr
        return minimum(1e-6 * s.step if h.warmup_init else h.lr, 1 / sqrt(s.step))

    def unit_step(self, g: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """Û, and the new second moment."""
        fresh = s.step**h.decay_rate
        squares = square(g) if h.eps_as_floor else square(g) + h.eps[0]
        slots: dict[str, Any]
        if h.factored:
            row_var, col_var = lerp(s.row_var, row_mean(squares), fresh), lerp(s.col_var, column_mean(squares), fresh)
            mean_of_rows = column_mean(row_var)
            if h.eps_as_floor:
                mean_of_rows = maximum(mean_of_rows, h.eps[0])
            inverse, slots = inverse_root(row_var, col_var, mean_of_rows), {"row_var": row_var, "col_var": col_var}
        else:
            variance = lerp(s.variance, squares, fresh)
            inverse, slots = 1 / sqrt(variance), {"variance": variance}
        if h.eps_as_floor:
            inverse = minimum(inverse, 1 / h.eps[0])
        return clipped(g * inverse, h.clip_threshold), slots


def inverse_root(row: Any, column: Any, mean_of_rows: Any) -> Any:
    """1/√(R·C / mean R) of the means R of rows and C of columns.

    The roots are taken once a row and once a column, so that an element needs neither root nor division; and R·C of two
    numbers near ε₁, which float32 does not hold, is never formed.
    """
    return (1 / sqrt(row / mean_of_rows)) * (1 / sqrt(column))


def relative_in_words(cap: str, rule: Any) -> str:
    """α of a rule with Adafactor's `relative_step` and `scale_parameter`, ρ capped so; "" where it is lr."""
    step = f"min({cap}, 1/√t)" if rule.relative_step else "lr"
    size = "·max(ε₂, RMS(θ))" if rule.scale_parameter else ""
    return f"{step}{size}" if rule.relative_step or size else ""


def root_mean_square(x: Any) -> Any:
    """√mean(x²) over all elements."""
    return sqrt(mean(square(x)))


def clipped(step: Any, threshold: Any) -> Any:
    """The step, shortened where its root mean square is above the threshold."""
    return step / maximum(root_mean_square(step) / threshold, 1.0)
