"""`python -m bench large`: a GPT of 126 million parameters on a GPU, at the rates that the small one found.

Nothing is tuned here. Each rule takes the settings of its best try on the task `gpt` (width 64), its rates divided by
the growth of the width: of a matrix with n inputs, updates whose elements have one size and are correlated add up to n
times as much in its output (Yang et al. 2022, arXiv:2203.03466, table 3). Muon's are orthogonal: at the size of AdamW's
elements they add up to √n, and its own rate is divided by the root. One rate serves a rule's embedding too, as on the
small task. One seed, one run of each rule; each run is a file of its own, and is not made again.
"""

from __future__ import annotations

import functools
import json
import statistics
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.machine import Machine, this_machine
from bench.quality import running
from bench.quality.tasks.text import WIDTH
from bench.quality.variations import contestant
from bench.records import RESULTS
from stepwell.compare.bytegpt import ByteGPT, crops, read_corpus
from stepwell.compare.contestants import ContestantError
from stepwell.compare.experiment import evaluation_steps
from stepwell.compare.fair import lowest
from stepwell.compare.fair_contestants import BASELINE
from stepwell.compare.kept import POINTS
from stepwell.compare.results import Evaluation, first_reach
from stepwell.compare.standing import tries
from stepwell.compare.task import Task, seed_of
from stepwell.compare.training import Run

FOLDER = RESULTS / "large"
LARGE_RULES = (BASELINE, "muon", "soap", "lion", "schedule-free")
STEPS = 1500
# Steps before the clock is read: kernels are compiled, products are tuned, bases are made.
_WARM = 20
# The power of the width that a rate is divided by.
_POWERS = {"lr": 1.0, "adamw_lr": 1.0}
_ORTHOGONAL = {**_POWERS, "lr": 0.5}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of the model and its batches; the default has 126 million parameters and 16,384 bytes a step."""

    width: int = 1024
    layers: int = 10
    heads: int = 16
    context: int = 512
    sequences: int = 32
    held_out: int = 64


@dataclass(frozen=True, kw_only=True)
class LargeRun:
    """One rule's run. Losses are (step, seconds of training, validation loss); milliseconds are means over all steps
    but the first `_WARM`, of a whole step and of the optimizer's part, for what a rule does only every tenth step
    counts; bytes are those of the optimizer's state, and the most that the device held (None on a CPU)."""

    rule: str
    title: str
    settings: dict[str, Any]
    parameters: int
    bytes_a_step: int
    text_bytes: int
    steps: int
    losses: tuple[tuple[int, float, float], ...]
    diverged_at: int | None
    milliseconds: float | None
    optimizer_milliseconds: float | None
    state_bytes: int
    peak_bytes: int | None
    machine: Machine

    @property
    def loss(self) -> float | None:
        """The last one, None where the run diverged."""
        return self.losses[-1][2] if self.losses and self.diverged_at is None else None

    def seconds_to(self, loss: float | None) -> float | None:
        """Seconds of training until the curve first is at this loss, None where it never is."""
        if loss is None or self.diverged_at is not None:
            return None
        curve = [Evaluation(step=step, seconds=seconds, loss=one) for step, seconds, one in self.losses]
        return first_reach(curve, loss)[1]


def transferred(rule: str, width: int, small: Path = running.FOLDER) -> dict[str, Any]:
    """The settings of the rule's best try on `gpt`, its rates divided by how many times as wide the model is; Muon's
    own by the root of that.

    Raises:
        ContestantError: there is no such try.
    """
    best = lowest(tries(running.outcomes(small).get("gpt", {}).get(rule, {})))
    if best is None:
        raise ContestantError(
            f"rule {rule!r} has no finished try on the task 'gpt' in {str(small)!r}, where its rate is taken from; run "
            f"python -m bench quality --tasks gpt --rules {BASELINE},{rule}"
        )
    powers = _ORTHOGONAL if rule == "muon" else _POWERS
    return {
        name: float(f"{value * (WIDTH / width) ** powers[name]:.3g}") if name in powers else value
        for name, value in best.order.settings.items()
    }


