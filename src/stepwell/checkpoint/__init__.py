"""Checkpoints: `save` and `load` a training, so that it goes on with the same bits. See `docs/checkpoints.md`."""

from stepwell.checkpoint.differences import Difference, Differences
from stepwell.checkpoint.errors import CheckpointError, DamagedError, MismatchError
from stepwell.checkpoint.loading import Extra, load
from stepwell.checkpoint.saving import Keep, save

__all__ = [
    "CheckpointError",
    "DamagedError",
    "Difference",
    "Differences",
    "Extra",
    "Keep",
    "MismatchError",
    "load",
    "save",
]
