"""The programs that an engine has traced, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from stepwell.codecs import Codec
from stepwell.engines.fused.program import Program
from stepwell.engines.fused.traces import SLOT_LEVELS, trace, trace_total
from stepwell.rules.rule import Rule, flags


class Programs:
    """What a fused engine knows of rules before it writes a kernel in whatever language."""

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}

    def program(
        self, rule: Rule, function: str = "update", *, stores_round: bool = False, observed: bool = False
    ) -> Program:
        """The trace of one function of a rule with these flags."""
        key = (type(rule), flags(type(rule), rule.values()), function, stores_round, observed)
        if key not in self._programs:
            self._programs[key] = trace(rule, function, stores_round=stores_round, observed=observed)
        return self._programs[key]

    def total(self, name: str, function: Callable[[Any], Any]) -> Program:
        """The program of Σ function(x) over the elements of each tensor; `name` stands for the function."""
        if name not in self._programs:
            self._programs[name] = trace_total(name, function)
        return self._programs[name]

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
