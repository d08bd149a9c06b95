"""transformers' Trainer with stepwell's optimizers, recipes and schedules."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from stepwell.horizon import horizon
from stepwell.integrations.huggingface.adafactor import AdafactorSchedule
from stepwell.integrations.huggingface.arguments import TrainingArguments
from stepwell.integrations.huggingface.callback import StepwellCallback, of_training
from stepwell.integrations.huggingface.factory import check_warmup
from stepwell.integrations.huggingface.package import transformers
from stepwell.integrations.huggingface.schedules import whole_steps
from stepwell.integrations.huggingface.scheduling import OF_RECIPE, make_scheduler, name_of, warmed_up
from stepwell.planning import Plan, plan
from stepwell.recipes import Recipe
from stepwell.roles import ParameterRole
from stepwell.scheduler import Scheduler
from stepwell.select import where

_LOG = logging.getLogger("stepwell")
# Which methods of a Trainer make what an argument names.
_MADE_BY = {"optim": ("create_optimizer", "get_optimizer_cls_and_kwargs"), "lr_scheduler_type": ("create_scheduler",)}

_Mixin: Any = object  # a class of Trainer, which comes after it


class TrainerMixin(_Mixin):  # type: ignore[misc]
    """What stepwell adds to a Trainer; put it before the class of Trainer that it is added to.

        class Trainer(TrainerMixin, SFTTrainer):
            pass

    Its arguments are a `TrainingArguments` with the `TrainingArgumentsMixin`; with others it leaves everything to the
    class that it is mixed into, but for the averaged weights of Schedule-Free.

    `optimizer` and `lr_scheduler` are made when a training starts or when somebody first asks for them, by
    `create_optimizer` and `create_scheduler`, which a subclass may override. What is there already is kept. Where the
    class that it is mixed into makes them in methods of its own, these are asked while the arguments name nothing else.

    The averaged weights of a Schedule-Free rule are in the model while it is evaluated and saved, and after a training;
    the others while it is trained. A resumed training has the very bits of one that was saved and went on.

    Attributes:
        plan: what goes where and why, once the optimizer is made; None where it is not ours.
    """

    plan: Plan | None = None
    _ready = False
    _plainly = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ready = True

    @property
    def optimizer(self) -> Any:
        """The optimizer, made if need be."""
        if self._kept("optimizer") is None and self._may_make():
            with self._looking():  # a subclass may ask whether there is one
                self.create_optimizer()
        return self._kept("optimizer")

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self.__dict__["_optimizer"] = optimizer

    @property
    def lr_scheduler(self) -> Any:
        """The scheduler, made if need be; one that a subclass makes itself waits for the training."""
        own = type(self).create_scheduler is TrainerMixin.create_scheduler
        if self._kept("lr_scheduler") is None and own and self._may_make() and not self._is_theirs("lr_scheduler_type"):
            self.create_scheduler(self._count_steps(), self.optimizer)
        return self._kept("lr_scheduler")

    @lr_scheduler.setter
    def lr_scheduler(self, scheduler: Any) -> None:
        self.__dict__["_lr_scheduler"] = scheduler

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Make the optimizer that the arguments name, unless there is one already, and return it.

        Args:
            model: whose parameters it trains; by default the Trainer's.
        """
        with self._looking():
            if self.optimizer is None and self.optimizer_cls_and_kwargs is None and not self._is_theirs("optim"):
                recipe = self._recipe()
                if recipe is not None:
                    self.plan = self._planned(recipe, self.model if model is None else model)
                    self.optimizer = self.plan.build_optimizer()
                    return self.optimizer
            return super().create_optimizer() if model is None else super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the scheduler that the arguments name, unless there is one already, and return it.

        Args:
            num_training_steps: optimizer steps of the whole training.
            optimizer: what it schedules; by default the Trainer's optimizer, which is made if need be.
        """
        given = () if optimizer is None else (optimizer,)
        if optimizer is None:
            optimizer = self.optimizer
        with self._looking():
            if self.lr_scheduler is None and not self._is_theirs("lr_scheduler_type"):
                steps = whole_steps("num_training_steps", num_training_steps, least=1)
                if name_of(self.args.lr_scheduler_type) == "greedy":
                    check_warmup("greedy", self.args.get_warmup_steps(steps))
                else:
                    self.lr_scheduler = self._scheduler(steps, optimizer)
                    self._created_lr_scheduler = True
                    return self.lr_scheduler
            return super().create_scheduler(num_training_steps, *given)

    def _recipe(self) -> Recipe | None:
        return self.args.recipe() if self._is_ours() else None

    def _is_ours(self) -> bool:
        return hasattr(self.args, "optim_runs_on")

    def _is_theirs(self, argument: str) -> bool:
        """Whether what `argument` names is left to the class that this is mixed into: always with arguments that are
        not ours, else where that makes it in a method of its own, and nothing was named."""
        if not self._is_ours():
            return True
        for method in _MADE_BY[argument]:
            owner = _first_with(method, type(self))
            if owner is not transformers.Trainer:
                named = self.args.named(argument)
                if not named:
                    return True
                _warn_once(
                    f"{named} goes before {owner.__name__}.{method}, which is not asked; leave it out to have that"
                )
        return False

    def _planned(self, recipe: Recipe, model: nn.Module, steps: int | None = None) -> Plan:
        """The recipe laid over the model; a single rule leaves undecayed what transformers would."""
        if self.args.choice.origin != "recipe":
            recipe = recipe.replace(undecayed=where(_Undecayed(self.get_decay_parameter_names(model))))
        steps = steps or self._known_steps()
        if self.args.rule_warms_up and (self.args.warmup_steps or self.args.warmup_ratio):  # Schedule-Free
            recipe = recipe.set(warmup_steps=self.args.get_warmup_steps(steps or self._count_steps()))
        return plan(model, recipe, horizon=steps)

    def _scheduler(self, steps: int, optimizer: Any) -> Any:
        args = self.args
        if args.finds_its_rates:
            return AdafactorSchedule(optimizer)
        warmup_steps = 0 if args.rule_warms_up else args.get_warmup_steps(steps)
        if args.schedule() == OF_RECIPE:
            recipe = self._recipe()
            assert recipe is not None  # the arguments have seen to it
            planned = self._planned(warmed_up(recipe, warmup_steps), self.model, steps)
            for doubt in planned.warnings:
                if doubt.kind == "schedule":
                    raise ValueError(
                        f"optim={name_of(args.optim)!r}: {doubt.text}; warmup_steps or warmup_ratio set another "
                        "warm-up, lr_scheduler_type another schedule"
                    )
            if self.plan is not None:
                self.plan = planned
            scheduler: Any = planned.build_scheduler(optimizer)
        else:
            scheduler = make_scheduler(
                optimizer,
                name_of(args.lr_scheduler_type),
                args.lr_scheduler_kwargs,
                horizon=steps,
                warmup_steps=warmup_steps,
            )
        if isinstance(scheduler, Scheduler):
            scheduler.resumes_under = "this"  # a training that goes on for more epochs has another horizon
        return scheduler

    def _known_steps(self) -> int | None:
        """The optimizer steps of the training under way or to come; None where nobody has said what it trains on."""
        if self.is_in_train:
            return self.state.max_steps or None
        return self._count_steps() if self.train_dataset is not None or self.args.max_steps > 0 else None

    def _count_steps(self) -> int:
        """The optimizer steps of the training to come."""
        if self.args.max_steps > 0:
            return int(self.args.max_steps)
        with torch.random.fork_rng(devices=[]):  # a loader that is only counted draws no seed
            loader = self.get_train_dataloader()
        accumulation = self.args.gradient_accumulation_steps
        return horizon(loader, epochs=self.args.num_train_epochs, accumulation=accumulation)

    # When the optimizer and the scheduler are made.

    def _kept(self, name: str) -> Any:
        return self.__dict__.get(f"_{name}")

    def _may_make(self) -> bool:
        return (
            self._ready
            and not self._plainly
            and not self.is_in_train
            and self.train_dataset is not None
            and self.model_init is None
            and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        )

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Within this context nothing is made by looking at it."""
        self._plainly += 1
        try:
            yield
        finally:
            self._plainly -= 1

    # Which weights the model holds.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`. Afterwards the model holds the averaged weights, where a rule keeps
        an average."""
        output = super().train(*args, **kwargs)
        self._hold_averaged()
        return output

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate; see `transformers.Trainer.evaluation_loop`. No optimizer is made for it."""
        with self._looking():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the model; see `transformers.Trainer.save_model`. Averaged weights are saved, where a rule has them."""
        self._hold_averaged()
        super().save_model(*args, **kwargs)

    def _load_best_model(self) -> None:
        self._hold_averaged()  # these were saved, and are what comes back
        super()._load_best_model()

    def _hold_averaged(self) -> None:
        """Put the averaged weights into the model; the next training step puts the others back."""
        change = getattr(self._kept("optimizer"), "eval", None)
        if callable(change):
            change()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; see `transformers.Trainer.log`. With the `stepwell_callback` every reporter hears the optimizer."""
        ours = next((one for one in self.callback_handler.callbacks if isinstance(one, StepwellCallback)), None)
        if ours is not None and of_training(logs):
            logs.update(ours.numbers(self._kept("optimizer")))
        super().log(logs, *args, **kwargs)


