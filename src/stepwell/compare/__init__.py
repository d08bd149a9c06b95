"""The main job: one model, one seed, one stream of batches, several recipes, and what came of it.

`Task` is what a user's own function returns to `stepwell compare --task module:function`.
"""

from stepwell.compare.task import Task, TaskError

__all__ = ["Task", "TaskError"]
