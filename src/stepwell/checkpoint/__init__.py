"""Checkpoints: `save` and `load` a training, so that it goes on with the same bits. See `docs/checkpoints.md`."""

from stepwell.checkpoint.comparing import diff
from stepwell.checkpoint.contents import Contents, inspect
from stepwell.checkpoint.differences import Difference, Differences
from stepwell.checkpoint.errors import CheckpointError, DamagedError, MismatchError
from stepwell.checkpoint.loading import Extra, load
from stepwell.checkpoint.migrating.migration import Migration, Moved, migrate
from stepwell.checkpoint.migrating.to_torch import torch_state
from stepwell.checkpoint.parts import check_parts
from stepwell.checkpoint.saving import Keep, save

__all__ = [
    "CheckpointError",
    "Contents",
    "DamagedError",
    "Difference",
    "Differences",
    "Extra",
    "Keep",
    "Migration",
    "MismatchError",
    "Moved",
    "check_parts",
    "diff",
    "inspect",
    "load",
    "migrate",
    "save",
    "torch_state",
]
