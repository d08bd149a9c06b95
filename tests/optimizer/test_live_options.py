"""What is set in an optimizer or a group after construction is checked as it is there."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell


def weight(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    p = torch.nn.Parameter(torch.ones(80, 80, dtype=dtype))
    p.grad = torch.ones_like(p)
    return p


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("state_dtype", "9bit", "state_dtype must be one of 'float32', 'bfloat16', '8bit', '4bit', got '9bit'"),
        ("state_dtype", 8, "state_dtype must be one of 'float32', 'bfloat16', '8bit', '4bit', got 8 (group 0)"),
        (
            "master",
            "kahn",
            "master must be one of 'stochastic', 'kahan', 'compensated', 'compensated8', 'float32', got",
        ),
        ("rounding_seed", -1, "rounding_seed must be a whole number"),
        ("rounding_seed", 1.5, "rounding_seed must be a whole number"),
        ("rounding_seed", "a", "rounding_seed must be a whole number"),
    ],
)
def test_how_a_group_is_stored_is_refused_before_anything_is_counted(
    key: str, value: Any, message: str, steps: int
) -> None:
    p = weight()
    optimizer = stepwell.AdamW([p], master="stochastic")
    for _ in range(steps):
        optimizer.step()
    before, known = p.detach().clone(), optimizer.param_groups[0][key]
    optimizer.param_groups[0][key] = value
    with pytest.raises((TypeError, ValueError), match=rf"^{re.escape(message)}.*"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state[p].get("step", 0) == steps
    optimizer.param_groups[0][key] = known
    optimizer.step()
    assert optimizer.state[p]["step"] == steps + 1


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("eps", None, "eps must be a number at least 0, got None of type NoneType"),
        ("eps", "1e-8", "eps must be a number at least 0, got '1e-8' of type str"),
        ("lr", None, "lr must be a number at least 0, got None of type NoneType"),
        ("betas", None, "betas must be "),
        ("rule", "SGD", "SGD takes momentum, dampening, nesterov, average, which the group has not: set what a"),
    ],
)
def test_what_a_rule_cannot_take_is_refused_before_anything_is_counted(
    key: str, value: Any, message: str, engine: Any
) -> None:
    p = weight(torch.float32)
    optimizer = stepwell.AdamW([p], engine=engine)
    optimizer.step()
    (group,), before = optimizer.param_groups, p.detach().clone()
    known, group[key] = group[key], value
    with pytest.raises((TypeError, ValueError), match=rf"^{re.escape(message)}.*\(group 0\)$"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state[p]["step"] == 1
    if key == "rule":
        group.update(stepwell.rules.SGD().values() | group)  # the way out
    else:
        group[key] = known
    optimizer.step()
    assert optimizer.state[p]["step"] == 2


def test_weights_that_cannot_be_kept_so_are_in_a_group() -> None:
    optimizer = stepwell.AdamW([weight(torch.float16)])
    optimizer.param_groups[0]["master"] = "kahan"
    with pytest.raises(ValueError, match=r"^float16 weights take master='float32' or None, got 'kahan' \(group 0\)$"):
        optimizer.step()


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, 2**64, 1 << 70])
def test_a_seed_may_be_as_large_as_one_likes(seed: int) -> None:
    def stepped(seed: int) -> Tensor:
        p = weight()
        stepwell.SGD([p], lr=1e-3, master="stochastic", rounding_seed=seed).step()
        return p.detach()

    assert torch.equal(stepped(seed), stepped(seed % 2**64))
    assert not torch.equal(stepped(seed), stepped(seed - 1))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clip_norm", -1.0, "clip_norm must be above 0, got -1.0"),
        ("clip_norm", 0, "clip_norm must be above 0, got 0"),
        ("clip_norm", math.nan, "clip_norm must be above 0, got nan"),
        ("clip_norm", "a", "clip_norm must be a number above 0, got 'a' of type str"),
        ("on_nonfinite", "Skip", "on_nonfinite must be one of 'ignore', 'raise', 'skip', got 'Skip'"),
    ],
)
def test_options_of_the_optimizer_are_checked_when_they_are_set(name: str, value: Any, message: str) -> None:
    for optimizer in (made := stepwell.SGD([weight()], lr=0.1, clip_norm=1.0)), stepwell.offload(made):
        before = getattr(optimizer, name)
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) == before


def test_the_norm_of_gradients_that_a_scaler_leaves_out_is_told() -> None:
    for on_nonfinite in ("ignore", "raise", "skip"):
        p = weight(torch.float32)
        optimizer = stepwell.SGD([p], lr=0.1, clip_norm=1.0, on_nonfinite=on_nonfinite)
        optimizer.step()
        assert optimizer.gradient_norm == pytest.approx(80.0)
        assert p.grad is not None
        p.grad[0, 0], before = math.inf, p.detach().clone()
        optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]  # as GradScaler hands it over
        optimizer.step()
        assert (optimizer.gradient_norm, optimizer.skipped) == (math.inf, 1)
        assert torch.equal(p, before)


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_a_parameter_goes_to_another_group_and_back(engine: Any) -> None:
    # As where it is to be unfrozen, or decayed no longer, in mid-training.
    stays, goes, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    groups = [{"params": [stays, goes], "lr": 0.5}, {"params": [other], "lr": 0.125, "rule": "SignSGD"}]
    optimizer = stepwell.Optimizer(groups, stepwell.rules.SGD(), engine=engine)
    first, second = optimizer.param_groups
    for expected in (0.5, 0.375, -0.125):
        for p in (stays, goes, other):
            p.grad = torch.ones(3)
        optimizer.step()
        assert goes.tolist() == [expected] * 3
        here, there = (first, second) if any(p is goes for p in first["params"]) else (second, first)
        there["params"].append(here["params"].pop())
