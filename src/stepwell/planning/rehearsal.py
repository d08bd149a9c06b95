"""A step rehearsed on tensors without data: what it would allocate, and how many operations its products take."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stepwell.codecs import Codec
from stepwell.engines.batch import Batch
from stepwell.engines.choice import FOREACH, MATRICES, REFERENCE
from stepwell.engines.direct import Direct
from stepwell.rules.rule import Rule

StateOf = Callable[[Rule, Tensor], tuple[dict[str, Any], Mapping[str, Codec]]]


@dataclass(frozen=True)
class Rehearsal:
    """What one step takes.

    Attributes:
        peak: bytes of temporaries at the fullest moment, above weights, gradients and state.
        flops: floating-point operations of matrix products and factorisations, a mean over the steps rehearsed.
    """

    peak: int
    flops: float


def rehearse(
    rule: Rule, weights: Sequence[Tensor], device: str, engine: str, state_of: StateOf, function: str = "update"
) -> Rehearsal:
    """Run the rule's steps on tensors like these, without data.

    Args:
        rule: the rule, fitted to them, with its flags.
        weights: parameters of one dtype, on any device; only their shapes are looked at.
        device: the type of the device that the step will run on. It decides what is stacked, and in which dtype
            products are taken.
        engine: "matrices", "foreach" or "reference".
        state_of: makes the state of a parameter, and says how it is stored; alike for all of them.
        function: what of the rule a step is, as `Engine.apply` takes it.
    """
    runner: Direct = {"matrices": MATRICES, "foreach": FOREACH, "reference": REFERENCE}[engine]
    steps = 1 + int(rule.values().get("precondition_frequency", 1))  # the first one may prepare more than the others
    peak, flops = 0, 0.0
    # The meta device is an accelerator to the engines; a fake tensor says that it stands on the CPU.
    with FakeTensorMode() if device == "cpu" else contextlib.nullcontext(), torch.no_grad():
        where = "cpu" if device == "cpu" else "meta"
        stand_ins = [torch.empty(weight.shape, dtype=weight.dtype, device=where) for weight in weights]
        alike: dict[tuple[Any, ...], list[list[Tensor]]] = {}
        for part in runner.parts(rule, stand_ins, list(range(len(stand_ins)))):
            tensors = [stand_ins[index] for index in part]
            alike.setdefault(tuple(tensor.shape for tensor in tensors), []).append(tensors)
        for same in alike.values():  # parts come one after the other, and those of the same shapes take the same
            states, codecs = zip(*(state_of(rule, weight) for weight in same[0]), strict=True)
            batch = Batch(rule, same[0], list(states), [rule.values()] * len(same[0]), codecs[0])
            batch.gradients = [torch.empty_like(weight) for weight in same[0]]
            for step in range(steps):
                batch.advance()
                with _Ledger() as ledger:
                    runner.apply(batch, function)
                peak = max(peak, ledger.peak)
                flops += len(same) * ledger.flops / max(steps - 1, 1) if step or steps == 1 else 0.0
    return Rehearsal(peak, flops)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every tensor made while it is on, as long as that lives, and the operations of products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.flops = 0.0
        self._held = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [tensor.untyped_storage() for tensor in _tensors((args, kwargs))]
        result = _run(function, args, kwargs or {})
        before = {storage._cdata for storage in given}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in before and storage not in self._known:
                self._hold(storage)
        self.flops += _flops(function, args, result)
        if getattr(function, "overloadpacket", None) is torch.ops.aten._linalg_eigh:
            # LAPACK's syevd asks for room for two more matrices of the size of one.
            self.peak = max(self.peak, self._held + 2 * args[0].shape[-1] ** 2 * args[0].element_size())
        return result

    def _hold(self, storage: Any) -> None:
        size = storage.nbytes()
        self._known[storage] = size
        self._held += size
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self._held -= size


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    """What the function gives, also of a tensor without data where torch does not know its shape."""
    if function is torch.ops.aten.geqrf.default and args[0].is_meta:
        matrix = args[0]
        return torch.empty_like(matrix), matrix.new_empty((*matrix.shape[:-2], min(matrix.shape[-2:])))
    return function(*args, **kwargs)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from _tensors(each)
    elif isinstance(tree, (tuple, list)):
        for each in tree:
            yield from _tensors(each)


def _flops(function: Any, args: Any, result: Any) -> float:
    """Operations of a product, as torch counts them, of a factorisation or of a triangular system."""
    packet = getattr(function, "overloadpacket", None)
    if packet in flop_registry:
        return float(flop_registry[packet](*args, out_val=result))
    count = FACTORISATIONS.get(packet)
    return 0.0 if count is None else float(math.prod(args[0].shape[:-2])) * count(*args[:2])


def _reflections(matrix: Tensor, *_: Any) -> float:
    """Householder's R of a matrix, and the reflections that lead to it (Golub & Van Loan 2013, sec. 5.2)."""
    least, most = sorted(map(float, matrix.shape[-2:]))
    return 2 * least**2 * (most - least / 3)


def _reflected(matrix: Tensor, *_: Any) -> float:
    """The columns of Q that belong to R, from the reflections (the same section)."""
    rows, cols = map(float, matrix.shape[-2:])
    least = min(rows, cols)
    return 2 * least**2 * (rows - least / 3)


def _qr(matrix: Tensor, *_: Any) -> float:
    return _reflections(matrix) + _reflected(matrix)


def _eigh(matrix: Tensor, *_: Any) -> float:
    """Eigenvalues and eigenvectors of a symmetric matrix, by QR steps (Golub & Van Loan 2013, sec. 8.3)."""
    return 9.0 * float(matrix.shape[-1]) ** 3


def _solve(triangle: Tensor, right: Tensor) -> float:
    """A triangular system for each column on the right (Golub & Van Loan 2013, sec. 3.1)."""
    return float(triangle.shape[-1]) ** 2 * float(right.shape[-1])


FACTORISATIONS: Mapping[Any, Callable[..., float]] = {
    torch.ops.aten.linalg_qr: _qr,
    torch.ops.aten.geqrf: _reflections,
    torch.ops.aten.linalg_householder_product: _reflected,
    torch.ops.aten._linalg_eigh: _eigh,
    torch.ops.aten.linalg_solve_triangular: _solve,
}
