"""A training that is resumed goes on with the same bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from checkpoint.small_training import Training, generators, language_model, seed
from stepwell import checkpoint
from stepwell.pictures.gallery import EXAMPLES
from stepwell.schedules import parse

Make = Callable[..., Training]


def resume(training: Training, path: Path, **options: Any) -> Any:
    seed(77)  # another place in every stream of random numbers
    return training.load(path, **options)


# With the same bits.


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "inverse-sqrt", None])
@pytest.mark.parametrize("recipe", ["adamw", "muon", "lion", "schedule-free", "sgd"])
def test_a_resumed_training_has_the_same_bits(recipe: str, schedule: str | None, make: Make, tmp_path: Path) -> None:
    whole = make(recipe, schedule=schedule).go(3)
    whole.save(tmp_path, extra={"epoch": 3})
    here = whole.everything()
    resumed = make(recipe, schedule=schedule, seeded=9)
    extra = resume(resumed, tmp_path)
    assert (extra, extra.checkpoint, len(extra.differences)) == ({"epoch": 3}, tmp_path / "000001", 0)
    assert isinstance(resumed.optimizer, stepwell.Optimizer)
    resumed.optimizer.train()  # Schedule-Free sees whether the weights are those of its state
    assert resumed.everything() == here
    resumed.go(3)
    after = resumed.everything()
    checkpoint.load(tmp_path, random=True)  # the generators of that moment
    assert whole.go(3).everything() == after


def test_a_default_device_does_not_matter(make: Make, tmp_path: Path) -> None:
    """What is read from a file is read on the CPU: in scripts that begin with torch.set_default_device("cuda"), too."""
    whole = make("adamw", schedule="cosine").go(2)
    resumed = make("adamw", schedule="cosine", seeded=9)
    extra = {"table": torch.arange(3.0)}
    with torch.device("meta"):
        whole.save(tmp_path, extra=extra)
        found = resumed.load(tmp_path)
    assert resumed.everything() == whole.everything()
    assert torch.equal(found["table"], extra["table"])


@pytest.mark.parametrize(
    ("dtype", "storage"),
    [
        (torch.bfloat16, {"state_dtype": "8bit", "master": "stochastic"}),
        (torch.bfloat16, {"state_dtype": "bfloat16", "master": "kahan"}),
        (torch.bfloat16, {"state_dtype": "float32", "master": "compensated"}),
        (torch.float32, {"state_dtype": "4bit"}),
    ],
    ids=["stochastic", "kahan", "compensated", "4bit"],
)
def test_whatever_the_storage(dtype: torch.dtype, storage: dict[str, Any], tmp_path: Path) -> None:
    def make(seeded: int) -> tuple[nn.Module, stepwell.Optimizer]:
        torch.manual_seed(seeded)
        model = nn.Linear(80, 64, dtype=dtype)  # 5,120 weights: enough for blocks
        return model, stepwell.AdamW(model.parameters(), lr=0.1, rounding_seed=3, **storage)

    def go(model: nn.Module, optimizer: stepwell.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            for index, p in enumerate(model.parameters()):
                torch.manual_seed(10 * step + index)
                p.grad = torch.randn(p.shape).to(p.dtype)
            optimizer.step()

    whole, resumed = make(0), make(1)
    go(*whole, 0, 3)
    checkpoint.save(tmp_path, model=whole[0], optimizer=whole[1])
    checkpoint.load(tmp_path, model=resumed[0], optimizer=resumed[1])
    go(*whole, 3, 5)
    go(*resumed, 3, 5)
    for p, q in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(p, q)
        ours, theirs = whole[1].state[p], resumed[1].state[q]
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
            assert same, name


@pytest.mark.parametrize("offloaded", [False, True])
@pytest.mark.parametrize("here", ["kahan", "compensated", "compensated8", "float32", None])
@pytest.mark.parametrize("there", ["kahan", "compensated", "compensated8", "float32", None])
def test_another_master_keeps_what_was_saved_beside_the_weights(
    there: Any, here: Any, offloaded: bool, tmp_path: Path
) -> None:
    """As where the model loads its weights, and then the optimizer its state."""

    def make(seeded: int, master: Any) -> tuple[nn.Module, stepwell.Optimizer]:
        torch.manual_seed(seeded)
        model = nn.Linear(300, 200, dtype=torch.bfloat16)
        optimizer = stepwell.AdamW(model.parameters(), lr=1e-3, state_dtype="float32", master=master)
        for p in model.parameters():
            p.grad = torch.randn(p.shape).to(p.dtype)
        optimizer.step()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return model, stepwell.offload(optimizer) if offloaded else optimizer

    saving, loading, expected = make(0, there), make(1, here), make(2, here)
    checkpoint.save(tmp_path, model=saving[0], optimizer=saving[1])
    checkpoint.load(tmp_path, model=loading[0], optimizer=loading[1])
    expected[0].load_state_dict(saving[0].state_dict())
    expected[1].load_state_dict(saving[1].state_dict())
    for training in (loading, expected):
        for _ in range(2):
            training[1].step()
    for p, q in zip(loading[0].parameters(), expected[0].parameters(), strict=True):
        assert torch.equal(p, q)
        ours, theirs = loading[1].state[p], expected[1].state[q]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in ours)


def test_into_a_training_that_goes_on(make: Make, tmp_path: Path) -> None:
    # Back to an earlier checkpoint: slots that are there are filled, not made anew.
    training = make("muon", dtype=torch.bfloat16).go(2)
    training.save(tmp_path)
    expected = training.go(3).everything()
    big = training.optimizer.state[training.model[1].weight]
    training.load(tmp_path)
    assert training.optimizer.state[training.model[1].weight].keys() == big.keys()
    assert training.go(3).everything() == expected


@pytest.mark.parametrize("kind", ["LambdaLR", "MultiStepLR", "OneCycleLR", "SequentialLR", "ReduceLROnPlateau"])
def test_torchs_own(kind: str, tmp_path: Path) -> None:
    schedulers = torch.optim.lr_scheduler

    def made(seeded: int) -> Training:
        seed(seeded)
        model = language_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
        makers: dict[str, Callable[[], Any]] = {
            "LambdaLR": lambda: schedulers.LambdaLR(optimizer, lambda step: 0.9**step),
            "MultiStepLR": lambda: schedulers.MultiStepLR(optimizer, [2, 5, 5]),
            "OneCycleLR": lambda: schedulers.OneCycleLR(optimizer, 0.1, total_steps=20),
            "SequentialLR": lambda: schedulers.SequentialLR(
                optimizer,
                [schedulers.ConstantLR(optimizer), schedulers.MultiStepLR(optimizer, [1])],
                milestones=[4],
            ),
            "ReduceLROnPlateau": lambda: stepwell.ReduceOnPlateau(optimizer, patience=0),
        }
        scheduler = makers[kind]()
        if kind == "ReduceLROnPlateau":
            step, scheduler.step = scheduler.step, lambda: step(1.0)
        return Training(model, optimizer, scheduler)

    whole = made(0).go(3)
    whole.save(tmp_path)
    resumed = made(4)
    extra = resume(resumed, tmp_path)
    assert not extra.differences.refuse
    state = generators()
    resumed.go(6)
    expected = resumed.everything()
    checkpoint.load(tmp_path, random=True)
    assert generators() == state
    assert whole.go(6).everything() == expected


def test_slots_keep_their_dtype_and_their_engine_is_chosen_here(make: Make, tmp_path: Path) -> None:
    training = make("adamw", dtype=torch.bfloat16, engine="foreach", clip_norm=1.0).go(1)
    state = training.optimizer.state_dict()
    for slots in state["state"].values():
        slots["exp_avg_sq"] = slots["exp_avg_sq"].float() + 1e-4
    training.optimizer.load_state_dict(state)
    training.save(tmp_path)
    resumed = make("adamw", dtype=torch.bfloat16, engine="reference", clip_norm=2.0, seeded=3)
    resume(resumed, tmp_path)
    slots = resumed.optimizer.state[resumed.model[1].weight]
    assert (slots["exp_avg"].dtype, slots["exp_avg_sq"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(slots["exp_avg_sq"], training.optimizer.state[training.model[1].weight]["exp_avg_sq"])
    assert isinstance(resumed.optimizer, stepwell.Optimizer)
    assert (resumed.optimizer.engine, resumed.optimizer.clip_norm) == ("reference", 2.0)


def test_torchs_flags_stay_as_they_are_here(tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    saving = torch.optim.AdamW(first.parameters(), foreach=True)
    checkpoint.save(tmp_path, model=first, optimizer=saving)
    loading = torch.optim.AdamW(second.parameters(), fused=True)
    checkpoint.load(tmp_path, model=second, optimizer=loading)
    group = loading.param_groups[0]
    assert (group["fused"], group["foreach"]) == (True, None)


def test_a_part_may_be_loaded(make: Make, tmp_path: Path) -> None:
    training = make().go(2)
    training.save(tmp_path, extra={"epoch": 2})
    seed(3)
    other = language_model()
    before = generators()
    assert checkpoint.load(tmp_path, model=other) == {"epoch": 2}
    assert all(map(torch.equal, other.state_dict().values(), training.model.state_dict().values()))
    assert generators() == before  # weights for evaluation are no resume
    assert checkpoint.load(tmp_path, random=True) == {"epoch": 2}
    assert generators() != before


def test_extra_has_keys_of_any_plain_kind(tmp_path: Path) -> None:
    extra = {1: "x", ("a", 2.5): None, "self": 3, "$": 4}
    checkpoint.save(tmp_path, extra=extra)
    assert checkpoint.load(tmp_path) == extra


def test_weights_are_read_in_place(make: Make, tmp_path: Path) -> None:
    training = make("adamw").go(1)
    training.save(tmp_path)
    addresses = [p.data_ptr() for p in training.parameters]
    training.load(tmp_path)
    assert [p.data_ptr() for p in training.parameters] == addresses


def test_big_slots_are_read_into_place(tmp_path: Path) -> None:
    # More than what is read at once: new places in a new optimizer, the same ones in one that has state.
    model = nn.Linear(200, 300)
    optimizer = stepwell.AdamW(model.named_parameters(), lr=0.1)
    model(torch.ones(2, 200)).square().mean().backward()
    optimizer.step()
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    slots = optimizer.state[model.weight]
    expected, place = slots["exp_avg"].clone(), slots["exp_avg"].data_ptr()
    slots["exp_avg"].zero_()
    checkpoint.load(tmp_path, model=model, optimizer=optimizer)
    assert torch.equal(optimizer.state[model.weight]["exp_avg"], expected)
    assert optimizer.state[model.weight]["exp_avg"].data_ptr() == place
    fresh = stepwell.AdamW(model.named_parameters(), lr=0.1)
    checkpoint.load(tmp_path, optimizer=fresh)
    assert torch.equal(fresh.state[model.weight]["exp_avg"], expected)


class InFloat32(torch.optim.Optimizer):
    """Keeps float32 beside weights of any dtype; what it loads torch casts to the weights' dtype."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p]["sum"] = self.state[p].get("sum", 0) + torch.cos(p.detach().float())


