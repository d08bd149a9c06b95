"""Equality with optax, in float64: of torch's engines, and of the same rules as optax transformations.

LAMB has its peer here alone. pytorch_optimizer's `Lamb` (4.1) is another algorithm under the same name: it has no bias
correction, clips the norm of the weights at 10 and adds ε to the norm of the step, and no option turns these off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stepwell
from conformance.cases import assert_near
from conformance.training import copies, parameter
from peers.training import STEPS, gradients, step, weights
from stepwell import rules

pytestmark = pytest.mark.peers

BETAS = {"betas": (0.8, 0.95)}
B1_B2 = {"b1": 0.8, "b2": 0.95}

# Our optimizer, and optax's with the same numbers under its own names.
PAIRS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}, lambda optax: optax.sgd(0.05)),
    "sgd-momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}, lambda optax: optax.sgd(0.05, momentum=0.9)),
    "sgd-nesterov": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        lambda optax: optax.sgd(0.05, momentum=0.9, nesterov=True),
    ),
    "sgd-decay": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
        lambda optax: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05, momentum=0.9)),
    ),
    "sgd-decoupled": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "decay": "decoupled"},
        lambda optax: optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.05)),
    ),
    "adam": ("Adam", {"lr": 0.02, "eps": 1e-4, **BETAS}, lambda optax: optax.adam(0.02, eps=1e-4, **B1_B2)),
    "adam-decay": (
        "Adam",
        {"lr": 0.02, "weight_decay": 0.1, **BETAS},
        lambda optax: optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.02, **B1_B2)),
    ),
    "adamw": (
        "AdamW",
        {"lr": 0.02, "weight_decay": 0.5, **BETAS},
        lambda optax: optax.adamw(0.02, weight_decay=0.5, **B1_B2),
    ),
    "lion": (
        "Lion",
        {"lr": 0.02, "weight_decay": 0.5, **BETAS},
        lambda optax: optax.lion(0.02, weight_decay=0.5, **B1_B2),
    ),
    "lamb": ("LAMB", {"lr": 0.02, **BETAS}, lambda optax: optax.lamb(0.02, **B1_B2)),
    "lamb-decay": (
        "LAMB",
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1, **BETAS},
        lambda optax: optax.lamb(0.02, eps=1e-3, weight_decay=0.1, **B1_B2),
    ),
    "sgd-average": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "average": True},
        lambda optax: optax.chain(optax.ema(0.9, debias=False), optax.scale_by_learning_rate(0.05)),
    ),
    "sgd-independent": (
        "SGD",
        {"lr": 0.05, "weight_decay": 0.01, "decay": "independent"},
        lambda optax: optax.chain(optax.scale_by_learning_rate(0.05), optax.add_decayed_weights(-0.01)),
    ),
    "adam-uncorrected": (
        "Adam",
        {"lr": 0.02, "eps": 1e-4, "correct_bias": False, **BETAS},
        lambda optax: optax.chain(uncorrected_adam(optax, 0.8, 0.95, 1e-4), optax.scale_by_learning_rate(0.02)),
    ),
    "sign-sgd": ("SignSGD", {"lr": 0.02}, lambda optax: optax.sign_sgd(0.02)),
    "adagrad": (
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 0.0},
        lambda optax: optax.adagrad(0.1, initial_accumulator_value=0.3, eps=0.0),
    ),
    "rmsprop": (
        "RMSprop",
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3},
        lambda optax: optax.rmsprop(0.02, decay=0.8, eps=1e-3, eps_in_sqrt=False),
    ),
    "rmsprop-centered": (
        "RMSprop",
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "centered": True, "momentum": 0.7},
        lambda optax: optax.chain(
            optax.scale_by_stddev(decay=0.8, eps=1e-3, eps_in_sqrt=False),
            optax.trace(0.7),
            optax.scale_by_learning_rate(0.02),
        ),
    ),
    "adadelta": ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3}, lambda optax: optax.adadelta(0.5, 0.8, 1e-3)),
    "adamax": ("Adamax", {"lr": 0.02, **BETAS}, lambda optax: optax.adamax(0.02, **B1_B2)),
    "radam": (
        "RAdam",
        {"lr": 0.02, "eps": 0.0, "betas": (0.8, 0.99)},
        lambda optax: optax.radam(0.02, eps=0.0, b1=0.8, b2=0.99),
    ),
    "yogi": (
        "Yogi",
        {"lr": 0.02, "initial_accumulator_value": 0.0, **BETAS},
        lambda optax: optax.chain(
            optax.scale_by_yogi(**B1_B2, initial_accumulator_value=0.0), optax.scale_by_learning_rate(0.02)
        ),
    ),
    "adabelief": (
        "AdaBelief",
        {"lr": 0.02, "eps": 1e-5, **BETAS},
        lambda optax: optax.adabelief(0.02, eps=1e-5, eps_root=1e-5, **B1_B2),
    ),
    "adopt": ("ADOPT", {"lr": 0.02, **BETAS}, lambda optax: optax.contrib.adopt(0.02, **B1_B2)),
    "ademamix": (
        "AdEMAMix",
        {"lr": 0.02, "betas": (0.8, 0.95, 0.99), "alpha": 3.0, "weight_decay": 0.5},
        lambda optax: optax.contrib.ademamix(0.02, b3=0.99, alpha=3.0, weight_decay=0.5, **B1_B2),
    ),
    "lars": (
        "LARS",
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.05, "eps": 1e-3},
        lambda optax: optax.lars(0.5, momentum=0.8, trust_coefficient=0.05, eps=1e-3),
    ),
    "nadam": (
        "NAdam",  # without the paper's schedule of momenta, which is over at once here
        {"lr": 0.02, "momentum_decay": 1e6, **BETAS},
        lambda optax: optax.nadam(0.02, **B1_B2),
    ),
    "novograd": (
        "NovoGrad",
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1, **BETAS},
        lambda optax: optax.novograd(0.02, eps=1e-3, weight_decay=0.1, **B1_B2),
    ),
    "adafactor": (
        "Adafactor",
        {"lr": 0.02, "relative_step": False, "weight_decay": 0.0},
        lambda optax: optax.adafactor(0.02, min_dim_size_to_factor=0),
    ),
    "schedule-free-sgd": (
        "ScheduleFreeSGD",
        {"lr": 0.05, "momentum": 0.8},
        lambda optax: optax.contrib.schedule_free_sgd(0.05, b1=0.8),
    ),
    "schedule-free-adamw": (
        "ScheduleFreeAdamW",
        {"lr": 0.05, "weight_decay": 0.1, **BETAS},
        lambda optax: optax.contrib.schedule_free_adamw(0.05, weight_decay=0.1, **B1_B2),
    ),
    "lars-nesterov": (
        "LARS",
        {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.05, "eps": 0.0, "nesterov": True},
        lambda optax: optax.lars(0.5, momentum=0.8, trust_coefficient=0.05, nesterov=True),
    ),
}

# optax's Adafactor works its memory out in float32.
TOLERANCES = {"adafactor": 1e-8}


def uncorrected_adam(optax: Any, b1: float, b2: float, eps: float) -> Any:
    """m / (√v + ε) from optax's running means."""

    import jax

    first, second = optax.ema(b1, debias=False), optax.ema(b2, debias=False)

    def init(params: Any) -> Any:
        return first.init(params), second.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        mean, state1 = first.update(updates, state[0])
        mean_square, state2 = second.update(jax.tree.map(lambda g: g * g, updates), state[1])
        return jax.tree.map(lambda m, v: m / (v**0.5 + eps), mean, mean_square), (state1, state2)

    return optax.GradientTransformation(init, update)


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    import jax

    with jax.enable_x64(True):
        yield