def task_on(device: torch.device, size: Size, seed: int = 0) -> Task:
    """A byte-level GPT on the Python source of the standard library and of torch, computed in bfloat16 (autocast)."""
    train, held_out = (part.to(device) for part in _corpus())
    starts = torch.linspace(0, len(held_out) - size.context - 1, size.held_out).long()

    def model() -> nn.Module:
        return ByteGPT(width=size.width, layers=size.layers, heads=size.heads, context=size.context).to(device)

    def batch(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        starts = torch.randint(len(train) - size.context, (size.sequences,), generator=generator)
        return crops(train, starts, size.context)

    def loss(trained: nn.Module, text: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logits = trained(text[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].flatten())

    def validate(trained: nn.Module) -> float:
        parts = torch.split(starts, size.sequences)
        losses = [loss(trained, crops(held_out, part, size.context)) * len(part) for part in parts]
        return float(torch.stack(losses).sum() / len(starts))

    return Task(name="large", model=model, batch=batch, loss=loss, validate=validate)


@functools.cache
def _corpus() -> tuple[Tensor, Tensor]:
    """Training and validation bytes: all of the source that is found wherever this runs."""
    folders = (Path(sysconfig.get_paths()["stdlib"]), Path(torch.__file__).parent)
    train, held_out = zip(*map(read_corpus, folders), strict=True)
    return torch.cat(train), torch.cat(held_out)


def trained(rule: str, settings: Mapping[str, Any], device: torch.device, size: Size, steps: int) -> LargeRun:
    """One run."""
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    run = Run(task_on(device, size), contestant(rule), settings, steps=steps, seed=0)
    run.evaluate()
    for until in evaluation_steps(steps, POINTS):
        run.advance(until)
        run.evaluate()
    result = run.result
    return LargeRun(
        rule=rule,
        title=result.title,
        settings=dict(settings),
        parameters=sum(p.numel() for p in run.model.parameters()),
        bytes_a_step=size.sequences * size.context,
        text_bytes=len(_corpus()[0]),
        steps=steps,
        losses=tuple((one.step, round(one.seconds, 3), float(f"{one.loss:.6g}")) for one in result.evaluations),
        diverged_at=result.diverged_at,
        milliseconds=_mean(result.step_seconds),
        optimizer_milliseconds=_mean(result.optimizer_seconds),
        state_bytes=result.state_bytes,
        peak_bytes=torch.cuda.max_memory_allocated(device) if is_cuda else None,
        machine=this_machine(device),
    )


def _mean(seconds: Sequence[float]) -> float | None:
    return round(1e3 * statistics.fmean(seconds[_WARM:] or seconds), 3) if seconds else None


def run_all(
    rules: Sequence[str], device: torch.device, folder: Path = FOLDER, *, steps: int = STEPS, size: Size | None = None
) -> list[Path]:
    """The runs of these rules that are not there yet, each kept as soon as it is through. Returns all files."""
    size = size or Size()
    paths = []
    for rule in rules:
        path = folder / f"{rule}.json"
        if not path.exists():
            settings = transferred(rule, size.width)
            found = trained(rule, settings, device, size, steps)
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        paths.append(path)
    return paths


def load(folder: Path = FOLDER) -> list[LargeRun]:
    """The runs that are kept, in the order of `LARGE_RULES`."""
    paths = [path for rule in LARGE_RULES if (path := folder / f"{rule}.json").is_file()]
    return [_read(json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def _read(content: dict[str, Any]) -> LargeRun:
    losses = tuple((step, seconds, loss) for step, seconds, loss in content.pop("losses"))
    return LargeRun(losses=losses, machine=Machine(**content.pop("machine")), **content)
