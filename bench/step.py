"""`python -m bench step`: the time of one optimizer step, ours and each peer's, in turn in one process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence

import torch

from bench.contenders import OURS, ours, peers_of
from bench.equal_pass import PASS, bytes_per_element, equal_pass
from bench.material import Material
from bench.records import StepRow
from bench.shapes import Shapes, hidden_matrices
from bench.subjects import Subject
from bench.turns import Step, take_turns

# What the peers' Muon may take in all; it decides how many matrices they get.
MUON_SECONDS = 60.0


def measure(
    subjects: Sequence[Subject], shapes: Sequence[Shapes], rounds: int, device: torch.device
) -> Iterator[StepRow]:
    """One row for each list of tensors and rule, as soon as it is there. Muon runs on hidden matrices, with GPT-2's."""
    for tensors in shapes:
        for subject in subjects:
            if subject.rule.acts_on != "matrices":
                yield measure_one(subject, tensors, rounds, device)
            elif tensors.name == "gpt2":
                taking_part = sum(not peer.problem() for peer in peers_of(subject))
                matrices, note = hidden_matrices(MUON_SECONDS / max(1, taking_part * (rounds + 2)), device)
                yield measure_one(subject, matrices, rounds, device, note)


def measure_one(subject: Subject, shapes: Shapes, rounds: int, device: torch.device, note: str = "") -> StepRow:
    """One rule on one list of tensors. All contenders share weights and gradients; each has a state of its own."""
    material = Material(shapes, subject.dtype, device)
    steps: dict[str, Step] = {OURS: ours(material.parameters, subject.rule, device).step}
    missing: dict[str, str] = {}
    for peer in peers_of(subject):
        if problem := peer.problem():
            missing[peer.name] = problem
        else:
            steps[peer.name] = peer.build(material.parameters, subject.rule).step
    if trivial := equal_pass(subject.rule, material):
        steps[PASS] = trivial
    notes = [note] if note else []
    overwriting = _try(steps, missing, material)
    notes += [f"{name} overwrites the gradients; they are put back after each of its turns" for name in overwriting]
    restore: Callable[[str], object] = lambda name: material.restore() if name in overwriting else None  # noqa: E731
    timings = take_turns(steps, rounds, device, restore)
    if not all(bool(torch.isfinite(p).all()) for p in material.parameters):
        notes.append("weights became NaN or infinite in this run")
    row = StepRow(
        rule=subject.title,
        shapes=shapes.title,
        tensors=len(shapes.shapes),
        parameters=shapes.parameters,
        bytes_per_parameter=bytes_per_element(subject.rule, subject.dtype.itemsize),
        timings=timings,
        missing=missing,
        note="; ".join(notes),
    )
    del steps, trivial, material
    gc.collect()
    return row
