"""What each parameter of a model is for."""

from stepwell.roles.assigning import parameter_roles
from stepwell.roles.names import ROLES, ParameterRole, Role

__all__ = ["ROLES", "ParameterRole", "Role", "parameter_roles"]
