"""The programs that an engine has traced, each once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.codecs import Codec, Plain
from stepwell.engines.batch import Batch
from stepwell.engines.fused.program import GRADIENT, Program
from stepwell.engines.fused.traces import SLOT_LEVELS, Observed, trace, trace_total
from stepwell.engines.observing import (
    OBSERVED,
    add_up_units,
    seen_in_rows,
    sums_of_units,
    units_added_up,
    units_in_rows,
)
from stepwell.rules.rule import Rule, Shape, flags

# Where a batch has the places of the parameters whose units no kernel adds up.
_APART = "apart"


class Programs(ABC):
    """What a fused engine knows of rules before it writes a kernel in whatever language."""

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}
        self._of_elements: dict[Any, bool] = {}

    def program(
        self, rule: Rule, function: str = "update", *, stores_round: bool = False, observed: Observed = ""
    ) -> Program:
        """The trace of one function of a rule with these flags."""
        key = (type(rule), flags(type(rule), rule.values()), function, stores_round, observed)
        if key not in self._programs:
            self._programs[key] = trace(rule, function, stores_round=stores_round, observed=observed)
        return self._programs[key]

    def can_trace(self, rule: Rule, function: str) -> bool:
        """Whether this function of a rule of matrices is one of elements, of numbers that are the same for all."""
        key = (type(rule), flags(type(rule), rule.values()), function)
        if key not in self._of_elements:
            try:
                program = self.program(rule, function)
            except Exception:  # a rule may ask its numbers for anything, also for what a trace cannot tell
                self._of_elements[key] = False
            else:
                self._of_elements[key] = len(program.phases) == 1
        return self._of_elements[key]

    def total(self, name: str, function: Callable[[Any], Any]) -> Program:
        """The program of Σ function(x) over the elements of each tensor; `name` stands for the function."""
        if name not in self._programs:
            self._programs[name] = trace_total(name, function)
        return self._programs[name]

    def made_for(self, batch: Batch, function: str) -> tuple[Program, dict[str, Codec], list[Shape]]:
        """The program of a function for this batch, how its numbers are stored, and the shapes in which it sees the
        tensors."""
        # Random bits are for training: an average to evaluate on is rounded to the nearest.
        codecs = {n: codec if function == "update" else codec.nearest() for n, codec in batch.codecs.items()}
        shapes: list[Shape] = [batch.rule.working_shape(tuple(weight.shape)) for weight in batch.weights]
        observed: Observed = ""
        if batch.observed and function == "update":
            observed = "units"
            if not self.program(batch.rule).has_rows:
                block = max(codec.block for codec in codecs.values())
                seen = [seen_in_rows(weight, block) for weight in batch.weights]
                fitting: list[Shape] = [shape for shape in seen if shape is not None]
                observed, shapes = ("units", fitting) if len(fitting) == len(seen) else ("totals", shapes)
            pairs = enumerate(zip(batch.weights, shapes, strict=True))
            batch.prepared[_APART] = [i for i, pair in pairs if observed == "totals" or not units_in_rows(*pair)]
        program = self.program(batch.rule, function, stores_round=rounds(codecs), observed=observed)
        return program, {**codecs, GRADIENT: Plain(batch.gradients[0].dtype)}, shapes

    def add_up_the_rest(self, batch: Batch, function: str) -> None:
        """After a function: what an observed update of it does not add up on its way."""
        if batch.observed and function == "update":
            add_up_units(batch, batch.prepared[_APART])

    def squares(self, batch: Batch) -> Tensor | None:
        """What its last update has observed: see `Engine.squares`."""
        if "update" not in batch.prepared:
            return None
        totals, rows = self.observed(batch)
        if rows:
            totals["gradient"] = torch.stack([of_rows.sum(dtype=torch.float64) for of_rows in rows])
        return torch.column_stack([totals[what] for what in OBSERVED])

    def unit_squares(self, batch: Batch) -> list[Tensor | None]:
        """What its last update has observed of units: see `Engine.unit_squares`."""
        found = units_added_up(batch)
        if "update" in batch.prepared:
            _, rows = self.observed(batch)
            for index, of_rows in enumerate(rows):
                if found[index] is None:
                    found[index] = sums_of_units(batch.weights[index], of_rows)
        return found

    @abstractmethod
    def observed(self, batch: Batch) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """What the last update of an observed batch has added up: over each parameter, by name, and over each row of
        each of them, unless it has not looked at rows."""

    def serves_rule(self, rule: Rule, weight: Tensor) -> bool:
        """Whether the rule can run on a weight like this: rows and columns are those of a contiguous matrix."""
        if any(slot.shape not in SLOT_LEVELS for slot in rule.slot_list()):
            return False
        program = self.program(rule)
        if not program.has_rows:
            return True
        seen_as = rule.working_shape(tuple(weight.shape))
        return weight.is_contiguous() and (len(seen_as) == 2 or not program.has_columns)

    def limit(self, rule: Rule, weight: Tensor, codecs: Mapping[str, Codec]) -> str | None:
        """Why a weight that is stored so cannot be worked on, or None where it can."""
        block = max((codec.block for codec in codecs.values()), default=1)
        if (block > 1 or any(codec.draws for codec in codecs.values())) and not weight.is_contiguous():
            return "what is rounded by chance or stored in blocks has to lie in row-major order"
        if block > 1 and self.program(rule).has_rows and rule.working_shape(tuple(weight.shape))[-1] % block:
            return f"for {type(rule).__name__} with state in blocks it serves rows of whole blocks of {block}"
        return None


def rounds(codecs: Mapping[str, Codec]) -> bool:
    """Whether any number is stored in fewer bits than it is computed with."""
    return any(codec.rounds for codec in codecs.values())
