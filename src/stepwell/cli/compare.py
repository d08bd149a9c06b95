"""The command `stepwell compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

# A paragraph is one line: the terminal's width breaks it.
HELP = "\n\n".join(
    (
        "Train one model under several recipes, and see which gets where, and how fast.",
        "Every recipe starts from the [bold]same weights[/bold], sees the [bold]same batches[/bold] and was tuned with "
        "the [bold]same number of tries[/bold]. The result is one [bold]report.html[/bold] that opens offline, and its "
        "numbers in [bold]results.json[/bold]. Ctrl-C writes the report of what there is, and --resume goes on.",
        "Without --task, a byte-level GPT of a million weights learns the Python source of your standard library; that "
        "takes about three minutes on two cores. It runs on the CPU; a task of your own runs where its model lies.",
        "[bold]Recipes[/bold]\n"
        "  adamw          AdamW, cosine schedule\n"
        "  lion           Lion, cosine schedule\n"
        "  muon           Muon for hidden matrices, AdamW elsewhere, cosine schedule\n"
        "  schedule-free  Schedule-Free AdamW, constant rate after warm-up\n"
        "  mine.toml      a recipe of your own (.toml or .json), at the settings in it\n"
        "and every other one of [bold]stepwell presets[/bold], at its own settings.",
        "[bold]Examples[/bold]\n"
        "  stepwell compare\n"
        "  stepwell compare --recipes adamw,muon --steps 1000 --out muon\n"
        "  stepwell compare --recipes a.toml,b.toml --task lines:fit\n"
        "  stepwell compare --task lines:fit --sweep\n"
        "  stepwell compare --task lines:fit --fair 8",
    )
)
GREATEST_SEED = 2**31 - 2  # a sweep takes the next one
SWEEP_TRIES = 16


def compare(
    recipes: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Recipes to compare, with commas between: names, or files; the first is the baseline.",
        ),
    ] = "adamw,lion,muon,schedule-free",
    task: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Your own model and data: a function of the seed that returns a stepwell.compare.Task; a whole one "
            "stands in docs/getting-started.md and in that class's docstring. The current directory is importable.",
        ),
    ] = "bytegpt",
    steps: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="Steps of each run.", show_default="the task's own")
    ] = None,
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="Draws the weights and the batches.")] = "0",
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Where report.html and results.json are written.")
    ] = "stepwell-compare",
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Search learning rate, decay and betas first, with the same number of tries for every recipe, and "
            "compare at the best found (written to sweep.json). Without it, settings are those of the sweep that comes "
            "with stepwell, or the recipe's own.",
        ),
    ] = False,
    fair: Annotated[
        str | None,
        typer.Option(
            metavar="TRIES",
            help="The protocol of docs/evidence.md on your task: so many tries for every recipe, at points that Optuna "
            "draws; the best again from 3 fresh seeds, at half and twice its rate, and over 4 times the steps. Every "
            "run is kept under --out/fair, and the same command goes on, or one with more tries. With 8 tries it takes "
            "17 times --steps each. Rates and decays are searched over a factor of 100, gradients clipped to a norm of "
            "1 unless a recipe says otherwise; a recipe of the evidence has its ranges there.",
            show_default=False,
        ),
    ] = None,
    tries: Annotated[
        str | None,
        typer.Option(metavar="INTEGER", help="Tries of each recipe in a sweep.", show_default=str(SWEEP_TRIES)),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, as in results.json; progress goes to stderr.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a comparison that was killed or interrupted, from the checkpoints that it left under "
            "--out: the same command again. The result has the same bits. Without it, they are replaced.",
        ),
    ] = False,
) -> int:
    """Trains one model under several recipes and writes the report; see `HELP`. Returns the exit code."""
    from stepwell.cli.arguments import InputError, listed, output_directory, users, whole_number
    from stepwell.cli.job import INTERRUPTED
    from stepwell.compare.contestants import CONTESTANTS, choose
    from stepwell.compare.sweep import committed_sweep
    from stepwell.compare.task import load_task

    with users():
        if fair is not None:
            from stepwell.compare.fair_contestants import choose_fairly

            chosen = choose_fairly(listed(recipes))
        else:
            chosen = choose(listed(recipes))
    drawn = whole_number("--seed", seed, low=0, high=GREATEST_SEED)
    length = whole_number("--steps", steps, low=1) if steps is not None else None
    budget = whole_number("--tries", tries, low=1) if tries is not None else SWEEP_TRIES
    fair_tries = whole_number("--fair", fair, low=1) if fair is not None else None
    if fair_tries is not None:
        others = {
            "--sweep": (sweep, "it searches by itself"),
            "--resume": (resume, "it always goes on"),
            "--json": (as_json, "it writes fair.json"),
            "--tries": (tries is not None, f"it makes as many as it says itself, here {fair_tries}"),
        }
        for other, (given, why) in others.items():
            if given:
                raise InputError(f"--fair takes no {other}: {why}")
    elif tries is not None and not sweep:
        raise InputError("--tries needs --sweep: without it every recipe runs once, as it is written")
    if not out:  # Path("") would be the current directory, and the likely cause is a variable that was not set
        raise InputError("--out must be a directory that can be written, got ''")
    if fair_tries is not None:
        from stepwell.cli.fair import run_fairly
        from stepwell.compare.fair import Protocol

        try:
            length = length or load_task(task, drawn).steps
            protocol = Protocol(steps=length, tries=fair_tries, seed=drawn)
            with output_directory(Path(out)) as directory:
                return run_fairly(lambda seed: load_task(task, seed), chosen, protocol, directory)
        except KeyboardInterrupt:
            print("stepwell: interrupted; the same command goes on", file=sys.stderr)
            return INTERRUPTED

    loaded = load_task(task, drawn)
    from stepwell.cli.job import Job
    from stepwell.cli.summary import console
    from stepwell.compare.unfinished import Unfinished

    unfinished = Unfinished(Path(out) / "unfinished", resume=resume)
    try:
        with output_directory(Path(out)) as directory:
            job = Job(
                console=console(stderr=as_json),
                contestants=chosen,
                task=loaded,
                steps=length or loaded.steps,
                seed=drawn,
                out=directory,
                unfinished=unfinished,
                as_json=as_json,
            )
            if sweep:
                return job.search(load_task(task, drawn + 1), budget)
            tuned = [each.name for each in chosen if CONTESTANTS.get(each.name) is each]
            return job.compare(committed_sweep().of(tuned))
    except KeyboardInterrupt:
        print("stepwell: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
