"""The command `stepwell plot`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stepwell.schedules import Schedule

HELP = "\n\n".join(
    (
        "Draw schedules, in the terminal or as a picture.",
        "A schedule is written as in Python, or by its name alone; it is read, not run. A file that ends in .toml or "
        ".json holds one as data, and recipe:adamw is the schedule of that recipe of [bold]stepwell compare[/bold].",
        "[bold]Examples[/bold]\n"
        "  stepwell plot cosine --horizon 10000\n"
        '  stepwell plot "Cosine(warmup=0.1)" "WSD(warmup=0.1)" --out wsd.svg\n'
        "  stepwell plot \"warmup(OneCycle(), 0.05, shape='cosine')\" --lr 3e-4",
    )
)


def plot(
    schedules: Annotated[
        list[str], typer.Argument(metavar="SCHEDULE", help="Schedules to draw over each other.", show_default=False)
    ],
    horizon: Annotated[str, typer.Option(metavar="INTEGER", help="Total optimizer steps.")] = "1000",
    lr: Annotated[str, typer.Option(metavar="NUMBER", help="The base that factors multiply.")] = "1.0",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture there instead: .svg or .html.")
    ] = None,
) -> int:
    """Draws schedules; see `HELP`. Returns the exit code."""
    from stepwell.cli.arguments import number, picture, users, whole_number, write_whole
    from stepwell.report import numbers
    from stepwell.report.plots import drawing, page
    from stepwell.report.sampled import sampled
    from stepwell.report.sketch import sketch

    steps = whole_number("--horizon", horizon, low=1)
    base = number("--lr", lr, above=0)
    kind = None if out is None else picture(out)
    with users():
        found = [_read(text).resolve(steps) for text in schedules]
        series = [
            sampled(text, schedule, steps, colour=index, base=base)
            for index, (text, schedule) in enumerate(zip(schedules, found, strict=True))
        ]
    y_name = "factor" if base == 1 else "learning rate"
    if out is None:
        typer.echo(sketch([one.points for one in series], x_name="step", y_name=y_name, low=0.0), nl=False)
        for one in series:
            start, peak, end = one.points[0][1], max(y for _, y in one.points), one.points[-1][1]
            typer.echo(f"{one.name}: {numbers.rate(start)} at step 0, at most {numbers.rate(peak)}, {_end(end, steps)}")
        return 0
    drawn = drawing(series, x_name="step", y_name=y_name, low=0.0)
    write_whole(out, f"{drawn}\n" if kind == "svg" else page("Schedules", drawn))
    typer.echo(str(out))
    return 0


def _end(value: float, steps: int) -> str:
    from stepwell.report import numbers

    return f"{numbers.rate(value)} from step {steps:,} on"


def _read(text: str) -> Schedule:
    """The schedule that is written, stands in a file, or is a recipe's."""
    from stepwell.cli.arguments import InputError
    from stepwell.schedules import from_dict, from_toml, parse

    if text.startswith("recipe:"):
        from stepwell.compare.recipes import choose_recipes
        from stepwell.schedules.schedule import schedule_class

        (recipe,) = choose_recipes([text.removeprefix("recipe:")])
        return schedule_class(recipe.schedule)(warmup=recipe.warmup)
    path = Path(text)
    if path.suffix not in (".toml", ".json"):
        return parse(text)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {text!r}: {error.strerror}") from error
    try:
        return from_toml(content) if path.suffix == ".toml" else from_dict(json.loads(content))
    except (TypeError, ValueError) as error:
        raise InputError(f"{text}: {error}") from error
