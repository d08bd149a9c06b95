"""Keras 3, on the back end that KERAS_BACKEND names: each has a process of its own (make test-keras)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conformance.cases import Case, acting_on, assert_near, rows, such_as
from conformance.training import parameter
from stepwell import Optimizer, rules, schedules
from stepwell.integrations.needing import needed
from stepwell.pictures.gallery import EXAMPLES
from stepwell.rules.rule import Slot

pytestmark = [
    pytest.mark.peers,
    pytest.mark.keras,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's variables, on JAX
]

STEPS = 3
SHAPES = ((5,), (4, 3))


@pytest.fixture
def _in_float64() -> Iterator[None]:
    import keras

    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        yield
    keras.config.set_floatx(before)


def numbers(step: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    """NumPy arrays: the weights at step 0, the gradients at later ones."""
    return [
        parameter(shape, torch.float64, seed=1000 * step + index).detach().numpy() for index, shape in enumerate(shapes)
    ]


def variables(dtype: str = "float64", shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    import keras

    return [
        keras.Variable(x, dtype=dtype, name=name)
        for x, name in zip(numbers(0, shapes), ("bias", "kernel"), strict=False)
    ]


def apply(optimizer: Any, of: list[Any], gradients: Sequence[Any]) -> None:
    import keras

    optimizer.apply([keras.ops.convert_to_tensor(g, dtype=v.dtype) for g, v in zip(gradients, of, strict=True)], of)


def to_torch(x: Any) -> torch.Tensor:
    import keras

    tensor = keras.ops.convert_to_tensor(x)
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":  # NumPy has none
        tensor = keras.ops.cast(tensor, "float32")
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(tensor), np.float64))


def reference(rule: rules.Rule, steps: int = STEPS, shapes: Sequence[tuple[int, ...]] = SHAPES) -> Optimizer:
    """torch's reference engine after the steps."""
    weights = [torch.from_numpy(x.copy()).requires_grad_() for x in numbers(0, shapes)]
    optimizer = Optimizer(weights, rule, engine="reference")
    for step in range(1, steps + 1):
        for p, gradient in zip(weights, numbers(step, shapes), strict=True):
            p.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return optimizer


@pytest.mark.usefixtures("_in_float64")
@rows(such_as(lambda case: case.rule.values()["lr"] is not None, among=acting_on("elements", "tensors")))
def test_weights_and_slots_are_the_references(case: Case) -> None:
    from stepwell.integrations import keras as ours

    expected = reference(case.rule)
    mine = variables()
    optimizer = ours.Optimizer(case.rule, outputs="first")
    for step in range(1, STEPS + 1):
        apply(optimizer, mine, numbers(step))
    weights = expected.param_groups[0]["params"]
    assert_near([to_torch(v) for v in mine], [p.detach() for p in weights], 1e-10)
    kept = {variable.name: to_torch(variable) for variable in optimizer.variables}
    for name, p in zip(("bias", "kernel"), weights, strict=True):
        for slot, value in expected.state[p].items():
            if isinstance(value, torch.Tensor):
                assert_near([kept[f"{name}_{slot}"]], [value], 1e-10)
            elif slot != "step":
                assert_near([kept[slot]], [torch.tensor(value, dtype=torch.float64)], 1e-10)


@pytest.mark.usefixtures("_in_float64")
def test_outputs_on_the_last_axis() -> None:
    from stepwell.integrations import keras as ours

    rule, shapes = rules.AdamMini(lr=0.05), ((3, 4),)
    last, first = variables(shapes=shapes), variables(shapes=shapes)
    first[0] = type(first[0])(numbers(0, shapes)[0].T, dtype="float64", name="kernel")
    apply(ours.Optimizer(rule), last, numbers(1, shapes))
    apply(ours.Optimizer(rule, outputs="first"), first, [numbers(1, shapes)[0].T])
    assert_near([to_torch(last[0]).T], [to_torch(first[0])], 1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2.0**-7)])
