"""The tables in the terminal: plans, memory, presets, results, and the optimizers that there are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from stepwell.advice.measured import rates_found
from stepwell.catalogue import Entry
from stepwell.checkpoint.contents import GroupContents
from stepwell.compare.results import Comparison
from stepwell.compare.standing import Standing
from stepwell.planning.memory import Memory
from stepwell.planning.plans import HEADINGS, Plan
from stepwell.recipes import Recipe
from stepwell.text import numbers
from stepwell.text.tabular import WIDTH

WIDEST_TITLE = 20  # the results beside it keep to 80 columns; longer ones are folded
NARROWEST_TEXT = 20  # characters in which a text is read with ease
GAP = "  "


def console(*, stderr: bool = False) -> Console:
    """The terminal; where there is none, as wide as COLUMNS says, or as a page of text. It shows a text as it stands:
    names are the user's, and may hold brackets and colons."""
    width = None if "COLUMNS" in os.environ or Console(stderr=stderr).is_terminal else WIDTH
    return Console(stderr=stderr, width=width, markup=False, emoji=False)


def show_whole(table: Table, where: Console) -> None:
    """The table with every number in it whole: where not all columns have room, texts are wrapped, and if that is not
    enough, the table is shown in parts, one below the other, the names in each."""
    names, *others = table.columns
    parts = [[names]]
    for column in others:
        if len(parts[-1]) > 1 and _least([*parts[-1], column]) > where.width:
            parts.append([names])
        parts[-1].append(column)
    for index, columns in enumerate(parts):
        where.print(*([""] if index else []), _part(columns), sep="\n")


def _least(columns: Sequence[Column]) -> int:
    """The width down to which a table of these columns is read with ease: its texts wrapped, its numbers whole."""
    return sum(_width(one) if one.justify == "right" else min(_width(one), NARROWEST_TEXT) for one in columns) + (
        len(GAP) * (len(columns) - 1)
    )


def _width(column: Column) -> int:
    """That of the column's widest line."""
    cells = (str(cell) for cell in (column.header, *column.cells))
    widest = max(cell_len(line) for cell in cells for line in cell.splitlines() or [""])
    return min(widest, column.max_width or widest)


def _part(columns: Sequence[Column]) -> Table:
    """A table of some of another's columns."""
    part = _bare()
    for one in columns:
        part.add_column(
            one.header,
            justify=one.justify,
            vertical=one.vertical,
            no_wrap=one.justify == "right",
            overflow="fold",
            max_width=one.max_width,
        )
    for cells in zip(*(one.cells for one in columns), strict=True):
        part.add_row(*cells)
    return part


def _bare() -> Table:
    return Table(box=None, padding=(0, len(GAP), 0, 0), pad_edge=False, header_style="dim")


def show_plan(plan: Plan, where: Console) -> None:
    """The plan's table, and below it what is likely not meant."""
    beside = where.width >= WIDTH and plan.has_room(where.width)
    table = _table(*HEADINGS, *(["why"] if beside else []), left=("group", "rule", "why"))
    for (group, *cells), why, names in plan.lines():
        table.add_row(Text(group, style="bold"), *cells, *([_reason(why, names)] if beside else []))
    show_whole(table, where)
    if not beside:
        for groups, why, names in plan.reasons():
            where.print(Text.assemble("\n", (groups, "bold"), ": ", _reason(why, names)))
    for doubt in plan.warnings:
        where.print(Text.assemble("\n", ("warning: ", "bold yellow"), str(doubt)))


def _reason(why: str, names: str) -> Text:
    return Text.assemble(why, (f"\n{names}" if names else "", "dim"))


def memory_table(memory: Memory) -> Table:
    """One line for each recipe, the plan's own first and in bold."""
    columns = ("weights", "gradients", "state", "step", "peak")
    table = _table("", *columns, "state by slot", left=("", "state by slot"))
    for index, row in enumerate(memory.rows):
        table.add_row(
            Text(row.title, style="bold" if index == 0 else ""),
            *(numbers.memory(getattr(row, column)) for column in columns),
            ", ".join(f"{name} {numbers.memory(size)}" for name, size in row.slots.items()) or "none",
        )
    return table


