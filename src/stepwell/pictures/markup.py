"""HTML and SVG by function call, escaped unless it is markup already."""

from __future__ import annotations

import html
from importlib.resources import files


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """The value as HTML text."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(*parts: object) -> Markup:
    """Parts one after the other."""
    return Markup("".join(escaped(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. `class_` gives `class`, `data_x` gives `data-x`; an attribute that is None is left out.

    >>> tag("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("meta", "link", "br", "hr", "img", "input"):
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def stylesheet() -> Markup:
    """The colours and lines of every page and picture; between tags, style is text that is not escaped."""
    return Markup(files("stepwell.pictures").joinpath("style.css").read_text(encoding="utf-8"))


def _number(value: object) -> str:
    """Coordinates to a hundredth of a pixel: more would only make the file larger."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
