"""Lightning: a whole recipe in the one line of `configure_optimizers`.

def configure_optimizers(self):
    return stepwell.integrations.lightning.configure(self, "muon", lr=1e-3)
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from stepwell.integrations.needing import needed
from stepwell.optimizer.averaging import has_average
from stepwell.optimizer.unwrapping import bare
from stepwell.planning import plan
from stepwell.recipes import Recipe, named

pl: Any = needed("lightning", extra="lightning", least="2.4")
Callback: Any = pl.pytorch.Callback

__all__ = ["AveragedWeights", "configure"]


def configure(
    module: Any, recipe: str | Recipe = "adamw", *, horizon: int | None = None, **hyper_parameters: Any
) -> dict[str, Any]:
    """What `configure_optimizers` returns: the optimizer and the scheduler of a recipe, laid over the module.

    The scheduler counts the optimizer's own steps, so that it is right under any accumulation, any number of processes
    and a GradScaler that leaves steps out. `LearningRateMonitor` shows each group's rate as "lr/NAME". Where a rule
    keeps an average of the weights, `AveragedWeights` joins the Trainer's callbacks. A resumed training goes on at the
    saved step under its own schedule, over more epochs, too. The scheduler runs as long as the Trainer, or you, keep
    it: `StochasticWeightAveraging` puts another in its place.

    Clipping by the recipe's `clip_norm` happens in the optimizer, also under 16-bit precision, where Lightning's
    `gradient_clip_val` does not go together with an optimizer that unscales gradients itself.

    Args:
        module: the LightningModule.
        recipe: a `Recipe`, or the name of a preset, a rule or a file, as `stepwell.plan` takes it.
        horizon: total optimizer steps; by default the Trainer's `estimated_stepping_batches`.
        hyper_parameters: `lr=1e-3`, `adamw_weight_decay=0.1` and so on, as `Recipe.set` takes them.

    Raises:
        TypeError: what is no recipe; an unknown hyper-parameter.
        ValueError: an unknown recipe; a schedule that needs a horizon in a training without an end.
        RecipeError: where recipe and module do not fit, naming every mistake.
    """
    chosen = named(recipe)
    trainer = getattr(module, "_trainer", None)  # `trainer` itself raises where there is none
    if horizon is None and trainer is not None and math.isfinite(trainer.estimated_stepping_batches):
        horizon = int(trainer.estimated_stepping_batches)
    planned = plan(module, chosen.set(**hyper_parameters), horizon=horizon)
    optimizer = planned.build_optimizer()
    scheduler = planned.build_scheduler(optimizer, counts="steps")
    scheduler.resumes_under = "this"  # a training that goes on for more epochs has another horizon
    scheduler._let_go()  # the Trainer keeps it, until a callback puts another in its place
    averages = any(has_average(group["rule"]) for group in optimizer.param_groups)
    if averages and trainer is not None and not any(isinstance(one, AveragedWeights) for one in trainer.callbacks):
        trainer.callbacks.append(AveragedWeights())
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}


class AveragedWeights(Callback):  # type: ignore[misc]
    """Puts the averaged weights of Schedule-Free into the module while it is evaluated, into every checkpoint and,
    when a training is over, into the module for good. `configure` adds it; who makes an optimizer otherwise hands it
    to the Trainer."""

    def on_fit_start(self, trainer: Any, *_: Any) -> None:
        # Every checkpoint begins with this, and then asks the optimizers for their states. The hook of callbacks comes
        # later, and not at all where weights alone are saved.
        vars(trainer.strategy).setdefault("lightning_module_state_dict", partial(_averaged, trainer))

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        _each(trainer, "train")

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        _each(trainer, "eval")

    def on_test_start(self, trainer: Any, *_: Any) -> None:
        _each(trainer, "eval")

    def on_predict_start(self, trainer: Any, *_: Any) -> None:
        _each(trainer, "eval")

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        _each(trainer, "eval")


def _averaged(trainer: Any) -> Any:
    """The state dict of the module, which holds the averaged weights until the next batch."""
    _each(trainer, "eval")
    return type(trainer.strategy).lightning_module_state_dict(trainer.strategy)


def _each(trainer: Any, mode: str) -> None:
    for optimizer in trainer.optimizers:
        change = getattr(bare(optimizer), mode, None)
        if callable(change):
            change()
