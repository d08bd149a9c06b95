"""The page of a comparison: `report.html`, written from its results."""

from stepwell.report.page import render

__all__ = ["render"]
