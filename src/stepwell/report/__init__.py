"""The pictures: `report.html`, written from the results of a comparison."""

from stepwell.report.page import render

__all__ = ["render"]