def presets_table(recipes: Sequence[Recipe]) -> Table:
    """One line for each preset."""
    table = _table("", "rules", "best lr in runs", "source", left=("", "rules", "best lr in runs", "source"))
    for recipe in recipes:
        rules = ", ".join(dict.fromkeys(route.rule for route in recipe.routes))
        table.add_row(Text(recipe.name, style="bold"), rules, rates_found(recipe.name) or "–", Text(recipe.source))
    return table


def _table(*headings: str, left: Sequence[str]) -> Table:
    """A table of texts, which start at the left, and of numbers."""
    table = _bare()
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    return table


def results_table(comparison: Comparison) -> Table:
    """One line for each recipe, the baseline first, the lowest loss in bold."""
    table = _bare()
    table.add_column("", overflow="fold", max_width=WIDEST_TITLE)
    for heading in (
        "final\nloss",
        "steps to\nbaseline",
        "seconds to\nbaseline",
        "time\na step",
        "optimizer",
        "state",
    ):
        table.add_column(heading, justify="right", vertical="bottom")
    rows = comparison.rows
    lowest = min((row.final_loss for row in rows if row.final_loss is not None), default=None)
    for index, row in enumerate(rows):
        best = row.final_loss is not None and row.final_loss == lowest
        loss = "diverged" if row.status == "diverged" else numbers.loss(row.final_loss)
        table.add_row(
            Text(row.title, style="bold" if index == 0 else ""),
            Text(loss, style="red" if row.status == "diverged" else "bold" if best else ""),
            numbers.count(row.steps_to_baseline),
            numbers.seconds(row.seconds_to_baseline),
            numbers.milliseconds(row.step_milliseconds),
            numbers.share(row.optimizer_share),
            numbers.data(row.state_bytes),
        )
    return table


def fair_table(standings: Sequence[Standing], titles: Mapping[str, str]) -> Table:
    """One line for each recipe of a fair test, the baseline first, the lowest mean in bold."""
    table = _bare()
    table.add_column("", overflow="fold", max_width=WIDEST_TITLE)
    for heading in (
        *("final\nloss", "spread", "steps to\nbaseline", "longer:\nloss", "steps to\nbaseline"),
        *("half the\nrate", "twice\nthe rate", "diverged", "state"),
    ):
        table.add_column(heading, justify="right", vertical="bottom")
    lowest = min((one.mean for one in standings if one.mean is not None), default=None)
    for index, one in enumerate(standings):
        table.add_row(
            Text(titles[one.recipe], style="bold" if index == 0 else ""),
            Text(numbers.loss(one.mean), style="bold" if one.mean is not None and one.mean == lowest else ""),
            numbers.loss(one.spread, like=one.mean),
            numbers.share(one.steps_to_baseline),
            numbers.loss(one.longer),
            numbers.share(one.longer_to_baseline),
            *(numbers.MISSING if more is None else f"{more - 1:+.1%}" for more in (one.half, one.twice)),
            f"{one.diverged}/{one.tries}",
            numbers.data(one.state_bytes),
        )
    return table


def groups_table(groups: Sequence[GroupContents]) -> Table:
    """One line for each parameter group of a checkpoint."""
    columns = ("group", "rule", "tensors", "numbers", "lr", "decay", "state", "slots")
    table = _table(*columns, left=("group", "rule", "slots"))
    for group in groups:
        kinds = ", ".join(group.state.dtypes)
        table.add_row(
            Text(group.name, style="bold"),
            Text(group.rule),
            f"{group.parameters:,}",
            f"{group.numbers:,}",
            numbers.MISSING if group.lr is None else numbers.rate(group.lr),
            numbers.MISSING if group.weight_decay is None else numbers.rate(group.weight_decay),
            numbers.data(group.state.bytes),
            Text(", ".join(group.slots) + (f" ({kinds})" if kinds else "")),
        )
    return table


def optimizers_table(entries: Sequence[Entry]) -> Table:
    """One line for each optimizer."""
    table = _table("", "what it does", "acts on", "state", left=("", "what it does", "acts on"))
    for entry in entries:
        table.add_row(Text(entry.name, style="bold"), Text(entry.about), entry.acts_on, numbers.rate(entry.memory))
    return table
