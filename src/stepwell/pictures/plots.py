"""A picture by itself: schedules, or the curve of a range test, as one SVG, or as one HTML page around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stepwell.pictures.charts import Y_COUNT, Frame, Series, axes, line, path, shade, svg
from stepwell.pictures.markup import Markup, stylesheet, tag
from stepwell.text import numbers
from stepwell.text.tabular import wrapped

_FRAME = Frame(width=760, height=320, left=60, right=24)
_LEGEND_ROW = 20.0
_LEGEND_LETTERS = 80
_FONT = "system-ui, sans-serif"


def drawing(
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
    marks: Sequence[tuple[str, float]] = (),
) -> Markup:
    """Lines over one axis, each named in a legend below; an SVG that stands alone.

    Args:
        series: at least one, with at least one point each.
        x_name: what the horizontal axis counts.
        y_name: what the vertical axis counts.
        log: whether the horizontal axis is logarithmic.
        low: where the vertical axis begins; at the lowest point by default.
        high: where it ends; at the highest point by default. Lines above it leave the picture.
        marks: places on the horizontal axis to name, such as a rate that is suggested.
    """
    places = [x for one in series for x, _ in one.points]
    heights = [y for one in series for _, y in one.points]
    bottom, top = (min(heights) if low is None else low), (max(heights) if high is None else high)
    room = 0.06 * (top - bottom) or 0.5
    legends = [wrapped(one.name, _LEGEND_LETTERS) or [""] for one in series]
    legend = _LEGEND_ROW * sum(map(len, legends))
    frame = replace(_FRAME, height=_FRAME.height + legend, bottom=_FRAME.bottom + legend)
    y = frame.y(bottom, top + room)
    frame = frame.beside(numbers.rates(y.ticks(Y_COUNT)))
    x = frame.x(min(places), max(places), log=log)
    # A ground of its own: in a notebook or a README the page may be light where the reader's system is dark.
    ground = tag("rect", width=frame.width, height=frame.height, rx=8, style="fill:var(--card)")
    x_write = numbers.rates if log else numbers.ticks
    parts = [ground, axes(frame, x, y, "", x_write=x_write, y_write=numbers.rates, whole=x_name == "step")]
    clip = f"clip-{frame.width:.0f}-{frame.height:.0f}-{frame.left:.0f}"
    box = tag("rect", x=x.start, y=y.end, width=x.end - x.start, height=y.start - y.end)
    clipped = {}
    if high is not None:
        parts.append(tag("defs", tag("clipPath", box, id=clip)))
        clipped = {"clip_path": f"url(#{clip})"}
    parts.append(tag("text", x_name, x=x.end, y=y.start + 33, class_="tick end name"))
    parts.append(tag("text", y_name, x=x.start + 6, y=y.end + 4, class_="tick name"))
    for index, (name, place) in enumerate(marks):
        parts.append(tag("line", x1=x(place), x2=x(place), y1=y.end, y2=y.start, class_="target"))
        text = f"{name} {numbers.rate(place)}"
        parts.append(tag("text", text, x=x(place) + 4, y=y.end + 16 + 16 * index, class_="tick"))
    height = y.start + 42
    for one, (first, *more) in zip(series, legends, strict=True):
        drawn = [
            tag("path", **line(one.colour), d=path([(x(a), y(b)) for a, b in one.points]), **clipped),
            tag("line", **line(one.colour), x1=x.start, x2=x.start + 22, y1=height - 4, y2=height - 4),
            tag("text", first, x=x.start + 30, y=height, class_="label"),
        ]
        height += _LEGEND_ROW
        for text in more:
            drawn.append(tag("text", text, x=x.start + 30, y=height, class_="label"))
            height += _LEGEND_ROW
        parts.append(tag("g", *drawn, class_=shade(one.colour)))
    title = f"{y_name} against {x_name}: {'; '.join(one.name for one in series)}."
    return svg(
        frame, tag("style", stylesheet()), *parts, title=title, xmlns="http://www.w3.org/2000/svg", font_family=_FONT
    )


def page(title: str, *content: Markup) -> str:
    """One HTML document that needs nothing else to be read; pictures in it stand in a frame."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", stylesheet()),
    )
    body = tag(
        "body",
        tag("main", tag("h1", title), *(tag("figure", one) if one.startswith("<svg") else one for one in content)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
