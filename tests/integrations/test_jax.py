"""Rules as optax transformations: schedules, live values, state, and what they are refused for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import stepwell
from conformance.training import parameter
from stepwell import Optimizer, Rule, Scheduler, rules
from stepwell.algebra import lerp, sign
from stepwell.rules import AdamW, Lion, ScheduleFreeAdamW, cautious, ema, lookahead
from stepwell.schedules import Constant, Cosine, Linear

pytestmark = pytest.mark.peers

HORIZON = 6


@pytest.fixture
def _in_float64() -> Iterator[None]:
    import jax

    with jax.enable_x64(True):
        yield


def tree(step: int) -> dict[str, Any]:
    """The weights at step 0, the gradients at later ones."""
    import jax.numpy as jnp

    shapes = {"kernel": (4, 3), "bias": (3,)}
    return {
        name: jnp.asarray(parameter(shape, torch.float64, seed=10 * step + index).detach().numpy())
        for index, (name, shape) in enumerate(shapes.items())
    }


def walk(optimizer: Any, params: Any, state: Any, first: int = 1, last: int = HORIZON) -> tuple[Any, Any]:
    """Some steps, each under `jax.jit`."""
    import jax
    import optax

    update = jax.jit(optimizer.update)
    for step in range(first, last + 1):
        updates, state = update(tree(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def torchs(rule: Rule, last: int = HORIZON, **schedules: Any) -> tuple[dict[str, torch.Tensor], Optimizer]:
    """The same steps in torch's reference engine."""
    weights = {name: torch.from_numpy(np.array(x)).requires_grad_() for name, x in tree(0).items()}
    optimizer = Optimizer(list(weights.values()), rule, engine="reference")
    scheduler = Scheduler(optimizer, horizon=HORIZON, **schedules) if schedules else None
    for step in range(1, last + 1):
        for name, gradient in tree(step).items():
            weights[name].grad = torch.from_numpy(np.array(gradient))
        optimizer.step()
        if scheduler:
            scheduler.step()
    return weights, optimizer


def assert_same(params: dict[str, Any], expected: dict[str, torch.Tensor], tolerance: float = 1e-13) -> None:
    for name, weights in expected.items():
        np.testing.assert_allclose(params[name], weights.detach().numpy(), rtol=tolerance, atol=tolerance)


# Schedules and live values.


@pytest.mark.usefixtures("_in_float64")
def test_schedules_of_any_hyper_parameter_as_the_scheduler_has_them() -> None:
    from stepwell.integrations.optax import transformation

    rule = AdamW(lr=0.05, betas=(0.8, 0.9), weight_decay=0.3)
    schedules = {"lr": Cosine(warmup=2, end=0.1), "weight_decay": Linear(end=0.5), "betas[0]": lambda t: 0.9**t}
    optimizer = transformation(rule, horizon=HORIZON, **schedules)
    params, _ = walk(optimizer, tree(0), optimizer.init(tree(0)))
    expected, _ = torchs(rule, **schedules)
    assert_same(params, expected)


@pytest.mark.usefixtures("_in_float64")
def test_a_live_value_is_set_between_steps_and_compiles_nothing() -> None:
    import jax
    import optax

    from stepwell.integrations.optax import transformation

    optimizer = transformation(Lion(lr=0.1), live=["lr", "betas[1]"], lr=Constant(warmup=2))
    state, traces = optimizer.init(tree(0)), []

    def update(*arguments: Any) -> Any:
        traces.append(1)
        return optimizer.update(*arguments)

    compiled = jax.jit(update)
    assert {name: float(value) for name, value in state.live.items()} == {"lr": 0.1, "betas[1]": 0.99}
    moved = []
    for step, rate in ((1, 0.1), (2, 0.1), (3, 0.1), (4, 0.02)):
        state = optax.tree_utils.tree_set(state, lr=jax.numpy.asarray(rate))
        updates, state = compiled(tree(step), state, tree(0))
        moved.append(float(abs(updates["bias"]).max()))
    assert moved == pytest.approx([0.0, 0.05, 0.1, 0.02])  # Lion moves by ±lr; the warm-up's factors are 0, ½, 1, 1
    assert len(traces) == 1


