"""What an observed optimizer tells, and what it says where there is nothing to tell."""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import pytest
import torch

import stepwell
from stepwell.optimizer.telemetry import Units


def _model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))


def test_readings_by_hand() -> None:
    # Plain gradient descent: w = (3, 4) moves by -0.1 · (1, 1).
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = stepwell.SGD([weight], lr=0.1)
    optimizer.observe()
    weight.grad = torch.ones(2)
    optimizer.step()
    rms = math.sqrt(25 / 2)
    expected = {"update_rms": 0.1, "weight_rms": rms, "gradient_rms": 1.0, "update_to_weight": 0.1 / rms}
    assert optimizer.telemetry()["0"] == pytest.approx(expected, rel=1e-6)


def test_groups_of_a_recipe_have_their_names_and_parameters_theirs() -> None:
    model = _model()
    optimizer = stepwell.create_optimizer(model, "muon")
    optimizer.observe()
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert list(optimizer.telemetry()) == [group["name"] for group in optimizer.param_groups]
    assert set(optimizer.telemetry(by="parameter")) == {name for name, _ in model.named_parameters()}


def test_what_has_no_gradient_is_left_out() -> None:
    model = _model()
    optimizer = stepwell.AdamW(model.named_parameters())
    optimizer.observe()
    assert optimizer.telemetry() == {}
    model[0](torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert set(optimizer.telemetry(by="parameter")) == {"0.weight", "0.bias"}


def test_a_step_that_is_left_out_leaves_the_last_reading() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = stepwell.AdamW([weight], on_nonfinite="skip")
    optimizer.observe()
    weight.grad = torch.ones(3)
    optimizer.step()
    before = optimizer.telemetry()
    weight.grad = torch.full((3,), torch.nan)
    optimizer.step()
    assert optimizer.skipped == 1
    assert optimizer.telemetry() == before


def test_weights_of_zero() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = stepwell.SGD([weight], lr=0.1)
    optimizer.observe()
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.telemetry()["0"]["update_to_weight"] == 0.0
    weight.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.telemetry()["0"]["update_to_weight"] == math.inf


def test_complex_numbers_are_two_reals() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0 + 4.0j]))
    optimizer = stepwell.SGD([weight], lr=1.0)
    optimizer.observe()
    weight.grad = torch.tensor([0.0 + 2.0j])
    optimizer.step()
    found = optimizer.telemetry()["0"]
    assert (found["weight_rms"], found["gradient_rms"]) == pytest.approx((math.sqrt(25 / 2), math.sqrt(4 / 2)))


def test_the_update_is_known_before_it_is_rounded() -> None:
    # bfloat16 has no number between 1 and 1 + 2⁻⁷: a move of 2⁻¹⁰ is lost, but not that it was wanted.
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = stepwell.SGD([weight], lr=2.0**-10)
    optimizer.observe()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert (weight == 1).all()
    assert optimizer.telemetry()["0"]["update_rms"] == pytest.approx(2.0**-10)


def test_a_copy_is_not_observed() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = stepwell.SGD([weight], lr=0.1)
    with pytest.raises(RuntimeError, match=r"call optimizer\.observe\(\) once"):
        optimizer.telemetry()
    optimizer.observe()
    with pytest.raises(RuntimeError, match="observe"):
        copy.deepcopy(optimizer).telemetry()
    optimizer.observe(False)
    with pytest.raises(RuntimeError, match="observe"):
        optimizer.telemetry()


def test_by_what() -> None:
    optimizer = stepwell.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match="by must be one of 'group', 'parameter', got 'layer'"):
        optimizer.telemetry(by="layer")  # type: ignore[arg-type]


# Units

ENGINES = ["reference", "foreach", "fused"]


