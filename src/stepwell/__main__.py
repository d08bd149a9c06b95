"""`python -m stepwell`: the command line, where its script is not on the path."""

from __future__ import annotations

from stepwell.cli import main

main()
