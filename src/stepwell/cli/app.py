"""The program: its commands, its exit codes, and how it speaks of an error."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from stepwell.cli import (
    advise,
    compare,
    differing,
    find_lr,
    inspecting,
    listing,
    memory,
    migrating,
    plan,
    plot,
    presets,
)

BAD_INPUT = 2
_KINDS = ("argument", "option")

app = typer.Typer(
    name="stepwell",
    help="Optimizers, schedules and parameter groups for deep learning: planned before step 0, compared with proof.",
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("plan", help=plan.HELP)(plan.plan)
app.command("memory", help=memory.HELP)(memory.memory)
app.command("presets", help=presets.HELP)(presets.presets)
app.command("compare", help=compare.HELP)(compare.compare)
app.command("find-lr", help=find_lr.HELP)(find_lr.find_lr)
app.command("advise", help=advise.HELP)(advise.advise)
app.command("list", help=listing.HELP)(listing.listing)
app.command("plot", help=plot.HELP)(plot.plot)
app.command("inspect", help=inspecting.HELP)(inspecting.inspect)
app.command("diff", help=differing.HELP)(differing.diff)
app.command("migrate", help=migrating.HELP)(migrating.migrate)


@app.callback(invoke_without_command=True)
def stepwell(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        from stepwell.compare.experiment import versions

        typer.echo(f"stepwell {versions()['stepwell']}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.get_help()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and ends the process: 0 for done, 2 for bad input (one line on stderr), 130 for Ctrl-C."""
    try:
        code = app(args=arguments, prog_name="stepwell", standalone_mode=False)
        sys.stdout.flush()  # a full disk is told here, and not as Python ends
    except Exception as error:
        message = bad_input(error)
        if message is None:
            raise
        if isinstance(error, OSError):
            _drop_output()
        print(f"stepwell: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(code or 0)


def bad_input(error: Exception) -> str | None:
    """The one line for an error that its user can mend, or None for one that is ours."""
    from stepwell.checkpoint import CheckpointError
    from stepwell.cli.arguments import InputError, in_its_words
    from stepwell.compare.contestants import ContestantError
    from stepwell.compare.task import TaskError
    from stepwell.compare.unfinished import ResumeError
    from stepwell.recipes import RecipeError

    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return f"the output cannot be written: {error.strerror}"
    known = InputError | ContestantError | RecipeError | TaskError | CheckpointError | ResumeError
    if isinstance(error, known):
        return in_its_words(str(error))
    # typer's usage errors; their class is click's or typer's own, depending on typer's version.
    written = getattr(error, "format_message", None)
    if written is None:
        return None
    message = " ".join(str(written()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if message.startswith("Got unexpected extra argument") and context is not None:
        taken = {kind: [one for one in context.command.params if one.param_type_name == kind] for kind in _KINDS}
        if not taken["argument"]:
            message += f"; give it to one of {', '.join(one.opts[0] for one in taken['option'] if not one.is_flag)}"
    return message[:1].lower() + message[1:]


def _drop_output() -> None:
    """Let go of what could not be written: Python would try again as it ends, and say so."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
