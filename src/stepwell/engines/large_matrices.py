"""The matrices engine of a CPU, with kernels for what a rule does element by element to a large matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.algebra.tensors import working_dtype
from stepwell.codecs import WEIGHTS, Plain
from stepwell.engines.batch import Batch, addresses_of
from stepwell.engines.direct import shaped
from stepwell.engines.matrices import Matrices
from stepwell.rules.matrix_rule import OneMatrixRule, steps_in_three
from stepwell.rules.rule import Rule

if TYPE_CHECKING:
    from stepwell.engines.fused.engine import Fused

# Numbers of a matrix from which a kernel pays: below, a launch costs as much as what torch takes for its functions.
LARGE = 1 << 18
_DTYPES = (torch.float32, torch.bfloat16)


class LargeMatrices(Matrices):
    """Each of torch's functions is a pass over memory, which for a large matrix takes a tenth of the step.

    A kernel moves the weights in the direction that the rule has found; and of a rule that needs one matrix whole
    (`OneMatrixRule`) it makes that matrix.

    Args:
        fused: what gives the fused engine, or None where there is none.
    """

    def __init__(self, fused: Callable[[], Fused | None]) -> None:
        self._fused = fused

    def taken_apart(
        self, part: list[int], batch: Batch, numbers: tuple[Any, Any, Any, Any]
    ) -> tuple[Any, Mapping[str, Any], Callable[[Any], None]] | None:
        rule, weight = batch.rule, batch.weights[part[0]]
        if not (
            len(part) == 1
            and weight.numel() >= LARGE
            and _is_plain(weight)
            and batch.plain(WEIGHTS) is not None
            and type(rule).update is Rule.update
            and (engine := self._fused()) is not None
            and engine.can_trace(rule, "moved")
        ):
            return None
        move = functools.partial(self._move, engine, part, batch)
        if not (isinstance(rule, OneMatrixRule) and self._can_mix(engine, rule, part, batch)):
            return *rule.directed(*numbers), move
        p, _, _, h = numbers
        matrix = self._mixed(engine, part, batch, working_dtype(p.device, p.dtype) if rule.rough else p.dtype)
        return rule.aimed(p, rule.turned(matrix.reshape(p.shape), h), h), {}, move

    def _can_mix(self, engine: Fused, rule: OneMatrixRule, part: list[int], batch: Batch) -> bool:
        columns = [(batch.plain(name), codec) for name, codec in batch.codecs.items()]
        return (
            steps_in_three(type(rule))
            and rule.decay != "coupled"  # of which the matrix depends on the weights
            # A slot may have been given another dtype in place, and a kernel is told of its address alone.
            and all(
                column is not None and _is_plain(column[part[0]]) and codec == Plain(column[part[0]].dtype)
                for column, codec in columns
            )
            and not batch.scalar_slots
            and batch.gradients[part[0]].dtype in _DTYPES
            and engine.can_trace(rule, "mix")
        )

    def _mixed(self, engine: Fused, part: list[int], batch: Batch, dtype: torch.dtype) -> Tensor:
        """The matrix that the rule needs whole. Slots are written."""
        (index,) = part
        matrix = torch.empty_like(batch.weights[index], dtype=dtype)
        columns = {name: [column[index]] for name, column in batch.columns.items()}
        gradients = [batch.gradients[index].contiguous()]
        name = f"mix {index} {dtype} {gradients[0].dtype}"
        if name not in batch.prepared:
            batch.prepared[name] = batch.of(part, weights=[matrix], gradients=gradients, columns=columns)
            batch.prepared[name].codecs = {**batch.codecs, WEIGHTS: Plain(dtype)}
        mixing: Batch = batch.prepared[name]
        mixing.weights, mixing.gradients, mixing.columns = [matrix], gradients, columns
        mixing.addresses = addresses_of([matrix])
        mixing.column_addresses = {name: addresses_of(column) for name, column in columns.items()}
        mixing.gradient_factor = batch.gradient_factor
        engine.apply(mixing, "mix")
        # What is kept for the next step holds on to no matrix: each kind of step keeps its own.
        mixing.weights = mixing.gradients = [batch.weights[index]]
        return matrix

    def _move(self, engine: Fused, part: list[int], batch: Batch, direction: Any) -> None:
        weight = batch.weights[part[0]]
        direction = shaped(direction, weight).contiguous()
        name = f"moved {part[0]} {direction.dtype}"
        if name not in batch.prepared:
            batch.prepared[name] = batch.without_slots(part, [weight], [direction])
        moving: Batch = batch.prepared[name]
        moving.weights, moving.gradients, moving.addresses = [weight], [direction], addresses_of([weight])
        engine.apply(moving, "moved")
        moving.gradients = [weight]  # it holds on to no direction
        # A kernel writes behind torch's back: a graph that still wants the old weights is to get its error.
        torch.autograd.graph.increment_version(weight)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and tensor.dtype in _DTYPES
