"""One torch optimizer for any mix of rules."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from stepwell.codecs import (
    MasterKind,
    StateDtype,
    Storage,
    check_storage,
    settle_storage,
)
from stepwell.engines.choice import EngineName, check_engine, engine_for
from stepwell.layout import largest_held, make_state_whole, state_mesh
from stepwell.optimizer import averaging
from stepwell.optimizer.batching import Buckets, settle
from stepwell.optimizer.bucket import Bucket, real
from stepwell.optimizer.gradients import judged_by_host
from stepwell.optimizer.groups import STORAGE, check_names, check_parameter, new_group
from stepwell.optimizer.loading import loaded, notes_for_state_dict
from stepwell.optimizer.sharpness import sharp_gradients, sharp_groups
from stepwell.optimizer.sources import kernels_of
from stepwell.optimizer.telemetry import By, Units, readings, units_of
from stepwell.optimizer.uncompiled import uncompiled
from stepwell.optimizer.verdicts import Verdicts
from stepwell.rules.hyper import Checked, Positive
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule
from stepwell.text.values import shown

if TYPE_CHECKING:
    from stepwell.optimizer.in_backward import StepInBackward

OnNonfinite = Literal["ignore", "raise", "skip"]
Parameters = Iterable[Any]

# What a copy takes along; hooks and what is derived stay behind, as in torch.
_KEPT = frozenset(
    ("defaults", "state", "param_groups", "engine", "clip_norm", "on_nonfinite", "rule", "_skipped", "_gradient_norm")
) | {"recipe", "_shares_state", *STORAGE}


class Optimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that runs any mix of rules in its parameter groups.

    Groups are live: `group["lr"]` and the other hyper-parameters are plain values that the next step reads, and
    `group["rule"]` is the name of the group's rule.

    Args:
        params: tensors, `(name, tensor)` pairs, or group dicts, as torch takes them. A group may carry its own `rule`
            (a `Rule`, or the name of one) and its own values; `name`, `why` and `role` are notes.
        rule: the rule of the groups that carry none, and the default values of those that carry the same.
        engine: "auto" takes the fused engine where it serves (CPU, and CUDA with Triton) and foreach elsewhere;
            "reference", "foreach" and "fused" insist. Matrix rules have an engine of their own under all but
            "reference".
        clip_norm: scale the gradients of each step down to this global norm, as `clip_grad_norm_` would, but without
            changing them; None leaves them.
        on_nonfinite: what to do about NaN or infinity in gradients. "ignore" goes on, as torch does; "raise" raises
            FloatingPointError before any weight has changed; "skip" leaves weights, state and counts untouched.
        state_dtype: how the state is stored that has a number for each element. None: as the parameter is. "float32";
            "bfloat16", rounded stochastically; "8bit" or "4bit" in blocks of 256 (see `docs/storage.md`), where
            parameters of fewer than 4096 elements keep float32. A group may have its own.
        master: how 16-bit weights are kept so that small updates are not lost. None: rounded to the nearest, and they
            are. For bfloat16 "stochastic" rounds by chance, without bias; "kahan" keeps the rounding error in another
            bfloat16; "compensated" the 16 bits that make the weight a float32, "compensated8" 8 of them. "float32"
            keeps a float32 beside them, for float16 too. Wider weights need none of it and stay as they are. A group
            may have its own.
        rounding_seed: what the random bits of stochastic rounding depend on, beside the step, the parameter and the
            element: a whole number of at least 0.
        shard_state: where every rank has the model whole (DistributedDataParallel), let each keep and work out a part
            of the state only, and share the new weights: a one-dimensional `DeviceMesh`, or True for all ranks. Where
            parameters are `DTensor`s their state lies as they do, without this.

    Attributes:
        skipped: how many steps were left out, because of non-finite gradients or by a GradScaler.
        gradient_norm: the global norm of the last step's gradients before clipping, where it was worked out.
        recipe: the recipe that it was built from, as `Recipe.to_dict` has it; None where it was built without one.

    On a GPU a step does not wait for either, but reading them does; see `docs/gpu.md`.
    """

    # GradScaler then hands over `grad_scale` and `found_inf` instead of rewriting the gradients.
    _step_supports_amp_scaling = True
    # What has stepped in the backward pass already, where something has.
    _in_backward: StepInBackward | None = None
    recipe: dict[str, Any] | None = None
    # What may be set later too.
    clip_norm = Checked[float | None](Positive | None)
    on_nonfinite = Checked[OnNonfinite](OnNonfinite)
    state_dtype = Checked[StateDtype | None](STORAGE["state_dtype"])
    master = Checked[MasterKind | None](STORAGE["master"])
    rounding_seed = Checked[int](STORAGE["rounding_seed"])

    def __init__(
        self,
        params: Parameters,
        rule: Rule,
        *,
        engine: EngineName = "auto",
        clip_norm: float | None = None,
        on_nonfinite: OnNonfinite = "ignore",
        state_dtype: StateDtype | None = None,
        master: MasterKind | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a stepwell.Rule such as stepwell.rules.AdamW(), got {shown(rule)}")
        check_engine(engine)
        if isinstance(params, (torch.nn.Module, set)) or not isinstance(params, Iterable):
            hint = (
                "pass model.parameters()" if isinstance(params, torch.nn.Module) else "pass a list of tensors or groups"
            )
            raise TypeError(
                f"params must be tensors in an order, or groups of them, got a {type(params).__name__}; {hint}"
            )
        self.clip_norm, self.on_nonfinite = clip_norm, on_nonfinite
        self.state_dtype, self.master, self.rounding_seed = state_dtype, master, rounding_seed
        self.engine = engine
        self.rule = rule
        self._skipped = 0
        self._gradient_norm: float | Tensor | None = None
        self._verdicts = Verdicts()
        self._shares_state = state_mesh(shard_state)
        self._buckets = Buckets(engine, self._shares_state)
        super().__init__(params, rule.values())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, also in mid-training. Raises where a key, a value or a parameter is not what it should be."""
        stored = {name: getattr(self, name) for name in STORAGE}
        group, rule, where = new_group(param_group, self.rule, stored, len(self.param_groups))
        if averaging.has_average(group["rule"]):
            group.setdefault("holds", "training")
        self._check_parameters(group, rule, where)
        self.param_groups.append(group)
        self._buckets.forget()

    def _check_parameters(self, group: Mapping[str, Any], rule: Rule, where: str) -> None:
        check_names(group, self.param_groups, where)
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        storage = Storage.of(group)
        for index, p in enumerate(group["params"]):
            name = repr(group["param_names"][index]) if "param_names" in group else f"number {index}"
            if id(p) in taken:
                raise ValueError(f"parameter {name} is in the optimizer twice{where}; list tied weights once")
            taken.add(id(p))
            layout = self._buckets.layout_of(p)
            fitted, codecs = check_parameter(rule, p, name, where, storage, layout)
            if self.engine == "fused":
                engine_for("fused", fitted, real(largest_held(p, layout)), codecs, layout)
        check_storage(rule, [tuple(p.shape) for p in group["params"]], storage, where)

    @uncompiled
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step. Returns what the closure returns, which is called with gradients enabled."""
        if self._in_backward is not None:
            self._in_backward.finish(closure)
            return None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if sharp := sharp_groups(self.param_groups):
            self._buckets.agree(self.param_groups, self._name_of, None)  # before ranks add up their norms
            sharp_gradients(sharp, closure, self._name_of, with_kernel=self.engine in ("auto", "fused"))
        self._check_ready()
        try:
            self._take_step()
        finally:
            self._buckets.let_go()  # also where it is left out, or fails
        return loss

    def _take_step(self) -> None:
        """Step with the gradients that are there, or leave the step out."""
        self._buckets.check_captured(self.param_groups, self.state)
        found = self._buckets.agree(self.param_groups, self._name_of, getattr(self, "found_inf", None))
        factor, scale = 1.0, getattr(self, "grad_scale", None)
        buckets = self._verdicts.judged(
            lambda: self._buckets.standing(self.param_groups, self.state, self._name_of),
            limit=self.clip_norm,
            on_nonfinite=self.on_nonfinite,
            scale=scale,
            found=found,
        )
        if buckets is not None:
            self._gradient_norm = self._gradient_norm if self._verdicts.norm is None else self._verdicts.norm
        else:
            left_out = found is not None and float(found) != 0.0
            judged = judged_by_host(
                [p for group in self.param_groups for p in group["params"]],
                scale=scale,
                limit=self.clip_norm,
                on_nonfinite="skip" if left_out and self.on_nonfinite == "raise" else self.on_nonfinite,
                name_of=self._name_of,
                with_kernel=self.engine in ("auto", "fused"),
            )
            self._gradient_norm = self._gradient_norm if judged.norm is None else judged.norm
            if left_out or judged.factor is None:
                self.skipped += 1
                return
            factor = judged.factor
            buckets = self._buckets.collect(self.param_groups, self.state, self._name_of)
            for bucket in buckets:
                bucket.batch.verdict, bucket.batch.may_skip = None, False
        for bucket in buckets:
            bucket.advance()
            bucket.batch.gradient_factor = -factor if bucket.batch.rule.maximize else factor
        settle(buckets, self.param_groups, self.state)
        for bucket in buckets:
            bucket.run()
            bucket.let_go()  # also of the copies that it was given

    def _check_ready(self) -> None:
        """Raise RuntimeError where the parameters do not hold the weights to train on."""
        self._recognise()
        for group in self.param_groups:
            if group.get("holds") == "averaged":
                raise RuntimeError("the parameters hold the averaged weights; call optimizer.train() before step()")

    def _step_only(self, parameters: list[Tensor], buckets: Buckets, factor: float) -> None:
        """Step some parameters, whose gradients are there and are multiplied with `factor`, and no others."""
        chosen = set(map(id, parameters))
        buckets.observe(self._buckets.observed)
        buckets.check_captured(self.param_groups, self.state, among=chosen)
        for bucket in buckets.collect(self.param_groups, self.state, self._name_of, among=chosen):
            bucket.advance()
            bucket.batch.gradient_factor = -factor if bucket.batch.rule.maximize else factor
            bucket.run()
            bucket.let_go()

    def _finish_steps(self, all_of_them: Iterable[Buckets]) -> None:
        """Come to the end of what `_step_only` has done, one after another, with these."""
        self._buckets.forget()
        self._buckets.latest = [bucket for buckets in all_of_them for bucket in buckets.latest]

    @property
    def skipped(self) -> int:
        """How many steps were left out."""
        return self._skipped + self._verdicts.skipped

    @skipped.setter
    def skipped(self, count: int) -> None:
        self._skipped = count - self._verdicts.skipped

    @property
    def gradient_norm(self) -> float | None:
        """The global norm of the last step's gradients before clipping, where it was worked out."""
        return float(self._gradient_norm) if isinstance(self._gradient_norm, Tensor) else self._gradient_norm

    @gradient_norm.setter
    def gradient_norm(self, norm: float | None) -> None:
        self._gradient_norm = norm

    def _name_of(self, parameter: Tensor) -> str:
        for index, group in enumerate(self.param_groups):
            for position, p in enumerate(group["params"]):
                if p is parameter:
                    if "param_names" in group:
                        return f"parameter {group['param_names'][position]!r}"
                    return f"parameter {position} of group {group.get('name', index)!r}"
        return "a parameter that is not in the optimizer"

    # Weights to train on, and weights to evaluate on.

    def train(self) -> None:
        """Put the weights to train on into the parameters, if they hold the averaged ones."""
        self._hold("training")

    def eval(self) -> None:
        """Put the averaged weights into the parameters, for rules that keep an average. Nothing happens to others.

        The way back, `train()`, is exact up to rounding and takes no memory; `averaged()` is exact to the bit.
        """
        self._hold("averaged")

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the parameters hold the averaged weights, for rules that keep an average.

        Afterwards, also after an exception, they hold the very bits they held before; these wait in a copy.
        """
        self._recognise()
        groups = [group for group in self.param_groups if group.get("holds") == "training"]
        kept = averaging.copies(groups, self.state)
        try:
            self.eval()
            yield
        finally:
            self._hold("training", groups)  # an average that changed places with the weights goes back to its slot
            with torch.no_grad():
                for part, before in kept:
                    part.copy_(before)
            for group in groups:
                group["holds"] = "training"

    @torch.no_grad()
    def _hold(self, holds: averaging.Holds, among: list[dict[str, Any]] | None = None) -> None:
        self._recognise()
        groups = [
            group for group in (self.param_groups if among is None else among) if group.get("holds", holds) != holds
        ]
        for bucket in self._buckets.with_state(groups, self.state):
            bucket.run(holds)
        for group in groups:
            group["holds"] = holds

    def _recognise(self) -> None:
        """After loading: see whether the model's weights are those that the state was saved with."""
        for group in self.param_groups:
            if "fingerprint" in group:
                holds, saved_with = averaging.recognise(group, self.state, group["fingerprint"]), group["holds"]
                del group["fingerprint"]
                if holds != saved_with:
                    group["holds"] = holds
                    self._hold(saved_with)

    # What a step has done.

    def observe(self, observed: bool = True) -> None:
        """From the next step on, let each step add up on its way what `telemetry` and `units` tell.

        `observe(step % 10 == 0)` before each step has every tenth one observed, and the others as fast as without. A
        copy is not observed.
        """
        self._buckets.observe(observed)

    @property
    def observed(self) -> bool:
        """Whether steps are observed, so that `telemetry` and `units` can be asked."""
        return self._buckets.observed

    def telemetry(self, by: By = "group") -> dict[str, dict[str, float]]:
        """The last step that was taken, in numbers, for each group (by its name, or its number), or each parameter.

        "update_rms", "weight_rms" and "gradient_rms" are root mean squares over the elements: of what the weights have
        moved by, before they were rounded to be stored; of the weights before it; and of the gradient as the rule got
        it, unscaled and clipped. "update_to_weight" is the first over the second. Parameters without a gradient are
        left out. Where parameters lie on many ranks, all ranks have to ask.

        Empty where the last step was taken before `observe`. Raises RuntimeError where steps are not observed.
        """
        if by not in (choices := get_args(By)):
            raise ValueError(f"by must be one of {', '.join(map(repr, choices))}, got {shown(by)}")
        return readings(self.param_groups, self._seen("telemetry"), by)

    def units(self) -> dict[str, Units]:
        """For each matrix by its name, how large the gradients of its units (rows: what feeds one output) were at the
        last step that was taken. Where parameters lie on many ranks, all ranks have to ask.

        Empty where the last step was taken before `observe`. Raises RuntimeError where steps are not observed.
        """
        return units_of(self.param_groups, self._seen("units"))

    def _seen(self, what: str) -> list[Bucket]:
        """What has taken the last step, for `telemetry` and `units`."""
        if not self._buckets.observed:
            raise RuntimeError(f"call optimizer.observe() once, and {what}() after a later step")
        return [bucket for bucket in self._buckets.latest if bucket.batch.observed]

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The state as torch has it: tensors and plain values only, under torch's slot names."""
        notes = [notes_for_state_dict(group) for group in self.param_groups]
        kept = [dict(group) for group in self.param_groups]
        for group, note in zip(self.param_groups, notes, strict=True):
            group.update(note)
        state = self.state
        try:
            self.state = self._buckets.portable(self.param_groups, state)  # for hooks, too
            return super().state_dict()
        finally:
            self.state = state
            for group, note, before in zip(self.param_groups, notes, kept, strict=True):
                for name in note:
                    if name in before:
                        group[name] = before[name]
                    else:
                        del group[name]

    def load_state_dict(self, state_dict: Mapping[str, Any], *, copy: bool = True) -> None:
        """Take over a state dict of ours or of the torch optimizer of the same rule. A failed load changes nothing.

        Parameters are matched by name where both sides have names, else in order. How to run (engine, clipping) and to
        store (`state_dtype`, `master`) stays as it is here: state that was stored otherwise is converted, and the
        logger says so once. With `state_dtype=None` slots keep the dtype that they were saved in. With `copy=False` the
        state dict's tensors become the slots, where they are on the device on which the state lies. Whoever made them
        for this has no second copy in memory, and may fill them, and the weights, before the next step, which converts
        what was stored otherwise.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"a state dict is what optimizer.state_dict() gave, got a {type(state_dict).__name__}")
        state_dict = dict(state_dict)
        hooks: OrderedDict[int, Any] = self._optimizer_load_state_dict_pre_hooks
        for hook in hooks.values():
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        state, groups = loaded(self.param_groups, state_dict, self._name_of, self._home_of, copy=copy)
        self.state = state
        for group, new in zip(self.param_groups, groups, strict=True):
            group.pop("fingerprint", None)
            group.update(new)
        self._buckets.forget()
        if copy:
            self._settle()
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _home_of(self, parameter: Tensor) -> torch.device:
        """The device on which the parameter's state lies."""
        return parameter.device

    def _settle(self) -> None:
        """Bring state, and what is kept beside the weights, into the storage that the groups ask for."""
        for group in self.param_groups:
            rule = rule_class(group["rule"]).of(group)
            for p in group["params"]:
                if self.state.get(p) and self._buckets.layout_of(p) is None:  # parts are settled at the next step
                    make_state_whole(self.state[p])
                    settle_storage(rule.fit(tuple(p.shape)), p, self.state[p], Storage.of(group))

    def __getstate__(self) -> dict[str, Any]:
        known = {"_skipped": self.skipped, "_gradient_norm": self.gradient_norm}
        return {name: known.get(name, value) for name, value in self.__dict__.items() if name in _KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buckets, self._verdicts = Buckets(self.engine, self._shares_state), Verdicts()

    def kernel_source(self) -> str:
        """The source of the fused kernels for this optimizer's rules and the dtypes of its parameters.

        Raises ValueError where no group runs fused.
        """
        return kernels_of(self.engine, self.param_groups)
