from __future__ import annotations

import pytest

from stepwell.pictures.markup import Markup, joined, tag


@pytest.mark.parametrize(
    ("made", "written"),
    [
        (tag("p", "1 < 2 & 3"), "<p>1 &lt; 2 &amp; 3</p>"),
        (tag("p", tag("b", "x"), 7), "<p><b>x</b>7</p>"),
        (tag("td", class_="end", data_series=0), '<td class="end" data-series="0"></td>'),
        (tag("p", title='say "x" & go'), '<p title="say &quot;x&quot; &amp; go"></p>'),
        (tag("p", id=None), "<p></p>"),
        (tag("meta", charset="utf-8"), '<meta charset="utf-8">'),
        (tag("line", x1=1.0, x2=2.346, y1=0.5), '<line x1="1" x2="2.35" y1="0.5"></line>'),
        (joined("<", Markup("<br>")), "&lt;<br>"),
    ],
)
def test_elements(made, written):
    assert made == written