def copying(params: Any) -> torch.optim.Optimizer:
    """Ours, with a hook that hands it a copy of what it loads."""
    optimizer = stepwell.AdamW(params, lr=0.1)
    optimizer.register_load_state_dict_pre_hook(lambda _, state: copy.deepcopy(state))
    return optimizer


@pytest.mark.parametrize("made", [InFloat32, copying])
def test_big_slots_that_are_there_are_loaded_into_optimizers_that_copy_them(
    made: Callable[[Any], torch.optim.Optimizer], tmp_path: Path
) -> None:
    model = nn.Linear(200, 300, dtype=torch.bfloat16)
    optimizer = made(model.parameters())

    def go() -> None:
        for p in model.parameters():
            p.grad = torch.cos(p.detach())
        optimizer.step()

    go()
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    saved = {name: value.clone() for name, value in optimizer.state[model.weight].items() if name != "step"}
    go()
    checkpoint.load(tmp_path, model=model, optimizer=optimizer)
    for name, value in saved.items():
        loaded = optimizer.state[model.weight][name]
        assert torch.equal(loaded, value.to(loaded.dtype)), name


def test_channels_last_and_complex(tmp_path: Path) -> None:
    def made(seeded: int) -> Training:
        torch.manual_seed(seeded)
        model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        model.register_parameter("phase", nn.Parameter(torch.randn(3, dtype=torch.complex128)))
        return Training(model, stepwell.AdamW(model.named_parameters(), lr=0.1))

    def go(training: Training) -> None:
        for p in training.parameters:
            p.grad = torch.cos(p.detach())
        training.optimizer.step()

    whole, resumed = made(0), made(1)
    go(whole)
    whole.save(tmp_path)
    resumed.load(tmp_path)
    go(whole)
    go(resumed)
    assert whole.everything()[0] == resumed.everything()[0]
    assert resumed.model.weight.stride() == whole.model.weight.stride()