def test_unknown_hyper_parameters_and_what_is_no_schedule() -> None:
    from stepwell.integrations.optax import transformation

    with pytest.raises(TypeError, match=r"^Lion does not have a number 'learning_rate'; there are lr, betas\[0\]"):
        transformation(Lion(), learning_rate=Constant())
    with pytest.raises(TypeError, match=r"^Lion does not have a number 'lrr'; .* \(did you mean 'lr'\?\)$"):
        transformation(Lion(), live=["lrr"])
    with pytest.raises(TypeError, match=r"betas is not one number: schedule betas\[0\] or betas\[1\]"):
        transformation(Lion(), live=["betas"])
    with pytest.raises(TypeError, match="lr must be a schedule"):
        transformation(Lion(), lr=0.1)
    with pytest.raises(TypeError, match=r"write \('lr',\)"):
        transformation(Lion(), live="lr")
    with pytest.raises(ValueError, match=r"^rank_fraction decides the shape of Dion's state: it can neither be live"):
        transformation(rules.Dion(), live=["rank_fraction"])
    with pytest.raises(ValueError, match="needs a horizon"):
        transformation(Lion(), lr=Cosine())


@pytest.mark.parametrize("live", [(), ("betas[0]",)])
def test_no_memory_keeps_nothing(live: tuple[str, ...]) -> None:
    import jax
    import jax.numpy as jnp

    from stepwell.integrations.optax import transformation

    optimizer, weight = transformation(AdamW(betas=(0.0, 0.9)), live=live), jnp.ones(3)
    update, state = jax.jit(optimizer.update), optimizer.init(weight)
    for number in (3e4, 1e-4):  # in float32 30000 + (0.0001 − 30000) is 0
        _, state = update(jnp.full(3, number), state, weight)
    np.testing.assert_array_equal(state.slots["exp_avg"], np.full(3, 1e-4, np.float32))


# Together with what optax and JAX have.