def stepped(weight: torch.nn.Parameter, engine: str = "auto", **options: Any) -> dict[str, Units]:
    """The units of a weight whose gradient is set, after a step and without the gradient."""
    others = [("b", torch.nn.Parameter(torch.zeros(7)))]
    optimizer = stepwell.AdamW([("w", weight), *others], lr=0.1, engine=engine, **options)
    optimizer.observe()
    assert optimizer.units() == {}
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.units()


def gradient_of_norms(shape: tuple[int, ...], norms: list[float]) -> torch.Tensor:
    """A gradient whose first rows have these norms, each in another of its elements; the rest are zeros."""
    gradient = torch.zeros(shape)
    rows = gradient.view(shape[0], -1)
    for row, norm in enumerate(norms):
        rows[row, (7 * row) % rows.shape[1]] = -norm
    return gradient


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(7, 3), (7, 40), (7, 5, 2, 4), (7, 32, 40)])
def test_dead_and_exploding_units(shape: tuple[int, ...], engine: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape))
    # Of gradients of norm 0, 1, 1, 2, ¼, 2¹⁰ and infinity those that are finite and not 0 have the median 1.
    weight.grad = gradient_of_norms(shape, [0.0, 1.0, 1.0, 2.0, 0.25, 1024.0, math.inf])
    counts = [0] * 17
    counts[8 - 2], counts[8], counts[8 + 1] = 1, 2, 1
    found = stepped(weight, engine)
    assert found == {"w": Units(dead=1, exploding=2, counts=tuple(counts))}
    assert found["w"].total == 7


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_units_that_are_all_alike(value: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 2, 2))
    weight.grad = torch.full((3, 2, 2), value)
    found = stepped(weight)["w"]
    assert (found.dead, found.exploding) == ((3, 0) if value == 0 else (0, 3))
    assert sum(found.counts) == 0


TRANSPOSED, TRANSPOSED_256 = (torch.nn.Parameter(torch.zeros(length, 6).t()) for length in (48, 256))
LAST = torch.nn.Parameter(torch.zeros(6, 4, 4, 3).to(memory_format=torch.channels_last))


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        (torch.nn.Parameter(torch.zeros(6, 8, dtype=torch.bfloat16)), {}),
        (torch.nn.Parameter(torch.zeros(6, 48, dtype=torch.bfloat16)), {"master": "stochastic"}),
        (torch.nn.Parameter(torch.zeros(6, 1024)), {"state_dtype": "8bit"}),
        (torch.nn.Parameter(torch.zeros(6, 1000)), {"state_dtype": "8bit"}),
        (torch.nn.Parameter(torch.zeros(6, 1000)), {"state_dtype": "4bit"}),
        (torch.nn.Parameter(torch.zeros(6, 33_333)), {"state_dtype": "8bit"}),
        (torch.nn.Parameter(torch.zeros(6, 70_000)), {}),
        (torch.nn.Parameter(torch.zeros(6, 70_001)), {}),
        (TRANSPOSED, {}),
        (TRANSPOSED_256, {}),
        (LAST, {}),
        (torch.nn.Parameter(torch.zeros(6, 40, dtype=torch.complex64)), {}),
    ],
    ids=[
        "bfloat16",
        "stochastic",
        "8 bits",
        "8 bits, rows of no whole blocks",
        "4 bits",
        "8 bits, no whole blocks at all",
        "long rows",
        "long rows that nothing divides",
        "transposed",
        "transposed, of 256",
        "last",
        "complex",
    ],
)
def test_units_in_the_fused_engine_however_weights_and_state_lie(
    weight: torch.nn.Parameter, options: dict[str, Any]
) -> None:
    gradient = gradient_of_norms(tuple(weight.shape), [0.0, 1.0, 1.0, 2.0, 0.25, 1024.0])
    weight.grad = gradient.to(weight.dtype).as_strided(weight.shape, gradient.stride())
    counts = [0] * 17
    counts[8 - 2], counts[8], counts[8 + 1] = 1, 2, 1
    assert stepped(weight, "fused", **options)["w"] == Units(dead=1, exploding=1, counts=tuple(counts))