class Compiled(nn.Module):
    """What `torch.compile` makes of a model, as far as names go."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_names_do_not_depend_on_what_runs_the_model(tmp_path: Path) -> None:
    plain = language_model()
    optimizer = stepwell.AdamW(plain.parameters(), lr=0.1)
    wrapped = nn.DataParallel(Compiled(nn.DataParallel(plain)))
    checkpoint.save(tmp_path, model=wrapped, optimizer=optimizer)
    other = language_model()
    assert not checkpoint.load(tmp_path, model=other, optimizer=stepwell.AdamW(other.parameters(), lr=0.1)).differences


@pytest.mark.parametrize("wrapped", [(False, True), (True, False), (True, True)], ids=["after", "before", "both"])
def test_an_optimizer_of_a_wrapped_model_needs_no_model(wrapped: tuple[bool, bool], tmp_path: Path) -> None:
    def made(wrapped: bool) -> Training:
        model = language_model()
        return Training(model, stepwell.create_optimizer(nn.DataParallel(model) if wrapped else model, "muon", lr=0.01))

    first, second = (made(each) for each in wrapped)
    checkpoint.save(tmp_path, optimizer=first.go(2).optimizer)
    assert not checkpoint.load(tmp_path, optimizer=second.optimizer).differences
    for p, q in zip(first.parameters, second.parameters, strict=True):
        for slot, value in first.optimizer.state[p].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second.optimizer.state[q][slot])), slot
    report = checkpoint.migrate(tmp_path, optimizer=second.optimizer)
    assert {one.how for one in report.moved} == {"kept"}


def test_a_layer_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    optimizer = stepwell.create_optimizer(model, "adamw", lr=0.1)
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    assert not checkpoint.load(tmp_path, model=model, optimizer=optimizer).differences
    assert not checkpoint.load(tmp_path, optimizer=optimizer).differences


def test_schedule_free_in_either_mode(make: Make, tmp_path: Path) -> None:
    training = make("schedule-free", schedule=None).go(3)
    assert isinstance(training.optimizer, stepwell.Optimizer)
    training.optimizer.eval()
    training.save(tmp_path)
    resumed = make("schedule-free", schedule=None, seeded=2)
    resume(resumed, tmp_path)
    assert isinstance(resumed.optimizer, stepwell.Optimizer)
    for each in (training, resumed):
        each.optimizer.train()
        seed(1)
        each.go(2)
    assert resumed.everything() == training.everything()


class Counting(nn.Linear):
    """A layer that keeps something beside tensors."""

    seen = 0
    refuse = False

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        if self.refuse and state["seen"]:
            raise RuntimeError("no")
        self.seen = state["seen"]


def test_extra_state_of_modules(tmp_path: Path) -> None:
    first, second = nn.Sequential(Counting(2, 2)), nn.Sequential(Counting(2, 2))
    first[0].seen = 5
    checkpoint.save(tmp_path, model=first)
    checkpoint.load(tmp_path, model=second)
    assert second[0].seen == 5
    third = nn.Sequential(Counting(2, 2))
    third[0].refuse = True
    before = third[0].weight.clone()
    with pytest.raises(RuntimeError, match="no"):
        checkpoint.load(tmp_path, model=third)
    assert torch.equal(third[0].weight, before)


class Measuring(nn.Linear):
    """A layer that keeps tensors beside those of the state dict."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.seen = {"range": torch.zeros(2)}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def test_tensors_in_extra_state(tmp_path: Path) -> None:
    first, second = nn.Sequential(Measuring()), nn.Sequential(Measuring())
    first[0].seen = {"range": torch.tensor([-1.0, 2.0])}
    checkpoint.save(tmp_path, model=first)
    assert not checkpoint.load(tmp_path, model=second).differences
    assert torch.equal(second[0].seen["range"], torch.tensor([-1.0, 2.0]))


def test_extra_state_of_a_module_under_two_names(tmp_path: Path) -> None:
    def made() -> nn.Sequential:
        layer = Counting(2, 2)
        return nn.Sequential(layer, layer)

    first, second = made(), made()
    first[0].seen = 5
    checkpoint.save(tmp_path, model=first)
    checkpoint.load(tmp_path, model=second)
    assert second[1].seen == 5


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_schedule_goes_on_with_the_same_rates(text: str, tmp_path: Path) -> None:
    def made() -> Training:
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        return Training(model, optimizer, stepwell.Scheduler(optimizer, lr=parse(text), horizon=40))

    whole = made()
    saved, rates = [], []
    for _ in range(6):
        saved.append(whole.save(tmp_path))
        for _ in range(8):
            rates.append(whole.optimizer.param_groups[0]["lr"])
            whole.scheduler.step()
    for turn, where in enumerate(saved):
        resumed = made()
        resumed.load(where)
        for expected in rates[8 * turn :]:
            assert resumed.optimizer.param_groups[0]["lr"] == expected
            resumed.scheduler.step()
