"""Where a fair search tries: points that are known before the first run, so that runs may be made in any order.

Optuna draws them (Akiba et al. 2019, arXiv:1907.10902), as a scrambled Sobol sequence, which fills a box more evenly
than chance does (Bergstra & Bengio 2012, sec. 5; Bousquet et al. 2017, arXiv:1706.03200). No point depends on a loss,
so no recipe gains by the luck of an early try, and processes that share the work need not speak with each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from stepwell.compare.contestants import Axis, ContestantError


def drawn(space: Sequence[Axis], count: int, seed: int) -> list[list[float]]:
    """Points in the box of the axes, on a logarithmic scale: its centre, then Optuna's quasi-random ones.

    Args:
        space: the ranges, at least one.
        count: how many points, at least 1.
        seed: of the scrambling; the first points of a longer list are those of a shorter.

    Raises:
        ContestantError: Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ContestantError("a fair search needs Optuna: pip install 'stepwell[fair]'") from error
    box = {axis.label: optuna.distributions.FloatDistribution(axis.low, axis.high, log=True) for axis in space}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial({axis.label: axis.middle for axis in space})
        found = []
        for _ in range(count):
            trial = study.ask(fixed_distributions=box)
            found.append([float(trial.params[axis.label]) for axis in space])
            study.tell(trial, 0.0)  # the sampler looks at no value
    finally:
        optuna.logging.set_verbosity(before)
    return found
