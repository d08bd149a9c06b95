"""What a rule says it acts on is tested, not trusted."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from conformance.cases import PLAIN_CASES, Case, acting_on, assert_near, assert_same_bits, rows_and_engines, such_as
from conformance.training import parameter
from stepwell import Optimizer

STEPS = 3


def _train(case: Case, engine: str, parameters: list[Tensor], gradients: list[list[Tensor]]) -> None:
    """One step for each list of gradients."""
    optimizer = Optimizer(parameters, case.rule, engine=engine)
    for each in gradients:
        for p, gradient in zip(parameters, each, strict=True):
            p.grad = gradient.clone()
        optimizer.step()


@rows_and_engines(acting_on("elements"))
def test_elements_do_not_see_where_the_tensor_is_cut(case: Case, engine: str) -> None:
    cuts = (0, 1, 4, 4, 1000, 1031)
    whole = parameter((1031,), seed=1)
    pieces = [whole.detach()[a:b].clone().requires_grad_() for a, b in itertools.pairwise(cuts)]
    gradients = [parameter((1031,), seed=10 + step).detach() for step in range(STEPS)]
    _train(case, engine, [whole], [[g] for g in gradients])
    _train(case, engine, pieces, [[g[a:b] for a, b in itertools.pairwise(cuts)] for g in gradients])
    assert_same_bits([torch.cat(pieces).detach()], [whole.detach()])


@rows_and_engines(such_as(lambda case: not case.sees_rows, acting_on("elements", "tensors")))
def test_tensors_do_not_see_shape_nor_order(case: Case, engine: str) -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(24, generator=generator)
    flat = parameter((24,), torch.float64, seed=1)
    shaped = flat.detach().reshape(2, 3, 4).clone().requires_grad_()
    permuted = flat.detach()[order].clone().requires_grad_()
    gradients = [parameter((24,), torch.float64, seed=10 + step).detach() for step in range(STEPS)]
    _train(case, engine, [flat], [[g] for g in gradients])
    _train(case, engine, [shaped], [[g.reshape(2, 3, 4)] for g in gradients])
    _train(case, engine, [permuted], [[g[order]] for g in gradients])
    assert_same_bits([shaped.detach().reshape(-1)], [flat.detach()])
    # A sum in another order is rounded otherwise.
    assert_near([permuted.detach()], [flat.detach()[order]], case.tolerance(torch.float64))


@rows_and_engines(acting_on("tensors"))
def test_tensors_are_worked_on_one_by_one(case: Case, engine: str) -> None:
    # What else is in the optimizer, and before it in memory, makes no difference to a tensor.
    shapes = [(5,), (1500,), (4, 3), ()]
    alone = [parameter(shape, seed=seed) for seed, shape in enumerate(shapes)]
    together = [parameter(shape, seed=seed) for seed, shape in enumerate(shapes)]
    gradients = [[parameter(shape, seed=10 * step + 40).detach() for shape in shapes] for step in range(STEPS)]
    for index, p in enumerate(alone):
        _train(case, engine, [p], [[each[index]] for each in gradients])
    _train(case, engine, together, gradients)
    assert_same_bits([p.detach() for p in together], [p.detach() for p in alone])


@rows_and_engines(such_as(lambda case: not case.rule.conv1d, acting_on("matrices")))
def test_matrices_stacked_are_matrices_alone(case: Case, engine: str) -> None:
    for rows, cols in [(4, 3), (3, 8), (5, 5)]:
        stacked = parameter((6, rows, cols), torch.float64, seed=1)
        single = [matrix.clone().requires_grad_() for matrix in stacked.detach()]
        gradients = [parameter((6, rows, cols), torch.float64, seed=10 + step).detach() for step in range(STEPS)]
        _train(case, engine, [stacked], [[g] for g in gradients])
        for index, matrix in enumerate(single):  # each in an optimizer of its own
            _train(case, engine, [matrix], [[g[index]] for g in gradients])
        assert_near(list(stacked.detach()), [m.detach() for m in single], 1e-11)


@rows_and_engines(such_as(lambda case: getattr(case.rule, "merge_dims", True), acting_on("matrices")))
def test_a_kernel_is_the_matrix_that_maps_a_patch(case: Case, engine: str) -> None:
    for shape, flags in (((3, 2, 2, 2), {}), ((2, 3, 1, 2, 2), {}), ((3, 2, 2), {"conv1d": True})):
        kernel = parameter(shape, torch.float64, seed=1)
        matrix = kernel.detach().flatten(1).clone().requires_grad_()
        gradients = [parameter(shape, torch.float64, seed=10 + step).detach() for step in range(STEPS)]
        of_kernels = case.but(**flags)
        of_matrices = Case(case.name, of_kernels.rule.fit(shape))  # what a rule reads from the shape of a kernel
        _train(of_kernels, engine, [kernel], [[g] for g in gradients])
        _train(of_matrices, engine, [matrix], [[g.flatten(1)] for g in gradients])
        assert_same_bits([kernel.detach().flatten(1)], [matrix.detach()])


@rows_and_engines(acting_on("matrices", among=PLAIN_CASES))
def test_many_matrices_of_one_shape(case: Case, engine: str) -> None:
    # Same shapes may be stacked into one product, small ones and large ones: each is still worked on by itself.
    for shape in [(4, 6), (80, 70)]:
        together = [parameter(shape, torch.float64, seed) for seed in range(3)]
        alone = [parameter(shape, torch.float64, seed) for seed in range(3)]
        gradients = [[parameter(shape, torch.float64, 10 * step + n).detach() for n in range(3)] for step in (1, 2)]
        _train(case, engine, together, gradients)
        for index, p in enumerate(alone):
            _train(case, engine, [p], [[each[index]] for each in gradients])
        assert_near([p.detach() for p in together], [p.detach() for p in alone], 1e-11)
