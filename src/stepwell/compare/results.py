"""What a comparison measured, as data: `results.json` is exactly this, and the report shows nothing else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Group:
    """One parameter group as it stood before the first step: lr is the base that the schedule scales."""

    name: str
    rule: str
    tensors: int
    weights: int
    lr: float
    weight_decay: float
    role: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The validation loss after `step` steps, which took `seconds` without the evaluations."""

    step: int
    seconds: float
    loss: float


@dataclass(kw_only=True)
class RunResult:
    """One recipe's run; lists that grow with every step.

    `lr` holds the learning rate of every group at every step, `step_seconds` the time from the batch to the end of the
    step, and `optimizer_seconds` the part of it inside `optimizer.step()`. `diverged_at` counts the steps before the
    loss that was not finite.
    """

    recipe: str
    title: str
    settings: dict[str, Any]
    planned_steps: int
    groups: list[Group] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    lr: dict[str, list[float]] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    state_bytes: int = 0
    diverged_at: int | None = None

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> RunResult:
        """The run that `asdict` gave."""
        groups = [Group(**group) for group in data["groups"]]
        evaluations = [Evaluation(**evaluation) for evaluation in data["evaluations"]]
        return cls(**{**data, "groups": groups, "evaluations": evaluations})

    @property
    def steps(self) -> int:
        return len(self.step_seconds)

    @property
    def status(self) -> str:
        if self.diverged_at is not None:
            return "diverged"
        return "finished" if self.steps == self.planned_steps else "interrupted"

    @property
    def last_loss(self) -> float | None:
        """The last validation loss, or None where none was measured or the run diverged."""
        return self.evaluations[-1].loss if self.evaluations and self.diverged_at is None else None

    def loss_after(self, step: int | None) -> float | None:
        """The validation loss after that step, or None where it was not measured or the run diverged."""
        losses = {one.step: one.loss for one in self.evaluations} if self.diverged_at is None else {}
        return None if step is None else losses.get(step)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the results table. None stands for what was not reached or not measured.

    `final_loss` is the loss after `Comparison.last_step`.
    `steps_to_baseline` and `seconds_to_baseline` say when the run first was at the baseline's final loss, interpolated
    between two evaluations; `step_milliseconds` is the median, and `optimizer_share` the ratio of the medians of
    optimizer and step, so that neither depends on a moment when the machine was busy elsewhere.
    """

    recipe: str
    title: str
    status: str
    steps: int
    final_loss: float | None
    steps_to_baseline: float | None
    seconds_to_baseline: float | None
    step_milliseconds: float | None
    optimizer_share: float | None
    state_bytes: int


@dataclass(kw_only=True)
class Comparison:
    """All runs of one `stepwell compare`, the baseline first, and what has to be known to repeat it.

    `clip_norm` is the global norm that gradients are clipped to; None where recipes differ in it, or none clips.
    """

    task: str
    about: str
    seed: int
    steps: int
    clip_norm: float | None
    versions: dict[str, str]
    threads: int
    runs: list[RunResult] = field(default_factory=list)
    interrupted: bool = False
    sweep: dict[str, Any] = field(default_factory=dict)

    @property
    def last_step(self) -> int | None:
        """The last step after which every run that did not diverge was evaluated: an interrupt finds some further."""
        return min((run.evaluations[-1].step for run in self.runs if run.last_loss is not None), default=None)

    @property
    def rows(self) -> list[Row]:
        """The results table; the first run is the baseline."""
        target = self.runs[0].loss_after(self.last_step) if self.runs else None
        return [_row(run, self.last_step, target) for run in self.runs]

    def to_json(self) -> str:
        content = {"format": FORMAT, **asdict(self), "results": [asdict(row) for row in self.rows]}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """The comparison that `to_json` wrote.

        Raises:
            ValueError: if the text is not of this format.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"results must be of format {FORMAT}, written by stepwell compare")
        del content["results"]
        content["runs"] = [RunResult.from_data(run) for run in content["runs"]]
        return cls(**content)


def _row(run: RunResult, last_step: int | None, target: float | None) -> Row:
    reached, seconds = first_reach(run.evaluations, target) if target is not None else (None, None)
    step = statistics.median(run.step_seconds) if run.step_seconds else 0.0
    return Row(
        recipe=run.recipe,
        title=run.title,
        status=run.status,
        steps=run.steps,
        final_loss=run.loss_after(last_step),
        steps_to_baseline=reached,
        seconds_to_baseline=seconds,
        step_milliseconds=step * 1e3 if step else None,
        optimizer_share=statistics.median(run.optimizer_seconds) / step if step else None,
        state_bytes=run.state_bytes,
    )


def first_reach(evaluations: Sequence[Evaluation], target: float) -> tuple[float | None, float | None]:
    """Steps and seconds at which the loss first is at most `target`, on the straight line between two evaluations."""
    before: Evaluation | None = None
    for now in evaluations:
        if now.loss <= target:
            if before is None:
                return float(now.step), now.seconds
            part = (before.loss - target) / (before.loss - now.loss)
            return before.step + part * (now.step - before.step), before.seconds + part * (now.seconds - before.seconds)
        before = now
    return None, None
