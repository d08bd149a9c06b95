"""Optimizer state in the host's memory, stepped there: the device holds the weights and their gradients alone.

As ZeRO-Offload does it (Ren et al. 2021, arXiv:2101.06840): gradients go to the host, the CPU steps, weights come back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, cast

import torch
from torch import Tensor

from stepwell.engines.devices import capturing
from stepwell.optimizer import Optimizer
from stepwell.optimizer.averaging import Holds
from stepwell.optimizer.batching import Buckets
from stepwell.optimizer.sharpness import sharp_groups
from stepwell.optimizer.telemetry import By, Units

HOST = torch.device("cpu")
# What an optimizer is told at every step, beside its groups; the last two only a GradScaler sets.
_OPTIONS = ("clip_norm", "on_nonfinite")
_OF_A_SCALER = ("grad_scale", "found_inf")


def offload(optimizer: Optimizer) -> Offloaded:
    """The optimizer with its state in the host's memory, for models whose state has no room beside them.

        optimizer = stepwell.offload(stepwell.AdamW(model.parameters(), lr=1e-3))
        scheduler = stepwell.Scheduler(optimizer, …)

    State is all that is kept for a parameter: slots, and what `master` keeps beside its weights. It never moves. A step
    brings gradients and weights to the host, runs the CPU's engine there, and sends the weights back; on CUDA through
    pinned memory and on a stream of its own. Under `step_in_backward` a thread does so for each parameter while the
    device works out the next gradients.

    Args:
        optimizer: any `stepwell.Optimizer`; its state goes along. It is not to be used any more: give what this returns
            to schedulers.

    Returns:
        A `stepwell.Optimizer` with the same groups, values and options, whose weights and state have the bits of the
        same optimizer with all on the CPU. Its groups are live, and it saves and loads the same state dicts.

    Raises:
        TypeError: an optimizer that is not stepwell's.
        ValueError: parameters on many ranks; a rule inside `sam`; an optimizer that steps in backward already.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a stepwell.Optimizer, got a {type(optimizer).__name__}")
    if isinstance(optimizer, Offloaded):
        return optimizer
    if optimizer._in_backward is not None:
        raise ValueError("the optimizer steps in backward; offload it first, and then call step_in_backward")
    if sharp := sharp_groups(optimizer.param_groups):
        raise ValueError(f"{sharp[0]['rule']} moves the weights between two gradients, which offloading does not serve")
    for group in optimizer.param_groups:
        for p in group["params"]:
            if optimizer._buckets.layout_of(p) is not None:
                raise ValueError(
                    f"{optimizer._name_of(p)} or its state lies on many ranks; share the state of more of them instead"
                )
    return Offloaded(optimizer)


