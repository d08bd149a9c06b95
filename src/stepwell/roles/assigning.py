"""The role and the depth of every parameter of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn
from torch.nn.parameter import is_lazy

from stepwell.roles.depths import read_depths
from stepwell.roles.fused import WHOLE, Split, read_split
from stepwell.roles.heads import heads
from stepwell.roles.layers import Reading, read_layer
from stepwell.roles.names import MATRIX_ROLES, ROLES, STRONGEST_FIRST, ParameterRole, Role
from stepwell.roles.overrides import taken_keys
from stepwell.text.naming import nearest


@dataclass
class _Uses:
    """All that the modules that own a parameter say about it."""

    readings: dict[str, Reading] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    depths: list[int] = field(default_factory=list)
    split: Split = WHOLE


def parameter_roles(
    model: nn.Module, overrides: Mapping[str, Role] | None = None, depths: Mapping[str, int] | None = None
) -> list[ParameterRole]:
    """What each parameter of a model is for, and how deep it stands, in the order of registration.

    A role is read from what the modules are and how they are joined, never from a parameter's name
    (`stepwell.roles.layers`, `stepwell.roles.heads`); a depth, from the lists of blocks (`stepwell.roles.depths`). A
    tied parameter is listed once, under its first name, with the strongest of its roles (`STRONGEST_FIRST`) and the
    least of its depths: an embedding that is also the head is an embedding. Frozen parameters are listed too.

    Args:
        model: any module; nothing in it is run or changed.
        overrides: role by parameter name, module name, or shell-style pattern over parameter names
            (`"*.experts.*"`). The first that matches a parameter wins. A module name or pattern gives a matrix role
            only to what has two or more dimensions, so that `{"lm_head": "head"}` leaves the bias a bias.
        depths: depth by the same keys, at least 0. The first that matches wins, and changes no other depth.

    Raises:
        ValueError: for a lazy parameter that has no shape yet, an unknown role, a depth that is none, an override that
            no parameter takes, or a matrix role for what is no matrix.
    """
    readings = {module: read_layer(module, is_model=module is model) for module in _modules(model)}
    head_modules = heads(model, readings)
    deep = read_depths(model, readings)
    uses: dict[nn.Parameter, _Uses] = {}
    owners = {child: (name, owner) for owner in reversed(readings) for name, child in owner.named_children()}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            role, why = readings[module][attribute]
            use = uses.setdefault(parameter, _Uses())
            if role == "hidden matrix" and not use.split[0]:
                use.split = read_split(module, attribute, *owners.get(module, ("", None)))
            if role == "hidden matrix" and module in head_modules:
                role, why = "head", f"{why}, {head_modules[module]}"
            use.readings[f"{prefix}.{attribute}" if prefix else attribute] = (role, why)
            use.classes.update(_classes(module))
            use.depths.append(deep[module][attribute])
    found = [_joined(parameter, use) for parameter, use in uses.items()]
    return _with_depths(_with_roles(found, overrides or {}), depths or {})


def _modules(model: nn.Module) -> list[nn.Module]:
    """The modules in the order of registration, each once, all of whose parameters have a shape."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"parameter {name!r} has no shape yet: run one forward pass through its lazy module first")
    return list(model.modules())


def _classes(module: nn.Module) -> set[str]:
    """The names of a module's class and of its bases below `nn.Module`."""
    return {kind.__name__ for kind in type(module).__mro__ if issubclass(kind, nn.Module) and kind is not nn.Module}


def _joined(parameter: nn.Parameter, uses: _Uses) -> ParameterRole:
    name, *aliases = uses.readings
    role, why = min(uses.readings.values(), key=lambda reading: STRONGEST_FIRST.index(reading[0]))
    if aliases:
        why = f"{why}, tied with {', '.join(aliases)}"
    return ParameterRole(
        name=name,
        parameter=parameter,
        role=role,
        why=why,
        aliases=tuple(aliases),
        module_classes=frozenset(uses.classes),
        depth=min(uses.depths),
        split=uses.split[0],
        split_dim=uses.split[1],
    )


def _with_roles(found: list[ParameterRole], roles: Mapping[str, Role]) -> list[ParameterRole]:
    for key, role in roles.items():
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r} for {key!r}{nearest(role, ROLES)}; roles are {', '.join(ROLES)}")
    unused = "gives no parameter its role: all it matches are vectors or have an earlier key"
    taken = taken_keys(found, roles, "roles", unused, lambda entry, key: _can_be(entry, key, roles[key]))
    return [
        replace(entry, role=roles[taken[entry.name]], why=f"set by roles[{taken[entry.name]!r}]")
        if entry.name in taken
        else entry
        for entry in found
    ]


def _can_be(entry: ParameterRole, key: str, role: Role) -> bool:
    """Whether a parameter that a key matches can have a role."""
    shape = tuple(entry.parameter.shape)
    if role in MATRIX_ROLES and len(shape) < 2:
        if key in entry.names:
            raise ValueError(f"role {role!r} needs at least 2 dimensions, {key!r} has shape {shape}")
        return False
    if role == "hidden matrix" and entry.role == "convolution":
        raise ValueError(
            f"role {role!r} needs shape (…, rows, cols), but {entry.name!r} {shape} ends in the shape of a kernel"
        )
    return True


def _with_depths(found: list[ParameterRole], depths: Mapping[str, int]) -> list[ParameterRole]:
    for key, depth in depths.items():
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
            raise ValueError(f"depths[{key!r}] must be a whole number of at least 0, got {depth!r}")
    unused = "gives no parameter its depth: all it matches have an earlier key"
    taken = taken_keys(found, depths, "depths", unused)
    return [replace(entry, depth=depths[taken[entry.name]]) if entry.name in taken else entry for entry in found]
