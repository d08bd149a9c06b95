"""`python -m bench evidence`: the results on docs/evidence.md, and their pictures, from the files of the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.markdown import table
from bench.quality import choosing, large, pace, pictures, ravine, running
from bench.quality.asks import OnTask, percent
from bench.quality.claims import CLAIMS, NOT_RUN
from bench.quality.tasks import TASKS
from bench.quality.variations import contestant, on
from stepwell.advice import measured
from stepwell.advice.measured import Measured
from stepwell.compare.fair import lowest
from stepwell.compare.fair_contestants import BASELINE, RULES
from stepwell.compare.kept import Outcome
from stepwell.compare.standing import Standing, tries
from stepwell.text import numbers

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "evidence.md"
PACKAGE = DOCS.parent / "src" / "stepwell" / "advice"
CHOOSING = "choosing.md"
MARKER = "<!-- Below here the page is written by python -m bench evidence. -->\n"

_CAUTION = """\
Three seeds tell no difference that is smaller than they lie apart:
{spreads}.
Where the seeds in brackets do not agree about the sign, others may decide otherwise. The longer run, half and twice
the rate, starts without warm-up and the horizons of Schedule-Free are one seed each. The verdict is by the rule
stated beforehand all the same. Eight tries find a good rate, not the best, for AdamW too, whose one number more makes
its search sparser: a negative number under ½ × or 2 × says that a better rate was missed. Both change `lr` alone,
from the seed of the tries: of Muon that is the rate of its matrices. "Never" stands where most seeds do not reach
AdamW's loss (over the longer horizon, where its one run does not).
"""

_COLUMNS = (
    *("rule", "loss, 3 seeds", "spread", "steps to AdamW's loss", "4 × longer: loss", "steps to AdamW's"),
    *("½ × rate", "2 × rate", "diverged", "state", "ms a step", "time to AdamW's loss"),
)


def write(
    page: Path = PAGE, folder: Path = running.FOLDER, package: Path = PACKAGE, on_gpu: Path = large.FOLDER
) -> list[Path]:
    """Write what stands below the marker, there and on the page for choosing, the pictures beside them, and what the
    package tells of the runs. Returns the paths.

    Raises:
        ValueError: if the page has no marker.
    """
    beside = page.parent / CHOOSING
    heads = {path: _head(path) for path in (page, beside)}
    paces, clocks = pace.load(folder), pace.clocks(folder)
    tasks = {
        name: OnTask(found, paces.get(name, {}), name, clocks.get(name, ""))
        for name, found in running.outcomes(folder).items()
    }
    drawn = {page.parent / "ravine.svg": ravine.drawing()}
    for name, task in tasks.items():
        drawn[page.parent / f"evidence-{name}.svg"] = pictures.curves(task.outcomes)
    page.write_text(heads[page] + text(tasks, large.load(on_gpu)), encoding="utf-8")
    beside.write_text(heads[beside] + choosing.text(tasks), encoding="utf-8")
    for path, picture in drawn.items():
        path.write_text(f"{picture}\n", encoding="utf-8")
    told = package / measured.FILE
    told.write_text(measured.as_text(_found(tasks)), encoding="utf-8")
    return [page, beside, *drawn, told]


def _found(tasks: Mapping[str, OnTask]) -> dict[str, list[Measured]]:
    """The best try of each rule on each task where all of its tries are through."""
    found: dict[str, list[Measured]] = {}
    for name, task in tasks.items():
        for rule in RULES:
            tried = tries(task.outcomes.get(rule, {}))
            best = lowest(tried)
            if best is not None and len(tried) == running.protocol_of(name).tries:
                one = Measured(
                    task=name,
                    about=TASKS[name].about,
                    steps=best.order.steps,
                    tries=len(tried),
                    run=f"{name}/{best.order.file}",
                    settings=best.order.settings,
                )
                found.setdefault(rule, []).append(one)
    return found


def _head(page: Path) -> str:
    """What is written by hand, to the marker."""
    head, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{page} has no line {MARKER.strip()!r}, which the results stand below")
    return head + marker


def text(tasks: Mapping[str, OnTask], large_runs: Sequence[large.LargeRun] = ()) -> str:
    """The results as Markdown."""
    parts = ["\n## Verdicts\n", *_verdicts(tasks)]
    for name, task in tasks.items():
        parts += _section(name, task)
    parts += ["## A larger GPT, on a GPU\n", *_large(large_runs)]
    parts += ["## What has been run\n", *_progress(tasks)]
    return "\n".join(parts)


def _verdicts(tasks: Mapping[str, OnTask]) -> list[str]:
    rows, waiting = [], []
    for claim in CLAIMS:
        verdict, words = claim.verdict(tasks)
        if verdict == NOT_RUN:
            waiting.append(f"- {claim.says} ({claim.source}).")
        else:
            rows.append((claim.says, f"**{verdict}**", "<br>".join(words), claim.source))
    apart = [
        f"{one.spread / one.mean:.0%} on `{name}`"
        for name, task in tasks.items()
        if (one := choosing.whole(task).get(BASELINE)) is not None and one.spread is not None and one.mean
    ]
    spreads = f"AdamW's own are {', '.join(apart)}" if apart else "none of AdamW's is there yet"
    parts = [_CAUTION.format(spreads=spreads), table(("claim", "verdict", "measured", "source"), rows)]
    if waiting:
        parts += ["Not run yet:\n", "\n".join(waiting) + "\n"]
    return [*parts, "![SGD without and with momentum in a ravine](ravine.svg)\n"]


def _section(name: str, task: OnTask) -> list[str]:
    standings = choosing.whole(task)
    if not standings:
        return []
    rows = [_row(one, task) for one in sorted(standings.values(), key=_by_loss)]
    settings = [(contestant(one.recipe).title, _settings(one)) for one in standings.values()]
    about = TASKS[name].about
    return [
        f"## `{name}`: {about}\n",
        table(_COLUMNS, rows),
        f"![Validation loss by step, each rule beside AdamW](evidence-{name}.svg)\n",
        "The settings of the best try:\n",
        table(("rule", "settings"), settings),
    ]


def _large(runs: Sequence[large.LargeRun]) -> list[str]:
    """The runs of `python -m bench large`, the first of them the baseline."""
    if not runs:
        return ["Not run yet: `python -m bench large` waits for a GPU.\n"]
    first = runs[0]
    target = first.loss if first.rule == BASELINE else None
    rows = [
        (
            one.title,
            numbers.loss(one.loss),
            numbers.MISSING if one.milliseconds is None else f"{one.milliseconds:.1f}",
            numbers.MISSING if one.optimizer_milliseconds is None else f"{one.optimizer_milliseconds:.2f}",
            numbers.MISSING if (seconds := one.seconds_to(target)) is None else f"{seconds:.0f} s",
            numbers.data(one.state_bytes),
            numbers.MISSING if one.peak_bytes is None else numbers.data(one.peak_bytes),
            ", ".join(f"`{name}={numbers.setting(value)}`" for name, value in one.settings.items()),
        )
        for one in runs
    ]
    columns = ("rule", "loss", "ms a step", "of it the optimizer", "time to AdamW's loss", "state", "peak", "settings")
    machines = " and ".join(dict.fromkeys(one.machine.title for one in runs))
    return [
        f"{first.parameters / 1e6:.0f} million parameters, {first.steps:,} steps of {first.bytes_a_step:,} bytes out "
        f"of {first.text_bytes / 1e6:.0f} MB of Python source, bfloat16, one seed, at the rates of the task `gpt` "
        f"divided by the growth of the width (Muon's by its root). On {machines}.\n",
        table(columns, rows),
    ]


def _by_loss(one: Standing) -> float:
    return float("inf") if one.mean is None else one.mean


def _row(one: Standing, task: OnTask) -> tuple[str, ...]:
    title = contestant(one.recipe).title
    milliseconds, baseline = task.pace.get(one.recipe), task.pace.get(BASELINE)
    time = None
    if milliseconds and baseline and one.steps_to_baseline is not None:
        time = one.steps_to_baseline * milliseconds / baseline
    is_baseline = one.recipe == BASELINE
    return (
        f"**{title}**" if is_baseline else title,
        numbers.loss(one.mean),
        numbers.loss(one.spread, like=one.mean),
        "100%" if is_baseline else _reached(one.steps_to_baseline, bool(one.losses)),
        numbers.loss(one.longer),
        "100%" if is_baseline else _reached(one.longer_to_baseline, one.longer is not None),
        choosing.more(one.half),
        choosing.more(one.twice),
        f"{one.diverged} of {one.tries}",
        numbers.data(one.state_bytes),
        numbers.MISSING if milliseconds is None else f"{milliseconds:.1f}",
        ("100%" if milliseconds else numbers.MISSING) if is_baseline else _reached(time, time is not None),
    )


def _reached(part: float | None, asked: bool) -> str:
    return percent(part) if asked else numbers.MISSING


def _settings(one: Standing) -> str:
    return ", ".join(f"`{name}={numbers.setting(value)}`" for name, value in one.settings.items())


def _progress(tasks: Mapping[str, OnTask]) -> list[str]:
    """What there is and what is not, so that nobody takes silence for a result."""
    rows = []
    for name, entry in TASKS.items():
        task = tasks.get(name)
        runs = [run for stages in task.outcomes.values() for run in stages.values()] if task else []
        planned = running.units([name], None)
        done = [unit for unit in planned if task and _is_done(unit, task)]
        missing = [unit.title.removeprefix(f"{name} ") for unit in planned if unit not in done]
        told = "all" if not missing else "none" if not done else f"all but {', '.join(missing)}"
        usual = "" if entry.usual else " (on demand)"
        rows.append((f"`{name}`{usual}", f"{len(runs):,}", f"{sum(run.order.steps for run in runs):,}", told))
    software = {tuple(run.versions.items()) for task in tasks.values() for run in _runs(task)}
    parts = [table(("task", "runs", "steps", "rules and variations that are through"), rows)]
    if software:
        named = ["; ".join(f"{name} {version}" for name, version in one) for one in sorted(software)]
        parts.append(f"Software: {', and '.join(named)}.\n")
    clocks = {
        task.clock: [f"`{name}`" for name, one in tasks.items() if one.clock == task.clock] for task in tasks.values()
    }
    parts += [f"Milliseconds of {', '.join(on)}: {clock}.\n" for clock, on in clocks.items() if clock]
    minutes = {name: found for name, task in tasks.items() if (found := _minutes(task))}
    of_usual = sum(found for name, found in minutes.items() if TASKS[name].usual)
    if of_usual:
        parts.append(
            f"The steps of the usual tasks take {of_usual:.0f} minutes on one quiet core, half of that with `--jobs 2` "
            f"on two, and those of all tasks above {sum(minutes.values()):.0f}; evaluations are not counted.\n"
        )
    return parts


def _minutes(task: OnTask) -> float:
    """The milliseconds of a step times the steps of all runs; AdamW's where a rule's own were not measured."""
    baseline = task.pace.get(BASELINE, 0.0)
    return sum(run.order.steps * task.pace.get(run.order.recipe, baseline) / 6e4 for run in _runs(task))


def _is_done(unit: running.Unit, task: OnTask) -> bool:
    stages = task.outcomes.get(unit.rule, {})
    if unit.variation is None:
        return "longer" in stages
    variation = next(one for one in on(unit.task) if (one.rule, one.name) == (unit.rule, unit.variation))
    return variation.last in stages


def _runs(task: OnTask) -> Iterable[Outcome]:
    return (run for stages in task.outcomes.values() for run in stages.values())
