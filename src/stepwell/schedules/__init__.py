"""Schedules: step → factor, as pure arithmetic that is exact on resume and safe past its end."""

from stepwell.schedules.composition import (
    Clamp,
    Product,
    Repeat,
    Shift,
    Warmup,
    clamp,
    product,
    repeat,
    shift,
    warmup,
)
from stepwell.schedules.cycles import CosineRestarts, Cyclic, OneCycle
from stepwell.schedules.data import from_dict, from_toml, parse, to_dict, to_toml
from stepwell.schedules.decays import REX, Cosine, Linear, Polynomial
from stepwell.schedules.endless import Constant, Exponential, InverseSqrt, MultiStep, Noam, Power, Step
from stepwell.schedules.fields import Length
from stepwell.schedules.function import Function
from stepwell.schedules.schedule import Schedule
from stepwell.schedules.sequence import Sequence, sequence
from stepwell.schedules.stable import WSD, Knee, Trapezoid

__all__ = [
    "REX",
    "WSD",
    "Clamp",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "Function",
    "InverseSqrt",
    "Knee",
    "Length",
    "Linear",
    "MultiStep",
    "Noam",
    "OneCycle",
    "Polynomial",
    "Power",
    "Product",
    "Repeat",
    "Schedule",
    "Sequence",
    "Shift",
    "Step",
    "Trapezoid",
    "Warmup",
    "clamp",
    "from_dict",
    "from_toml",
    "parse",
    "product",
    "repeat",
    "sequence",
    "shift",
    "to_dict",
    "to_toml",
    "warmup",
]
