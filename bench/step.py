"""`python -m bench step`: the time of one optimizer step, ours and each peer's, in turn in one process."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch

from bench.contenders import OURS, entrants, first_line, peers_of
from bench.equal_pass import PASS, bytes_per_element, equal_pass
from bench.material import Material, Materials
from bench.records import StepRow
from bench.shapes import Shapes, bfloat16_rate, hidden_matrices
from bench.subjects import Subject
from bench.turns import Runner, host_seconds, repeated, take_turns, warmed_up
from stepwell.codecs import Storage

# What the peers' Muon may take in all; it decides how many matrices they get.
_MUON_SECONDS = 60.0


def measure(
    subjects: Sequence[Subject], shapes: Sequence[Shapes], rounds: int, device: torch.device
) -> Iterator[StepRow]:
    """One row for each list of tensors and rule that fit each other, as soon as it is there.

    Hidden matrices are for the rules of matrices, all other lists for the other rules.
    """
    for tensors in shapes:
        materials = Materials(tensors, device)
        for subject in subjects:
            if (subject.rule.acts_on == "matrices") != (tensors.name == "hidden"):
                continue
            gc.collect()  # the states of the row before
            if subject.name != "muon":
                yield measure_one(subject, materials.of(subject.dtype), rounds, device)
            else:
                slow = sum(not peer.problem() for peer in peers_of(subject))
                seconds = _MUON_SECONDS / max(1, slow * (rounds + 2))
                matrices, note = hidden_matrices(seconds, bfloat16_rate(device))
                yield measure_one(subject, Material(matrices, subject.dtype, device), rounds, device, note)


def measure_one(subject: Subject, material: Material, rounds: int, device: torch.device, note: str = "") -> StepRow:
    """One rule on one list of tensors. All contenders share weights and gradients; each has a state of its own."""
    shapes = material.shapes
    makers, missing = entrants(subject, device)
    runners: dict[str, Runner] = {}
    overwriting: list[str] = []
    for name, make in makers.items():
        try:
            runners[name] = warmed_up(repeated(make(material.parameters).step, subject.cycle), device)
        except Exception as error:
            if name == OURS:
                raise
            missing[name] = f"fails: {first_line(error)}"
        if material.overwritten():
            overwriting.append(name)
            material.restore()
    # A pass that stores in blocks, or rounds by chance, would do most of the arithmetic that it leaves out; and none
    # reads gradients twice, as clipping does.
    if not subject.storage and subject.clip_norm is None and (trivial := equal_pass(subject.rule, material)):
        runners[PASS] = warmed_up(trivial, device)
    taken = take_turns(runners, rounds, device, lambda name: name in overwriting and material.restore())
    waited = {}
    if device.type == "cuda":
        steps = {name: runner.step for name, runner in runners.items() if name != PASS}
        waited = {name: 1e3 * host_seconds(step, device) / subject.cycle for name, step in steps.items()}
    timings = {name: timing if name == PASS else timing.over(subject.cycle) for name, timing in taken.items()}
    moved = bytes_per_element(subject.rule, subject.dtype, Storage(**dict(subject.storage)))
    if moved is not None and subject.clip_norm is not None:
        moved += subject.dtype.itemsize
    mean = f"the mean of {subject.cycle} steps in a row, after which its work comes round" if subject.cycle > 1 else ""
    notes = [
        note,
        mean,
        *(f"{name} overwrites the gradients, which are put back after its turn" for name in overwriting),
    ]
    if not all(bool(torch.isfinite(p).all()) for p in material.parameters):
        notes.append("weights have become NaN or infinite")
    return StepRow(
        rule=subject.title,
        shapes=shapes.title,
        tensors=len(shapes.shapes),
        parameters=shapes.parameters,
        bytes_per_parameter=moved,
        timings=timings,
        missing=missing,
        note="; ".join(filter(None, notes)),
        host=waited,
    )
