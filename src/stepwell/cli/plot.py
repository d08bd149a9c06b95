"""The command `stepwell plot`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stepwell.schedules import Schedule

HELP = "\n\n".join(
    (
        "Draw schedules, in the terminal or as a picture.",
        "A schedule is written as in Python, or by its name alone; it is read, not run. A file that ends in .toml or "
        ".json holds one as data; recipe:muon draws what that recipe of [bold]stepwell presets[/bold] schedules, and "
        "recipe:mine.toml what a recipe of your own does.",
        "[bold]Examples[/bold]\n"
        "  stepwell plot cosine --horizon 10000\n"
        '  stepwell plot "Cosine(warmup=0.1)" "WSD(warmup=0.1)" --out wsd.svg\n'
        "  stepwell plot \"warmup(OneCycle(), 0.05, shape='cosine')\" --lr 3e-4\n"
        "  stepwell plot recipe:llama --horizon 10000",
    )
)
STEPS = 1000
MOST_COLUMNS = 80
BESIDE = 8  # columns for the numbers beside the drawing


def plot(
    schedules: Annotated[
        list[str], typer.Argument(metavar="SCHEDULE", help="Schedules to draw over each other.", show_default=False)
    ],
    horizon: Annotated[
        str | None,
        typer.Option(metavar="INTEGER", help="Total optimizer steps.", show_default=f"{STEPS}, or a schedule's own"),
    ] = None,
    lr: Annotated[str, typer.Option(metavar="NUMBER", help="The base that factors multiply.")] = "1.0",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture there instead: .svg or .html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: steps and values.")] = False,
) -> int:
    """Draws schedules; see `HELP`. Returns the exit code."""
    from stepwell.cli.arguments import InputError, number, picture, users, whole_number, write_whole
    from stepwell.pictures.plots import drawing, page
    from stepwell.pictures.sampled import sampled
    from stepwell.pictures.sketch import sketch
    from stepwell.text import numbers

    given = None if horizon is None else whole_number("--horizon", horizon, low=1)
    base = number("--lr", lr, above=0)
    kind = None if out is None else picture(out)
    if as_json and out is not None:
        raise InputError("--out writes a picture and --json prints data: give one of them")
    with users():
        found = {name: schedule for text in schedules for name, schedule in _read(text).items()}
        steps = given or max(STEPS, *map(_own_end, found.values()))
        resolved = {name: _resolved(name if len(found) > 1 else "", one, steps, given) for name, one in found.items()}
        series = [
            sampled(name, schedule, steps, colour=index, base=base)
            for index, (name, schedule) in enumerate(resolved.items())
        ]
    if as_json:
        data = [
            {
                "name": one.name,
                "schedule": repr(resolved[one.name]),
                "steps": [int(step) for step, _ in one.points],
                "values": [value for _, value in one.points],
            }
            for one in series
        ]
        typer.echo(json.dumps({"horizon": steps, "lr": base, "schedules": data}, indent=1, ensure_ascii=False))
        return 0
    y_name = "factor" if base == 1 else "learning rate"
    if out is None:
        room = min(shutil.get_terminal_size((MOST_COLUMNS, 0)).columns, MOST_COLUMNS) - BESIDE
        drawn = sketch([one.points for one in series], width=max(room, 10), x_name="step", y_name=y_name, low=0.0)
        typer.echo(drawn, nl=False)
        for one in series:
            start, peak, end = one.points[0][1], max(y for _, y in one.points), one.points[-1][1]
            last = f"at step {steps:,}" if _own_end(resolved[one.name]) > steps else f"from step {steps:,} on"
            values = f"{numbers.rate(start)} at step 0, at most {numbers.rate(peak)}, {numbers.rate(end)}"
            typer.echo(f"{one.name}: {values} {last}")
        return 0
    drawn = drawing(series, x_name="step", y_name=y_name, low=0.0)
    write_whole(out, f"{drawn}\n" if kind == "svg" else page("Schedules", drawn))
    typer.echo(str(out))
    return 0


def _resolved(name: str, schedule: Schedule, steps: int, given: int | None) -> Schedule:
    """The schedule over so many steps. Its error begins with the name, where it has one."""
    from stepwell.cli.arguments import InputError

    try:
        return schedule.resolve(steps)
    except ValueError as error:
        where = f"{name}: " if name else ""
        raise InputError(f"{where}{error}; give --horizon" if given is None else f"{where}{error}") from error


def _own_end(schedule: Schedule) -> int:
    """Where the horizon that a schedule has of its own ends, or that of one inside it; 0 where there is none."""
    from stepwell.schedules.composition import Clamp, Product, Shift, Warmup
    from stepwell.schedules.sequence import Sequence

    if own := getattr(schedule, "horizon", None):
        return int(own)
    match schedule:
        case Clamp(schedule=inner):
            return _own_end(inner)
        case Product(schedules=factors):
            return max(map(_own_end, factors))
        case Warmup(schedule=inner, length=before) | Shift(schedule=inner, by=before):
            pass
        case Sequence(pieces=(*_, inner), at=(*_, before)):
            pass
        case _:
            return 0
    end = _own_end(inner)
    return end + before if end and isinstance(before, int) else end


def _read(text: str) -> dict[str, Schedule]:
    """By what to call it: the schedule that is written or stands in a file, or those of a recipe."""
    from stepwell.cli.arguments import InputError, text_of
    from stepwell.schedules import from_dict, parse
    from stepwell.text import toml

    if text.startswith("recipe:"):
        return _of_recipe(text)
    path = Path(text)
    if path.suffix not in (".toml", ".json"):
        try:
            return {text: parse(text)}
        except ValueError as error:
            if "functions=" in str(error):
                raise InputError(f"{text!r} needs a Python function, which no command line can give") from error
            raise
    content = text_of(path)
    try:
        data = toml.read(content) if path.suffix == ".toml" else json.loads(content)
        if isinstance(data, dict) and "routes" in data:
            raise InputError(f"{text} holds a recipe and no schedule: write recipe:{text}")
        return {text: from_dict(data)}
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{text}: no schedule is nested that deep") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{text}: {error}") from error


def _of_recipe(text: str) -> dict[str, Schedule]:
    """What a recipe schedules: of each route, where routes differ; of each hyper-parameter, where there are several."""
    from stepwell.recipes import named
    from stepwell.schedules import Constant

    recipe = named(text.removeprefix("recipe:"))
    of_routes = {route.name: recipe.schedules_of(route) or {"lr": Constant()} for route in recipe.routes}
    found: dict[str, Schedule] = {}
    for name in dict.fromkeys(name for schedules in of_routes.values() for name in schedules):
        having = {route: schedules[name] for route, schedules in of_routes.items() if name in schedules}
        alike = len(set(map(repr, having.values()))) == 1
        for route, schedule in having.items():
            words = [text, *([] if alike else [route]), *([] if name == "lr" else [name])]
            found[" ".join(words)] = schedule
    return found
