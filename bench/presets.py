"""The table of presets in docs/recipes.md, from the presets."""

from __future__ import annotations

import re
from pathlib import Path

from bench.gallery import linked
from bench.markdown import table
from stepwell.advice.measured import OTHERWISE, rates_found
from stepwell.recipes import PRESETS, Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
BEGIN = "<!-- From here to the end of the table the page is written by `python -m bench gallery`. -->"
END = "<!-- End of the table. -->"


def write(page: Path = PAGE) -> Path:
    """Write the table into the page, between its two marks; what stands around it stays."""
    page.write_text(text(page.read_text(encoding="utf-8")), encoding="utf-8")
    return page


def text(page: str) -> str:
    """The page with the table of the presets. Raises ValueError where the page lacks one of the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the two lines {BEGIN!r} and {END!r}")
    head = ("preset", "rules", "lr", "best lr in [our runs](evidence.md)", "decay", "schedule of lr", "source")
    return "".join((before, begin, "\n\n", table(head, map(_cells, PRESETS.values())), "\n", end, after))


def _cells(recipe: Recipe) -> tuple[str, ...]:
    rules = {route.rule: recipe.rule_of(route) for route in recipe.routes}
    rates = dict.fromkeys(f"{rule.lr:g}" for rule in rules.values())
    decays = dict.fromkeys(f"{rule.weight_decay:g}" for rule in rules.values())
    schedules = dict.fromkeys(repr(recipe.schedules_of(route)["lr"]) for route in recipe.routes)
    layers = "" if recipe.layer_decay is None else f", × {recipe.layer_decay:g} a block"
    return (
        f"`{recipe.name}`",
        ", ".join(rules),
        f"{', '.join(rates)}{layers}",
        ", ".join(filter(None, (rates_found(recipe.name), OTHERWISE.get(recipe.name)))) or "–",
        ", ".join(decays),
        ", ".join(f"`{_short(schedule)}`" for schedule in schedules),
        linked(recipe.source),
    )


def _short(schedule: str) -> str:
    """Shares such as 5/90 with three digits."""
    return re.sub(r"\d+\.\d{4,}", lambda share: f"{float(share[0]):.3g}", schedule)