class Offloaded(Optimizer):
    """An optimizer whose state lies on the host; made by `offload`.

    A second optimizer, on the host, has a twin of every parameter and does the work. Both see the same state; groups
    and options are told to it before each step.
    """

    _there: Optimizer | None = None

    def __init__(self, optimizer: Optimizer) -> None:
        optimizer._recognise()
        groups = [dict(group) for group in optimizer.param_groups]
        super().__init__(
            groups,
            optimizer.rule,
            clip_norm=optimizer.clip_norm,
            on_nonfinite=optimizer.on_nonfinite,
            state_dtype=optimizer.state_dtype,
            master=optimizer.master,
            rounding_seed=optimizer.rounding_seed,
        )
        self.engine = optimizer.engine
        self.recipe = optimizer.recipe
        self.skipped = optimizer.skipped
        for p, slots in optimizer.state.items():
            self.state[p] = {name: _on_host(value) for name, value in slots.items()}
        self._make_there()

    def _make_there(self) -> None:
        self._buses: defaultdict[torch.device, _Bus] = _Buses()
        self._twins: dict[int, Tensor] = {}
        self._looks: dict[int, tuple[Any, ...]] = {}
        self._arriving: dict[int, Tensor] = {}
        self._tasks: list[Future[None]] = []
        self._worker: ThreadPoolExecutor | None = None
        groups = [{**group, "params": list(map(self._twin, group["params"]))} for group in self.param_groups]
        for group in groups:
            group.pop("fingerprint", None)  # which stands where it was loaded, and is looked at there
        self._there = Optimizer(groups, self.rule, engine=self.engine)
        self._share_state()

    def _share_state(self) -> None:
        """Let the host have a parameter's state as it stands here: the same dict, so that both see what it becomes."""
        self._host.state = defaultdict(dict, {self._twin(p): slots for p, slots in self.state.items()})

    @property
    def _host(self) -> Optimizer:
        assert self._there is not None
        return self._there

    def _twin(self, p: Tensor) -> Tensor:
        if id(p) not in self._twins:
            twin = self._twins[id(p)] = _room_for(p).requires_grad_()
            self._looks[id(p)] = _look(p)
            if hasattr(twin, "grad_dtype"):  # torch 2.9
                twin.grad_dtype = None  # it takes what the parameter's own lets through
        return self._twins[id(p)]

    def _parameters(self, groups: Iterable[Mapping[str, Any]]) -> list[Tensor]:
        return [p for group in groups for p in group["params"]]

    # What an optimizer does.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, also in mid-training. Raises where a key, a value or a parameter is not what it should be."""
        super().add_param_group(param_group)
        if self._there is not None:
            group = self.param_groups[-1]
            self._there.add_param_group({**group, "params": list(map(self._twin, group["params"]))})

    def _take_step(self) -> None:
        self._tell()
        parameters = self._parameters(self.param_groups)
        for p in parameters:
            self._twin(p).grad = None
        given = [p for p in parameters if p.grad is not None]
        self._bring(given)()
        skipped = self._host.skipped
        try:
            self._host.step()
        finally:
            self._listen()  # a step that fails may have made state
        self.skipped += self._host.skipped - skipped
        self._gradient_norm = self._host.gradient_norm
        self._send(given)
        self._join()

    @torch.no_grad()
    def _hold(self, holds: Holds, among: list[dict[str, Any]] | None = None) -> None:
        self._recognise()
        chosen = self.param_groups if among is None else among
        self._tell()
        there = [
            group
            for mine, group in zip(self.param_groups, self._host.param_groups, strict=True)
            if any(mine is one for one in chosen)
        ]
        self._with_weights(chosen, lambda: self._host._hold(holds, there))
        self._listen()

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any], *, copy: bool = True) -> None:
        """Take over a state dict, as `Optimizer.load_state_dict` does; state goes to the host at once."""
        self._tell()
        given = dict(state_dict) if isinstance(state_dict, Mapping) else state_dict
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, given)
            given = given if replaced is None else replaced
        self._with_weights(self.param_groups, lambda: self._host.load_state_dict(given, copy=copy))
        self.state.clear()
        for mine, there in zip(self.param_groups, self._host.param_groups, strict=True):
            mine.pop("fingerprint", None)
            mine.update({name: value for name, value in there.items() if name != "params"})
        self._listen()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _home_of(self, parameter: Tensor) -> torch.device:
        return HOST

    @torch.no_grad()
    def _settle(self) -> None:
        self._with_weights(self.param_groups, self._host._settle)

    def kernel_source(self) -> str:
        """The source of the fused kernels that run on the host. Raises ValueError where no group runs fused."""
        return self._host.kernel_source()

    def observe(self, observed: bool = True) -> None:
        """From the next step on, let each step add up on its way what `telemetry` and `units` tell.

        A copy is not observed.
        """
        self._host.observe(observed)

    @property
    def observed(self) -> bool:
        """Whether steps are observed, so that `telemetry` and `units` can be asked."""
        return self._host.observed

    def telemetry(self, by: By = "group") -> dict[str, dict[str, float]]:
        """The last step that was taken, in numbers, as `Optimizer.telemetry` tells it."""
        return self._host.telemetry(by)

    def units(self) -> dict[str, Units]:
        """How large the gradients of the units were at the last step that was taken, as `Optimizer.units` tells it."""
        return self._host.units()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_there()

    # In the backward pass: a thread waits for the gradients, steps, and sends the weights back.

    def _step_only(self, parameters: list[Tensor], buckets: Buckets, factor: float) -> None:
        if not self._tasks:  # what a task reads stays as it is
            self._tell()
        arrived = self._bring(parameters)
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "stepwell-offload")

        @torch.no_grad()
        def work() -> None:
            arrived()
            self._host._step_only(list(map(self._twin, parameters)), buckets, factor)
            self._send(parameters)

        self._tasks.append(self._worker.submit(work))

    def _finish_steps(self, all_of_them: Iterable[Buckets]) -> None:
        tasks, self._tasks = self._tasks, []
        wait_for(tasks)
        self._listen()  # also what others have made where one has failed
        for task in tasks:
            task.result()
        self._join()
        self._host._finish_steps(all_of_them)

    # What goes there and comes back.

    def _tell(self) -> None:
        """Let the host know the groups, the state and the options as they are now."""
        twins = [[id(self._twins.get(id(p))) for p in group["params"]] for group in self.param_groups]
        same = twins == [list(map(id, group["params"])) for group in self._host.param_groups]
        if not (same and all(self._looks[id(p)] == _look(p) for p in self._parameters(self.param_groups))):
            observed = self.observed  # parameters have come, gone, or changed their dtype
            self._make_there()
            self.observe(observed)
        parameters = self._parameters(self.param_groups)
        apart = any(self.state.get(p) is not self._host.state.get(self._twin(p)) for p in parameters)
        if apart and not self._tasks:  # somebody has cleared or replaced it, no task of a backward pass is making it
            self._share_state()
        for mine, there in zip(self.param_groups, self._host.param_groups, strict=True):
            for name in [name for name in there if name not in mine]:
                del there[name]
            there.update({name: value for name, value in mine.items() if name != "params"})
        for name in _OPTIONS:
            setattr(self._host, name, getattr(self, name))
        for name in _OF_A_SCALER:
            setattr(self._host, name, getattr(self, name, None))

    def _listen(self) -> None:
        """Take over what the host has changed: state that it has made, and which weights the parameters hold."""
        for mine, there in zip(self.param_groups, self._host.param_groups, strict=True):
            if "holds" in there:
                mine["holds"] = there["holds"]
            for p, twin in zip(mine["params"], there["params"], strict=True):
                if self._host.state.get(twin):
                    self.state[p] = self._host.state[twin]

    def _bring(self, parameters: list[Tensor], *, gradients: bool = True) -> Callable[[], None]:
        """Begin to copy weights, and gradients, to their twins; what is returned waits for it."""
        if any(map(capturing, {p.device for p in parameters})):
            raise RuntimeError(
                "a CUDA graph cannot capture what is done with offloaded state, as the host does it; do it outside the "
                "graph"
            )
        pairs: defaultdict[torch.device, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in parameters:
            twin = self._twin(p)
            pairs[p.device].append((twin, p))
            if gradients and p.grad is not None:
                twin.grad = self._room_for_gradient(p, p.grad)
                if twin.grad.layout is torch.strided:
                    pairs[p.device].append((twin.grad, p.grad))
        waits = [self._buses[device].fetch(of_it) for device, of_it in pairs.items()]

        def arrived() -> None:
            for wait in waits:
                wait()

        return arrived

    def _room_for_gradient(self, p: Tensor, gradient: Tensor) -> Tensor:
        if gradient.layout is not torch.strided:
            return gradient.to(HOST)  # to be refused there, by name
        room = self._arriving.get(id(p))
        if room is None or (room.dtype, room.stride()) != (gradient.dtype, gradient.stride()):
            room = self._arriving[id(p)] = _room_for(gradient)
        return room

    def _send(self, parameters: list[Tensor]) -> None:
        """Begin to copy the twins' weights back."""
        pairs: defaultdict[torch.device, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in parameters:
            pairs[p.device].append((p, self._twin(p)))
        for device, of_it in pairs.items():
            self._buses[device].send(of_it)

    def _with_weights(self, groups: list[dict[str, Any]], do: Callable[[], None]) -> None:
        """Let the host do something with the weights as they are, and take over what becomes of them."""
        parameters = self._parameters(groups)
        self._bring(parameters, gradients=False)()
        do()
        self._send(parameters)
        self._join()

    def _join(self) -> None:
        """What the devices do next waits for what was sent; the host does not."""
        for bus in self._buses.values():
            bus.join()


class _Bus:
    """The way between the host and one device. On CUDA copies run on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def fetch(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        """Copy the second of each pair into the first, on the host, after what the device has to do now."""
        if self._stream is None:
            for there, here in pairs:
                there.copy_(here)
            return _nothing
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for there, here in pairs:
                there.copy_(here, non_blocking=True)
                here.record_stream(self._stream)  # its memory is not given away before
            event = self._stream.record_event()
        return cast(Callable[[], None], event.synchronize)

    def send(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Copy the second of each pair, on the host, into the first."""
        if self._stream is None:
            for here, there in pairs:
                here.copy_(there)
            return
        with torch.cuda.stream(self._stream):
            for here, there in pairs:
                here.copy_(there, non_blocking=True)

    def join(self) -> None:
        """Let what the device is given from now on wait for what was sent."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


class _Buses(defaultdict[torch.device, _Bus]):
    """A bus for each device, made when it is first asked for."""

    def __missing__(self, device: torch.device) -> _Bus:
        bus = self[device] = _Bus(device)
        return bus


def _nothing() -> None:
    """There is nothing to wait for."""


def _room_for(tensor: Tensor) -> Tensor:
    """An empty tensor like this one on the host, pinned where that makes copies faster."""
    return torch.empty_like(tensor, device=HOST, pin_memory=tensor.device.type == "cuda", requires_grad=False)


def _look(tensor: Tensor) -> tuple[Any, ...]:
    """What a twin has of its parameter, beside the numbers."""
    return tensor.dtype, tensor.shape, tensor.stride()


def _on_host(value: Any) -> Any:
    return value.detach().to(HOST, copy=True) if isinstance(value, Tensor) else value
