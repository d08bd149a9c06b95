"""Which rule, at which settings, for which role: the recipes that `create_optimizer` knows, and what it does with one.

A recipe is a few routes, and each route sends some roles to one rule. The role also decides what decays: matrices,
kernels and tables do; gains, offsets and numbers do not, because zero is no neutral value for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from torch import nn

from stepwell.codecs import MasterKind, StateDtype, in_blocks
from stepwell.engines.choice import EngineName
from stepwell.naming import nearest
from stepwell.optimizer import OnNonfinite, Optimizer
from stepwell.roles import ParameterRole, Role, parameter_roles
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule

DECAYED: tuple[Role, ...] = ("hidden matrix", "custom matrix", "convolution", "embedding", "head")
UNDECAYED: tuple[Role, ...] = ("norm", "bias", "scalar", "other")


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where the parameters of some roles go.

    Attributes:
        name: the name of their parameter group.
        roles: the roles that take this route.
        rule: the name of the rule that updates them.
        decayed: whether weight decay applies; if not, it is 0.
        why: the reason, in a few words.
        hyper_parameters: settings of the recipe that are not the rule's own defaults.
    """

    name: str
    roles: tuple[Role, ...]
    rule: str
    decayed: bool
    why: str
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)


def _decay_by_role(rule: str, decayed: tuple[Role, ...] = DECAYED) -> tuple[Route, Route]:
    return (
        Route(name="decayed", roles=decayed, rule=rule, decayed=True, why="weights whose size decay limits"),
        Route(name="undecayed", roles=UNDECAYED, rule=rule, decayed=False, why="decay would only pull these to 0"),
    )


RECIPES: Mapping[str, tuple[Route, ...]] = MappingProxyType(
    {
        "adamw": _decay_by_role("AdamW"),
        "adam": _decay_by_role("Adam"),
        "sgd": _decay_by_role("SGD"),
        "lion": _decay_by_role("Lion"),
        "lamb": _decay_by_role("LAMB"),
        "schedule-free": _decay_by_role("ScheduleFreeAdamW"),
        "schedule-free-sgd": _decay_by_role("ScheduleFreeSGD"),
        "muon": (
            Route(
                name="hidden",
                roles=("hidden matrix",),
                rule="Muon",
                decayed=True,
                why="maps activations, so its update is orthogonalised",
                # Updates of the size of AdamW's, so that both take one rate and decay (arXiv:2502.16982, sec. 2.2).
                hyper_parameters={"adjust_lr_fn": "match_rms_adamw"},
            ),
            *_decay_by_role("AdamW", tuple(role for role in DECAYED if role != "hidden matrix")),
        ),
    }
)


