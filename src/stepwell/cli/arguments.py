"""What the command line takes, and what it says of a value that it does not."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GREATEST = 2**63 - 1  # what arrays of integers can hold
WORDS = {
    r"stepwell\.list_optimizers\(\)": "`stepwell list`",
    r"stepwell\.checkpoint\.migrate\b": "`stepwell migrate`",
    r"as a recipe does whose routes are \(Route\(rule='(\w+)', select=(\"[^\"]+\")\), Route\(rule='(\w+)'\)\)": (
        r'as a recipe does with routes = [{rule = "\1", select = \2}, {rule = "\3"}]'
    ),
}


class InputError(ValueError):
    """An argument that cannot be used. The message is one line: the argument, the value, and what is allowed."""


def whole_number(name: str, text: str, *, low: int, high: int | None = None) -> int:
    """The number that `text` writes."""
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is not None and number > GREATEST and high is None:
        raise InputError(f"{name} must be below 2^63, got {text!r}")
    if number is None or number < low or (high is not None and number > high):
        raise InputError(f"{name} must be a whole number {allowed}, got {text!r}")
    return number


def number(name: str, text: str, *, above: float | None = None, low: float = -math.inf) -> float:
    """The number that `text` writes, more than `above`, or at least `low`."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and (found >= low if above is None else found > above)):
        allowed = f"of at least {low:g}" if above is None else f"above {above:g}"
        finite = "finite " if math.isinf(found) else ""
        raise InputError(f"{name} must be a {finite}number {allowed}, got {text!r}")
    return found


@contextmanager
def users(**options: str) -> Iterator[None]:
    """Within this context a TypeError or ValueError is the user's: one line that says what to mend. `options` has the
    option for each argument that Python's message may begin with or ask for: `acts_on="--acts-on"`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        known = "|".join(options) or "(?!)"
        raise InputError(re.sub(rf"(^|; give )({known})\b", lambda at: at[1] + options[at[2]], str(error))) from error


def in_its_words(message: str) -> str:
    """What Python's user is told, as the command line's: its commands, and TOML for a recipe's routes."""
    for python, ours in WORDS.items():
        message = re.sub(python, ours, message)
    return message


def picture(path: Path) -> str:
    """What a file's name asks for: "svg" or "html"."""
    kind = path.suffix.casefold().removeprefix(".")
    if kind not in ("svg", "html"):
        raise InputError(f"--out must end in .svg or .html, got {str(path)!r}")
    return kind


def listed(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name for part in text.split(",") if (name := part.strip())]


def text_of(path: Path) -> str:
    """What stands in a file of the user's."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is no text: {error.reason} at byte {error.start}") from error


@contextmanager
def output_directory(path: Path) -> Iterator[Path]:
    """The directory, made if need be and proven writable; one that was made and stayed empty is removed again."""
    made = [] if path.exists() else [path, *(parent for parent in path.parents if not parent.exists())]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".stepwell-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        _remove_empty(made)
        raise InputError(
            f"--out must be a directory that can be written, got {str(path)!r}: {error.strerror}"
        ) from error
    try:
        yield path
    finally:
        _remove_empty(made)


def check_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before the work is done that it is for."""
    part = _part_of(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        part.touch()
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        _remove(part)


def write_whole(path: Path, text: str) -> None:
    """Writes the file under another name first, so that it is there whole or not at all. What is no Unicode (a byte of
    a file's name, as os.fsdecode has it) is written as Python writes it in source."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Another name to write a file under, which is given its own when it is whole."""
    part = _part_of(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        _remove(part)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _remove(part: Path) -> None:
    """Where it could not be written, its folder may be none."""
    with suppress(OSError):
        part.unlink()


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
