"""Plans: a recipe laid over one model and one horizon, before step 0."""

from stepwell.planning.doubts import Doubt
from stepwell.planning.laying import PlannedGroup
from stepwell.planning.plans import Plan, plan

__all__ = ["Doubt", "Plan", "PlannedGroup", "plan"]
