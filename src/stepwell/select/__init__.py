"""Selectors: which parameters of a model a route takes.

A selector is a question about one parameter. Selectors are combined with `&`, `|` and `~`, print as the code that
makes them, and are read back from it without running anything:

>>> from stepwell import select
>>> select.role("hidden matrix") & ~select.name("*.router.*")
role('hidden matrix') & ~name('*.router.*')
>>> select.parse("ndim(at_least=2) | module('LayerNorm')")
ndim(at_least=2) | module('LayerNorm')
"""

from stepwell.select.reading import parse
from stepwell.select.selectors import (
    Everything,
    Predicate,
    Predicates,
    Selector,
    depth,
    everything,
    module,
    name,
    ndim,
    regex,
    role,
    size,
    where,
)

__all__ = [
    "Everything",
    "Predicate",
    "Predicates",
    "Selector",
    "depth",
    "everything",
    "module",
    "name",
    "ndim",
    "parse",
    "regex",
    "role",
    "size",
    "where",
]
