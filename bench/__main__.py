"""`python -m bench step|memory|start|schedule|plan|checkpoint|storage|ranks|table|gallery|scale|stub`, and
`quality|large|evidence`, from the repository's root."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from bench import checkpoint, gallery, memory, plan, presets, ranks, scale, schedule, start, step, storage, stub, table
from bench.contenders import PEERS
from bench.machine import this_machine
from bench.quality import command as quality_command
from bench.records import RESULTS, Report, Row, check_same, load, merged
from bench.shapes import GPT2, SHAPES
from bench.subjects import SUBJECTS
from bench.turns import copy_bandwidth
from stepwell.text.naming import nearest

_ROUNDS, _QUICK_ROUNDS, _FEWEST_ROUNDS = 9, 3, 7
# What runs whole processes or trainings, and so fewer of them: three, and one that is quick.
_LONG = {"start": "processes", "plan": "processes", "storage": "seeds"}
_LONG_ROUNDS, _QUICK_LONG_ROUNDS = 3, 1
# Of the trainings that compare storages: as many as the committed sweep's tries took.
_STEPS = 200
_T = TypeVar("_T")


def main(arguments: list[str] | None = None) -> None:
    """Run one benchmark, print its table, and keep the result."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.what in ("quality", "large", "evidence"):
        quality_command.main(parser, given)
        return
    if given.what == "table":
        print(table.write())
        return
    if given.what == "gallery":
        print(gallery.write(), gallery.draw(), presets.write(), sep="\n")
        return
    if given.what == "scale":
        print(scale.write())
        return
    if given.what == "stub":
        print(stub.write())
        return
    try:
        subjects = _chosen("rule", given.rules, SUBJECTS)
        device = _device(given.device)
        usual = {name: shapes for name, shapes in SHAPES.items() if device.type in shapes.devices}
        shapes = _chosen("shapes", given.shapes, SHAPES if given.shapes else usual)
    except ValueError as error:
        parser.error(str(error))
    if given.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {given.repeats}")
    rounds = min(given.repeats, given.quick_rounds) if given.quick else given.repeats
    whole = not given.rules and not given.shapes
    enough = not given.quick
    rows: Iterable[Row]
    if given.what == "step":
        settings = {"rounds": str(rounds), "peers": ", ".join(_versions())}
        if device.type == "cuda":
            settings["GB/s of a copy"] = f"{copy_bandwidth(device):.0f}"
        rows = step.measure(subjects, shapes, rounds, device)
        enough = enough and rounds >= _FEWEST_ROUNDS
    elif given.what == "memory":
        settings = {"peers": ", ".join(_versions())}
        rows = memory.measure(subjects, shapes if given.shapes else [GPT2], device)
    elif given.what == "storage":
        settings = {"seeds": str(rounds)}
        rows = storage.measure(_STEPS, range(1, rounds + 1))
    elif given.what == "schedule":
        settings = {"rounds": str(rounds)}
        rows = schedule.measure(rounds)
        enough = enough and rounds >= _FEWEST_ROUNDS
    elif given.what == "checkpoint":
        settings = {"rounds": str(rounds)}
        rows = checkpoint.measure(rounds)
        enough = enough and rounds >= _FEWEST_ROUNDS
    elif given.what == "ranks":
        settings = {"rounds": str(rounds), "threads a rank": "1"}
        rows = ranks.measure(rounds)
        enough = enough and rounds >= _FEWEST_ROUNDS
    elif given.what == "plan":
        settings = {"processes": str(rounds)}
        rows = plan.measure(rounds)
    else:
        settings = {"processes": str(rounds)}
        rows = start.measure(subjects if given.rules else [SUBJECTS[name] for name in start.USUAL], rounds)
    machine = this_machine(device)
    empty = Report(given.what, machine, settings, [])
    folder = given.out or (RESULTS if enough else None)
    saved = None
    if folder is not None and not whole and _is_committed(folder) and (path := empty.path(folder)).exists():
        saved = load(path)
        try:
            check_same(saved, machine)
        except ValueError as error:
            parser.error(f"{error}; measure everything, or say with --out DIR where to save a part")
    found = _printed(rows)
    if not found:
        parser.error("nothing to measure: rules of matrices take --shapes hidden, the others gpt2, small and square")
    report = replace(empty, rows=found)
    _keep(merged(saved, report) if saved else report, folder)