def to_jax(tensors: list[Tensor]) -> list[Any]:
    import jax

    return [jax.numpy.asarray(t.detach().numpy()) for t in tensors]


def to_torch(arrays: list[Any]) -> list[Tensor]:
    return [torch.from_numpy(np.array(a)) for a in arrays]


@functools.cache
def path_of(pair: str) -> list[list[Tensor]]:
    """Where optax is after each step."""
    import jax
    import optax

    transformation = PAIRS[pair][2](optax)
    expected = to_jax(weights())
    state, update, path = transformation.init(expected), jax.jit(transformation.update), []
    for number in range(1, STEPS + 1):
        updates, state = update(to_jax(gradients(number)), state, expected)
        expected = optax.apply_updates(expected, updates)
        assert all(e.dtype == np.float64 for e in expected)
        path.append(to_torch(expected))
    return path


@pytest.mark.parametrize("pair", PAIRS)
def test_transformations(pair: str) -> None:
    import jax
    import optax

    from stepwell.integrations.optax import transformation

    name, values, _ = PAIRS[pair]
    ours = transformation(getattr(rules, name)(**values))
    params = to_jax(weights())
    state, update = ours.init(params), jax.jit(ours.update)
    for number, expected in enumerate(path_of(pair), start=1):
        updates, state = update(to_jax(gradients(number)), state, params)
        params = optax.apply_updates(params, updates)
        assert_near(to_torch(params), expected, TOLERANCES.get(pair, 1e-12))


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("pair", PAIRS)
def test_twenty_steps(pair: str, engine: str) -> None:
    name, values, _ = PAIRS[pair]
    mine = weights()
    if pair == "adafactor" and engine == "fused":
        engine = "auto"  # which fuses its matrices; a stack of them is not served so
    ours = getattr(stepwell, name)(mine, engine=engine, **values)
    for number, expected in enumerate(path_of(pair), start=1):
        step(ours, mine, number)
        assert_near(copies(mine), expected, TOLERANCES.get(pair, 1e-12))


