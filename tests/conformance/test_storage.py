"""Every storage under every rule: the same in every engine, to the bit on resume, whatever the threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import PLAIN_CASES, Case, assert_same_bits, rows, such_as
from conformance.storage import (
    BF16,
    F32,
    SHAPES,
    STORAGES,
    Kept,
    assert_alike,
    codecs_of,
    compiles,
    fits,
    numbers,
)
from conformance.training import give_gradients, parameter, parameters_of, slots_of, train
from stepwell import Optimizer, rules
from stepwell.codecs import layout


def weights(kept: Kept, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[Tensor]:
    return [parameter(shape, kept.dtype, seed) for seed, shape in enumerate(shapes)]


def trained(case: Case, kept: Kept, engine: str, *, steps: int = 2, **options: Any) -> Optimizer:
    parameters = weights(kept, case.shapes if case.rule.acts_on == "matrices" else SHAPES)
    optimizer = Optimizer(parameters, case.rule, engine=engine, **kept.options, **options)  # type: ignore[arg-type]
    train(optimizer, parameters, last=steps)
    return optimizer


def crossed(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with `case`, `kept` and `engine`, for what the case's rule can be stored as."""
    found = [
        pytest.param(case, kept, engine, id=f"{case.name}-{kept}-{engine}")
        for case in cases
        for kept in STORAGES
        if fits(case.rule, kept)
        for engine in case.engines[1:]
        if engine != "fused" or compiles(case.name, kept)
    ]
    return pytest.mark.parametrize(("case", "kept", "engine"), found)


@crossed(such_as(lambda case: case.rule.acts_on != "matrices" and not case.measures, PLAIN_CASES))
def test_every_engine_gives_what_the_reference_gives(case: Case, kept: Kept, engine: str) -> None:
    # The bits of chance are the same in every engine. One step: in the next, what was rounded to another neighbour
    # makes a difference of its own.
    assert_alike(trained(case, kept, engine, steps=1), trained(case, kept, "reference", steps=1), kept)


NOT_COMPILED = such_as(
    lambda case: "fused" in case.engines and not case.measures and not compiles(case.name, STORAGES[6]), PLAIN_CASES
)


@pytest.mark.slow
@rows([case for case in NOT_COMPILED if fits(case.rule, STORAGES[6])])
def test_every_kernel_gives_what_the_reference_gives(case: Case) -> None:
    # In one storage, which is by chance, in blocks, and in 16 bits.
    kept = STORAGES[6]
    assert_alike(trained(case, kept, "fused", steps=1), trained(case, kept, "reference", steps=1), kept)


@pytest.mark.parametrize("kept", [STORAGES[1], STORAGES[6], STORAGES[7]], ids=str)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in PLAIN_CASES])
def test_the_state_is_what_layout_says(case: Case, kept: Kept) -> None:
    if not fits(case.rule, kept):
        pytest.skip("the rule cannot be stored so")
    optimizer = trained(case, kept, "reference", steps=1)
    for p in optimizer.param_groups[0]["params"]:
        tensors = {name: value for name, value in optimizer.state[p].items() if isinstance(value, Tensor)}
        expected = layout(case.rule, tuple(p.shape), p.dtype, kept.state_dtype, kept.master)
        assert {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()} == {
            part.name: (part.shape, part.dtype) for part in expected
        }
        assert p.dtype == kept.dtype


CHOSEN = such_as(lambda case: case.name in ("AdamW", "LAMB", "ScheduleFreeAdamW", "Muon", "Prodigy", "ema(AdamW)"))


@crossed(CHOSEN)
def test_training_goes_on_with_the_same_bits(case: Case, kept: Kept, engine: str, tmp_path: Path) -> None:
    optimizer = trained(case, kept, engine)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    fresh = [p.clone().requires_grad_() for p in parameters_of(optimizer)]
    # Another seed: the saved one goes on.
    resumed = Optimizer(fresh, type(case.rule)(), engine=engine, **{**kept.options, "rounding_seed": 0})
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same_bits(slots_of(resumed), slots_of(optimizer))
    train(optimizer, optimizer.param_groups[0]["params"], first=3)
    train(resumed, fresh, first=3)
    assert_same_bits(parameters_of(resumed), parameters_of(optimizer))
    assert_same_bits(slots_of(resumed), slots_of(optimizer))


THREADED = [
    pytest.param(case, kept, id=f"{case.name}-{kept}")
    for case in PLAIN_CASES
    for kept in STORAGES
    if fits(case.rule, kept) and compiles(case.name, kept)
]


@pytest.mark.parametrize(("case", "kept"), THREADED)
def test_bits_do_not_depend_on_the_threads(case: Case, kept: Kept, set_threads: Callable[[int], None]) -> None:
    # Several chunks a tensor, so that threads share them.
    found = []
    for threads in (1, 2, 2):
        set_threads(threads)
        parameters = weights(kept, ((150_001,), (7,), (300, 256)))
        optimizer = Optimizer(parameters, case.rule, engine="fused", **kept.options)
        train(optimizer, parameters, last=2)
        found.append(parameters_of(optimizer) + slots_of(optimizer))
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])


