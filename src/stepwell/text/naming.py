"""The one place where an error looks up the name that its reader probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

# How torch's optimizers run, not what they work out: that is chosen where the training runs, never by a file.
ENGINE_FLAGS = frozenset({"foreach", "fused", "capturable", "differentiable"})
# torch's names for hyper-parameters that have others here: those of its Adafactor.
TORCHS_NAMES = {"beta2_decay": "decay_rate", "d": "clip_threshold"}
# The names that other packages have for what has another here.
OTHERS_NAMES = TORCHS_NAMES | {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "momentum": "betas",
    **dict.fromkeys(("max_grad_norm", "gradient_clip_val", "clip_grad_norm"), "clip_norm"),
    **dict.fromkeys(("no_decay", "exclude_from_weight_decay"), "undecayed"),
    # Of schedules.
    **dict.fromkeys(("num_warmup_steps", "warmup_steps", "warmup_ratio"), "warmup"),
    **dict.fromkeys(("num_training_steps", "total_steps", "max_steps", "T_max"), "horizon"),
    **dict.fromkeys(("min_lr", "eta_min"), "end"),
    "max_lr": "peak",
    "base_lr": "low",
    "step_size": "every",
    "milestones": "at",
}
_SHARES = frozenset({"min_lr", "eta_min", "max_lr", "base_lr"})
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
    """The same for an argument, for which others may have another word: then the clause says what to write here.

    >>> meant("beta2_decay", ["lr", "decay_rate"])
    "; write 'decay_rate', as it is called here"
    """
    if name == "decoupled_weight_decay" and "decay" in known:
        return "; write decay='decoupled' for True, decay='coupled' for False"
    if OTHERS_NAMES.get(name) in known:
        is_share = "; it is a share of the optimizer's rate" if name in _SHARES else ""
        return f"; write {OTHERS_NAMES[name]!r}, as it is called here{is_share}"
    if name in ENGINE_FLAGS:
        differs = "no gradient passes through a step" if name == "differentiable" else "the engine suits the tensors"
        return f"; leave it out: {differs}"
    return nearest(name, known)


def meant_or_known(name: str, known: Collection[str]) -> str:
    """The same, and all that is known where nobody can tell what was meant.

    >>> meant_or_known("warmth", ["lr", "betas"])
    '; it takes lr, betas'
    """
    return meant(name, known) or f"; it takes {', '.join(known)}"
