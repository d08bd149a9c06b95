"""Schedules: step → factor, as pure arithmetic that is exact on resume and safe past its end."""

from stepwell.schedules.schedule import Length, Schedule
from stepwell.schedules.sequence import Sequence, sequence
from stepwell.schedules.shapes import Constant, Cosine, Linear

__all__ = ["Constant", "Cosine", "Length", "Linear", "Schedule", "Sequence", "sequence"]
