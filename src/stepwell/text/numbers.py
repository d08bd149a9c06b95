"""How the report and the terminal write a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import SupportsFloat

MISSING = "–"


def as_float(number: SupportsFloat) -> float:
    """The number as a float: infinite, where it is whole and larger than any."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf  # type: ignore[operator]


def loss(value: float | None, like: float | None = None) -> str:
    """A loss with three decimals; four digits, and at times a power of ten, where those say too little or too much.

    `like` is a loss of the size that decides, for a difference or a spread of losses. The report's script writes alike.

    >>> loss(1.5), loss(0.0042), loss(59810351415296)
    ('1.500', '0.004200', '5.981e13')
    """
    if value is None:
        return MISSING
    size = abs(value if like is None else like)
    return f"{value:.3f}" if size == 0 or 0.01 <= size < 1e5 else _short(f"{value:#.4g}")


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def counted(number: int, of: str) -> str:
    """So many of them, in the plural but for one.

    >>> counted(1, "step"), counted(2000, "step")
    ('1 step', '2,000 steps')
    """
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def seconds(value: float | None) -> str:
    if value is None:
        return MISSING
    if 0 < value < 0.01:
        return milliseconds(1e3 * value)
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.0f} ms"


def milliseconds(value: float | None) -> str:
    if value is None:
        return MISSING
    if value >= 1e4:
        return seconds(value / 1e3)
    if 0 < value < 0.01:
        return f"{1e3 * value:.2g} µs"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{value * 100:.0f} %" if value >= 0.0995 else f"{value * 100:.1f} %"


def data(bytes_: int | None) -> str:
    """Bytes in decimal units: 1 MB is 10⁶ bytes."""
    if bytes_ is None:
        return MISSING
    if bytes_ < 1000:
        return f"{bytes_} B"
    units = ["TB", "GB", "MB", "kB"]
    size = bytes_ / 1000
    while size >= 999.5 and len(units) > 1:
        size, _ = size / 1000, units.pop()
    return f"{size:.3g} {units[-1]}"


def memory(bytes_: float) -> str:
    """Bytes in binary units, as memory is sold: 1 GiB is 2³⁰ bytes."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if bytes_ >= factor:
            size = bytes_ / factor
            return f"{size:,.0f} {unit}" if size >= 1000 else f"{size:.3g} {unit}"
    return f"{bytes_:.0f} B"


def duration(value: float) -> str:
    """Seconds in the largest unit that leaves at least 1."""
    for unit, factor in (("h", 1 / 3600), ("min", 1 / 60), ("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def rate(value: float, digits: int = 3) -> str:
    """A learning rate or decay: plain where that is short, otherwise with a power of ten.

    >>> rate(0.02), rate(0.00031), rate(1000.0)
    ('0.02', '3.1e-4', '1000')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return _short(f"{value:.{max(digits, 4 if abs(value) >= 1000 else 0)}g}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return _short(f"{mantissa.rstrip('0').rstrip('.')}e{exponent}")


def ticks(values: Sequence[float]) -> list[str]:
    """The numbers beside an axis, all with as many decimals as tell them apart; small and huge ones by powers of ten.

    >>> ticks([1.5, 2.0]), ticks([2e-6, 4e-6])
    (['1.5', '2.0'], ['2e-6', '4e-6'])
    """
    largest = max(map(abs, values), default=0.0)
    step = min((b - a for a, b in pairwise(sorted(values)) if b > a), default=largest)
    if not step:
        return ["0" for _ in values]
    last = math.floor(math.log10(step) + 1e-9)  # the place of the step's first digit
    if last >= -4 and largest < 1e7:
        decimals = max(-last, 0) if len(values) > 1 else len(f"{largest:.6g}".partition(".")[2])
        return [f"{value:,.{decimals}f}" for value in values]
    digits = min(max(math.floor(math.log10(largest) + 1e-9) - last, 0), 6)
    return [_short(f"{value:.{digits}e}") if value else "0" for value in values]


def rates(values: Sequence[float]) -> list[str]:
    """Learning rates beside an axis, with as many digits as tell them apart.

    >>> rates([0.01, 0.02]), rates([0.1, 0.10005, 0.1001])
    (['0.01', '0.02'], ['0.1', '0.10005', '0.1001'])
    """
    texts = [rate(value) for value in values]
    digits = 3
    while len(set(texts)) < len(set(values)) and (digits := digits + 1) < 17:
        texts = [rate(value, digits) for value in values]
    return texts


def _short(text: str) -> str:
    """A power of ten without the signs and zeros that Python adds."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def setting(value: object) -> str:
    """A hyper-parameter as it would be written in Python."""
    if isinstance(value, float):
        return rate(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(setting(one) for one in value)})"
    return str(value)
