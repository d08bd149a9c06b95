"""A model's bare parameters, and an optimizer on them, made from a source: for a migration from file to file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.migrating.rules import inner
from stepwell.checkpoint.migrating.source import Source
from stepwell.optimizer import Optimizer as StepwellOptimizer
from stepwell.recipes import PRESETS, RecipeError, named
from stepwell.routing import create_optimizer
from stepwell.rules.registry import UnknownRuleError, rule_class, rule_names
from stepwell.rules.rule import hyper_parameters
from stepwell.scheduler import Scheduler
from stepwell.schedules import parse
from stepwell.text.naming import nearest


def bare_model(source: Source) -> nn.Module:
    """Modules that do nothing but hold the source's tensors under their names; those with state can be trained.

    Raises:
        CheckpointError: the source has no weights.
    """
    if source.weights is None:
        raise CheckpointError(f"{source.title} holds no weights: give the model that it was saved from")
    trained = {name for group in source.groups for name in group.names or ()}
    root = nn.Module()
    held: dict[str, torch.Tensor] = {}
    for name, tensor in source.weights.items():
        is_parameter = name in trained or (tensor.is_floating_point() and not source.groups)
        held[name] = nn.Parameter(tensor) if is_parameter else tensor
    for name, first in [*((name, name) for name in held), *source.tied.items()]:
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        tensor = held[first]
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(last, tensor)
        else:
            module.register_buffer(last, tensor)
    return root


def new_optimizer(source: Source, to: str, model: nn.Module, *, is_whole: bool) -> Optimizer:
    """An optimizer of the recipe or rule `to` for the model; where a rule stays, so do its hyper-parameters.

    Args:
        source: where roles, groups and hyper-parameters come from.
        to: a recipe, which groups parameters by their roles: the name of a preset, or a file, which is taken as it is
            written; or the name of a rule, which keeps the groups.
        model: what is trained.
        is_whole: whether it is the model itself, so that roles are read from it.

    Raises:
        CheckpointError: there is no such recipe or rule, or the roles are not known.
        RecipeError: the file holds no recipe.
    """
    preset = to.casefold().replace("_", "-")
    is_file = Path(to).suffix in (".toml", ".json")
    made: StepwellOptimizer
    if is_file or preset in PRESETS:
        recipe = named(to if is_file else preset)
        roles = None if is_whole else _roles(source, model)
        try:
            made = create_optimizer(model, recipe, roles=roles)
            made.recipe = recipe.to_dict()  # without the roles, which the checkpoint has
        except RecipeError:
            raise
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source.title} cannot be migrated to {to!r}: {error}") from error
    else:
        made = _same_groups(source, to, model)
    if not is_file:
        _take_values(made, source)
    return made


def _roles(source: Source, model: nn.Module) -> Any:
    """The roles that were saved, of the parameters that are trained."""
    names = [name for name, _ in model.named_parameters()]
    if missing := [name for name in names if name not in source.roles]:
        raise CheckpointError(
            f"{source.title} does not say what its parameters are for, such as {missing[0]!r}: give the model that it "
            "was saved from, or the name of a rule"
        )
    return {name: source.roles[name] for name in names}


def _same_groups(source: Source, to: str, model: nn.Module) -> StepwellOptimizer:
    try:
        kind = rule_class(to)
        rule = kind()
    except UnknownRuleError:
        hint = nearest(to, [*rule_names(), *PRESETS])
        raise CheckpointError(
            f"unknown recipe or rule {to!r}{hint}; `stepwell presets` and `stepwell list` have the names"
        ) from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    parameters = dict(model.named_parameters())
    groups = [
        {
            "params": [(name, parameters[name]) for name in group.names or () if name in parameters],
            **{note: group.values[note] for note in ("name", "role", "why") if group.values.get(note)},
            **({"weight_decay": 0.0} if group.values.get("weight_decay") == 0 else {}),
        }
        for group in source.groups
    ]
    try:
        return StepwellOptimizer(groups or [{"params": list(parameters.items())}], rule)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source.title} cannot be migrated to {to!r}: {error}") from error


def _take_values(optimizer: StepwellOptimizer, source: Source) -> None:
    """In each group the hyper-parameters of the group that its parameters were in, where the rule is the same."""
    saved = source.by_name()
    for group in optimizer.param_groups:
        origins = {id(saved[name][0]): saved[name][0] for name in group["param_names"] if name in saved}
        same = [origin for origin in origins.values() if inner(origin.rule) == inner(group["rule"])]
        if len(origins) == len(same) == 1:
            known: Mapping[str, Any] = hyper_parameters(rule_class(group["rule"]))
            there = same[0].values
            taken = {key: there.get(f"initial_{key}", value) for key, value in there.items() if key in known}
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in taken.items()})


def new_scheduler(source: Source, optimizer: Optimizer) -> Scheduler | None:
    """A scheduler with the schedules of the source, where these are of all groups; None where there is none."""
    schedules = {name: text for name, text in source.schedules.items() if isinstance(text, str)}
    known = {name for group in optimizer.param_groups for name in group}
    if not schedules or schedules.keys() != source.schedules.keys() or not schedules.keys() <= known:
        return None
    try:
        parsed: dict[str, Any] = {name: parse(text) for name, text in schedules.items()}
        return Scheduler(optimizer, **parsed)
    except (TypeError, ValueError):  # a Python function, which a text cannot name
        return None
