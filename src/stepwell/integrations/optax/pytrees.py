"""What a pytree says of its parameters, for selectors: a name and a shape, and no more.

A role is read from modules, of which a pytree holds none. So a recipe says the roles itself, by name, where it asks for
them (`Recipe(roles={"*.kernel": "hidden matrix"})`); what has fewer than two dimensions is no matrix in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import torch
from torch import nn

from stepwell.recipes import Recipe
from stepwell.roles import ROLES, ParameterRole, Role
from stepwell.roles.names import MATRIX_ROLES
from stepwell.select import Selector
from stepwell.select import name as by_name
from stepwell.select.selectors import Between, ByModule, Where
from stepwell.text.naming import nearest
from stepwell.text.tabular import some

EXAMPLES = 3
NO_MODULES = "a pytree holds names and shapes, and no modules"


class UnknownRoleError(ValueError):
    """A selector asks for a role that is not known."""


@dataclass(frozen=True, eq=False)
class PytreeParameter(ParameterRole):
    """A parameter of a pytree. Where its role was not said, it is one of several."""

    possible: frozenset[Role] = frozenset(ROLES)

    def has_role(self, roles: Collection[Role]) -> bool:
        if self.possible <= set(roles):
            return True
        if self.possible.isdisjoint(roles):
            return False
        raise UnknownRoleError(self.name)


def name_of(path: tuple[Any, ...]) -> str:
    """A path in a pytree as a parameter's name: "layers.0.kernel"."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):  # the array inside a variable of Flax NNX
        path = path[:-1]
    return str(jax.tree_util.keystr(path, simple=True, separator="."))


def parameters_of(params: Any, roles: Mapping[str, Role]) -> list[PytreeParameter]:
    """The parameters of a pytree. Raises ValueError for a role that no parameter takes."""
    shapes = {name_of(path): tuple(leaf.shape) for path, leaf in jax.tree.flatten_with_path(params)[0]}
    unused, found = dict.fromkeys(roles), []
    for name, shape in shapes.items():
        stand_in = nn.Parameter(torch.empty(shape, device="meta"))
        bare = ParameterRole(name, stand_in, "other", "")
        key = next((key for key, role in roles.items() if by_name(key)(bare) and _fits(role, shape)), None)
        if key is None:
            possible = frozenset(MATRIX_ROLES if len(shape) > 1 else set(ROLES) - MATRIX_ROLES)
            role: Role = "custom matrix" if len(shape) > 1 else "other"
            found.append(PytreeParameter(name, stand_in, role, "one of several", possible=possible))
        else:
            unused.pop(key, None)
            why = f"set by roles[{key!r}]"
            found.append(PytreeParameter(name, stand_in, roles[key], why, possible=frozenset({roles[key]})))
    for key in unused:
        raise ValueError(f"roles[{key!r}] gives no parameter its role{nearest(key, shapes)}")
    return found


def _fits(role: Role, shape: tuple[int, ...]) -> bool:
    return role not in MATRIX_ROLES or len(shape) > 1


def check_readable(recipe: Recipe, parameters: list[PytreeParameter]) -> None:
    """Raise ValueError where the recipe asks what a pytree cannot answer."""
    if recipe.layer_decay is not None or recipe.depths:
        raise ValueError(f"layer_decay and depths need the order of the layers, and {NO_MODULES}")
    selectors = [recipe.undecayed, *(route.select for route in recipe.routes)]
    for selector in selectors:
        for part in selector.parts:
            if isinstance(part, (ByModule, Where)) or (isinstance(part, Between) and part.quantity == "depth"):
                raise ValueError(
                    f"the selector {part!r} cannot be answered: {NO_MODULES}; name, regex, ndim, size and role can"
                )
    unknown = [parameter.name for parameter in parameters if not all(_answers(one, parameter) for one in selectors)]
    if unknown:
        asked = [repr(one) for one in selectors if not all(_answers(one, parameter) for parameter in parameters)]
        raise ValueError(
            f"{' and '.join(asked)} cannot be answered for {some(unknown, EXAMPLES)}: {NO_MODULES}, from which a role "
            f"could be read; say it by name, as in Recipe(roles={{{unknown[0]!r}: 'hidden matrix'}}), or select by name"
        )


def _answers(selector: Selector, parameter: PytreeParameter) -> bool:
    try:
        selector(parameter)
    except UnknownRoleError:
        return False
    return True
