"""The torch object that runs schedules, and schedules that listen."""

from stepwell.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
