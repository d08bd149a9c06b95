"""The one place where an error looks up the name that its reader probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

# How torch's optimizers run, not what they work out: that is chosen where the training runs, never by a file.
ENGINE_FLAGS = frozenset({"foreach", "fused", "capturable", "differentiable"})
# torch's names for hyper-parameters that have others here: those of its Adafactor.
TORCHS_NAMES = {"beta2_decay": "decay_rate", "d": "clip_threshold"}


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """A clause that proposes the known name closest to `name`, or the closest ones up to `most`; an empty string where
    none is close. Closest is one that has the same two halves the other way round.

    >>> nearest("bets", ["betas", "lr"])
    " (did you mean 'betas'?)"
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = str(name).casefold()
    turned = [candidate for candidate in by_folded if _turned(folded, candidate)]
    close = difflib.get_close_matches(folded, by_folded, n=most, cutoff=0.6)
    matches = list(dict.fromkeys(turned + close))[:most]
    *others, last = [repr(by_folded[match]) for match in matches] or [""]
    return f" (did you mean {' or '.join(filter(None, (', '.join(others), last)))}?)" if last else ""


def _turned(one: str, other: str) -> bool:
    """Whether two names are the same but for dashes and for which half comes first: "adamw_schedule_free"."""
    one, other = (name.replace("-", "").replace("_", "") for name in (one, other))
    return len(one) == len(other) and one in other + other


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
