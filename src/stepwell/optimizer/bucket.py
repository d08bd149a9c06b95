"""Parameters that one launch takes together, kept from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.engines.batch import REAL_DTYPES, Batch, Engine, addresses_of
from stepwell.engines.dense import is_dense
from stepwell.layout import Layout, held, layout_of, local, make_whole
from stepwell.optimizer.preparing import laid_out_as
from stepwell.rules.rule import Rule

_dtype_of = attrgetter("dtype")
_shape_of = attrgetter("shape")
_is_contiguous = Tensor.is_contiguous
_size_of = Tensor.numel
_strides_of = Tensor.stride
_bytes_of = attrgetter("nbytes")
_layout_of = attrgetter("layout")
_device_of = attrgetter("device")


class Bucket:
    """A batch, the rule that its groups name, the engine that runs it, and where its parameters' gradients are found at
    each step.

    What is asked at every step is asked in loops that run in C: with hundreds of small parameters they are what a
    step costs.
    """

    def __init__(
        self, kind: type[Rule], engine: Engine, batch: Batch, parameters: list[Tensor], positions: list[int]
    ) -> None:
        self.kind = kind
        self.engine = engine
        self.batch = batch
        self.parameters = parameters
        self.has_run = False  # an update, to its end
        self._pick = itemgetter(*positions) if len(positions) > 1 else lambda all_of_them: (all_of_them[positions[0]],)
        self._stored = {name: list(self._column(name)) for name in batch.columns}
        self._complex = parameters[0].is_complex()
        self._in_view = self._complex or bool(batch.layouts)  # the batch has views of the parameters, made each time
        self._contiguous = list(map(_is_contiguous, parameters))
        # Slots of which a kernel is told the address; engines that work on tensors see for themselves what one is now.
        self._watched = self._stored if engine.name == "fused" else {}
        self._looks = self._look()
        # What may become another in the same memory: a dtype of 16 bits, or a shape, which is nothing to elements.
        self._form = (_dtype_of,) if batch.rule.acts_on == "elements" else (_dtype_of, _shape_of)
        self._formed = self._forms()
        batch.addresses = addresses_of(batch.weights)
        batch.column_addresses = {name: addresses_of(batch.columns[name]) for name in self._watched}
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._bytes = list(map(_bytes_of, gradients))
        # Of 16-bit weights the gradient may come in more bits (`grad_dtype`), and a kernel takes it as it is.
        self._mixed = set(map(_dtype_of, gradients)) != set(map(_dtype_of, parameters)) and not (
            parameters[0].dtype.itemsize == 2 and set(map(_dtype_of, gradients)) <= set(REAL_DTYPES)
        )
        self._measures = type(batch.rule).measure is not Rule.measure  # then the host adds up some of what is counted
        self._single = [place for place, weight in enumerate(batch.weights) if weight.numel() == 1]

    def still_holds(self, all_gradients: list[Any]) -> bool:
        """Whether weights, slots and gradients are what the batch was made for."""
        return (
            all(all(map(is_, self._column(name), known)) for name, known in self._stored.items())
            and (self._look() == self._looks if self._in_view else self._stay())
            and self._arrive(self._pick(all_gradients))
            and self.batch.counts_stand
        )

    def _arrive(self, gradients: Sequence[Any]) -> bool:
        """Whether gradients are as large as they were."""
        try:
            return list(map(_bytes_of, gradients)) == self._bytes
        except RuntimeError:  # of a sparse one, which `check_dense` then names
            return False

    def _stay(self) -> bool:
        """Whether parameters and slots have stayed what they were, if perhaps elsewhere in memory."""
        weights = addresses_of(self.parameters)
        columns = {name: addresses_of(column) for name, column in self._watched.items()}
        known = self.batch.column_addresses
        if (
            np.array_equal(weights, self.batch.addresses)
            and all(np.array_equal(column, known[name]) for name, column in columns.items())
            and list(map(_is_contiguous, self.parameters)) == self._contiguous
            and self._forms() == self._formed
        ):
            return True
        if self._look() != self._looks:
            return False
        self.batch.addresses, self.batch.column_addresses = weights, columns
        return True

    def _look(self) -> tuple[Any, ...]:
        """What may change in a parameter, or a slot, that stays the same object, as by `module.to(…)`."""
        looks = (_size_of, _dtype_of, _strides_of, _device_of)
        watched = (self.parameters, *self._watched.values())
        return tuple([list(map(look, column)) for column in watched for look in looks])

    def _forms(self) -> list[list[Any]]:
        return [list(map(form, self.parameters)) for form in self._form]

    def _column(self, name: str) -> Iterator[Any]:
        return map(dict.get, self.batch.states, repeat(name))

    def advance(self) -> None:
        """Count this update, for each parameter."""
        self.batch.advance(counts_on=self.engine.counts_on and not self._measures)

    def run(self, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place, on this rank and, where parameters lie
        on many, with the others."""
        self.engine.apply(self.batch, function)
        if self.engine.name == "fused":
            # Kernels write behind torch's back: a graph that still wants the old weights is to get its error.
            torch.autograd.graph.increment_version(self.parameters)
        if function == "update":
            self.has_run = True
            if self.batch.return_counts() and not self._measures and self.engine.leaves_out(self.batch):
                self.batch.leave_counting()
        if self.batch.layouts and layout_of(self.parameters[0]) is None:
            make_whole(self.parameters, self.batch.layouts)

    def take_gradients(self, all_gradients: list[Any], name_of: Callable[[Tensor], str]) -> None:
        """Put the parameters' gradients into the batch, laid out as their weights are."""
        gradients = self._pick(all_gradients)
        contiguous = all(map(_is_contiguous, gradients))
        if not contiguous or self.engine.name != "fused":  # a sparse one is not contiguous
            check_dense(self.parameters, gradients, name_of)
        if self._in_view:
            layouts: Sequence[Layout | None] = self.batch.layouts or [None] * len(self.parameters)
            gradients = [real(held(g, layout)) for g, layout in zip(gradients, layouts, strict=True)]
            self.batch.weights = [real(held(p, layout)) for p, layout in zip(self.parameters, layouts, strict=True)]
            self.batch.addresses = addresses_of(self.batch.weights)
            columns = self._stored.items()
            self.batch.columns = {name: [real(local(one)) for one in column] for name, column in columns}
            self.batch.column_addresses = {name: addresses_of(column) for name, column in self.batch.columns.items()}
            contiguous = contiguous and all(map(_is_contiguous, gradients))
        if self.engine.name == "fused":
            weights = self.batch.weights
            if not (contiguous and all(self._contiguous)):
                gradients = [laid_out_as(w, g) for w, g in zip(weights, gradients, strict=True)]
            if self._mixed:
                gradients = [g.to(weights[0].dtype) for g in gradients]
            if self._single:  # torch keeps a lazy negative where a gradient is one number; others it has copied
                gradients = list(gradients)
                for place in self._single:
                    gradients[place] = gradients[place].resolve_neg()
        elif not contiguous and self.engine.takes_factor:
            gradients = [g if is_dense(g) else g.contiguous() for g in gradients]  # a verdict reads them as they lie
        self.batch.gradients = list(gradients)

    def let_go(self) -> None:
        """Hold on to no gradient."""
        self.batch.gradients = self.batch.weights


def check_dense(parameters: Iterable[Tensor], gradients: Sequence[Tensor], name_of: Callable[[Tensor], str]) -> None:
    """Raise ValueError for the first parameter whose gradient is sparse."""
    if {torch.strided}.issuperset(map(_layout_of, gradients)):
        return
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient.layout is not torch.strided:
            layout = str(gradient.layout).removeprefix("torch.")
            raise ValueError(
                f"the gradient of {name_of(parameter)} is {layout}, and only dense gradients are supported; "
                "make the layer with sparse=False, or put gradient.to_dense() in its place"
            )


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of reals."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor
