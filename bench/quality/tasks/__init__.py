"""The tasks, and how long a run of each is: all on real data that every installation has."""

from __future__ import annotations

from dataclasses import dataclass

from bench.quality.tasks import digits, experts, text
from stepwell.compare import bytegpt
from stepwell.compare.fair import TaskOf


@dataclass(frozen=True)
class Entry:
    """A task of the evidence.

    Attributes:
        of: the task of a seed.
        steps: the horizon of a run.
        about: what is trained on what, in a few words.
        usual: whether it runs unless others are named.
    """

    of: TaskOf
    steps: int
    about: str
    usual: bool = False


TASKS: dict[str, Entry] = {
    "vit": Entry(digits.vit, 150, "a vision transformer on handwritten digits", usual=True),
    "resnet": Entry(digits.resnet, 150, "a residual network with batch norm on handwritten digits", usual=True),
    "gpt": Entry(text.gpt, 200, "a small byte-level GPT on the standard library's source", usual=True),
    "bytegpt": Entry(bytegpt.task, 200, "the task of `stepwell compare`: a byte-level GPT of a million parameters"),
    "gpt-wide": Entry(text.gpt_wide, 200, "the small GPT four times as wide"),
    "recurrent": Entry(text.recurrent, 200, "a gated recurrent network on the same text"),
    "experts": Entry(experts.experts, 200, "a mixture-of-experts GPT on the same text"),
    "adapting": Entry(text.adapting, 150, "fine-tuning the small GPT on the packages for the net"),
}
