# Written by `python -m bench stub` from the signatures that the classes have when stepwell runs.

from collections.abc import Iterable
from typing import Any, Literal

from torch.distributed.device_mesh import DeviceMesh

from stepwell.optimizer.one_rule import Named

class SGD(Named):
    """Gradient descent with heavy-ball or Nesterov momentum."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        average: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Adagrad(Named):
    """Rates that fall with the squares of all gradients so far."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class RMSprop(Named):
    """Gradients divided by the root of the mean of their squares."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Adadelta(Named):
    """Steps as large as past steps were, in the proportion of gradients."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Adam(Named):
    """Running means of gradients and of their squares."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        correct_bias: bool = True,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class AdamW(Named):
    """Adam with decoupled weight decay."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        correct_bias: bool = True,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class NAdam(Named):
    """Adam that looks ahead."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class RAdam(Named):
    """Adam with a rectified variance."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Adamax(Named):
    """Adam in the infinity norm."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class ASGD(Named):
    """Gradient descent with a falling rate, and the average of its path."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Rprop(Named):
    """A step size for each weight, that grows while the gradient keeps its sign."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50.0),
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class SignSGD(Named):
    """The sign of the gradient, or of its running mean."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class LARS(Named):
    """Layer-wise rates for large batches."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-08,
        nesterov: bool = False,
        *,
        decay: Literal["inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class LAMB(Named):
    """Layer-wise adaptation for large batches."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        decay: Literal["inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Yogi(Named):
    """Adam with an additive second moment."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.001,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 1e-06,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class AdaBelief(Named):
    """Adam that divides by how far gradients are from their mean."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Adan(Named):
    """Nesterov momentum without looking ahead."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "proximal",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class ADOPT(Named):
    """Adam in another order: divide, then average."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        clip_exp: float | None = 0.25,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class AdEMAMix(Named):
    """Adam with a fast and a slow mean."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: int | None = None,
        alpha_warmup: int | None = None,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class StableAdamW(Named):
    """AdamW with Adafactor's update clipping."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-06,
        weight_decay: float = 0.01,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal", "inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Tiger(Named):
    """The sign of a running mean, with one slot."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        beta: float = 0.965,
        weight_decay: float = 0.01,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class MARS(Named):
    """AdamW on corrected gradients."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Lion(Named):
    """Sign of an interpolated momentum."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Muon(Named):
    """Momentum whose singular values are all set near 1."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        *,
        polar_express: bool = False,
        split: int | tuple[int, ...] = 1,
        split_dim: Literal[-2, -1] = -2,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class ScheduleFreeSGD(Named):
    """Schedule-Free SGD: d = g."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        decay: Literal["inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class ScheduleFreeAdamW(Named):
    """Schedule-Free AdamW: d = g / (√v̂ + ε), without Adam's first moment."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        decay: Literal["inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class ScheduleFreeRAdam(Named):
    """Schedule-Free with RAdam's rectification for a warm-up."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        silent_sgd_phase: bool = True,
        *,
        decay: Literal["inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class NorMuon(Named):
    """Orthogonalised momentum with one second moment a row."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-10,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        *,
        polar_express: bool = False,
        split: int | tuple[int, ...] = 1,
        split_dim: Literal[-2, -1] = -2,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class AdaMuon(Named):
    """Orthogonalised signs of a momentum, with a second moment."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = False,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-08,
        ns_steps: int = 5,
        sign_stabilized: bool = True,
        *,
        polar_express: bool = False,
        split: int | tuple[int, ...] = 1,
        split_dim: Literal[-2, -1] = -2,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Scion(Named):
    """Conditional gradient steps in a norm of each layer's own."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        momentum: float = 0.1,
        weight_decay: float = 0.0,
        scale: float = 1.0,
        norm: Literal["auto", "spectral", "sign"] = "auto",
        unconstrained: bool = False,
        ns_steps: int = 5,
        positions: int = 1,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Dion(Named):
    """Distributed orthonormalised updates, on one device."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        mu: float = 0.95,
        weight_decay: float = 0.01,
        rank_fraction: float = 1.0,
        eps: float = 1e-08,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class SOAP(Named):
    """Adam in a slowly turning basis."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        one_sided: bool = False,
        normalize_grads: bool = False,
        merge_dims: bool = True,
        dims: int = 2,
        spread_refresh: bool = False,
        *,
        correct_bias: bool = True,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Shampoo(Named):
    """Full-matrix Adagrad, factored by sides."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        eps: float = 0.0001,
        beta2: float = 1.0,
        precondition_frequency: int = 1,
        max_precond_dim: int = 8192,
        spread_refresh: bool = False,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "coupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Kron(Named):
    """PSGD with a Kronecker factored preconditioner."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0003,
        b1: float = 0.9,
        weight_decay: float = 0.0,
        preconditioner_update_probability: float | None = None,
        max_size_triangular: int = 8192,
        momentum_into_precond_update: bool = True,
        precond_lr: float = 0.1,
        precond_init_scale: float = 1.0,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        conv1d: bool = False,
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Adafactor(Named):
    """Adam's second moment from row and column means, in sublinear memory."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        eps: tuple[float, float] = (1e-30, 0.001),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        eps_as_floor: bool = False,
        factored: bool = True,
        *,
        decay: Literal["inside", "coupled", "decoupled", "independent"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class CAME(Named):
    """Adafactor with a confidence in each update, and a momentum."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0002,
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        weight_decay: float = 0.0,
        factored: bool = True,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class AdamMini(Named):
    """Adam with one second moment a block of weights."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        blocks: Literal["rows", "tensor"] = "rows",
        heads: int | None = None,
        *,
        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class NovoGrad(Named):
    """Momentum of gradients over their layer's norm."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        *,
        decay: Literal["inside"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class Prodigy(Named):
    """Adam without a learning rate."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-06,
        d_coef: float = 1.0,
        growth_rate: float | None = None,
        *,
        decay: Literal["inside", "coupled", "independent"] = "inside",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...

class DAdaptAdam(Named):
    """Adam without a learning rate."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        use_bias_correction: bool = False,
        d0: float = 1e-06,
        growth_rate: float | None = None,
        *,
        decay: Literal["coupled", "inside", "independent"] = "coupled",
        maximize: bool = False,
        engine: Literal["auto", "reference", "foreach", "fused"] = "auto",
        clip_norm: float | None = None,
        on_nonfinite: Literal["ignore", "raise", "skip"] = "ignore",
        state_dtype: Literal["float32", "bfloat16", "8bit", "4bit"] | None = None,
        master: Literal["stochastic", "kahan", "compensated", "compensated8", "float32"] | None = None,
        rounding_seed: int = 0,
        shard_state: bool | DeviceMesh = False,
    ) -> None: ...
