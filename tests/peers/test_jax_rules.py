"""Every rule as an optax transformation gives what torch's reference engine gives, and can be traced by `jax.jit`.

Rules of matrices are compiled, for their branches are programs of their own anyhow; the others run operation by
operation, which takes a tenth of the time, and are compiled in `test_optax.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from conformance.cases import CASES, PLAIN_CASES, Case, acting_on, assert_near, rows, such_as
from conformance.training import parameter
from stepwell import Optimizer, rules

pytestmark = pytest.mark.peers

STEPS = 3
SHAPES = {
    "elements": ((), (5,)),
    "tensors": ((5,), (4, 3), (2, 3, 4, 2)),
    "matrices": ((4, 3), (2, 3, 3)),
}
Tree = dict[str, list[Any]]


@pytest.fixture
def _in_float64() -> Iterator[None]:
    import jax

    with jax.enable_x64(True):
        yield


def numbers(shapes: Sequence[tuple[int, ...]], step: int, dtype: str = "float64") -> list[Any]:
    """NumPy arrays: the weights at step 0, the gradients at later ones."""
    return [
        parameter(shape, torch.float64, seed=1000 * step + index).detach().numpy().astype(dtype)
        for index, shape in enumerate(shapes)
    ]


@functools.cache
def reference(case: Case) -> Optimizer:
    """torch's reference engine after the steps."""
    shapes = SHAPES[case.rule.acts_on]
    weights = [torch.from_numpy(x.copy()).requires_grad_() for x in numbers(shapes, 0)]
    optimizer = Optimizer(weights, case.rule, engine="reference")
    for step in range(1, STEPS + 1):
        for p, gradient in zip(weights, numbers(shapes, step), strict=True):
            p.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return optimizer


def trained(rule: rules.Rule, shapes: Sequence[tuple[int, ...]], *dtypes: str, **options: Any) -> tuple[Tree, Any]:
    """The parameters of each dtype and the state after the steps, all in one transformation."""
    import jax
    import optax

    from stepwell.integrations.optax import transformation

    def tree(step: int) -> Tree:
        return {dtype: [jax.numpy.asarray(x) for x in numbers(shapes, step, dtype)] for dtype in dtypes}

    optimizer, params = transformation(rule, **options), tree(0)
    state = optimizer.init(params)
    traced = jax.eval_shape(optimizer.update, params, state, params)[1]
    update = jax.jit(optimizer.update) if rule.acts_on == "matrices" else optimizer.update
    for step in range(1, STEPS + 1):
        updates, state = update(tree(step), state, params)
        params = optax.apply_updates(params, updates)
    for before, after in ((traced, state), (optimizer.init(params), state)):  # what a scan carries stays what it is
        assert jax.tree.structure(before) == jax.tree.structure(after)
        for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            assert (one.shape, one.dtype, one.weak_type) == (other.shape, other.dtype, False)
    return params, state


def to_torch(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float64))


def assert_is_the_reference(case: Case, params: Tree, state: Any) -> None:
    expected = reference(case)
    weights = expected.param_groups[0]["params"]
    for dtype, arrays in params.items():
        tolerance = case.tolerance(getattr(torch, dtype))
        assert_near([to_torch(array) for array in arrays], [p.detach() for p in weights], tolerance)
        for index, p in enumerate(weights):
            slots = {name: column[dtype][index] for name, column in state.slots.items()}
            for name, value in expected.state[p].items():
                ours = state.step if name == "step" else state.numbers.get(name, slots.get(name))
                assert_near([to_torch(ours)], [torch.as_tensor(value, dtype=torch.float64)], tolerance)
            present = {name for name, slot in slots.items() if hasattr(slot, "dtype")}
            assert present | {"step", *state.numbers} == set(expected.state[p])


@pytest.mark.usefixtures("_in_float64")
@rows(such_as(lambda case: not case.measures))
def test_weights_and_slots_are_the_references(case: Case) -> None:
    dtypes = ("float64",) if case.rule.acts_on == "matrices" else ("float64", "float32")
    params, state = trained(case.rule, SHAPES[case.rule.acts_on], *dtypes, outputs="first")
    assert_is_the_reference(case, params, state)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@rows(such_as(lambda case: case.measures))
def test_rules_that_measure_all_parameters(case: Case, dtype: str) -> None:
    # One transformation adds up over all that it has, so each dtype has one of its own.
    params, state = trained(case.rule, SHAPES[case.rule.acts_on], dtype, outputs="first")
    assert_is_the_reference(case, params, state)


