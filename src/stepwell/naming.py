"""The one place where an error looks up the name that its reader probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that proposes the known name closest to `name`, or an empty string where none is close.

    >>> nearest("bets", ["betas", "lr"])
    "; did you mean 'betas'?"
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).casefold(), by_folded, n=1, cutoff=0.6)
    return f"; did you mean {by_folded[matches[0]]!r}?" if matches else ""
