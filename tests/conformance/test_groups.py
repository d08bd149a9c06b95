"""Groups: one optimizer for many rules is those rules' optimizers side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from conformance.cases import CASES, PLAIN_CASES, Case, assert_near, assert_same_bits, rows_and_engines, such_as
from conformance.training import give_gradients, numbers_of, parameter, parameters_of, slots_of, train
from stepwell import Optimizer

SHAPE = (4, 3)


def _assert_same(case: Case, actual: list[Tensor], expected: list[Tensor]) -> None:
    """The same bits; for matrices, a product of several at once is rounded otherwise than the product of one."""
    if case.rule.acts_on == "matrices":
        assert_near(actual, expected, case.tolerance(torch.float32))
    else:
        assert_same_bits(actual, expected)


def _engine(case: Case, engine: str) -> str:
    return engine if engine in case.engines else "auto"


def _each_alone(engine: str) -> list[Tensor]:
    """Two parameters for each case, trained by an optimizer of their own."""
    found = []
    for index, case in enumerate(CASES):
        pair = [parameter(SHAPE, seed=2 * index), parameter(SHAPE, seed=2 * index + 1)]
        optimizer = Optimizer(pair, case.rule, engine=_engine(case, engine))
        for step in range(1, 4):
            for offset, p in enumerate(pair):
                p.grad = parameter(SHAPE, seed=1000 * step + 2 * index + offset).detach()
            optimizer.step()
        found += [p.detach() for p in pair]
    return found


def _all_together(engine: str) -> list[Tensor]:
    parameters = [parameter(SHAPE, seed=seed) for seed in range(2 * len(CASES))]
    groups = [{"params": parameters[2 * n : 2 * n + 2], "rule": case.rule} for n, case in enumerate(CASES)]
    optimizer = Optimizer(groups, CASES[0].rule, engine=engine)
    for step in range(1, 4):
        for seed, p in enumerate(parameters):
            p.grad = parameter(SHAPE, seed=1000 * step + seed).detach()
        optimizer.step()
    return parameters_of(optimizer)


def test_all_rules_in_one_optimizer_are_separate_optimizers() -> None:
    for engine in ("reference", "foreach", "auto"):  # which is the fused one for all that it serves
        together, alone = _all_together(engine), _each_alone(engine)
        for index, (a, e) in enumerate(zip(together, alone, strict=True)):
            _assert_same(CASES[index // 2], [a], [e])


@rows_and_engines(CASES)
def test_groups_of_one_rule_have_numbers_of_their_own(case: Case, engine: str) -> None:
    # One launch may take several groups: each parameter must meet its own group's numbers.
    changes = [{}, {"lr": 0.5 * case.rule.lr}, {"weight_decay": 0.3}]
    together = [parameter(SHAPE, seed=seed) for seed in range(6)]
    groups = [{"params": together[2 * n : 2 * n + 2], **change} for n, change in enumerate(changes)]
    optimizer = Optimizer(groups, case.rule, engine=engine)
    train(optimizer, together)
    for n, change in enumerate(changes):
        alone = [parameter(SHAPE, seed=seed) for seed in range(6)]
        train(Optimizer(alone, case.but(**change).rule, engine=engine), alone)
        _assert_same(
            case, [p.detach() for p in together[2 * n : 2 * n + 2]], [p.detach() for p in alone[2 * n : 2 * n + 2]]
        )


@rows_and_engines(PLAIN_CASES)
def test_groups_of_one_rule_may_differ_in_flags(case: Case, engine: str) -> None:
    together = [parameter(SHAPE, seed=seed) for seed in range(2)]
    groups = [{"params": [together[0]]}, {"params": [together[1]], "maximize": True}]
    train(Optimizer(groups, case.rule, engine=engine), together)
    for index, flags in enumerate(({}, {"maximize": True})):
        alone = [parameter(SHAPE, seed=seed) for seed in range(2)]
        train(Optimizer(alone, case.but(**flags).rule, engine=engine), alone)
        _assert_same(case, [together[index].detach()], [alone[index].detach()])


@rows_and_engines(CASES)
def test_a_group_added_in_mid_training_begins_at_step_one(case: Case, engine: str) -> None:
    first, later = parameter(SHAPE, seed=0), parameter(SHAPE, seed=1)
    optimizer = Optimizer([first], case.rule, engine=engine)
    train(optimizer, [first], last=2)
    optimizer.add_param_group({"params": [later], "lr": 0.5 * case.rule.lr})
    train(optimizer, [first, later], first=3, last=4)
    assert [numbers["step"] for numbers in numbers_of(optimizer)] == [4, 2]

    unbothered = parameter(SHAPE, seed=0)
    plain = Optimizer([unbothered], case.rule, engine=engine)
    train(plain, [unbothered])
    fresh = parameter(SHAPE, seed=1)
    late = Optimizer([fresh], case.but(lr=0.5 * case.rule.lr).rule, engine=engine)
    for step in (3, 4):
        give_gradients([parameter(SHAPE), fresh], step)
        late.step()
    _assert_same(case, [first.detach(), later.detach()], [unbothered.detach(), fresh.detach()])
    _assert_same(case, slots_of(optimizer), slots_of(plain) + slots_of(late))


@rows_and_engines(such_as(lambda case: not case.measures, PLAIN_CASES))
def test_parameters_at_different_steps_in_one_launch(case: Case, engine: str) -> None:
    # Every second gradient is missing for every second parameter.
    parameters = [parameter(SHAPE, seed=seed) for seed in range(4)]
    optimizer = Optimizer(parameters, case.rule, engine=engine)
    for step in range(1, 6):
        give_gradients(parameters, step)
        for p in parameters[::2]:
            p.grad = p.grad if step % 2 else None
        optimizer.step()
    for index in range(4):
        alone = [parameter(SHAPE, seed=seed) for seed in range(4)]
        single = Optimizer([alone[index]], case.rule, engine=engine)
        for step in range(1, 6):
            give_gradients(alone, step)
            if step % 2 or index % 2:
                single.step()
        _assert_same(case, [parameters[index].detach()], [alone[index].detach()])
    assert [numbers["step"] for numbers in numbers_of(optimizer)] == [3, 5, 3, 5]
