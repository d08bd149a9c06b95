"""Equality of the rules with a smaller second moment: with torch, transformers, and the authors' packages, in float64.

transformers and came_pytorch work in float64 where parameters are. adam_mini reads from a parameter's name how it is
cut into blocks; pytorch_optimizer's NovoGrad is the one with the paper's first step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
import stepwell.integrations.huggingface
from conformance.cases import assert_near
from conformance.training import copies, parameter
from peers.training import STEPS, step, weights

pytestmark = pytest.mark.peers

Make = Callable[[list[Tensor]], Any]
FLOOR = {"eps_as_floor": True, "decay": "decoupled"}


def torchs_adafactor(**values: Any) -> Make:
    return lambda parameters: torch.optim.Adafactor(parameters, **values)


def transformers_adafactor(**values: Any) -> Make:
    def make(parameters: list[Tensor]) -> Any:
        from transformers.optimization import Adafactor

        return Adafactor(parameters, **values)

    return make


def came_pytorch(**values: Any) -> Make:
    def make(parameters: list[Tensor]) -> Any:
        from came_pytorch import CAME

        return CAME(parameters, **values)

    return make


def adam_mini(**values: Any) -> Make:
    def make(parameters: list[Tensor]) -> Any:
        from adam_mini import Adam_mini

        names = ["mlp" if p.ndim == 2 else "other" for p in parameters]
        return Adam_mini(list(zip(names, parameters, strict=True)), verbose=False, **values)

    return make


def novograd(**values: Any) -> Make:
    def make(parameters: list[Tensor]) -> Any:
        from pytorch_optimizer import NovoGrad

        return NovoGrad(parameters, **values)

    return make


CAME_VALUES = {"lr": 0.02, "betas": (0.8, 0.9, 0.95), "clip_threshold": 0.7, "weight_decay": 0.1}
MINI_VALUES = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.3}
NOVO_VALUES = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}

PAIRS: dict[str, tuple[str, dict[str, Any], Make]] = {
    "torch": ("Adafactor", {**FLOOR, "eps": (2.0**-52, 1e-3)}, torchs_adafactor()),
    "torch-values": (
        "Adafactor",
        {**FLOOR, "lr": 0.3, "eps": (0.1, 0.4), "clip_threshold": 1.2, "decay_rate": -0.5, "weight_decay": 0.1},
        torchs_adafactor(lr=0.3, eps=(0.1, 0.4), d=1.2, beta2_decay=-0.5, weight_decay=0.1),
    ),
    "transformers": ("Adafactor", {}, transformers_adafactor()),
    "transformers-warmup": ("Adafactor", {"warmup_init": True}, transformers_adafactor(warmup_init=True)),
    "transformers-constant": (
        "Adafactor",
        {"lr": 0.02, "relative_step": False, "scale_parameter": False, "clip_threshold": 0.6, "weight_decay": 0.1},
        transformers_adafactor(
            lr=0.02, relative_step=False, scale_parameter=False, clip_threshold=0.6, weight_decay=0.1
        ),
    ),
    "transformers-momentum": (
        "Adafactor",
        {"beta1": 0.8, "eps": (1e-2, 0.4), "decay_rate": -0.5, "weight_decay": 0.1},
        transformers_adafactor(beta1=0.8, eps=(1e-2, 0.4), decay_rate=-0.5, weight_decay=0.1),
    ),
    **{
        f"transformers-{name}-by-its-name": ("TransformersAdafactor", values, transformers_adafactor(**values))
        for name, values in {
            "relative": {},
            "warmup": {"warmup_init": True, "beta1": 0.8, "weight_decay": 0.1},
            "unscaled": {"scale_parameter": False, "eps": (1e-2, 0.4)},
            "constant": {"lr": 0.02, "relative_step": False, "clip_threshold": 0.6, "decay_rate": -0.5},
        }.items()
    },
    "came": ("CAME", {"lr": 2e-3}, came_pytorch(lr=2e-3)),
    "came-values": ("CAME", CAME_VALUES, came_pytorch(**CAME_VALUES)),
    "novograd": ("NovoGrad", NOVO_VALUES, novograd(**NOVO_VALUES)),
    "novograd-averaging": (
        "NovoGrad",
        {**NOVO_VALUES, "weight_decay": 0.0, "grad_averaging": True},
        novograd(**{**NOVO_VALUES, "weight_decay": 0.0}, grad_averaging=True),
    ),
}


@pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])
@pytest.mark.parametrize("pair", PAIRS)
def test_twenty_steps(pair: str, engine: str) -> None:
    name, values, theirs = PAIRS[pair]
    mine, expected = weights(), weights()
    ours, other = stepwell.optimizer_class(name)(mine, engine=engine, **values), theirs(expected)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(other, expected, number)
        assert_near(copies(mine), copies(expected), 1e-11)


@pytest.mark.parametrize("engine", ["reference", "foreach", "auto"])
def test_twenty_steps_of_adam_mini(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # with more GPUs theirs would ask other ranks
    # What has two dimensions goes by rows there, what has one or none as a whole.
    mine, expected = (
        [p for p in weights() if p.ndim < 3],
        [p for p in weights() if p.ndim < 3],
    )
    ours, theirs = stepwell.AdamMini(mine, engine=engine, **MINI_VALUES), adam_mini(**MINI_VALUES)(expected)
    for number in range(1, STEPS + 1):
        for parameters, optimizer in ((mine, ours), (expected, theirs)):
            for index, p in enumerate(parameters):
                p.grad = torch.randn(
                    p.shape, generator=torch.Generator().manual_seed(100 * number + index), dtype=torch.float64
                )
            optimizer.step()
        assert_near(copies(mine), copies(expected), 1e-11)


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_twenty_steps_of_adam_mini_by_heads(engine: str) -> None:
    # Queries of three heads and keys of two, of two rows each, in a model of width 6.
    shapes, heads = ((6, 6), (4, 6)), (3, 2)
    mine, expected = ([parameter(shape, torch.float64, seed) for seed, shape in enumerate(shapes)] for _ in range(2))
    groups = [{"params": [p], "heads": count} for p, count in zip(mine, heads, strict=True)]
    ours = stepwell.AdamMini(groups, engine=engine, **MINI_VALUES)
    theirs = adam_mini_by_heads(expected)
    for number in range(1, STEPS + 1):
        for parameters, optimizer in ((mine, ours), (expected, theirs)):
            for index, p in enumerate(parameters):
                p.grad = parameter(p.shape, torch.float64, 100 * number + index).detach()
            optimizer.step()
        assert_near(copies(mine), copies(expected), 1e-11)


def adam_mini_by_heads(parameters: list[Tensor]) -> Any:
    from adam_mini import Adam_mini

    named = list(zip(("q_proj", "k_proj"), parameters, strict=True))
    return Adam_mini(named, dim=6, n_heads=3, verbose=False, **MINI_VALUES)


def test_torchs_adafactor_state_loads_and_training_goes_on() -> None:
    values = {"lr": 0.05, "eps": (1e-3, 0.1), "weight_decay": 0.1}
    expected = weights()
    theirs = torchs_adafactor(**values)(expected)
    for number in range(1, 8):
        step(theirs, expected, number)
    mine = [p.detach().clone().requires_grad_() for p in expected]
    ours = stepwell.Adafactor(mine)
    ours.load_state_dict(theirs.state_dict())
    for number in range(8, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
    assert_near(copies(mine), copies(expected), 1e-11)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"warmup_init": True, "beta1": 0.8},
        {"lr": 0.02, "relative_step": False, "scale_parameter": False, "weight_decay": 0.1},
    ],
)
def test_transformers_adafactor_state_loads_and_training_goes_on(values: dict[str, Any]) -> None:
    expected = weights()
    theirs = transformers_adafactor(**values)(expected)
    for number in range(1, 8):
        step(theirs, expected, number)
    mine = [p.detach().clone().requires_grad_() for p in expected]
    ours = stepwell.integrations.huggingface.Adafactor(mine, **values)
    ours.load_state_dict(theirs.state_dict())
    (group,), (peer,) = ours.param_groups, theirs.param_groups
    for p, q in zip(mine, expected, strict=True):
        assert ours._get_lr(group, ours.state[p]) == pytest.approx(float(theirs._get_lr(peer, theirs.state[q])))
    for number in range(8, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
    assert_near(copies(mine), copies(expected), 1e-11)
