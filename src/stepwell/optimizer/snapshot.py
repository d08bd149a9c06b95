"""Everything that a training step may change, kept aside and put back to the bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stepwell.optimizer.unwrapping import bare

_OPEN: set[int] = set()


def is_open(optimizer: Optimizer) -> bool:
    """Whether a snapshot of the optimizer is open, in a wrapper or out: steps taken now will not have happened."""
    return id(bare(optimizer)) in _OPEN


class Snapshot:
    """Within this context training may go on; afterwards, also after an exception, nothing of it has happened.

    Kept are the optimizer's parameters with their gradients, its state and its groups; of a model also the other
    parameters, the buffers and the modes of its modules; and the state of torch's random numbers. Tensors come back as
    the same objects. That takes a copy of all of it in memory. A `stepwell.Scheduler` of the optimizer stands still.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        self.optimizer = bare(optimizer)
        self.model = model

    def __enter__(self) -> Self:
        groups = self.optimizer.param_groups
        tensors = [p for group in groups for p in group["params"]]
        if self.model is not None:
            tensors += [*self.model.parameters(), *self.model.buffers()]
            self._modes = [(module, module.training) for module in self.model.modules()]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in {id(t): t for t in tensors}.values()]
        self._gradients = [(t, t.grad, None if t.grad is None else t.grad.clone()) for t, _ in self._tensors]
        self._groups = [(group, {name: _kept(value) for name, value in group.items()}) for group in groups]
        self._state = {p: {name: _kept(value) for name, value in state.items()} for p, state in self._states().items()}
        self._notes = {name: getattr(self.optimizer, name, None) for name in ("skipped", "gradient_norm")}
        self._random = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        self._outermost = not is_open(self.optimizer)
        _OPEN.add(id(self.optimizer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outermost:
            _OPEN.discard(id(self.optimizer))
        with torch.no_grad():
            for tensor, before in self._tensors:
                tensor.copy_(before)
            for tensor, gradient, values in self._gradients:
                tensor.grad = gradient
                if gradient is not None and values is not None:
                    gradient.copy_(values)
            for group, kept in self._groups:
                _put_back(group, kept)
            for p, state in list(self._states().items()):
                if p in self._state:
                    _put_back(state, self._state[p])
                else:
                    state.clear()  # whoever holds it sees that it is gone
                    del self.optimizer.state[p]
        for module, training in getattr(self, "_modes", []):
            module.training = training
        for name, value in self._notes.items():
            if hasattr(self.optimizer, name):
                setattr(self.optimizer, name, value)
        torch.set_rng_state(self._random)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)

    def _states(self) -> dict[Tensor, dict[str, Any]]:
        return {p: state for p, state in self.optimizer.state.items() if isinstance(p, Tensor)}


@dataclass(frozen=True)
class _Kept:
    """A tensor, and what stood in it."""

    tensor: Tensor
    before: Tensor

    def put_back(self) -> Tensor:
        return self.tensor.copy_(self.before)


def _kept(value: Any) -> Any:
    """A tensor with a copy of it; a list of parameters as another list of them; anything else as a copy."""
    if isinstance(value, Tensor):
        return _Kept(value, value.detach().clone())
    if type(value) is tuple:
        return tuple(map(_kept, value))
    if isinstance(value, list) and any(isinstance(one, Tensor) for one in value):
        return list(value)
    return copy.deepcopy(value)


def _put_back(live: dict[str, Any], kept: dict[str, Any]) -> None:
    for name in [name for name in live if name not in kept]:
        del live[name]
    for name, value in kept.items():
        live[name] = _before(value)


def _before(kept: Any) -> Any:
    """What was kept, as it was."""
    if type(kept) is tuple:
        return tuple(map(_before, kept))
    return kept.put_back() if isinstance(kept, _Kept) else kept
