"""What each parameter of a model is for, and how deep it stands."""

from stepwell.roles.assigning import parameter_roles
from stepwell.roles.depths import deepest
from stepwell.roles.names import ROLES, ParameterRole, Role

__all__ = ["ROLES", "ParameterRole", "Role", "deepest", "parameter_roles"]
