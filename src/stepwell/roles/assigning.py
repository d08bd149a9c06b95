"""The role of every parameter of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from stepwell.naming import nearest
from stepwell.roles.heads import heads
from stepwell.roles.layers import Reading, read_layer
from stepwell.roles.names import MATRIX_ROLES, ROLES, STRONGEST_FIRST, ParameterRole, Role


def parameter_roles(model: nn.Module, overrides: Mapping[str, Role] | None = None) -> list[ParameterRole]:
    """What each parameter of a model is for, in the order of registration.

    A role is read from what the modules are and how they are joined, never from a parameter's name
    (`stepwell.roles.layers`, `stepwell.roles.heads`). A tied parameter is listed once, under its first name, with the
    strongest of its roles (`STRONGEST_FIRST`): an embedding that is also the head is an embedding. Frozen parameters
    are listed too.

    Args:
        model: any module; nothing in it is run or changed.
        overrides: role by parameter name, module name, or shell-style pattern over parameter names
            (`"*.experts.*"`). The first that matches a parameter wins. A module name or pattern gives a matrix role
            only to what has two or more dimensions, so that `{"lm_head": "head"}` leaves the bias a bias.

    Raises:
        ValueError: for a lazy parameter that has no shape yet, an unknown role, an override that no parameter takes, or
            a matrix role for what is no matrix.
    """
    readings: dict[nn.Module, dict[str, Reading]] = {
        module: read_layer(module, is_model=module is model) for module in _modules(model)
    }
    head_modules = heads(model, readings)
    named: dict[nn.Parameter, dict[str, Reading]] = {}
    owners: dict[nn.Parameter, set[str]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            role, why = readings[module][attribute]
            if role == "hidden matrix" and module in head_modules:
                role, why = "head", f"{why}, {head_modules[module]}"
            named.setdefault(parameter, {})[f"{prefix}.{attribute}" if prefix else attribute] = (role, why)
            owners.setdefault(parameter, set()).update(_classes(module))
    found = [_tied(parameter, uses, frozenset(owners[parameter])) for parameter, uses in named.items()]
    return _overridden(found, overrides or {})


def _modules(model: nn.Module) -> list[nn.Module]:
    """The modules in the order of registration, each once, all of whose parameters have a shape."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"parameter {name!r} has no shape yet: run one forward pass through its lazy module first")
    return list(model.modules())


def _classes(module: nn.Module) -> set[str]:
    """The names of a module's class and of its bases below `nn.Module`."""
    return {kind.__name__ for kind in type(module).__mro__ if issubclass(kind, nn.Module) and kind is not nn.Module}


def _tied(parameter: nn.Parameter, uses: dict[str, Reading], module_classes: frozenset[str]) -> ParameterRole:
    name, *aliases = uses
    role, why = min(uses.values(), key=lambda reading: STRONGEST_FIRST.index(reading[0]))
    if aliases:
        why = f"{why}, tied with {', '.join(aliases)}"
    return ParameterRole(name, parameter, role, why, tuple(aliases), module_classes)


def _overridden(found: list[ParameterRole], overrides: Mapping[str, Role]) -> list[ParameterRole]:
    names = [name for entry in found for name in entry.names]
    modules = {name.rpartition(".")[0] for name in names} - {""}
    for key, role in overrides.items():
        if not any(_matches(name, key) for name in names):
            raise ValueError(f"roles[{key!r}] matches no parameter{nearest(key, [*names, *modules])}")
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r} for {key!r}{nearest(role, ROLES)}; roles are {', '.join(ROLES)}")
    unused = dict.fromkeys(overrides)
    roles = []
    for entry in found:
        taken = next((key for key, role in overrides.items() if _takes(entry, key, role)), None)
        if taken is None:
            roles.append(entry)
        else:
            unused.pop(taken, None)
            roles.append(replace(entry, role=overrides[taken], why=f"set by roles[{taken!r}]"))
    for key in unused:
        raise ValueError(
            f"roles[{key!r}] gives no parameter its role: all it matches are vectors or have an earlier key"
        )
    return roles


def _matches(name: str, key: str) -> bool:
    """Whether a key of `roles=` is a parameter's name, that of a module around it, or a pattern."""
    return name == key or name.startswith(f"{key}.") or fnmatchcase(name, key)


def _takes(entry: ParameterRole, key: str, role: Role) -> bool:
    """Whether an override applies to a parameter."""
    if not any(_matches(name, key) for name in entry.names):
        return False
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
