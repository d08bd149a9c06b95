"""Where to start: what is written, and what our own runs have found."""

from stepwell.advice.advising import advise

__all__ = ["advise"]
