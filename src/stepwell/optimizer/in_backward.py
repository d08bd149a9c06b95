"""Steps in the backward pass: a parameter is updated as soon as its gradient is there, and the gradient is let go.

So the gradients of a whole model never lie in memory together (Lv et al. 2023, "LOMO", arXiv:2306.09782).
"""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from stepwell.engines.devices import stream_of, under
from stepwell.engines.matrices import is_small
from stepwell.optimizer import Optimizer
from stepwell.optimizer.batching import Buckets
from stepwell.optimizer.bucket import check_dense
from stepwell.optimizer.gradients import clip_factor, gradient_norms, judged_by_host, not_finite
from stepwell.optimizer.sharpness import sharp_groups
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule
from stepwell.text.naming import nearest

Norm = Literal["running", "measured"]
_NORMS = ("running", "measured")
# How much of the average norm stays at each step: it looks back on about ten.
_MEMORY = 0.9
# Those that are there. A parameter's hook holds none of them: whom nobody else holds, steps no more.
_LIVE: weakref.WeakSet[StepInBackward] = weakref.WeakSet()


def step_in_backward(
    model: nn.Module, optimizer: Optimizer, *, norm: Norm = "running", chunk_bytes: int = 1 << 22
) -> StepInBackward:
    """Let the optimizer step in the backward pass: each parameter as soon as its gradient is there.

    The training loop stays as it is. `optimizer.step()` then steps what is left, fewer than `chunk_bytes` of gradients
    and small matrices that are worked on together, and is the one step that schedulers hear of; where nothing is
    clipped, weights and state have the same bits as without.

        stepwell.step_in_backward(model, optimizer)
        for batch in batches:
            model(batch).backward()  # steps, and lets the gradients go
            optimizer.step()
            scheduler.step()

    Args:
        model: the model that is trained, with all or some of the optimizer's parameters.
        optimizer: a `stepwell.Optimizer` of any rules but those that have to see all gradients first.
        norm: what `clip_norm` goes by, because the norm of the whole gradient is known only when the pass is over.
            "running" takes the average of the norms of the steps before (an exponential one over about ten, without
            the bias of its start), or the norm of what this pass has given so far where that is more, as at the first
            step. "measured" takes the exact one, for which the backward pass is made twice: call
            `measure(loss)` before `loss.backward()`.
        chunk_bytes: gradients wait until there are so many bytes of them, at least 0, and are then stepped together: a
            kernel for every small tensor would cost more than it saves.

    Returns:
        What is told of more than one backward pass a step, and ends all this: `remove()`, or the end of a `with`.

    Raises:
        TypeError: an optimizer that is not stepwell's.
        ValueError: an optimizer without any of the model's parameters; a rule that has to see all gradients first
            (Prodigy, D-Adaptation, `sam`); parameters on many ranks; `on_nonfinite` of "raise" or "skip" without the
            measured norm; an optimizer that steps in backward already.
    """
    return StepInBackward(model, optimizer, norm=norm, chunk_bytes=chunk_bytes)