def create_optimizer(
    model: nn.Module,
    recipe: str = "adamw",
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    engine: EngineName = "auto",
    clip_norm: float | None = None,
    on_nonfinite: OnNonfinite = "ignore",
    state_dtype: StateDtype | None = None,
    master: MasterKind | None = None,
    rounding_seed: int = 0,
    roles: Mapping[str, Role] | None = None,
    **hyper_parameters: Any,
) -> Optimizer:
    """One optimizer for a whole model: each parameter gets the rule and the decay that its role asks for.

    Roles are read from the module graph (`stepwell.roles.parameter_roles`). Frozen parameters (`requires_grad=False`)
    are left out and never changed. `print(stepwell.describe(optimizer, model))` shows what went where.

    Args:
        model: the model, on any device.
        recipe: one of `RECIPES`. "muon" gives Muon to hidden matrices and AdamW to the rest, convolutions among it.
        lr: learning rate per step of every rule in the recipe; by default that of its first rule. "muon" scales Muon's
            updates to the size of AdamW's (arXiv:2502.16982), so that both take an AdamW rate. Jordan's own scale is
            `adjust_lr_fn="original", lr=0.02, adamw_lr=3e-4`.
        weight_decay: λ of the decayed groups of every rule in the recipe; by default that of its first rule.
        engine, clip_norm, on_nonfinite, master, rounding_seed: as `stepwell.Optimizer` takes them.
        state_dtype: as `stepwell.Optimizer` takes it; but embeddings, whose rows get gradients at different times,
            keep their state in float32 where the others' is in 8 or 4 bits, in a group of their own.
        roles: role by parameter name, module name or pattern, where the graph misleads:
            `{"lm_head": "head", "*.experts.*": "hidden matrix"}`. The first that matches a parameter wins.
        hyper_parameters: go to every rule of the recipe that has them (`betas=(0.9, 0.95)`), or, with a rule's name
            before them, to that rule alone (`adamw_lr=3e-4`, `muon_eps=1e-8`).

    Raises:
        TypeError: for a model that is no module, or an unknown hyper-parameter.
        ValueError: for an unknown recipe, a model with nothing to train, a role or value out of range.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"create_optimizer takes a torch.nn.Module, got {type(model).__name__}; "
            "stepwell.Optimizer and its siblings take parameters"
        )
    routes = _find_recipe(recipe)
    rules = _rules(routes, {"lr": lr, "weight_decay": weight_decay}, hyper_parameters)
    trainable = [entry for entry in parameter_roles(model, roles) if entry.parameter.requires_grad]
    if not trainable:
        count = sum(1 for _ in model.parameters())
        reason = f"all {count} are frozen (requires_grad=False)" if count else "it has none at all"
        raise ValueError(f"{type(model).__name__} has no parameters to train: {reason}")
    groups = [
        _group(route, rule, members)
        for route, rule in zip(routes, rules, strict=True)
        if (members := [entry for entry in trainable if entry.role in route.roles])
    ]
    if in_blocks(state_dtype):
        groups = [part for group in groups for part in _without_embeddings(group, trainable)]
    placed = [id(parameter) for group in groups for _, parameter in group["params"]]
    assert len(placed) == len(set(placed)) == len(trainable), "each trainable parameter has one route"
    return Optimizer(
        groups,
        rules[0],
        engine=engine,
        clip_norm=clip_norm,
        on_nonfinite=on_nonfinite,
        state_dtype=state_dtype,
        master=master,
        rounding_seed=rounding_seed,
    )


def _find_recipe(name: str) -> tuple[Route, ...]:
    routes = RECIPES.get(str(name).casefold().replace("_", "-"))
    if routes is None:
        raise ValueError(f"unknown recipe {name!r}{nearest(str(name), RECIPES)}; recipes are {', '.join(RECIPES)}")
    return routes


def _rules(routes: tuple[Route, ...], common: Mapping[str, Any], given: Mapping[str, Any]) -> list[Rule]:
    """The rule of each route, set.

    What speaks to one rule wins over what speaks to all, that over the recipe, and that over the rule's own defaults.
    `common` are the names that all rules share, with None for "the default of the first rule".
    """
    kinds = {route.rule: rule_class(route.rule) for route in routes}
    own = {rule: [field.name for field in fields(kind)] for rule, kind in kinds.items()}
    first = kinds[routes[0].rule]()
    to_all = {name: getattr(first, name) if value is None else value for name, value in common.items()}
    to_one: dict[str, dict[str, Any]] = {rule: {} for rule in kinds}
    addresses = {f"{rule.casefold()}_{name}": (rule, name) for rule, names in own.items() for name in names}
    names = {name for _, name in addresses.values()}
    for name, value in given.items():
        if name in names:
            to_all[name] = value
        elif name in addresses:
            rule, name_there = addresses[name]
            to_one[rule][name_there] = value
        else:
            known = [*names, *addresses] if len(kinds) > 1 else names
            raise TypeError(f"unknown hyper-parameter {name!r} for {' and '.join(kinds)}{nearest(name, known)}")
    rules = []
    for route in routes:
        shared = {name: value for name, value in to_all.items() if name in own[route.rule]}
        values = {**route.hyper_parameters, **shared, **to_one[route.rule]}
        rules.append(kinds[route.rule](**(values if route.decayed else values | {"weight_decay": 0.0})))
    return rules


def _group(route: Route, rule: Rule, members: list[ParameterRole]) -> dict[str, Any]:
    present = {entry.role for entry in members}
    return {
        "params": [(entry.name, entry.parameter) for entry in members],
        "rule": rule,
        "name": route.name,
        "role": ", ".join(role for role in route.roles if role in present),
        "why": route.why,
    }


def _without_embeddings(group: dict[str, Any], entries: list[ParameterRole]) -> list[dict[str, Any]]:
    """The group, and its embeddings as another one that keeps its state in 32 bits."""
    embeddings = {id(entry.parameter) for entry in entries if entry.role == "embedding"}
    inside = [pair for pair in group["params"] if id(pair[1]) in embeddings]
    outside = [pair for pair in group["params"] if id(pair[1]) not in embeddings]
    if not inside:
        return [group]
    roles = ", ".join(role for role in group["role"].split(", ") if role != "embedding")
    apart = {"name": f"{group['name']} embeddings", "role": "embedding", "state_dtype": "float32"}
    others = [{**group, "params": outside, "role": roles}] if outside else []
    return [*others, {**group, "params": inside, **apart}]