@pytest.mark.usefixtures("_in_float64")
def test_a_scan_takes_the_same_steps() -> None:
    import jax
    import optax

    from stepwell.integrations.optax import transformation

    optimizer = transformation(rules.NAdam(lr=0.05, weight_decay=0.1), lr=Linear(), live=["weight_decay"], horizon=9)
    gradients = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *[tree(step) for step in range(1, HORIZON + 1)])

    def step(carried: Any, gradient: Any) -> Any:
        params, state = carried
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.jit(lambda: jax.lax.scan(step, (tree(0), optimizer.init(tree(0))), gradients))()
    expected, expected_state = walk(optimizer, tree(0), optimizer.init(tree(0)))
    for a, b in zip(jax.tree.leaves((params, state)), jax.tree.leaves((expected, expected_state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    assert int(state.step) == HORIZON


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_a_chain_in_accumulation_and_where_not_finite(dtype: str) -> None:
    import jax
    import jax.numpy as jnp
    import optax

    from stepwell.integrations.optax import transformation

    inner = optax.chain(optax.clip_by_global_norm(1.0), transformation(AdamW(lr=0.1)))
    optimizer = optax.apply_if_finite(optax.MultiSteps(inner, 2).gradient_transformation(), 3)
    params = jax.tree.map(lambda x: x.astype(dtype), tree(0))
    state, update, path = optimizer.init(params), jax.jit(optimizer.update), [params]
    for step in range(1, 4):
        gradient = jax.tree.map(lambda x: x.astype(dtype), tree(step))
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    moved = [not jnp.array_equal(a["bias"], b["bias"]) for a, b in pairwise(path)]
    assert moved == [False, True, False]
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    after = optax.apply_updates(params, update(broken, state, params)[0])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after))


def test_the_state_is_found_by_name_and_mapped() -> None:
    import jax
    import optax

    from stepwell.integrations.optax import transformation

    optimizer = optax.chain(optax.clip(1.0), transformation(rules.Adafactor()))
    _, state = walk(optimizer, tree(0), optimizer.init(tree(0)), last=2)
    assert int(optax.tree_utils.tree_get(state, "step")) == 2
    rows = optax.tree_utils.tree_get(state, "row_var")
    assert rows["kernel"].shape == (3, 1)  # (out, 1) of a kernel (in, out)
    assert isinstance(rows["bias"], optax.MaskedNode)
    assert optax.tree_utils.tree_get(state, "variance")["bias"].shape == (3,)
    adamw = transformation(AdamW())
    mapped = optax.tree_utils.tree_map_params(adamw, lambda _: "like a parameter", adamw.init(tree(0)))
    assert mapped.slots["exp_avg"] == {"kernel": "like a parameter", "bias": "like a parameter"}
    assert jax.numpy.shape(mapped.step) == ()


@pytest.mark.usefixtures("_in_float64")
def test_a_rule_of_your_own_and_wrapped_rules() -> None:
    from stepwell.integrations.optax import transformation

    @dataclass(frozen=True, kw_only=True)
    class Signum(Rule):
        momentum: float = 0.9
        slots = ("momentum_buffer",)

        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            average = lerp(g, s.momentum_buffer, h.momentum)
            return sign(average), {"momentum_buffer": average}

    for rule in (Signum(lr=0.1, weight_decay=0.3, maximize=True), cautious(lookahead(AdamW(lr=0.05), k=2))):
        optimizer = transformation(rule)
        params, _ = walk(optimizer, tree(0), optimizer.init(tree(0)), last=3)
        assert_same(params, torchs(rule, last=3)[0])


def test_parameters_without_elements_stay_as_they_are() -> None:
    import jax.numpy as jnp

    from stepwell.integrations.optax import transformation

    for rule in (rules.SOAP(), rules.Kron(), rules.Muon(split=2), rules.LAMB()):
        optimizer, params = transformation(rule), {"none": jnp.zeros((3, 0)), "some": jnp.ones((4, 6))}
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert updates["none"].shape == (3, 0)
        assert bool(jnp.isfinite(updates["some"]).all())
        assert int(state.step) == 1
    empty = transformation(rules.Prodigy())
    assert empty.update({}, empty.init({}), {})[0] == {}


# Averages.


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("rule", [ScheduleFreeAdamW(lr=0.1), ema(AdamW(lr=0.1), 0.5)], ids=["schedule-free", "ema"])
def test_the_weights_to_evaluate_on(rule: Rule) -> None:
    import optax

    from stepwell.integrations.optax import averaged, transformation

    optimizer = optax.chain(optax.identity(), transformation(rule, live=["betas[0]"]))
    params, state = walk(optimizer, tree(0), optimizer.init(tree(0)))
    weights, expected = torchs(rule)
    assert_same(params, weights)
    with expected.averaged():
        assert_same(averaged(rule, state, params), weights)
    assert_same(averaged(rule, optimizer.init(tree(0)), tree(0)), {k: torch.tensor(v) for k, v in tree(0).items()})


@pytest.mark.parametrize("around", ["masked", "branch", "frozen", "another rule"])
def test_the_weights_to_evaluate_on_where_others_have_some(around: str) -> None:
    import jax
    import jax.numpy as jnp
    import optax

    from stepwell.integrations.optax import averaged, transformation

    rule = ScheduleFreeAdamW(lr=0.1)
    own, other = transformation(rule), transformation(AdamW(lr=0.1))
    start = {"a": {"v": jnp.ones(3), "w": jnp.ones(2)}, "b": [jnp.ones(2)]}
    labels = {"a": {"v": "rest", "w": "rest"}, "b": ["own"]}
    optimizer = {
        "masked": optax.masked(own, {"a": {"v": False, "w": False}, "b": [True]}),
        "branch": optax.masked(own, {"a": False, "b": True}),
        "frozen": optax.multi_transform({"own": own, "rest": optax.set_to_zero()}, labels),
        "another rule": optax.multi_transform({"own": own, "rest": other}, labels),
    }[around]

    def trained(optimizer: Any, params: Any) -> tuple[Any, Any]:
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    params, state = trained(optimizer, start)
    alone, its_state = trained(own, {"b": start["b"]})
    found = jax.jit(averaged, static_argnums=0)(rule, state, params)
    np.testing.assert_allclose(found["b"][0], averaged(rule, its_state, alone)["b"][0], rtol=1e-6)
    assert not np.allclose(found["b"][0], params["b"][0])
    for name in ("v", "w"):
        np.testing.assert_array_equal(found["a"][name], params["a"][name])


def test_no_average_where_the_state_does_not_tell_whose() -> None:
    import optax

    from stepwell.integrations.optax import averaged, transformation

    rule, labels = ScheduleFreeAdamW(), dict.fromkeys(tree(0), "x") | {next(iter(tree(0))): "y"}
    twice = optax.multi_transform({label: transformation(rule) for label in "xy"}, labels)
    with pytest.raises(ValueError, match=r"^the state holds 2 rules that keep what ScheduleFreeAdamW does; give that"):
        averaged(rule, twice.init(tree(0)), tree(0))
    averaged(rule, twice.init(tree(0)).inner_states["x"], tree(0))
    with pytest.raises(
        ValueError, match=r"^the state holds \['exp_avg', 'exp_avg_sq'\], not what ScheduleFreeAdamW ke"
    ):
        averaged(rule, transformation(AdamW()).init(tree(0)), tree(0))


def test_no_average_where_none_is_kept() -> None:
    from stepwell.integrations.optax import averaged, transformation

    state = transformation(AdamW()).init(tree(0))
    with pytest.raises(ValueError, match="AdamW keeps no average"):
        averaged(AdamW(), state, tree(0))
    with pytest.raises(TypeError, match="takes a rule or a recipe"):
        averaged(3, state, tree(0))
    with pytest.raises(
        ValueError, match=r"the state holds no rule's state, not what ScheduleFreeAdamW keeps, .* its own state$"
    ):
        averaged(ScheduleFreeAdamW(), (), tree(0))


# Refusals.


def test_what_cannot_be_is_said() -> None:
    import jax.numpy as jnp
    import optax

    from stepwell.integrations.optax import transformation

    with pytest.raises(ValueError, match=r"sam\(AdamW\) needs the gradients at a second point.*optax\.contrib\.sam"):
        transformation(stepwell.sam(AdamW()))
    with pytest.raises(TypeError, match=r"rule must be a stepwell\.Rule"):
        transformation("adamw")
    with pytest.raises(ValueError, match=r"outputs must be 'last' or 'first', got 'lasst' \(did you mean 'last'"):
        transformation(AdamW(), outputs="lasst")
    with pytest.raises(TypeError, match=r"^lr must be a number at least 0, got .*, or for .*\(rule, live=\('lr',\)\)$"):
        optax.inject_hyperparams(lambda lr: transformation(AdamW(lr=lr)))(lr=0.1).init(tree(0))
    optimizer = transformation(AdamW())
    with pytest.raises(ValueError, match=r"AdamW needs the parameters: update\(gradients, state, params\)"):
        optimizer.update(tree(1), optimizer.init(tree(0)))
    for strange in (jnp.ones(2, jnp.int32), jnp.ones(2, jnp.complex64)):
        with pytest.raises(TypeError, match=f"parameters of real floating-point numbers, got {strange.dtype}"):
            optimizer.init({"w": strange})
    with pytest.raises(ValueError, match=r"Muon acts on matrices .*, not on a parameter of shape \(3,\)"):
        transformation(rules.Muon()).init(tree(0))
    with pytest.raises(ValueError, match="split=2 does not divide the 3 rows"):
        transformation(rules.Muon(split=2)).init({"kernel": jnp.ones((4, 3))})