def test_other_dtypes(dtype: str, tolerance: float) -> None:
    from stepwell.integrations import keras as ours

    rule, mine = rules.AdamW(lr=0.05, betas=(0.8, 0.9)), variables(dtype)
    optimizer = ours.Optimizer(rule)
    apply(optimizer, mine, numbers(1))
    assert all(str(v.dtype) == dtype for v in mine)
    expected = reference(rule, 1).param_groups[0]["params"]
    assert_near([to_torch(v) for v in mine], [p.detach() for p in expected], tolerance)


@pytest.mark.parametrize("text", EXAMPLES)
def test_schedules(text: str) -> None:
    import keras

    from stepwell.integrations.keras import LearningRate

    schedule, horizon = schedules.parse(text), 1000
    rate = LearningRate(schedule, 0.5, horizon=horizon)
    exact = schedule.resolve(horizon)
    for step in (0, 1, 49, 500, 999, 1500):
        now = float(keras.ops.convert_to_numpy(rate(keras.ops.convert_to_tensor(step))))
        assert now == pytest.approx(0.5 * exact(step), rel=2e-4, abs=1e-6)
    again = LearningRate.from_config(rate.get_config())
    assert again.get_config() == rate.get_config()
    assert again.schedule == schedule


@pytest.mark.usefixtures("_in_float64")
def test_schedules_of_hyper_parameters_and_their_count_under_accumulation() -> None:
    from stepwell.integrations import keras as ours

    def made(**options: Any) -> Any:
        return ours.Optimizer(
            rules.SGD(lr=0.5, momentum=0.8, dampening=0.0),
            schedules.Linear(),
            horizon=4,
            schedules={"momentum": schedules.Linear()},
            **options,
        )

    shapes = ((),)
    plain, mine = variables(shapes=shapes), made()
    accumulated, other = variables(shapes=shapes), made(gradient_accumulation_steps=2)
    for g in ([1.0], [2.0]):
        apply(mine, plain, g)
    for g in ([0.5], [1.5], [3.0], [1.0]):
        apply(other, accumulated, g)
    # Rates 0.5 and 0.5·3/4, momenta 0.8 and 0.8·3/4: b = 1, then 0.6·1 + 2 = 2.6.
    start = float(numbers(0, shapes)[0])
    assert float(to_torch(plain[0])) == pytest.approx(start - 0.5 * 1 - 0.375 * 2.6, rel=1e-12)
    assert_near([to_torch(accumulated[0])], [to_torch(plain[0])], 1e-12)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize(
    "rule", [rules.ScheduleFreeAdamW(lr=0.05), rules.ema(rules.AdamW(lr=0.05), decay=0.3)], ids=["y", "ema"]
)
def test_average(rule: rules.Rule) -> None:
    from stepwell.integrations import keras as ours

    expected, mine = reference(rule), variables()
    optimizer = ours.Optimizer(rule)
    with pytest.raises(ValueError, match="no average before the first update"), optimizer.averaged():
        pass
    for step in range(1, STEPS + 1):
        apply(optimizer, mine, numbers(step))
    before = [to_torch(v) for v in mine]
    with optimizer.averaged(), expected.averaged():
        assert_near([to_torch(v) for v in mine], [p.detach() for p in expected.param_groups[0]["params"]], 1e-10)
    assert all(torch.equal(to_torch(v), was) for v, was in zip(mine, before, strict=True))


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_kerass(amsgrad: bool) -> None:
    import keras

    from stepwell.integrations.keras import AdamWeightDecay

    arguments = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.1, "amsgrad": amsgrad}
    mine, theirs = variables(), variables()
    optimizers = (
        AdamWeightDecay(**arguments, global_clipnorm=1.0),
        keras.optimizers.Adam(**arguments, global_clipnorm=1.0),
    )
    for step in range(1, STEPS + 1):
        for optimizer, of in zip(optimizers, (mine, theirs), strict=True):
            apply(optimizer, of, numbers(step))
    # Keras's hyper-parameters and maxima are of float32 on some back ends.
    assert_near([to_torch(v) for v in mine], [to_torch(v) for v in theirs], 1e-7)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize(
    ("patterns", "decayed"),
    [
        ({}, (True, True)),
        ({"exclude_from_weight_decay": ["bias$", "LayerNorm"]}, (False, True)),
        ({"exclude_from_weight_decay": ["s", "k"], "include_in_weight_decay": ["^bias"]}, (True, False)),
        ({"include_in_weight_decay": ["bias"]}, (True, True)),
    ],
)
def test_what_is_decayed(patterns: dict[str, list[str]], decayed: tuple[bool, bool]) -> None:
    # m = 0.1·g, v = 0.001·g²: the correction √0.001/0.1 makes the first step η·g/|g|, but for ε. Decay takes 0.1·0.2.
    from stepwell.integrations.keras import AdamWeightDecay

    mine = variables(shapes=((1,), (1, 1)))
    for variable in mine:
        variable.assign(np.ones(variable.shape))
    optimizer = AdamWeightDecay(0.1, epsilon=0.0, weight_decay_rate=0.2, **patterns)
    apply(optimizer, mine, [np.full((1,), 0.5), np.full((1, 1), -3.0)])
    kept = [0.98 if one else 1.0 for one in decayed]
    assert [float(to_torch(v).sum()) for v in mine] == pytest.approx([kept[0] - 0.1, kept[1] + 0.1], rel=1e-9)
    again = AdamWeightDecay.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("listed", "patterns", "factors"),
    [
        ([0], ["bias"], [1.0, 1.0, 0.75, 1.0]),
        ([], ["^b"], [0.75, 1.0, 0.75, 1.0]),
        ([3], None, [0.75, 0.75, 0.75, 1.0]),
    ],
)
def test_what_is_not_decayed_is_saved(
    listed: list[int], patterns: list[str] | None, factors: list[float], tmp_path: Path
) -> None:
    # A gradient of 0 leaves SGD nothing but the decay: each variable is multiplied by 1 − 0.5·0.5.
    import keras

    from stepwell.integrations import keras as ours

    dense = [keras.layers.Dense(2, bias_initializer="ones") for _ in range(2)]
    model = keras.Sequential([keras.layers.Input((2,)), *dense])  # its name is in the paths, and not in those loaded
    optimizer = ours.Optimizer(rules.SGD(lr=0.5, weight_decay=0.5))
    optimizer.exclude_from_weight_decay([model.trainable_variables[place] for place in listed], patterns)
    if listed:
        with pytest.raises(ValueError, match=r"call optimizer.build\(model.trainable_variables\) first, or name them"):
            optimizer.get_config()
    model.compile(optimizer=optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    model.save(tmp_path / "once.keras")
    keras.saving.load_model(tmp_path / "once.keras").save(tmp_path / "twice.keras")
    for one in (model, keras.saving.load_model(tmp_path / "twice.keras")):
        before = [to_torch(variable) for variable in one.trainable_variables]
        apply(one.optimizer, one.trainable_variables, [np.zeros(v.shape) for v in one.trainable_variables])
        after = [to_torch(variable) for variable in one.trainable_variables]
        assert [float((a / b).mean()) for a, b in zip(after, before, strict=True)] == pytest.approx(factors)


def test_a_config_without_what_is_not_decayed_is_read() -> None:
    from stepwell.integrations import keras as ours

    config = ours.Optimizer(rules.SGD()).get_config()
    assert config.pop("exclude_from_weight_decay") == {"var_list": [], "var_names": []}
    assert ours.Optimizer.from_config(config).rule == rules.SGD()


def test_rate_that_falls_with_time_and_its_old_names() -> None:
    from stepwell.integrations.keras import AdamWeightDecay

    optimizer = AdamWeightDecay(lr=0.6, decay=0.5)
    mine = variables("float32")
    apply(optimizer, mine, numbers(1))
    assert float(optimizer.learning_rate) == pytest.approx(0.6 / 1.5)
    with pytest.raises(ValueError, match="needs a learning rate that is a number"):
        AdamWeightDecay(lambda: 0.1, decay=0.5)
    with pytest.raises(TypeError, match=r"write \['bias'\]"):
        AdamWeightDecay(exclude_from_weight_decay="bias")
    with pytest.raises(ValueError, match=r"'\(', which is no regular expression"):
        AdamWeightDecay(exclude_from_weight_decay=["("])
    for given, message in (
        ({"weight_decay_rate": "0.1"}, "weight_decay_rate must be a number"),
        ({"learning_rate": -0.1}, "learning_rate must be at least 0, got -0.1"),
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"beta_2": 1.0}, r"beta_2 must be in \[0, 1\), got 1.0"),
        ({"epsilon": -1.0}, "epsilon must be at least 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            AdamWeightDecay(**given)


def test_create_optimizer() -> None:
    import keras

    from stepwell.integrations.keras import AdamWeightDecay, WarmUp, create_optimizer

    optimizer, schedule = create_optimizer(0.8, 10, 4, min_lr_ratio=0.25, weight_decay_rate=0.1, adam_clipnorm=1.0)
    assert isinstance(optimizer, AdamWeightDecay)
    assert optimizer.exclude_from_weight_decay == ["LayerNorm", "layer_norm", "bias"]
    assert (optimizer.clipnorm, optimizer.weight_decay_rate, optimizer.rule.eps) == (1.0, 0.1, 1e-8)
    # 0.8·t/4, then from 0.8 down to 0.2 in 6 steps.
    rates = [float(keras.ops.convert_to_numpy(schedule(step))) for step in (0, 1, 3, 4, 7, 10, 15)]
    assert rates == pytest.approx([0.0, 0.2, 0.6, 0.8, 0.5, 0.2, 0.2], abs=1e-6)
    counted = create_optimizer(0.8, np.int64(10), np.int64(4), weight_decay_rate=0.1)[1].get_config()
    assert type(counted["decay_schedule_fn"]["config"]["decay_steps"]) is int
    again = AdamWeightDecay.from_config(optimizer.get_config())
    assert isinstance(again._learning_rate, WarmUp)
    assert again.get_config() == optimizer.get_config()
    plain, schedule = create_optimizer(0.8, 10, 0, power=2.0)
    assert isinstance(plain, keras.optimizers.Adam)
    assert not isinstance(plain, AdamWeightDecay)
    # (1 − 5/10)²
    assert float(keras.ops.convert_to_numpy(schedule(5))) == pytest.approx(0.8 * 0.25)
    with pytest.raises(ValueError, match="num_train_steps must be more than num_warmup_steps=10, got 10"):
        create_optimizer(0.8, 10, 10)


def test_warm_up() -> None:
    import keras

    from stepwell.integrations.keras import WarmUp

    schedule = WarmUp(0.4, schedules.Cosine(horizon=8), 4, power=2.0, name="up")
    # 0.4·(t/4)², then 0.4·(1 + cos(π·(t − 4)/8))/2.
    steps = [0, 1, 2, 4, 6, 12, 20]
    expected = [0.0, 0.025, 0.1, 0.4, 0.2 * (1 + math.cos(math.pi / 4)), 0.0, 0.0]
    assert [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps] == pytest.approx(expected, abs=1e-6)
    again = WarmUp.from_config(schedule.get_config())
    assert (again.power, again.name, again.warmup_steps) == (2.0, "up", 4)
    assert again.decay_schedule_fn.schedule == schedules.Cosine(horizon=8)
    with pytest.raises(TypeError, match="decay_schedule_fn must be a schedule or a function of the step, got 3"):
        WarmUp(0.4, 3, 4)  # type: ignore[arg-type]


def test_gradient_accumulator() -> None:
    import keras

    from stepwell.integrations.keras import GradientAccumulator

    accumulator = GradientAccumulator()
    assert int(accumulator.step) == 0
    with pytest.raises(ValueError, match="no gradients yet"):
        _ = accumulator.gradients
    one = keras.ops.convert_to_tensor([1.0, 2.0])
    accumulator([one, None])
    accumulator([one, None])
    assert int(accumulator.step) == 2
    total, none = accumulator.gradients
    assert none is None
    assert keras.ops.convert_to_numpy(total).tolist() == [2.0, 4.0]
    accumulator([None, one])
    assert [keras.ops.convert_to_numpy(g).tolist() for g in accumulator.gradients] == [[2.0, 4.0], [1.0, 2.0]]
    with pytest.raises(ValueError, match="holds 2 gradients, got 1"):
        accumulator([one])
    accumulator.reset()
    assert int(accumulator.step) == 0
    assert keras.ops.convert_to_numpy(accumulator.gradients[0]).tolist() == [0.0, 0.0]


def test_fit_save_and_go_on(tmp_path: Path) -> None:
    import keras

    from stepwell.integrations import keras as ours

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    )
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    y = x[:, :1] - x[:, 1:2]
    rule = rules.NAdam(lr=0.05, weight_decay=0.01)
    model.compile(optimizer=ours.Optimizer(rule, schedules.Cosine(warmup=0.1), horizon=40), loss="mse")
    losses = model.fit(x, y, batch_size=8, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.rule == rule
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert int(again.optimizer.iterations) == 20
    for one in (model, again):
        one.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    assert_near([to_torch(v) for v in again.variables], [to_torch(v) for v in model.variables], 1e-6)


class FromNormal(rules.Rule):
    slots = (Slot("along", start="normal"),)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((rules.Muon(),), ValueError, "Muon acts on whole matrices, .* stepwell.integrations.optax runs it on JAX"),
        (
            (FromNormal(),),
            ValueError,
            "FromNormal has a slot that starts with normal numbers, 'along', which no function",
        ),
        ((rules.sam(rules.SGD(), 0.05),), ValueError, "needs the gradients at a second point"),
        (("AdamW",), TypeError, r"rule must be a stepwell.Rule such as stepwell.rules.AdamW\(\), got 'AdamW'"),
        ((rules.AdamW(), schedules.Cosine()), ValueError, "horizon"),
        ((rules.AdamW(), -1.0), ValueError, r"^learning_rate must be at least 0, got -1.0$"),
        ((rules.AdamW(), math.nan), ValueError, r"^learning_rate must be at least 0, got nan$"),
        ((rules.AdamW(), "fast"), TypeError, r"^learning_rate must be a number at least 0, got 'fast' of type str$"),
    ],
)
def test_what_is_refused(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    from stepwell.integrations import keras as ours

    with pytest.raises(error, match=message):
        ours.Optimizer(*arguments)


def test_options_that_are_refused() -> None:
    from stepwell.integrations import keras as ours

    rule = rules.AdamW()
    with pytest.raises(ValueError, match=r"write AdamW\(weight_decay=0.1\)"):
        ours.Optimizer(rule, weight_decay=0.1)
    with pytest.raises(TypeError, match=r"^AdamW does not have a number 'weight_dekay'.*did you mean 'weight_decay'"):
        ours.Optimizer(rule, schedules={"weight_dekay": schedules.Linear(horizon=3)})
    for name, value in (("state_dtype", "8bit"), ("master", "kahan")):
        with pytest.raises(ValueError, match=f"^{name} is for torch alone: in Keras slots have the dtype of their var"):
            ours.Optimizer(rule, **{name: value})
    with pytest.raises(ValueError, match="given as learning_rate"):
        ours.Optimizer(rule, schedules={"lr": schedules.Linear(horizon=3)})
    with pytest.raises(ValueError, match="AdamW keeps no average"), ours.Optimizer(rule).averaged():
        pass


def test_a_missing_or_old_keras_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match=r"keras is not installed: pip install 'stepwell\[keras\]'"):
        needed("keras", extra="keras", least="3.6")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.15.0")
    with pytest.raises(ImportError, match=r"keras 2.15.0 is too old, 3.6 is needed: pip install 'stepwell\[keras\]'"):
        needed("keras", extra="keras", least="3.6")
