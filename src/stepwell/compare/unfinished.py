"""What a comparison leaves on the disk while it runs, so that a killed one goes on where it stopped.

out/unfinished/
    comparison.json     what is compared: task, steps, seed, recipes with their settings
    sweep.json          the tries of a sweep, as far as they are done
    adamw/000007/       each run's last checkpoint, taken at an evaluation
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepwell import checkpoint
from stepwell.compare.results import RunResult
from stepwell.compare.training import Run

_LOG = logging.getLogger("stepwell")
_CONDITIONS, _SWEEP = "comparison.json", "sweep.json"


class ResumeError(ValueError):
    """A comparison that cannot be gone on with. The message is one line."""


class Unfinished:
    """The folder of a comparison that is under way.

    Args:
        folder: where it lies.
        resume: whether to go on with what is there; else that is removed.

    Raises:
        ResumeError: there is nothing to go on with.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.folder = folder
        self.resume = resume
        self._conditions: dict[str, Any] = {}
        self._can_save = True
        if resume:
            if not (folder / _CONDITIONS).is_file():
                raise ResumeError(f"there is no unfinished comparison in {str(folder.parent)!r} to go on with")
            try:
                self._conditions = json.loads((folder / _CONDITIONS).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ResumeError(f"{str(folder / _CONDITIONS)!r} cannot be read: {error}") from error

    def begin(self, conditions: Mapping[str, Any]) -> None:
        """Note what is compared; on a resume, see that it is the same.

        Raises ResumeError where it is not.
        """
        wanted = json.loads(json.dumps(conditions))
        if self.resume:
            for name, value in wanted.items():
                if name in self._conditions and self._conditions[name] != value:
                    raise ResumeError(
                        f"the unfinished comparison in {str(self.folder.parent)!r} has {name} "
                        f"{self._conditions[name]!r}, this one {value!r}; give the same, or another --out"
                    )
        elif self.folder.exists() and not self._conditions:
            shutil.rmtree(self.folder)
        self._conditions |= wanted
        self._write(_CONDITIONS, json.dumps(self._conditions, indent=1) + "\n")

    def save(self, run: Run) -> None:
        """Keep a run as it is now, in place of what was kept of it."""
        if not self._can_save:
            return
        try:
            checkpoint.save(
                self.folder / run.result.recipe,
                model=run.model,
                optimizer=run.optimizer,
                scheduler=run.scheduler,
                extra={"result": asdict(run.result)},
                keep=1,
            )
        except checkpoint.CheckpointError as error:
            self._can_save = False
            _LOG.warning("this comparison cannot be resumed: %s", error)

    def restore(self, run: Run) -> None:
        """Put a run where it was kept, if it was.

        Raises ResumeError where that cannot be loaded.
        """
        kept = self.folder / run.result.recipe
        if not self.resume or not kept.is_dir():
            return
        try:
            extra = checkpoint.load(kept, model=run.model, optimizer=run.optimizer, scheduler=run.scheduler)
        except checkpoint.CheckpointError as error:
            raise ResumeError(str(error).replace("\n", ";")) from error
        run.result = RunResult.from_data(extra["result"])

    def keep_sweep(self, text: str) -> None:
        """Keep the tries of a sweep, as `Sweep.to_json` writes them."""
        self._write(_SWEEP, text)

    def sweep(self) -> str | None:
        """The tries of the sweep that was under way, if there was one."""
        path = self.folder / _SWEEP
        return path.read_text(encoding="utf-8") if self.resume and path.is_file() else None

    def finish(self) -> None:
        """There is nothing left to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(self.folder / name)
        except OSError as error:
            self._can_save = False
            _LOG.warning("this comparison cannot be resumed: %s", error)
