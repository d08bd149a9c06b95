"""The one place where an error looks up the name that its reader probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """A clause that proposes the known name closest to `name`, or the closest ones up to `most`; an empty string where
    none is close.

    >>> nearest("bets", ["betas", "lr"])
    "; did you mean 'betas'?"
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).casefold(), by_folded, n=most, cutoff=0.6)
    *others, last = [repr(by_folded[match]) for match in matches] or [""]
    return f"; did you mean {' or '.join(filter(None, (', '.join(others), last)))}?" if last else ""