class Trainer(TrainerMixin, transformers.Trainer):  # type: ignore[misc]
    """transformers' `Trainer`, with the optimizer and the schedule that `TrainingArguments` name; see `TrainerMixin`.

        args = TrainingArguments(output_dir="out", optim="muon", learning_rate=1e-3)
        Trainer(model, args, train_dataset=dataset).train()

    Without arguments it has those of `TrainingArguments(output_dir="tmp_trainer")`, as transformers' has.
    """

    def __init__(self, model: Any = None, args: Any = None, *others: Any, **kwargs: Any) -> None:
        super().__init__(model, TrainingArguments("tmp_trainer") if args is None else args, *others, **kwargs)


def _first_with(method: str, kind: type) -> type:
    """The first of a class's ancestors, the mixin and what stands before it left out, that defines the method; a method
    that the mixin does not have may stand anywhere."""
    classes = kind.__mro__
    after = classes[classes.index(TrainerMixin) + 1 :] if method in vars(TrainerMixin) else classes
    return next(each for each in after if method in vars(each))


@cache
def _warn_once(line: str) -> None:
    _LOG.warning(line)


class _Undecayed:
    """Whether a parameter is one that transformers leaves undecayed."""

    def __init__(self, decayed: list[str]) -> None:
        self._decayed = frozenset(decayed)

    __qualname__ = "get_decay_parameter_names"

    def __call__(self, entry: ParameterRole) -> bool:
        return entry.name not in self._decayed
