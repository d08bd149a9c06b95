"""The one place where an error looks up the name that its reader probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

# How torch's optimizers run, not what they work out: that is chosen where the training runs, never by a file.
ENGINE_FLAGS = frozenset({"foreach", "fused", "capturable", "differentiable"})
# torch's names for hyper-parameters that have others here: those of its Adafactor.
TORCHS_NAMES = {"beta2_decay": "decay_rate", "d": "clip_threshold"}


_CLOSE = 0.61  # at 0.6 "none" is close to "Cosine"
# Where one half of a name ends and another begins: at a dash, and before a capital.
SEAM = re.compile(r"[_-]|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """A clause that proposes the known name closest to `name`, or the closest ones up to `most`; an empty string where
    none is close. Closest is one that has the same two halves the other way round.

    >>> nearest("bets", ["betas", "lr"])
    " (did you mean 'betas'?)"
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    name = str(name)
    turned = [folded for folded, candidate in by_folded.items() if _turns(name) & _turns(candidate)]
    close = difflib.get_close_matches(name.casefold(), by_folded, n=most, cutoff=_CLOSE)
    matches = list(dict.fromkeys(turned + close))[:most]
    *others, last = [repr(by_folded[match]) for match in matches] or [""]
    return f" (did you mean {' or '.join(filter(None, (', '.join(others), last)))}?)" if last else ""


def _turns(name: str) -> set[str]:
    """The name without case and dashes, and with its halves the other way round: "adamw_schedule_free"."""
    turns = [name, *(name[seam.end() :] + name[: seam.start()] for seam in SEAM.finditer(name))]
    return {turn.casefold().replace("-", "").replace("_", "") for turn in turns}


def meant(name: str, known: Collection[str]) -> str:
    """The same for a hyper-parameter, of which torch may have another word: then the clause says what to write here.

    >>> meant("beta2_decay", ["lr", "decay_rate"])
    "; write 'decay_rate', as it is called here"
    """
    if name == "decoupled_weight_decay" and "decay" in known:
        return "; write decay='decoupled' for True, decay='coupled' for False"
    if TORCHS_NAMES.get(name) in known:
        return f"; write {TORCHS_NAMES[name]!r}, as it is called here"
    if name in ENGINE_FLAGS:
        differs = "no gradient passes through a step" if name == "differentiable" else "the engine suits the tensors"
        return f"; leave it out: {differs}"
    return nearest(name, known)
