"""`python -m bench scale`: the tables of docs/scale.md, memory and bytes on the wire from plans of large models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import stepwell
from bench import markdown
from bench.architectures import kimi_k2, llama_7b, llama_70b
from stepwell import Plan, Recipe
from stepwell.roles import Role
from stepwell.text import numbers

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN = "<!-- From here to the end of the tables the page is written by `python -m bench scale`. -->"
END = "<!-- End of the tables. -->"
RANKS = (8, 64, 512, 4096)
GROUP = 64  # ranks that share everything among them under HSDP
RECIPES = {"AdamW": "adamw", "Muon": "muon", "SOAP": "soap"}
# Models by title, with the roles that their modules do not show.
Models = Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, Role]]]
MODELS: Models = {
    "Llama 2 7B": (llama_7b, {}),
    "Llama 2 70B": (llama_70b, {}),
    "Kimi K2, a mixture of experts of 1 T": (kimi_k2, {"*.experts.*": "hidden matrix"}),
}
# How a plan is asked about each way of lying on ranks.
WAYS: dict[str, Callable[[int], dict[str, Any] | None]] = {
    "DDP": lambda _: {},
    "DDP, shard_state": lambda _: {"sharded": "state"},
    "FSDP2": lambda _: {"sharded": True},
    "HSDP": lambda ranks: {"sharded": True, "replicas": ranks // GROUP} if ranks > GROUP else None,
}
NOTHING = "–"


def write(page: Path = PAGE) -> Path:
    """Write the tables into the page, between its two marks; what stands around them stays."""
    page.write_text(text(page.read_text(encoding="utf-8")), encoding="utf-8")
    return page


def text(page: str, models: Models = MODELS) -> str:
    """The page with its tables. Raises ValueError where it lacks one of the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the two lines {BEGIN!r} and {END!r}")
    sections = [section(title, *model) for title, model in models.items()]
    return "".join((before, begin, "\n\n", "\n".join(sections), "\n", end, after))


def section(title: str, make: Callable[[], nn.Module], roles: Mapping[str, Role]) -> str:
    """The tables of one model."""
    with torch.device("meta"):
        model = make()
    recipes = {name: Recipe.preset(preset).replace(roles=roles) for name, preset in RECIPES.items()}
    plans = {name: stepwell.plan(model, recipe, horizon=1) for name, recipe in recipes.items()}
    parameters = next(iter(plans.values())).parameters
    return "\n".join(
        (
            f"## {title}",
            "",
            f"{parameters / 1e9:,.4g} billion parameters in float32.",
            "",
            "Memory a rank: weights, gradients, state and the temporaries of a step.",
            "",
            *_table("optimizer", plans, _memory),
            "",
            "Bytes that a rank sends in a step, to train (whatever the optimizer) + for the optimizer.",
            "",
            *_table("optimizer", plans, _traffic),
            "",
        )
    )


def _table(first: str, plans: dict[str, Plan], cell: Callable[[Plan, int, dict[str, Any]], str]) -> Iterator[str]:
    headings = (first, "model on ranks as", *(f"{ranks:,} ranks" for ranks in RANKS))
    yield from markdown.header(headings, numbers_from=2)
    for name, plan in plans.items():
        for way, asked in WAYS.items():
            found = [NOTHING if (how := asked(ranks)) is None else cell(plan, ranks, how) for ranks in RANKS]
            yield markdown.line((name, way, *found))


def _memory(plan: Plan, ranks: int, how: dict[str, Any]) -> str:
    return numbers.memory(plan.memory(world_size=ranks, beside=(), **how).own.peak)


def _traffic(plan: Plan, ranks: int, how: dict[str, Any]) -> str:
    found = plan.traffic(world_size=ranks, **how)
    own = numbers.memory(found.optimizer) if found.optimizer else "0"
    return f"{numbers.memory(found.training)} + {own}"
