"""One rule as a Keras optimizer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from stepwell.algebra import where
from stepwell.integrations.course import Course
from stepwell.integrations.keras.numbers import KerasNumber
from stepwell.integrations.keras.schedules import LearningRate, number_dtype
from stepwell.integrations.views import Outputs, View, check_outputs
from stepwell.optimizer.groups import STORAGE
from stepwell.rules.hyper import NonNegative, is_switch, validated
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Names, Rule, Slot, hyper_parameters, namespace
from stepwell.rules.wrappers import SAM
from stepwell.scheduler.tracks import as_schedule
from stepwell.schedules import Schedule, from_dict, to_dict
from stepwell.text.values import shown

Function = Callable[..., Any]


@keras.saving.register_keras_serializable(package="stepwell")
class Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Any rule that acts on elements or tensors, on every back end of Keras.

        model.compile(optimizer=Optimizer(AdamW(lr=3e-4), Cosine(warmup=0.1), horizon=10_000), ...)

    Weight decay is the rule's, with the rule's meaning; `exclude_from_weight_decay` spares variables as in every Keras
    optimizer. Clipping, loss scaling, accumulation and Keras's own moving average are the base class's. Variables of 16
    bits are worked out in float32, and slots have the dtype of their variable.

    Args:
        rule: the rule; it may be one of your own, or inside a wrapper.
        learning_rate: a number at least 0, a Keras schedule, or a stepwell schedule, which multiplies the rule's rate;
            by default the rule's rate.
        horizon: total optimizer steps, at least 1, for stepwell schedules that have no horizon of their own.
        schedules: stepwell schedules of other hyper-parameters, by name; an element of a tuple goes by its index
            (`{"betas[0]": Linear(end=0.9)}`).
        outputs: the axis that counts a layer's outputs: "last", as Keras has it, or "first", as torch has it. It
            matters to rules with a number for each row, such as `AdamMini`.
        name: what to call it; by default the rule's name.
        kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`.

    Raises:
        TypeError: for what is no rule, an unknown hyper-parameter, or what is no schedule.
        ValueError: a rule of whole matrices, or `sam`; a value out of its range; a horizon that is needed and not
            known; an argument that Keras does not know.
    """

    def __init__(
        self,
        rule: Rule,
        learning_rate: float | Schedule | Function | None = None,
        *,
        horizon: int | None = None,
        schedules: Mapping[str, Schedule | Function] | None = None,
        outputs: Outputs = "last",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_expressible(rule)
        check_outputs(outputs)
        decay = kwargs.pop("weight_decay", None)
        if decay is not None:
            raise ValueError(f"weight_decay is the rule's: write {type(rule).__name__}(weight_decay={decay!r})")
        for stored in STORAGE:
            if kwargs.pop(stored, None) is not None:
                raise ValueError(f"{stored} is for torch alone: in Keras slots have the dtype of their variable")
        if "lr" in (schedules or {}):
            raise ValueError("the schedule of the learning rate is given as learning_rate, not among schedules")
        course = Course(rule, horizon, schedules)
        rate: Any = rule.lr if learning_rate is None else learning_rate
        if isinstance(rate, Schedule):
            rate = LearningRate(rate, rule.lr, horizon)
        name = name or re.sub(r"\W+", "_", type(rule).__name__).strip("_")
        if not callable(rate):
            rate = float(validated("learning_rate", rate, NonNegative))
        super().__init__(rate, name=name, **kwargs)
        self.rule = rule
        self.outputs = outputs
        self.horizon = horizon
        self.schedules = {name: as_schedule(name, given) for name, given in (schedules or {}).items()}
        self._course = course
        self.exclude_from_weight_decay()
        self._views: list[View] = []
        self._slots: dict[str, list[Any]] = {}
        self._numbers: dict[str, Any] = {}

    # Which variables are decayed.

    def exclude_from_weight_decay(
        self, var_list: Iterable[Any] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Spare variables from weight decay: those listed, and those in whose names a pattern is found.

        A later call takes the place of an earlier one. What is spared is saved with the optimizer: the listed variables
        go by their places among the trainable ones, for the paths of a loaded model may be others.

        Args:
            var_list: variables, or their places among the trainable ones, from 0; by default none.
            var_names: regular expressions; by default none.

        Raises ValueError once the optimizer is built.
        """
        listed, names = list(var_list or ()), list(var_names or ())
        super().exclude_from_weight_decay([one for one in listed if not isinstance(one, int)], names)
        self._spared_places = [one for one in listed if isinstance(one, int)]
        self._spared_names = names

    def _use_weight_decay(self, variable: Any) -> bool:
        place = self._get_variable_index(variable)
        return place not in self._spared_places and bool(super()._use_weight_decay(variable))

    def _spared(self) -> dict[str, Any]:
        """What `exclude_from_weight_decay` has been told, without the variables themselves."""
        listed = self._exclude_from_weight_decay
        if listed and not self.built:
            raise ValueError(
                "the variables that exclude_from_weight_decay(var_list=...) lists can be saved once the optimizer is "
                "built: call optimizer.build(model.trainable_variables) first, or name them by var_names"
            )
        places = [place for place, one in enumerate(self._trainable_variables) if self._var_key(one) in listed]
        return {"var_list": sorted({*self._spared_places, *places}), "var_names": list(self._spared_names)}

    # Slots.

    def build(self, variables: Sequence[Any]) -> None:
        """Make the slots of these variables."""
        if self.built:
            return
        super().build(variables)
        self._views = [View(self.rule, tuple(variable.shape), self.outputs) for variable in variables]
        owners = (self.rule, *(view.rule for view in self._views))
        for slot in {slot.name: slot for owner in owners for slot in owner.slot_list()}.values():
            if slot.scalar:
                self._numbers[slot.name] = self.add_variable((), dtype=number_dtype(), name=slot.name)
            else:
                pairs = zip(self._views, variables, strict=True)
                self._slots[slot.name] = [self._new_slot(slot, view, variable) for view, variable in pairs]

    def _new_slot(self, slot: Slot, view: View, variable: Any) -> Any:
        if slot.name not in {own.name for own in view.rule.slot_list()}:
            return None
        if slot.shape is None:
            start = (lambda *_, **__: ops.copy(ops.convert_to_tensor(variable))) if slot.start == "weights" else "zeros"
            return self.add_variable_from_reference(variable, name=slot.name, initializer=start)
        path = str(getattr(variable, "path", variable.name)).replace("/", "_")
        shape, dtype = view.slot_shape(slot.name), keras.backend.standardize_dtype(variable.dtype)
        return self.add_variable(shape, dtype=dtype, name=f"{path}_{slot.name}")

    # A step.

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its slots."""
        index = self._get_variable_index(variable)
        view = self._views[index]
        p, g, s, h = self._seen(index, gradient, variable, learning_rate)
        weights, new = view.rule.update(p, g, s, h)
        view.rule.check_slots(new)
        read = [p, *vars(s).values()]
        kept = [slot for slot in view.rule.slot_list() if slot.name in new and not slot.scalar]
        # All are worked out before any is written: on torch what was read is the variable's own memory.
        values = [1.0 * value if any(value is x for x in read) else value for value in (new[one.name] for one in kept)]
        weights = 1.0 * weights if any(weights is x for x in read) else weights
        for slot, value in zip(kept, values, strict=True):
            self._store(self._slots[slot.name][index], value, view if slot.shape is None else None)
        self._store(variable, weights, view)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        self._settle(grads, trainable_variables, learning_rate)
        super()._backend_update_step(grads, trainable_variables, learning_rate)
        self._advance(learning_rate)

    def _settle(self, gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        """For rules that measure all variables before they update any: add up, and work out the shared numbers."""
        if type(self.rule).measure is Rule.measure:
            return
        if getattr(getattr(self, "_distribution_strategy", None), "num_replicas_in_sync", 1) > 1:
            raise ValueError(f"{type(self.rule).__name__} measures whole gradients, which no replica of several has")
        totals: dict[str, Any] = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            index = self._get_variable_index(variable)
            measured = self._views[index].rule.measure(*self._seen(index, gradient, variable, learning_rate))
            for name, amount in measured.items():
                totals[name] = totals.get(name, 0.0) + KerasNumber.of(ops.sum(amount.tensor), number_dtype())
        s, h = self._names(self.rule.values(), number_dtype(), learning_rate)
        self._keep(self.rule.settle(totals, s, h))

    def _advance(self, learning_rate: Any) -> None:
        """Numbers that are not measured are made of hyper-parameters and the step alone: any gradient will do."""
        for view in self._views:
            if any(slot.scalar and not slot.shared for slot in view.rule.slot_list()):
                nothing = KerasNumber.of(ops.zeros((1, 1)), number_dtype())
                values = view.hyper_parameters(self._values(number_dtype()))
                s, h = self._names(values, number_dtype(), learning_rate)
                slots = {slot.name: nothing for slot in view.rule.slot_list() if not slot.scalar}
                _, new = view.rule.update(nothing, nothing, namespace({**vars(s), **slots}), h)
                self._keep({name: value for name, value in new.items() if name in self._numbers})
                return

    def _keep(self, numbers: Mapping[str, Any]) -> None:
        for name, value in numbers.items():
            self._store(self._numbers[name], value, None)

    def _store(self, variable: Any, value: Any, view: View | None) -> None:
        """Write a number back, from the view of it that a rule has."""
        dtype = keras.backend.standardize_dtype(variable.dtype)
        tensor = value.tensor if isinstance(value, KerasNumber) else ops.convert_to_tensor(value, dtype)
        if view is not None:
            tensor = view.back(tensor, ops)
        self.assign(variable, ops.broadcast_to(ops.cast(tensor, dtype), tuple(variable.shape)))

    # What a rule sees.

    def _seen(self, index: int, gradient: Any, variable: Any, learning_rate: Any) -> tuple[Any, Any, Names, Names]:
        """p, g, s and h for one variable."""
        view = self._views[index]
        dtype = "float64" if keras.backend.standardize_dtype(variable.dtype) == "float64" else "float32"

        def into(x: Any) -> KerasNumber:
            number = KerasNumber.of(x, dtype)
            return KerasNumber(view.into(number.tensor, ops), dtype)

        s, h = self._names(view.hyper_parameters(self._values(dtype)), dtype, learning_rate)
        if not self._use_weight_decay(self._trainable_variables[index]):
            h.weight_decay = 0.0
        p, g = into(variable), into(gradient)
        for slot in view.rule.slot_list():
            if not slot.scalar:
                kept = self._slots[slot.name][index]
                number = into(kept) if slot.shape is None else KerasNumber.of(kept, dtype)
                # The weights may have been loaded after the slots were made.
                setattr(s, slot.name, where(s.step > 1, number, p) if slot.start == "weights" else number)
        return p, -g if self.rule.maximize else g, s, h

    def _values(self, dtype: str) -> dict[str, Any]:
        """The hyper-parameters at this step, those that are scheduled as tensors of this dtype."""
        step = KerasNumber.of(self.iterations, number_dtype())
        known = hyper_parameters(type(self.rule))
        values = self._course.at(step, {}).items()
        return {name: _in_dtype(value, dtype, truth=is_switch(known[name])) for name, value in values}

    def _names(self, values: Mapping[str, Any], dtype: str, learning_rate: Any) -> tuple[Names, Names]:
        """s, without the slots of a variable, and h."""
        numbers = {name: KerasNumber.of(variable, dtype) for name, variable in self._numbers.items()}
        step = KerasNumber.of(self.iterations, dtype) + 1.0
        return namespace({"step": step, **numbers}), namespace({**values, "lr": KerasNumber.of(learning_rate, dtype)})

    def _get_current_learning_rate(self) -> Any:
        if isinstance(self._learning_rate, LearningRate):  # of updates, where Keras asks with the number of batches
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    # The average.

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the variables hold the rule's average; afterwards the weights are back, to the bit.

            with optimizer.averaged():
                model.evaluate(x, y)

        Raises ValueError for a rule that keeps no average, and before the first update.
        """
        if not hasattr(self.rule, "averaged"):
            raise ValueError(f"{type(self.rule).__name__} keeps no average")
        if not self._slots:
            raise ValueError("there is no average before the first update")
        weights = [ops.copy(ops.convert_to_tensor(variable)) for variable in self._trainable_variables]
        averages = [self._average(index, variable) for index, variable in enumerate(self._trainable_variables)]
        for variable, average in zip(self._trainable_variables, averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            for variable, weight in zip(self._trainable_variables, weights, strict=True):
                variable.assign(weight)

    def _average(self, index: int, variable: Any) -> Any:
        view = self._views[index]
        p, _, s, h = self._seen(index, ops.zeros(variable.shape), variable, self.learning_rate)
        average, _ = view.rule.exchange("averaged", p, s, h)
        return ops.cast(view.back(ops.copy(average.tensor), ops), variable.dtype)

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes an equal one of. The class of a rule of your own goes by its name.

        Raises ValueError where variables are listed that are not decayed, and the optimizer is not built yet.
        """
        config = super().get_config()
        del config["weight_decay"]
        return {
            **config,
            "rule": {"kind": type(self.rule).__name__, **self.rule.values()},
            "horizon": self.horizon,
            "schedules": {name: to_dict(schedule) for name, schedule in self.schedules.items()},
            "outputs": self.outputs,
            "exclude_from_weight_decay": self._spared(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Optimizer:
        """The optimizer that `get_config` described. Raises ValueError for a rule that is not known."""
        config = dict(config)
        spared = config.pop("exclude_from_weight_decay", {})  # an older config has none
        values = dict(config["rule"])
        made = {
            "rule": rule_class(values.pop("kind"))(**values),
            "schedules": {name: from_dict(data) for name, data in config["schedules"].items()},
        }
        optimizer: Optimizer = super().from_config({**config, **made}, custom_objects)
        optimizer.exclude_from_weight_decay(**spared)
        return optimizer


def check_expressible(rule: Rule) -> None:
    """Raise TypeError for what is no rule, ValueError for one that Keras cannot run."""
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be a stepwell.Rule such as stepwell.rules.AdamW(), got {shown(rule)}")
    if isinstance(rule, SAM):
        raise ValueError(f"{type(rule).__name__} needs the gradients at a second point, which Keras does not work out")
    if rule.acts_on == "matrices":
        raise ValueError(
            f"{type(rule).__name__} acts on whole matrices, for which Keras has no functions that all back ends share; "
            "stepwell.integrations.optax runs it on JAX, stepwell.Optimizer on torch"
        )
    for slot in rule.slot_list():
        if slot.start == "normal":
            raise ValueError(
                f"{type(rule).__name__} has a slot that starts with normal numbers, {slot.name!r}, which no function "
                "of Keras gives; stepwell.integrations.optax runs it on JAX, stepwell.Optimizer on torch"
            )


def _in_dtype(value: Any, dtype: str, truth: bool) -> Any:
    if isinstance(value, tuple):
        return tuple(_in_dtype(one, dtype, truth) for one in value)
    return KerasNumber(ops.cast(value.tensor, dtype), dtype, truth) if isinstance(value, KerasNumber) else value