IN_16_BITS = ("AdamW", "NAdam", "LAMB", "ScheduleFreeAdamW", "Muon", "Dion")


@rows([case for case in CASES if case.name in IN_16_BITS or case in acting_on("matrices", among=PLAIN_CASES)])
def test_without_x64(case: Case) -> None:
    # JAX as it comes: what is made of hyper-parameters and the step is float32 too.
    params, state = trained(case.rule, SHAPES[case.rule.acts_on], "float32", outputs="first")
    assert_is_the_reference(case, params, state)


@rows([case for case in CASES if case.name in IN_16_BITS])
def test_bfloat16_is_worked_out_in_float32(case: Case) -> None:
    import jax.numpy as jnp
    import optax

    from stepwell.integrations.optax import transformation

    shapes = SHAPES[case.rule.acts_on]
    weights = [torch.from_numpy(x).bfloat16().requires_grad_() for x in numbers(shapes, 0)]
    expected = Optimizer(weights, case.rule, engine="reference")
    params = [jnp.asarray(x, jnp.bfloat16) for x in numbers(shapes, 0)]
    optimizer = transformation(case.rule, outputs="first")
    state = optimizer.init(params)
    for p, gradient in zip(weights, numbers(shapes, 1), strict=True):
        p.grad = torch.from_numpy(gradient).bfloat16()
    expected.step()
    updates, state = optimizer.update([jnp.asarray(g, jnp.bfloat16) for g in numbers(shapes, 1)], state, params)
    params = optax.apply_updates(params, updates)
    assert all(p.dtype == jnp.bfloat16 for p in params)
    for index, (ours, p) in enumerate(zip(params, weights, strict=True)):
        pairs = [(ours, p.detach())]
        pairs += [(column[index], expected.state[p][name]) for name, column in state.slots.items()]
        for mine, theirs in pairs:
            assert str(theirs.dtype) == f"torch.{mine.dtype}"
            # An update is rounded, and its sum with the weight: to the nearest neighbour, or the one beside it.
            tolerance = case.tolerance(torch.float32) if mine.dtype == jnp.float32 else 2.0**-7
            assert_near([to_torch(mine)], [theirs], tolerance)


SEES_ROWS = ("Muon", "NorMuon", "Scion", "Dion", "Shampoo", "Adafactor", "AdamMini")


@pytest.mark.usefixtures("_in_float64")
@rows([case for case in CASES if case.name in SEES_ROWS])
def test_outputs_on_the_last_axis(case: Case) -> None:
    # Flax's (in, out), (stack, in, out) and (height, width, in, out) are torch's (out, in), (stack, out, in) and
    # (out, in, height, width). Rules that do not act on matrices take a kernel as a stack of (in, out).
    import jax
    import jax.numpy as jnp

    from stepwell.integrations.optax import transformation

    whole = case.rule.acts_on == "matrices"
    axes = {(3, 4): (1, 0), (2, 3, 4): (0, 2, 1), (2, 2, 3, 4): (3, 2, 0, 1) if whole else (0, 1, 3, 2)}
    params, gradients = numbers(tuple(axes), 0), numbers(tuple(axes), 1)
    turned = [
        [jnp.asarray(x.transpose(order)) for x, order in zip(arrays, axes.values(), strict=True)]
        for arrays in (params, gradients)
    ]
    flaxs, torchs = transformation(case.rule), transformation(case.rule, outputs="first")
    state, turned_state = flaxs.init(params), torchs.init(turned[0])
    update, turned_update = jax.jit(flaxs.update), jax.jit(torchs.update)
    for _ in range(2):  # SOAP does not move at first
        updates, state = update(gradients, state, params)
        expected, turned_state = turned_update(turned[1], turned_state, turned[0])
    for update, other, order in zip(updates, expected, axes.values(), strict=True):
        assert np.abs(update).max() > 1e-3
        assert_near([to_torch(update.transpose(order))], [to_torch(other)], 1e-12)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_turns_that_are_all_the_same(name: str) -> None:
    # In JAX every side has turn 0, as without turns; one side after the other, the result is the same.
    (case,) = such_as(lambda case: case.name == name, PLAIN_CASES)
    plain = case.but(precondition_frequency=2)
    found = [
        trained(one.rule, SHAPES["matrices"], "float64", outputs="first")[0]
        for one in (plain, plain.but(spread_refresh=True))
    ]
    assert_near(*([to_torch(array) for array in tree["float64"]] for tree in found), 1e-9)
