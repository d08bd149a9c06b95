"""The command `stepwell migrate`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

HELP = "\n\n".join(
    (
        "Make of one checkpoint another, of another recipe or another package.",
        "What means the same to the new rules is kept (AdamW's moments for what stays with AdamW), a running mean of "
        "the gradients goes on as such, all else starts fresh; each is said. The source is a checkpoint of stepwell's, "
        "a folder of transformers' Trainer, a timm checkpoint, or a file of torch.save with an optimizer's state; "
        "nothing in it is run.",
        "[bold]Examples[/bold]\n"
        "  stepwell migrate runs/gpt runs/gpt-muon --to muon\n"
        "  stepwell migrate checkpoint-500 runs/bert --to AdamW --model model:make\n"
        "  stepwell migrate runs/gpt gpt.pt --to torch",
    )
)


def migrate(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What there is.")],
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="A folder of checkpoints, to which one is added; a new file for torch."),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A recipe, preset or file, which groups parameters by what they are for; a rule, which keeps the "
            "groups; or torch.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A function without arguments that makes the model: where the source has numbers for its parameters.",
        ),
    ] = "",
    rule: Annotated[
        str, typer.Option(metavar="NAME", help="The rule that the source was saved by, where it does not tell.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Makes of one checkpoint another; see `HELP`. Returns the exit code."""
    from stepwell.cli.models import chosen_model

    made = chosen_model(model, None, meta=False) if model else None
    report = _to_torch(source, target) if to.casefold() == "torch" else _to_ours(source, target, to, made, rule or None)
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False, default=str))
    else:
        typer.echo(report["text"])
        typer.echo(f"\n{report['target']}")
    return 0


def _to_torch(source: Path, target: Path) -> dict[str, Any]:
    """A new file with state dicts for torch."""
    import torch

    from stepwell.checkpoint import torch_state
    from stepwell.cli.arguments import InputError, written_whole

    if target.exists():
        raise InputError(f"TARGET must be a new file, and {str(target)!r} is there")
    state = torch_state(source)
    with written_whole(target) as part:
        torch.save(state, part)
    text = f"{source}: {', '.join(state)} for torch; torch.load(…, weights_only=True) reads it"
    saved = {"optimizer": state["optimizer"]} if "optimizer" in state else state.get("optimizers", {})
    lines = [text, *(_groups(name, each["param_groups"]) for name, each in saved.items())]
    return {"target": str(target), "holds": list(state), "text": "\n".join(lines)}


def _groups(name: str, groups: list[dict[str, Any]]) -> str:
    """Which groups torch's optimizer has to have, to take such a state dict."""
    sizes = ", ".join(str(len(group["params"])) for group in groups)
    many = len(groups) > 1
    return (
        f"{name}: make torch's with {'these groups' if many else 'one group'}, of {sizes} parameters in the order of "
        f"{'their' if many else 'its'} 'param_names'"
    )


def _to_ours(source: Path, target: Path, to: str, model: nn.Module | None, rule: str | None) -> dict[str, Any]:
    """A new checkpoint of ours."""
    from stepwell.checkpoint import save
    from stepwell.checkpoint.migrating.migration import carry, read
    from stepwell.checkpoint.migrating.naming import name_parameters
    from stepwell.checkpoint.migrating.rebuilding import bare_model, new_optimizer, new_scheduler

    found = read(source, model, rule)
    name_parameters(found, model, None)
    held = bare_model(found) if model is None else model
    optimizer = new_optimizer(found, to, held, is_whole=model is not None)
    scheduler = new_scheduler(found, optimizer)
    with _unsaid():
        report = carry(found, optimizer, held, scheduler)
    where = save(target, model=held, optimizer=optimizer, scheduler=scheduler, extra=report.extra)
    return {"target": str(where), **report.to_data(), "text": str(report)}


@contextmanager
def _unsaid() -> Iterator[None]:
    """Within this context a scheduler does not say what the rate was before it was resumed: that of no training."""

    def is_said(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("resumed at step")

    log = logging.getLogger("stepwell")
    log.addFilter(is_said)
    try:
        yield
    finally:
        log.removeFilter(is_said)