class StepInBackward:
    """Makes an optimizer step in the backward pass until `remove()`; made by `step_in_backward`."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, norm: Norm, chunk_bytes: int) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a stepwell.Optimizer, got a {type(optimizer).__name__}")
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of 'running', 'measured', got {norm!r}{nearest(str(norm), _NORMS)}")
        if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int) or chunk_bytes < 0:
            raise ValueError(f"chunk_bytes must be a whole number at least 0, got {chunk_bytes!r}")
        self.optimizer = optimizer
        self.norm = norm
        self.chunk_bytes = chunk_bytes
        self._check(model)
        self._hooks: dict[int, tuple[Tensor, RemovableHandle]] = {}
        self._stacked: set[int] = set()
        self._buckets: dict[tuple[int, ...], Buckets] = {}
        self._doing: Literal["stepping", "measuring", "accumulating"] = "stepping"
        # By the stream on which they come: what is used on another would have to wait for it.
        self._waiting: defaultdict[Any, dict[int, Tensor]] = defaultdict(dict)
        # The gradient that came, as long as it is there; None in the place of one that has been used, or left out.
        self._arrived: dict[int, weakref.ref[Tensor] | None] = {}
        self._lock = threading.RLock()  # each device has a thread that works its gradients out
        self._forget()
        self._watch()
        optimizer._in_backward = self
        _LIVE.add(self)

    def _forget(self) -> None:
        """Begin a new step."""
        self._arrived.clear()
        self._waiting.clear()
        self._seen = 0.0  # the norm of the gradients of this pass so far
        self._measured: float | None = None
        self._leaves_out = False
        self._used: list[Buckets] = []

    def _check(self, model: nn.Module) -> None:
        optimizer = self.optimizer
        if optimizer._in_backward is not None:
            raise ValueError("the optimizer steps in backward already; remove() that first")
        if self._taken() is not None:
            gc.collect()  # what nobody holds any more is in a circle with its optimizer
            if (taken := self._taken()) is not None:
                raise ValueError(
                    f"{optimizer._name_of(taken)} steps in backward under another optimizer; remove() that first"
                )
        if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
            raise ValueError(
                "DistributedDataParallel averages gradients after they were handed over, so a step in backward would "
                "take those of this rank alone; call optimizer.step() as usual"
            )
        theirs = {id(p) for p in model.parameters()}
        if not any(id(p) in theirs for p in self._parameters()):
            raise ValueError("the optimizer has none of the model's parameters; give the model that it trains")
        if self.norm == "running" and optimizer.on_nonfinite != "ignore":
            raise ValueError(
                f"on_nonfinite={optimizer.on_nonfinite!r} has to see all gradients before the first step: "
                "take norm='measured', or on_nonfinite='ignore'"
            )
        self._check_groups()

    def _check_groups(self) -> None:
        for group in self.optimizer.param_groups:
            kind = rule_class(group["rule"])
            if kind.measure is not Rule.measure or sharp_groups([group]):
                raise ValueError(
                    f"{kind.__name__} looks at the gradients of all parameters before it updates any, and in the "
                    "backward pass they are not there together; call optimizer.step() as usual"
                )
            for p in group["params"]:
                if self.optimizer._buckets.layout_of(p) is not None:
                    raise ValueError(
                        f"{self.optimizer._name_of(p)} or its state lies on many ranks, whose messages need an order; "
                        "call optimizer.step() as usual"
                    )

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _taken(self) -> Tensor | None:
        """A parameter that another optimizer steps in backward."""
        own = {id(p): p for p in self._parameters()}
        found = (p for other in list(_LIVE) for key, (p, _) in other._hooks.items() if own.get(key) is p)
        return next(found, None)

    def _watch(self) -> None:
        """Hook the parameters that have no hook yet: all at first, later what was added or thawed."""
        for group in self.optimizer.param_groups:
            rule = rule_class(group["rule"]).of(group)
            for p in group["params"]:
                if p.requires_grad and id(p) not in self._hooks:
                    self._hooks[id(p)] = p, p.register_post_accumulate_grad_hook(_hook(self))
                    # Small matrices of one shape are worked on in a stack, all of them at the end.
                    if is_small(rule.fit(tuple(p.shape)), p):
                        self._stacked.add(id(p))

    # What a user calls.

    @contextlib.contextmanager
    def accumulating(self) -> Iterator[None]:
        """Backward passes in here add up their gradients, and step nothing: all passes of a step but the last.

        Gradients that are added up have to be kept, so this saves memory only from the last pass on.
        """
        with self._while("accumulating"):
            yield

    def measure(self, loss: Tensor | Sequence[Tensor]) -> float:
        """Work out the norm of the gradient in a backward pass of its own, which keeps the graph and no gradient.

        The next backward pass is the one that steps, clipped by this norm. Where a gradient is not finite, "raise" is
        raised here, and "skip" leaves that pass's gradients unused.

        Returns:
            The norm, before clipping.

        Raises:
            ValueError: without norm="measured".
            RuntimeError: gradients are there already, as those of an accumulation are.
            FloatingPointError: a gradient is not finite and on_nonfinite is "raise". No weight has changed.
        """
        if self.norm != "measured":
            raise ValueError("measure() is for norm='measured'; the norm here is 'running'")
        if any(p.grad is not None for p in self._parameters()):
            raise RuntimeError(
                "there are gradients already, and the pass that measures would add to them: measure before them, with "
                "one backward pass a step"
            )
        norms: dict[int, float] = {}
        self._norms = norms
        with self._while("measuring"):
            inputs = [p for p, _ in self._hooks.values() if p.requires_grad]
            torch.autograd.backward(loss, retain_graph=True, inputs=inputs)
            for stream in list(self._waiting):
                self._flush(stream)
        self._measured = math.hypot(*norms.values())
        bad = [p for p in self._parameters() if not math.isfinite(norms.get(id(p), 0.0))]
        if bad and self.optimizer.on_nonfinite == "raise":
            raise not_finite(bad, self.optimizer._name_of)
        self._leaves_out = bool(bad) and self.optimizer.on_nonfinite == "skip"
        return self._measured

    def remove(self) -> None:
        """Step in `optimizer.step()` again, as usual. Gradients that wait are left for it."""
        for _, hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        if self.optimizer._in_backward is self:
            self.optimizer._in_backward = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    # What torch, and the optimizer's step(), call.

    @contextlib.contextmanager
    def _while(self, doing: Literal["measuring", "accumulating"]) -> Iterator[None]:
        before, self._doing = self._doing, doing
        try:
            yield
        finally:
            self._doing = before
            self._waiting.clear()

    @torch.no_grad()
    def _take(self, p: Tensor) -> None:
        """A gradient has come."""
        with self._lock:
            self._sort_in(p)

    def _sort_in(self, p: Tensor) -> None:
        if p.grad is not None:
            check_dense([p], [p.grad], self.optimizer._name_of)
        if self._doing != "measuring":
            if id(p) in self._arrived:
                self._begin_anew(p)
            if self._doing == "accumulating":
                return
            if self._leaves_out:
                p.grad = None
            self._arrived[id(p)] = None if p.grad is None else weakref.ref(p.grad)
            if self._leaves_out or id(p) in self._stacked:
                return
        stream = stream_of(p.device)
        self._waiting[stream][id(p)] = p
        if sum(g.nbytes for each in self._waiting[stream].values() if (g := each.grad) is not None) >= self.chunk_bytes:
            self._flush(stream)

    def _begin_anew(self, p: Tensor) -> None:
        """Forget that a gradient has come where it has been cleared since, as after a backward pass that failed, and
        nothing has come of it. Raises RuntimeError elsewhere."""
        first = self._arrived[id(p)]
        if first is None or first() is p.grad:
            raise RuntimeError(
                f"{self.optimizer._name_of(p)} got a second gradient since the last optimizer.step(), and the first "
                f"{'has been used' if first is None else 'waits to be used'}: run all backward passes of a step but "
                "the last within `with stepping.accumulating():`, where `stepping` is what step_in_backward() "
                "returned; after a backward pass that failed, optimizer.zero_grad() and optimizer.step() end its step"
            )
        del self._arrived[id(p)]
        for waiting in self._waiting.values():  # now it may come on another stream
            waiting.pop(id(p), None)

    def _flush(self, stream: Any) -> None:
        """Use the gradients that wait on a stream."""
        with under(stream):
            self._use(self._waiting.pop(stream).values())

    def _use(self, parameters: Iterable[Tensor]) -> None:
        """Use the parameters' gradients, and let them go."""
        chunk = [p for p in parameters if p.grad is not None]
        if self._doing == "measuring":
            self._norms.update(self._norms_of(chunk))
        else:
            self._step(chunk)
        for p in chunk:
            p.grad = None

    def _step(self, chunk: list[Tensor]) -> None:
        if not chunk:
            return
        factor = self._factor(chunk)
        self.optimizer._check_ready()
        key = tuple(map(id, chunk))
        if len(self._buckets) > 2 * len(self._hooks):
            self._buckets.clear()  # a graph that is another each time
        buckets = self._buckets.setdefault(key, Buckets(self.optimizer.engine))
        self._used.append(buckets)
        self._arrived.update((id(p), None) for p in chunk)
        self.optimizer._step_only(chunk, buckets, factor)
        # What still wants the old weights in this pass is to get its error, also where another thread moves them.
        torch.autograd.graph.increment_version(chunk)

    def _norms_of(self, parameters: list[Tensor]) -> dict[int, float]:
        return gradient_norms(parameters, with_kernel=self.optimizer.engine in ("auto", "fused"))

    def _factor(self, chunk: list[Tensor]) -> float:
        """What these gradients are multiplied with, so that they are clipped."""
        limit = self.optimizer.clip_norm
        if self.norm == "measured":
            if self._measured is None and (limit is not None or self.optimizer.on_nonfinite != "ignore"):
                raise RuntimeError("norm='measured' needs stepping.measure(loss) before loss.backward()")
            norm = 0.0 if self._measured is None else self._measured
        elif limit is None:
            return 1.0
        else:
            self._seen = math.hypot(self._seen, *self._norms_of(chunk).values())
            average, steps = self._running
            # max() would leave out NaN, with which clipping makes all weights NaN, as it does elsewhere.
            before = average / (1 - _MEMORY**steps) if steps else 0.0
            norm = before if before > self._seen else self._seen
        return 1.0 if limit is None else float(clip_factor(norm, limit))

    @property
    def _running(self) -> tuple[float, int]:
        """The average of the norms, and of how many: it lies in the first group, and so in a state dict."""
        average, steps = self.optimizer.param_groups[0].get("running_norm", (0.0, 0))
        return average, steps

    def finish(self, closure: Any) -> None:
        """What is left of a step after the backward pass; the optimizer's `step()` calls it."""
        if closure is not None:
            raise TypeError(
                "an optimizer that steps in backward takes no closure: call loss.backward(), then optimizer.step()"
            )
        if getattr(self.optimizer, "grad_scale", None) is not None or hasattr(self.optimizer, "found_inf"):
            raise RuntimeError(
                "a GradScaler decides about a step when all gradients are there, and these have been stepped with: "
                "train in bfloat16, which needs no scaler, or without step_in_backward"
            )
        if self._doing != "stepping":
            raise RuntimeError("optimizer.step() within accumulating(): it belongs behind the last backward pass")
        self.optimizer._check_ready()
        rest = [p for p in self._parameters() if p.grad is not None]
        if self.norm == "measured" and self._measured is None and not self._arrived:
            self._judge()
        if self._leaves_out:
            self.optimizer.skipped += 1
            for p in rest:
                p.grad = None
        else:
            self._use(rest)
            self.optimizer._finish_steps(self._used)
        if self._used or self._leaves_out:
            self._note_the_norm()
        if len(self._hooks) < len(self._parameters()):
            self._check_groups()
            self._watch()
        self._forget()

    def _judge(self) -> None:
        """Measure what no pass has stepped with, and is all there: added up, or put there by hand, as torch's
        `set_state_dict` does to have the state made that it fills."""
        judged = judged_by_host(
            self._parameters(),
            scale=None,
            limit=self.optimizer.clip_norm,
            on_nonfinite=self.optimizer.on_nonfinite,
            name_of=self.optimizer._name_of,
            with_kernel=self.optimizer.engine in ("auto", "fused"),
        )
        self._measured, self._leaves_out = judged.norm, judged.factor is None

    def _note_the_norm(self) -> None:
        if self.norm == "measured":
            if self._measured is not None:
                self.optimizer.gradient_norm = self._measured
        elif self.optimizer.clip_norm is not None:
            self.optimizer.gradient_norm = self._seen
            if math.isfinite(self._seen):
                average, steps = self._running
                new = _MEMORY * average + (1 - _MEMORY) * self._seen
                self.optimizer.param_groups[0]["running_norm"] = (new, steps + 1)


def _hook(stepping: StepInBackward) -> Callable[[Tensor], None]:
    """What a parameter calls when its gradient is there."""
    held = weakref.ref(stepping)

    def hook(p: Tensor) -> None:
        found = held()
        if found is not None:
            found._take(p)

    return hook