def test_muon_as_a_transformation() -> None:
    # Matrices (in, out), as optax takes them. Its Nesterov momentum corrects momentum and gradient by other powers of
    # μ, and so mixes them in other shares; without it, Newton–Schulz does not see a factor.
    import jax
    import optax

    from stepwell.integrations.optax import transformation

    def matrices(step: int) -> list[Any]:
        return to_jax([parameter(shape, torch.float64, 10 * step + shape[0]) for shape in ((4, 6), (7, 3), (5, 5))])

    values = {"momentum": 0.8, "nesterov": False, "weight_decay": 0.3, "eps": 1e-20}
    ours = transformation(rules.Muon(lr=0.05, **values))
    theirs = optax.contrib.muon(0.05, beta=0.8, nesterov=False, weight_decay=0.3, eps=1e-20)
    mine, expected = matrices(0), matrices(0)
    states = [ours.init(mine), theirs.init(expected)]
    for number in range(1, 6):
        updates, states[0] = jax.jit(ours.update)(matrices(number), states[0], mine)
        mine = optax.apply_updates(mine, updates)
        updates, states[1] = theirs.update(matrices(number), states[1], expected)
        expected = optax.apply_updates(expected, updates)
        assert_near(to_torch(mine), to_torch(expected), 1e-10)


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_lamb_where_a_norm_is_zero(engine: str) -> None:
    import optax

    mine = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    ours = stepwell.LAMB([mine], lr=0.02, engine=engine)
    theirs = optax.lamb(0.02)
    (expected,) = to_jax([mine])
    state = theirs.init(expected)
    for gradient in ([0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.0, 3.0], [1.0, 1.0, 0.5, -1.0]):
        mine.grad = torch.tensor(gradient, dtype=torch.float64)
        ours.step()
        updates, state = theirs.update(*to_jax([mine.grad]), state, expected)
        expected = optax.apply_updates(expected, updates)
        assert_near([mine.detach()], to_torch([expected]), 1e-12)


MUONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"momentum": 0.8}, {"beta": 0.8}),
    "match": ({"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0}, {"consistent_rms": 0.2, "weight_decay": 0.0}),
    "coefficients": (
        {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 8},
        {"ns_coeffs": (2.0, -1.5, 0.5), "ns_steps": 8},
    ),
}


@pytest.mark.parametrize("engine", ["reference", "auto"])
@pytest.mark.parametrize("pair", MUONS)
def test_muon(pair: str, engine: str) -> None:
    # Without Nesterov's mixture, of whose two parts optax corrects the bias by different counts; what is left of its
    # correction is one factor, which the iteration takes away. (out, in) are the rows and the columns of a matrix,
    # which may be one of a stack, or the kernel of a convolution.
    import jax
    import optax

    shapes = ((4, 4), (4, 6), (7, 3), (2, 3, 5), (3, 2, 2, 2))
    axes = ((1, 0), (1, 0), (1, 0), (2, 1), ((1, 2, 3), 0))
    decay, (values, their_values) = {"weight_decay": 0.3}, MUONS[pair]
    theirs = optax.contrib.muon(
        0.05,
        nesterov=False,
        eps=1e-30,
        muon_weight_dimension_numbers=[optax.contrib.MuonDimensionNumbers(*pair) for pair in axes],
        **{**decay, **their_values},
    )
    mine = [parameter(shape, torch.float64, seed) for seed, shape in enumerate(shapes)]
    ours = stepwell.Muon(mine, lr=0.05, nesterov=False, engine=engine, **{**decay, **values})
    expected, update = to_jax(mine), jax.jit(theirs.update)
    state = theirs.init(expected)
    for number in range(1, STEPS + 1):
        for index, p in enumerate(mine):
            p.grad = parameter(p.shape, torch.float64, 1000 * number + index).detach()
        ours.step()
        updates, state = update(to_jax([p.grad for p in mine]), state, expected)
        expected = optax.apply_updates(expected, updates)
        assert_near(copies(mine), to_torch(expected), 1e-10)