@pytest.mark.parametrize("kept", STORAGES, ids=str)
def test_chunks_have_the_bits_of_the_whole(kept: Kept) -> None:
    # What the fused engine cuts into chunks of 65,536 elements, foreach rounds as one tensor.
    optimizers = []
    for engine in ("fused", "foreach"):
        parameters = weights(kept, ((140_011,),))
        optimizer = Optimizer(parameters, rules.AdamW(lr=0.05), engine=engine, **kept.options)  # type: ignore[arg-type]
        train(optimizer, parameters, last=1)
        optimizers.append(optimizer)
    assert_alike(*optimizers, kept)


@pytest.mark.parametrize("engine", ["foreach", "fused"])
@pytest.mark.parametrize("master", ["compensated", "float32"])
def test_weights_that_keep_all_bits_train_as_float32(master: Any, engine: Any) -> None:
    # Gradients that bfloat16 holds: with state in float32 nothing else differs from float32 weights.
    narrow = [parameter((1000,), BF16), parameter((3, 4), BF16, seed=1)]
    wide = [p.detach().float().requires_grad_() for p in narrow]
    rule = rules.AdamW(lr=0.01, weight_decay=0.1)
    stored = Optimizer(narrow, rule, engine=engine, state_dtype="float32", master=master)
    plain = Optimizer(wide, rule, engine=engine)
    for step in range(5):
        for index, (p, q) in enumerate(zip(narrow, wide, strict=True)):
            p.grad = parameter(p.shape, BF16, seed=100 * step + index).detach()
            q.grad = p.grad.float()
        stored.step()
        plain.step()
    for held, p in zip(numbers(stored)["p"], wide, strict=True):
        assert torch.equal(held, p.detach().double())
    for p, q in zip(narrow, wide, strict=True):
        assert float((p - q).detach().abs().max()) <= 2.0**-8 * float(q.detach().abs().max())


@crossed(such_as(lambda case: case.name in ("ScheduleFreeAdamW", "ema(AdamW)")))
def test_weights_come_back_to_the_bit_from_their_average(case: Case, kept: Kept, engine: str) -> None:
    optimizer = trained(case, kept, engine, steps=3)
    before = parameters_of(optimizer) + slots_of(optimizer)
    before = [tensor.clone() for tensor in before]
    with optimizer.averaged():
        assert any(not torch.equal(a, b) for a, b in zip(parameters_of(optimizer), before, strict=False))
    assert_same_bits(parameters_of(optimizer) + slots_of(optimizer), before)


@crossed(such_as(lambda case: case.name in ("AdamW", "LAMB", "Muon")))
def test_nan_and_infinity_are_seen(case: Case, kept: Kept, engine: str) -> None:
    for bad in (float("nan"), float("inf")):
        shape = (64, 128)
        p = parameter(shape, kept.dtype)
        optimizer = Optimizer([p], case.rule, engine=engine, **kept.options)  # type: ignore[arg-type]
        for step in (1, 2):
            p.grad = parameter(shape, kept.dtype, seed=step).detach()
            p.grad[3, 4] = bad
            optimizer.step()
        assert not p.detach()[3, 4].isfinite()
        if case.name == "AdamW":  # elementwise: no further than its block
            assert p.detach()[[0, 1, *range(4, 64)]].isfinite().all()


@crossed(such_as(lambda case: case.name in ("AdamW", "Muon")))
def test_what_is_asked_of_a_step_changes_nothing_that_is_stored(case: Case, kept: Kept, engine: str) -> None:
    # Unscaling by a power of two rounds nothing, and telemetry only reads.
    clipped = trained(case, kept, engine, clip_norm=1.0)
    parameters = weights(kept, case.shapes if case.rule.acts_on == "matrices" else SHAPES)
    ours = Optimizer(parameters, case.rule, engine=engine, clip_norm=1.0, **kept.options)  # type: ignore[arg-type]
    ours.observe()
    ours.grad_scale = torch.tensor(1024.0)
    for step, found in ((1, 0.0), (2, 1.0), (2, 0.0)):
        ours.found_inf = torch.tensor(found)
        give_gradients(parameters, step, factor=1024.0)
        ours.step()
    assert ours.skipped == 1
    assert_same_bits(parameters_of(ours), parameters_of(clipped))
    expected = numbers(clipped)
    for name, found_numbers in numbers(ours).items():
        assert_same_bits(found_numbers, expected[name])
    (reading,) = ours.telemetry().values()
    elements = sum(p.numel() for p in parameters)
    assert reading["gradient_rms"] == pytest.approx(1.0 / elements**0.5, rel=1e-5)
    assert reading["update_rms"] > 0.0


