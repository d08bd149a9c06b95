"""What is raised for a checkpoint that cannot be written, read or used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.checkpoint.differences import Differences


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message is one line. Nothing has changed."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are not what was written. The message offers the one before it, where there is one."""


class MismatchError(CheckpointError):
    """A checkpoint of something else than what it was to be loaded into; the message has a line for each difference.

    Attributes:
        differences: what does not fit.
    """

    def __init__(self, message: str, differences: Differences) -> None:
        super().__init__(message)
        self.differences = differences


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())
