"""Recipes: the whole choice of how a model is trained, as data."""

from stepwell.recipes.data import named
from stepwell.recipes.mistakes import RecipeError
from stepwell.recipes.presets import PRESETS, preset, spelled
from stepwell.recipes.recipe import UNDECAYED, Recipe
from stepwell.recipes.route import Route

__all__ = ["PRESETS", "UNDECAYED", "Recipe", "RecipeError", "Route", "named", "preset", "spelled"]
