"""The short ways to an optimizer and to a scheduler: a name and a few settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer as TorchOptimizer

from stepwell.codecs import MasterKind, StateDtype
from stepwell.engines.choice import EngineName
from stepwell.optimizer.optimizer import OnNonfinite, Optimizer
from stepwell.planning import plan
from stepwell.recipes import Recipe, named
from stepwell.roles import Role
from stepwell.scheduler import Scheduler
from stepwell.schedules import Schedule, parse
from stepwell.schedules.schedule import made, schedule_class
from stepwell.select import Selector
from stepwell.text.values import shown


def create_optimizer(
    model: nn.Module,
    recipe: str | Recipe = "adamw",
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    engine: EngineName | None = None,
    clip_norm: float | None = None,
    on_nonfinite: OnNonfinite | None = None,
    state_dtype: StateDtype | None = None,
    master: MasterKind | None = None,
    rounding_seed: int = 0,
    shard_state: bool | DeviceMesh = False,
    roles: Mapping[str, Role] | None = None,
    undecayed: Selector | str | None = None,
    layer_decay: float | None = None,
    **hyper_parameters: Any,
) -> Optimizer:
    """One optimizer for a whole model: each parameter gets the rule and the decay that its role asks for.

    The short way through `stepwell.plan(model, recipe).build()`, without the recipe's schedules: `create_scheduler`
    makes one, or another package does. Roles are read from the module graph (`stepwell.roles.parameter_roles`). Frozen
    parameters (`requires_grad=False`) are left out and never changed. `print(stepwell.plan(model, recipe))` shows
    beforehand, and `print(stepwell.describe(optimizer, model))` afterwards, what goes where.

    Args:
        model: the model, on any device.
        recipe: a `Recipe`, or the name of a preset (`stepwell.recipes.PRESETS`), of a rule, or of a recipe's file
            (.toml, .json). "muon" gives Muon to hidden matrices and AdamW to the rest, convolutions among it. A rule's
            name, where no preset has it, gives every parameter to that rule.
        lr: learning rate per step of every rule in the recipe; by default the recipe's. "muon" scales Muon's updates to
            the size of AdamW's (arXiv:2502.16982), so that both take an AdamW rate; "muon-original" does not.
        weight_decay: λ of the decayed groups of every rule in the recipe; by default the recipe's.
        engine, clip_norm, on_nonfinite, master: as `stepwell.Optimizer` takes them; by default, and where it is None,
            the recipe's. Gradients that a recipe clips are not clipped with
            `Recipe.preset("llama").replace(clip_norm=None)`.
        state_dtype: the same, where the rule has such state; embeddings keep float32 in place of 8 and 4 bits.
        rounding_seed, shard_state: as `stepwell.Optimizer` takes them.
        roles: role by parameter name, module name or pattern, where the graph misleads:
            `{"lm_head": "head", "*.experts.*": "hidden matrix"}`. The first that matches a parameter wins.
        undecayed: what has a weight decay of 0, as a selector (`stepwell.select`) or its text; by default the recipe's:
            norms, biases, single numbers and what has no role.
        layer_decay: multiplies the rate once for each block between a parameter and the head (layer-wise rate decay);
            by default the recipe's.
        hyper_parameters: go to every rule of the recipe that has them (`betas=(0.9, 0.95)`), or, with a rule's name
            before them, to that rule alone (`adamw_lr=3e-4`, `muon_eps=1e-8`).

    Raises:
        TypeError: for a model that is no module, what is no recipe, schedules, or an unknown hyper-parameter.
        ValueError: for an unknown recipe, a model with nothing to train, a role or value out of range.
    """
    if isinstance(recipe, nn.Module) and not isinstance(model, nn.Module):
        raise TypeError(
            f"create_optimizer takes the model first, then the recipe, got {shown(model)} and {shown(recipe)}"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"create_optimizer takes a torch.nn.Module, got {type(model).__name__}; "
            "stepwell.Optimizer and its siblings take parameters"
        )
    if "schedules" in hyper_parameters:
        raise TypeError("create_optimizer takes no schedules; stepwell.create_scheduler makes one for its optimizer")
    chosen = named(recipe)
    values = {"lr": lr, "weight_decay": weight_decay}
    chosen = chosen.set(**{name: value for name, value in values.items() if value is not None}, **hyper_parameters)
    changes = {
        "engine": engine,
        "clip_norm": clip_norm,
        "on_nonfinite": on_nonfinite,
        "state_dtype": state_dtype,
        "master": master,
        "roles": roles,
        "undecayed": undecayed,
        "layer_decay": layer_decay,
    }
    chosen = chosen.replace(**{name: value for name, value in changes.items() if value is not None})
    return plan(model, chosen).build_optimizer(rounding_seed=rounding_seed, shard_state=shard_state)


def create_scheduler(
    optimizer: TorchOptimizer,
    schedule: str | Schedule,
    *,
    horizon: int | None = None,
    warmup: int | float = 0,
    **options: Any,
) -> Scheduler:
    """A scheduler of the learning rate: `create_scheduler(optimizer, "cosine", horizon=10_000, warmup=0.1)`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        schedule: the name of a schedule, such as "cosine" or "wsd" (case, dashes and underscores do not matter), a
            schedule, or the text that one prints as: "Cosine(warmup=0.1)".
        horizon: total optimizer steps, at least 1; only schedules without an end can do without.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1).
        options: what else the named schedule takes, such as `end=0.1`.

    Raises:
        ValueError: an unknown name, a text that is no schedule, or a value out of range.
        TypeError: an option that the named schedule does not take, or one missing that it needs; options beside a
            schedule that carries its own.
    """
    if isinstance(schedule, str) and "(" in schedule:
        schedule = parse(schedule)
    if isinstance(schedule, TorchOptimizer) and not isinstance(optimizer, TorchOptimizer):
        raise TypeError(
            "create_scheduler takes the optimizer first, then the schedule, "
            f"got {shown(optimizer)} and {shown(schedule)}"
        )
    beside = options if type(warmup) is int and warmup == 0 else {"warmup": warmup, **options}
    if isinstance(schedule, Schedule):
        if beside:
            raise TypeError(f"{schedule!r} carries its own arguments: give {', '.join(beside)} to it, not beside it")
        return Scheduler(optimizer, horizon=horizon, lr=schedule)
    if not isinstance(schedule, str):
        raise TypeError(f"schedule must be a name, such as 'cosine', or a Schedule, got {shown(schedule)}")
    return Scheduler(optimizer, horizon=horizon, lr=made(schedule_class(schedule), beside))
