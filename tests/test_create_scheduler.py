from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from stepwell.routing import create_scheduler
from stepwell.schedules import Constant, Cosine, Linear, OneCycle, Schedule


def sgd(*rates: float, **options: Any) -> torch.optim.SGD:
    """An optimizer with one group for each rate."""
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "lr": rate} for rate in rates or (1.0,)]
    return torch.optim.SGD(groups, **options)


@pytest.mark.parametrize(
    ("arguments", "schedule"),
    [
        ({"schedule": "constant"}, Constant()),
        ({"schedule": "Constant", "warmup": 5}, Constant(warmup=5)),
        ({"schedule": "LINEAR", "horizon": 50, "warmup": 0.1}, Linear(horizon=50, warmup=5)),
        ({"schedule": "one-cycle", "horizon": 50, "rise": 9}, OneCycle(horizon=50, rise=9)),
        ({"schedule": "cosine", "horizon": 50, "end": 0.1}, Cosine(horizon=50, end=0.1)),
        ({"schedule": Cosine(warmup=0.1), "horizon": 50}, Cosine(horizon=50, warmup=5)),
        ({"schedule": "Cosine(warmup=0.1)", "horizon": 50}, Cosine(horizon=50, warmup=5)),
        ({"schedule": Cosine(horizon=20), "horizon": 50}, Cosine(horizon=20)),
    ],
)
def test_create_scheduler(arguments: dict[str, Any], schedule: Schedule) -> None:
    scheduler = create_scheduler(sgd(0.5), **arguments)
    assert scheduler.schedules == {"lr": schedule}
    assert scheduler.get_last_lr() == [0.5 * schedule(0)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: create_scheduler(sgd(), None, horizon=10),
            TypeError,
            "schedule must be a name, such as 'cosine', or a Schedule, got None",
        ),
        (
            lambda: create_scheduler(sgd(), "constant", horizon=10, end=0.1),
            TypeError,
            "unknown argument 'end' for Constant; it takes warmup",
        ),
        (
            lambda: create_scheduler(sgd(), "cosine", horizon=10, warmpu=3),
            TypeError,
            "unknown argument 'warmpu' for Cosine; it takes horizon, warmup, end, waves (did you mean 'warmup'?)",
        ),
        (lambda: create_scheduler(sgd(), "step", horizon=9), TypeError, "Step needs every: give every=…"),
        (
            lambda: create_scheduler(sgd(), "warmup", horizon=9),
            TypeError,
            "Warmup needs schedule and length: give schedule=…, length=…",
        ),
        (
            lambda: create_scheduler(sgd(), "step", evry=3),
            TypeError,
            "unknown argument 'evry' for Step; it takes horizon, warmup, every, gamma (did you mean 'every'?)",
        ),
        (
            lambda: create_scheduler(sgd(), "linear"),
            ValueError,
            "Linear() needs a horizon, the total number of optimizer steps: give horizon= to the schedule or to its "
            "scheduler, or call resolve(horizon)",
        ),
        (
            lambda: create_scheduler(sgd(), "cosine", num_warmup_steps=3),
            TypeError,
            "unknown argument 'num_warmup_steps' for Cosine; it takes horizon, warmup, end, waves; write 'warmup', as "
            "it is called here",
        ),
        (
            lambda: create_scheduler(sgd(), "cosine", min_lr=1e-5),
            TypeError,
            "unknown argument 'min_lr' for Cosine; it takes horizon, warmup, end, waves; write 'end', as it is called "
            "here; it is a share of the optimizer's rate",
        ),
        (
            lambda: create_scheduler(sgd(), "Cosine()", warmup=3),
            TypeError,
            "Cosine() carries its own arguments: give warmup to it, not beside it",
        ),
        (
            lambda: create_scheduler(sgd(), Cosine(), horizon=10, warmup=3, end=0.1),
            TypeError,
            "Cosine() carries its own arguments: give warmup, end to it, not beside it",
        ),
        (
            lambda: create_scheduler(sgd(), "linear", horizon=10, warmup=0.0),
            ValueError,
            "warmup is a share of the horizon when it is a float, strictly between 0 and 1, got 0.0; write 0 for steps",
        ),
        (
            lambda: create_scheduler(sgd(), "linear", horizon=10, warmup=None),
            TypeError,
            "warmup must be steps (int) or a share of the horizon (float), got None",
        ),
        (
            lambda: create_scheduler(sgd(), "linear", horizon=10, warmup="0.1"),
            TypeError,
            "warmup must be steps (int) or a share of the horizon (float), got '0.1'",
        ),
    ],
)
def test_create_scheduler_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cosin", " (did you mean 'Cosine'?)"),
        ("cosine_annealing", " (did you mean 'Cosine'?)"),
        ("CosineAnnealingLR", " (did you mean 'Cosine'?)"),
        ("step_decay", " (did you mean 'Step'?)"),
        ("constant_with_warmup", " (did you mean 'Constant'?)"),
        ("warmup_stable_decay", " (did you mean 'WSD'?)"),
        ("reduce_lr_on_plateau", "; stepwell.ReduceOnPlateau, which listens to a metric, is no schedule"),
        ("none", ""),
    ],
)
def test_a_name_that_is_close_to_one_or_is_anothers(name: str, hint: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^unknown schedule '{name}'{re.escape(hint)}; known are .*Constant, Cosine, "
    ):
        create_scheduler(sgd(), name, horizon=10)