def test_seeds_make_a_difference_and_nothing_else_does() -> None:
    def run(**options: Any) -> list[Tensor]:
        p = parameter((5000,), BF16)
        optimizer = Optimizer([p], rules.AdamW(lr=0.01), master="stochastic", **options)
        train(optimizer, [p], last=2)
        return parameters_of(optimizer)

    assert_same_bits(run(), run(rounding_seed=0))
    assert not torch.equal(run()[0], run(rounding_seed=1)[0])


def test_storages_side_by_side() -> None:
    # Groups that differ in storage alone do what they do by themselves, under their places among all parameters.
    def run(*storages: Kept) -> list[Tensor]:
        parameters = [parameter((5000,), BF16, seed) for seed in range(len(storages))]
        groups = [{"params": [p], **kept.options} for p, kept in zip(parameters, storages, strict=True)]
        optimizer = Optimizer(groups, rules.AdamW(lr=0.05))
        train(optimizer, parameters)
        assert [group["state_dtype"] for group in optimizer.param_groups] == [kept.state_dtype for kept in storages]
        return parameters_of(optimizer)

    kept = (Kept(BF16), Kept(BF16, "8bit", "stochastic"), Kept(BF16, "float32", "kahan"))
    together = run(*kept)
    assert_same_bits(together[:1], run(kept[0], kept[0])[:1])
    assert_same_bits(together[1:2], run(kept[0], kept[1])[1:])
    assert_same_bits(together[2:], run(kept[0], kept[0], kept[2])[2:])


def test_codecs_follow_the_group_as_it_is_now() -> None:
    p = parameter((5000,), F32)
    optimizer = Optimizer([p], rules.AdamW(lr=0.05))
    train(optimizer, [p], last=2)
    wide = numbers(optimizer)
    optimizer.param_groups[0]["state_dtype"] = "8bit"
    train(optimizer, [p], first=3, last=3)
    assert optimizer.state[p]["exp_avg"].dtype == torch.uint8
    assert codecs_of(optimizer, p)["exp_avg"].block == 256
    optimizer.param_groups[0]["state_dtype"] = None
    train(optimizer, [p], first=4, last=4)
    assert optimizer.state[p]["exp_avg"].dtype == F32
    assert "exp_avg_scale" not in optimizer.state[p]
    assert wide.keys() == numbers(optimizer).keys()


@crossed(such_as(lambda case: case.name in ("AdamW", "Lion", "LAMB", "ScheduleFreeAdamW", "Muon")))
def test_a_step_that_is_left_out_changes_no_bit_and_training_goes_on(case: Case, kept: Kept, engine: str) -> None:
    optimizer = trained(case, kept, engine, on_nonfinite="skip", clip_norm=1.0)
    parameters = optimizer.param_groups[0]["params"]
    before = [tensor.clone() for tensor in parameters_of(optimizer) + slots_of(optimizer)]
    for bad in (float("nan"), float("inf"), -float("inf")):
        for p in parameters:
            p.grad = torch.ones_like(p)
        parameters[2].grad.view(-1)[-1] = bad
        optimizer.step()
    assert optimizer.skipped == 3
    assert_same_bits(parameters_of(optimizer) + slots_of(optimizer), before)
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}
    # As if nothing had been: the random bits, too.
    plain = trained(case, kept, engine, clip_norm=1.0)
    train(optimizer, parameters, first=3, last=3)
    train(plain, plain.param_groups[0]["params"], first=3, last=3)
    expected = numbers(plain)
    for name, found in numbers(optimizer).items():
        assert_same_bits(found, expected[name])


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize("master", ["stochastic", "kahan", "compensated", "compensated8", "float32"])
def test_weights_that_somebody_puts_to_zero_train_on(master: Any, engine: Any) -> None:
    weight = parameter((64, 64), torch.bfloat16, 0)
    optimizer = Optimizer([weight], rules.SGD(lr=2.0**-6), engine=engine, master=master)
    for gradient in (parameter((64, 64), torch.bfloat16, 1).detach(), *[-torch.ones_like(weight)] * 4):
        weight.grad = gradient
        optimizer.step()
        if gradient[0, 0] != -1:
            weight.detach().zero_()
    assert (weight == 4 * 2.0**-6).all()


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_every_engine_rounds_weights_without_bias(engine: Any, set_threads: Callable[[int], None]) -> None:
    # From 1 a quarter of the way to its neighbour 1 + 2⁻⁷: it arrives there with probability 1/4. Of n = 2¹⁸ the share
    # has the deviation √(3/16/n) = 0.00085. Five of them, by chance exceeded once in 1.7 million.
    elements = 1 << 18
    found = []
    for threads in (1, 3):
        set_threads(threads)
        p = torch.ones(elements, dtype=BF16).requires_grad_()
        optimizer = Optimizer([p], rules.SGD(lr=0.25 * 2.0**-7), engine=engine, master="stochastic")
        p.grad = -torch.ones_like(p)
        optimizer.step()
        found.append(p.detach())
    assert_same_bits(found[:1], found[1:])
    assert set(found[0].double().unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    share = float((found[0] > 1).double().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / elements) ** 0.5