def _printed(rows: Iterable[Row]) -> list[Row]:
    """The rows, each printed as soon as it is there."""
    found: list[Row] = []
    heading = ""
    for row in rows:
        if table.heading_of(row) != heading:
            heading = table.heading_of(row)
            print(f"\n{heading}\n", *table.header(row), sep="\n")
        print(table.line(row), flush=True)
        found.append(row)
    return found


def _keep(report: Report, folder: Path | None) -> None:
    """Save a report; among the committed results, also on the pages made of them."""
    if folder is None:
        print("\ntoo few rounds, so nothing is saved; --out DIR saves it there")
        return
    print(f"\n{report.save(folder)}")
    if _is_committed(folder):
        print(table.write())
        print(gallery.write())


def _is_committed(folder: Path) -> bool:
    return folder.resolve() == RESULTS.resolve()


def _chosen(kind: str, names: str | None, known: Mapping[str, _T]) -> list[_T]:
    """The entries of these names, divided by commas; all of them where none is given."""
    if not names:
        return list(known.values())
    for name in names.split(","):
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device")
    return torch.device(name)


def _versions() -> list[str]:
    return sorted({peer.version() for peer in PEERS if not peer.problem()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed and memory, side by side with peers.")
    commands = parser.add_subparsers(
        dest="what",
        required=True,
        metavar="{step,memory,start,schedule,plan,checkpoint,storage,ranks,quality,large,table,gallery,evidence,scale,stub}",
    )
    for what, about in (
        ("step", "time of one step, ours and each installed peer's, in turn in one process"),
        ("memory", "peak memory of one step above parameters, gradients and state"),
        ("start", "imports, and the first step with an empty and a filled kernel cache"),
        ("plan", "a plan of a model of 70 billion parameters: time and memory, in fresh processes"),
        ("schedule", "one call of a schedule, and one step of a scheduler beside torch's and transformers'"),
        ("checkpoint", "a save and a load of GPT-2 small with AdamW's state, beside torch.save with fsync"),
        ("ranks", "one step of a rule of matrices on two ranks, beside the same step on one"),
        ("storage", "the loss of a training whose state is stored in fewer bits (an hour or so)"),
    ):
        command = commands.add_parser(what, help=about, description=about)
        if what not in ("schedule", "plan", "checkpoint", "storage", "ranks"):
            usual = ", ".join(start.USUAL) if what == "start" else "all"
            command.add_argument("--rules", metavar="NAMES", help=f"of {', '.join(SUBJECTS)}; {usual} by default")
        command.add_argument("--out", type=Path, metavar="DIR", help="where the JSON goes; bench/results by default")
        command.set_defaults(rules=None, shapes=None, device="cpu", repeats=1, quick=False)
        if what in ("step", "memory"):
            default = "gpt2" if what == "memory" else "all that suit the device"
            command.add_argument("--shapes", metavar="NAMES", help=f"of {', '.join(SHAPES)}; {default} by default")
            command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        if what != "memory":
            unit = _LONG.get(what, "rounds")
            repeats, quick = (_LONG_ROUNDS, _QUICK_LONG_ROUNDS) if what in _LONG else (_ROUNDS, _QUICK_ROUNDS)
            command.set_defaults(quick_rounds=quick)
            command.add_argument("--repeats", type=int, default=repeats, metavar="N", help=f"{unit}, default {repeats}")
            command.add_argument(
                "--quick", action="store_true", help=f"at most {quick} of the {unit}; saved with --out alone"
            )
    quality_command.add_to(commands)
    commands.add_parser("table", help="write docs/benchmarks.md from bench/results")
    commands.add_parser(
        "gallery",
        help="write docs/optimizers.md from the rules and bench/results, the presets of docs/recipes.md; draw "
        "docs/paths.svg",
    )
    commands.add_parser("scale", help="write the tables of docs/scale.md from plans of large models")
    commands.add_parser("stub", help="write src/stepwell/facades.pyi from the signatures of the optimizers")
    return parser


if __name__ == "__main__":
    main()
