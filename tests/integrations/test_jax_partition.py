"""Recipes over pytrees: what can be asked there, which parameters go where, and what a real network makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from conformance.training import parameter
from stepwell import Optimizer, Recipe, Route, rules, select
from stepwell.schedules import Constant, Cosine

pytestmark = pytest.mark.peers

SHAPES = {"embed": {"embedding": (5, 4)}, "dense": {"kernel": (4, 3), "bias": (3,)}, "norm": {"scale": (3,)}}
NAMES = {"dense.bias": (3,), "dense.kernel": (4, 3), "embed.embedding": (5, 4), "norm.scale": (3,)}
ROLES = {"embed": "embedding", "dense.kernel": "hidden matrix"}


@pytest.fixture
def _in_float64() -> Iterator[None]:
    import jax

    with jax.enable_x64(True):
        yield


def array(name: str, step: int) -> Any:
    seed = 10 * step + list(NAMES).index(name)
    return parameter(NAMES[name], torch.float64, seed=seed).detach().numpy()


def tree(step: int) -> Any:
    """The weights at step 0, the gradients at later ones."""
    import jax.numpy as jnp

    return {a: {b: jnp.asarray(array(f"{a}.{b}", step)) for b in inner} for a, inner in SHAPES.items()}


def walk(optimizer: Any, steps: int = 3) -> tuple[dict[str, Any], Any]:
    """The parameters by name after some steps, and the state."""
    import jax
    import optax

    params = tree(0)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(1, steps + 1):
        updates, state = update(tree(step), state, params)
        params = optax.apply_updates(params, updates)
    return {f"{a}.{b}": x for a, inner in params.items() for b, x in inner.items()}, state


def torchs(groups: list[dict[str, Any]], steps: int = 3, **options: Any) -> dict[str, Any]:
    """The same steps in torch's reference engine; kernels (in, out) are Linear's (out, in) there."""
    weights = {name: torch.from_numpy(_turned(name, array(name, 0))).requires_grad_() for name in NAMES}
    made = [{**group, "params": [weights[name] for name in group["params"]]} for group in groups]
    optimizer = Optimizer(made, rules.AdamW(), engine="reference", **options)
    for step in range(1, steps + 1):
        for name, p in weights.items():
            p.grad = torch.from_numpy(_turned(name, array(name, step)))
        optimizer.step()
    return {name: _turned(name, p.detach().numpy()) for name, p in weights.items()}


def _turned(name: str, x: Any) -> Any:
    return x.T.copy() if name == "dense.kernel" else x.copy()


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-13) -> None:
    assert sorted(found) == sorted(expected)
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.usefixtures("_in_float64")
def test_matrices_decay_and_the_rest_does_not() -> None:
    from stepwell.integrations.optax import partition

    recipe = Recipe(routes=(Route(rule="AdamW"),), defaults={"lr": 0.1, "weight_decay": 0.5}, clip_norm=1.5)
    found, state = walk(partition(recipe, tree(0)))
    groups = [
        {"params": ["dense.kernel", "embed.embedding"], "lr": 0.1, "weight_decay": 0.5},
        {"params": ["dense.bias", "norm.scale"], "lr": 0.1, "weight_decay": 0.0},
    ]
    assert_same(found, torchs(groups, clip_norm=1.5))
    assert list(state[1].inner_states) == ["adamw", "adamw undecayed"]


@pytest.mark.usefixtures("_in_float64")
def test_routes_by_name_and_shape_with_schedules_of_their_own() -> None:
    from stepwell.integrations.optax import partition

    recipe = Recipe(
        routes=(
            Route(rule="Muon", select=select.ndim(2) & ~select.regex("^embed"), hyper_parameters={"lr": 0.05}),
            Route(rule="Lion", select=select.name("*.embedding"), schedules={"lr": Constant(warmup=2)}),
            Route(rule="SGD", select=select.size(at_most=3)),
        ),
        defaults={"lr": 0.1, "weight_decay": 0.0},
        schedules={"lr": Cosine(end=1.0)},
    )
    found, _ = walk(partition(recipe, tree(0), horizon=10), steps=2)
    groups = [
        {"params": ["dense.kernel"], "rule": "Muon", "lr": 0.05, "weight_decay": 0.0},
        {"params": ["dense.bias", "norm.scale"], "rule": "SGD", "lr": 0.1},
        {"params": ["embed.embedding"], "rule": "Lion", "lr": 0.1},
    ]
    expected = torchs(groups, steps=2)
    signs = np.sign(0.9 * 0.01 * array("embed.embedding", 1) + 0.1 * array("embed.embedding", 2))
    expected["embed.embedding"] = array("embed.embedding", 0) - 0.05 * signs  # factors 0 and ½
    assert_same(found, expected)


@pytest.mark.usefixtures("_in_float64")
def test_roles_that_the_recipe_says() -> None:
    from stepwell.integrations.optax import partition

    recipe = Recipe(
        routes=(Route(rule="Muon", select=select.role("hidden matrix")), Route(rule="AdamMini")),
        defaults={"lr": 0.1, "weight_decay": 0.0},
        roles=ROLES,
    )
    found, _ = walk(partition(recipe, tree(0)))
    groups = [
        {"params": ["dense.kernel"], "rule": "Muon", "lr": 0.1, "weight_decay": 0.0},
        {"params": ["dense.bias", "norm.scale"], "rule": "AdamMini", "lr": 0.1},
        # A table of embeddings is (tokens, features) in both libraries, and Adam-mini has a moment for each token.
        {"params": ["embed.embedding"], "rule": "AdamMini", "lr": 0.1},
    ]
    assert_same(found, torchs(groups))


def test_roles_that_are_not_known() -> None:
    from stepwell.integrations.optax import partition

    message = r"role\('hidden matrix'\) cannot be answered for dense\.kernel, embed\.embedding: a pytree holds"
    with pytest.raises(ValueError, match=message):
        partition(Recipe.preset("muon"), tree(0), horizon=10)
    with pytest.raises(ValueError, match=r"roles=\{'embed\.embedding': 'hidden matrix'\}"):
        partition(Recipe.preset("muon").replace(roles={"dense.kernel": "hidden matrix"}), tree(0), horizon=10)
    with pytest.raises(ValueError, match=r"roles\['dense\.kernl'\] gives no parameter its role \(did you mean"):
        partition(Recipe.preset("adamw").replace(roles={"dense.kernl": "head"}), tree(0), horizon=10)
    # A part of a selector that needs no answer is not asked.
    only = Route(rule="Muon", select=select.name("dense") & select.ndim(2) & select.role("hidden matrix", "head"))
    with pytest.raises(ValueError, match=r"for dense\.kernel: a pytree"):
        partition(Recipe(routes=(only, Route(rule="AdamW"))), tree(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"undecayed": "module('LayerNorm')"}, r"module\('LayerNorm'\) cannot be answered: .* name, regex, ndim, size"),
        ({"undecayed": "ndim(1) | depth(0)"}, r"depth\(0\) cannot be answered"),
        ({"undecayed": select.where(callable)}, r"where\(builtins.callable\) cannot be answered"),
        ({"layer_decay": 0.9}, "layer_decay and depths need the order of the layers"),
        ({"on_nonfinite": "raise"}, "nothing is raised under jax.jit; take 'skip'"),
        ({"state_dtype": "8bit"}, r"^state_dtype='8bit' \(route 'adamw'\) is for torch alone: on JAX slots have"),
        ({"routes": (Route(rule="AdamW", master="kahan"),)}, r"^master='kahan' \(route 'adamw'\) .* take master=None$"),
        ({"routes": (Route(rule="AdamW", select=select.name("dens")),)}, "no route takes"),
        ({"routes": (Route(rule="Muon"),)}, r"Muon acts on real matrices .* has shape \(3,\)"),
        ({"routes": (Route(rule="Prodigy"),)}, "Prodigy works with sums over all its parameters.*into 2 groups"),
    ],
)
def test_what_a_pytree_cannot_answer_is_refused(changes: dict[str, Any], message: str) -> None:
    from stepwell.integrations.optax import partition

    with pytest.raises(ValueError, match=message):
        partition(Recipe.preset("adamw").replace(**changes), tree(0), horizon=10).init(tree(0))


@pytest.mark.usefixtures("_in_float64")
def test_a_recipe_by_its_name() -> None:
    from stepwell.integrations.optax import averaged, partition

    recipe = Recipe.preset("schedule-free")
    expected, _ = walk(partition(recipe, tree(0), horizon=10))
    found, state = walk(partition("schedule-free", tree(0), horizon=10))
    assert_same(found, expected, 0.0)
    by_name, whole = (averaged(of, state, tree(0)) for of in ("schedule-free", recipe))
    np.testing.assert_array_equal(by_name["dense"]["kernel"], whole["dense"]["kernel"])
    with pytest.raises(ValueError, match=r"unknown recipe 'schedul-free' \(did you mean"):
        partition("schedul-free", tree(0))


def test_other_mistakes() -> None:
    from stepwell.integrations.optax import partition

    with pytest.raises(TypeError, match=r"recipe must be a stepwell\.Recipe"):
        partition(rules.AdamW(), tree(0))
    with pytest.raises(ValueError, match="needs a horizon"):
        partition(Recipe.preset("adamw"), tree(0))
    with pytest.raises(ValueError, match="there are no parameters to train"):
        partition(Recipe.preset("adamw"), {})
    optimizer = partition(Recipe.preset("adamw"), tree(0), horizon=10)
    with pytest.raises(ValueError, match=r"no parameter was called 'dense\.kernels'.*did you mean 'dense\.kernel'"):
        optimizer.init({"dense": {"kernels": tree(0)["dense"]["kernel"]}})


@pytest.mark.usefixtures("_in_float64")
def test_one_group_of_prodigy_and_steps_that_are_skipped() -> None:
    import jax

    from stepwell.integrations.optax import partition

    recipe = Recipe(
        routes=(Route(rule="Prodigy", hyper_parameters={"d0": 0.01}),), undecayed="~everything()", on_nonfinite="skip"
    )
    optimizer = partition(recipe, tree(0))
    found, _ = walk(optimizer)
    assert_same(found, torchs([{"params": list(NAMES), "rule": "Prodigy", "d0": 0.01}]))
    broken = jax.tree.map(lambda x: x * np.nan, tree(1))
    updates, _ = optimizer.update(broken, optimizer.init(tree(0)), tree(0))
    assert all(float(abs(x).max()) == 0.0 for x in jax.tree.leaves(updates))


@pytest.mark.usefixtures("_in_float64")
def test_the_averages_of_a_recipe() -> None:
    from stepwell.integrations.optax import averaged, partition

    values = {"lr": 0.1, "weight_decay": 0.3}
    recipe = Recipe(
        routes=(Route(rule="SGD", select=select.name("norm")), Route(rule="ScheduleFreeAdamW")), defaults=values
    )
    found, state = walk(partition(recipe, tree(0)))
    params = {a: {b: found[f"{a}.{b}"] for b in inner} for a, inner in SHAPES.items()}
    average = averaged(recipe, state, params)
    z = state.inner_states["schedulefreeadamw"].inner_state.slots["z"]["dense"]["kernel"]
    # y = (1 − β)·z + β·x, so x = (y − (1 − β)·z) / β.
    np.testing.assert_allclose(average["dense"]["kernel"], (found["dense.kernel"] - 0.1 * z) / 0.9, rtol=1e-12)
    np.testing.assert_array_equal(average["norm"]["scale"], found["norm.scale"])


def test_a_network_of_flax_learns_under_a_recipe() -> None:
    import jax
    import jax.numpy as jnp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Flax's own imports
        from flax import nnx

    from stepwell.integrations.optax import partition

    class Network(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.embed = nnx.Embed(16, 8, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.head = nnx.Linear(8, 16, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            x = self.embed(tokens)
            for layer in self.layers:
                x = x + jax.nn.relu(layer(x))
            return self.head(self.norm(x))

    network, tokens = Network(nnx.Rngs(0)), jnp.arange(16)
    roles = {"embed": "embedding", "head": "head", "*.kernel": "hidden matrix"}
    recipe = Recipe.preset("muon").set(lr=0.02).replace(roles=roles)
    optimizer = nnx.Optimizer(network, partition(recipe, nnx.state(network, nnx.Param), horizon=40), wrt=nnx.Param)
    assert sorted(optimizer.opt_state.inner_states) == ["adamw", "adamw undecayed", "hidden"]

    def loss_of(network: Any) -> Any:
        picked = jnp.take_along_axis(jax.nn.log_softmax(network(tokens)), (tokens[:, None] + 1) % 16, axis=-1)
        return -picked.mean()

    @nnx.jit
    def step(network: Any, optimizer: Any) -> Any:
        loss, gradients = nnx.value_and_grad(loss_of)(network)
        optimizer.update(network, gradients)
        return loss

    losses = [float(step(network, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
