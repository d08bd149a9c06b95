"""Tables of a page."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.pictures.markup import Markup, tag


def table(headings: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str, class_: str) -> Markup:
    """A table; the first cell of a row is its heading. It scrolls by itself where the page is too narrow."""
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    body = tag(
        "tbody",
        *(tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows),
    )
    inner = tag("table", tag("caption", caption), head, body, class_=class_)
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)