@pytest.mark.parametrize("rule", ["LAMB", "Adafactor", "AdamMini", "Muon", "SOAP"])
def test_units_of_fused_rules_that_reduce(rule: str) -> None:
    weight = torch.nn.Parameter(torch.ones(7, 40))
    weight.grad = gradient_of_norms((7, 40), [0.0, 1.0, 1.0, 2.0, 0.25, 1024.0, 2.0])
    optimizer = getattr(stepwell, rule)([("w", weight)], lr=0.1)
    optimizer.observe()
    optimizer.step()
    found = optimizer.units()["w"]
    assert (found.dead, found.exploding, found.counts[6:10]) == (1, 1, (1, 0, 2, 2))


def test_units_of_a_step_that_is_left_out_are_those_before() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 40))
    optimizer = stepwell.AdamW([("w", weight)], on_nonfinite="skip")
    optimizer.observe()
    weight.grad = gradient_of_norms((3, 40), [1.0, 2.0])
    optimizer.step()
    before = optimizer.units()
    assert before["w"].dead == 1
    weight.grad = torch.full((3, 40), torch.nan)
    optimizer.step()
    assert optimizer.units() == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(0, 40), (0, 7), (7, 0)])
def test_a_matrix_of_nothing(shape: tuple[int, int], engine: str) -> None:
    weight = torch.nn.Parameter(torch.ones(shape))
    weight.grad = torch.ones(shape)
    assert stepped(weight, engine) == {"w": Units(dead=shape[0], exploding=0, counts=(0,) * 17)}


@pytest.mark.parametrize("engine", ENGINES)
def test_only_observed_steps_tell(engine: str) -> None:
    weight = torch.nn.Parameter(torch.ones(3, 40))
    optimizer = stepwell.AdamW([("w", weight)], engine=engine)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    optimizer.observe()
    assert (optimizer.telemetry(), optimizer.units()) == ({}, {})
    optimizer.step()
    assert set(optimizer.telemetry(by="parameter")) == set(optimizer.units()) == {"w"}
    optimizer.observe(False)
    optimizer.step()
    optimizer.observe()
    assert (optimizer.telemetry(), optimizer.units()) == ({}, {})


@pytest.mark.parametrize("engine", ENGINES)
def test_now_and_then_observed(engine: str) -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.ones(3, 40)) for _ in range(3)]
    optimizers = [stepwell.Adam([("w", weight)], engine=engine) for weight in weights]
    optimizers[1].observe()
    for step in range(7):
        optimizers[2].observe(step % 3 == 0)
        gradient = torch.randn(3, 40)
        for optimizer, weight in zip(optimizers, weights, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
        if step % 3 == 0:
            assert optimizers[2].telemetry() == optimizers[1].telemetry()
            assert optimizers[2].units() == optimizers[1].units()
    never, always, now_and_then = weights
    assert torch.equal(never, always)
    assert torch.equal(never, now_and_then)


def test_what_observed_steps_need_is_kept_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.ones(3, 40))
    optimizer = stepwell.AdamW([("w", weight)])

    def step(observed: bool) -> weakref.ref[torch.Tensor]:
        optimizer.observe(observed)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        return weakref.ref(weight.grad)

    step(True)
    gradient = step(False)
    monkeypatch.setattr("stepwell.optimizer.batching.prepare", None)
    step(True)
    assert gradient() is None
    step(False)
    step(True)
    monkeypatch.undo()
    optimizer.add_param_group({"params": [("b", torch.nn.Parameter(torch.ones(2)))]})
    monkeypatch.setattr("stepwell.optimizer.batching.prepare", None)
    with pytest.raises(TypeError):
        step(False)  # what was kept for it does not fit any more


def test_units_ask_to_be_observed() -> None:
    optimizer = stepwell.SGD([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1)
    with pytest.raises(RuntimeError, match=r"call optimizer\.observe\(\) once, and units\(\) after a later step"):
        optimizer.units()
