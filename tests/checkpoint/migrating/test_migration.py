"""Trainings go on from what another optimizer or rule has left."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from checkpoint.migrations import assert_near, go, made
from checkpoint.small_training import seed, training
from stepwell import Rule, checkpoint, rules
from stepwell.checkpoint import CheckpointError
from stepwell.codecs import joined

# From torch, and back.

PEERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], Callable[[Any], torch.optim.Optimizer]]] = {
    "AdamW": (
        lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2),
        lambda params: stepwell.AdamW(params, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2),
    ),
    "SGD": (
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        lambda params: stepwell.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "RMSprop": (
        lambda params: torch.optim.RMSprop(params, lr=0.01, centered=True),
        lambda params: stepwell.RMSprop(params, lr=0.01, centered=True),
    ),
    "NAdam": (lambda params: torch.optim.NAdam(params), lambda params: stepwell.NAdam(params)),
    "Adamax": (lambda params: torch.optim.Adamax(params), lambda params: stepwell.Adamax(params)),
    "Adagrad": (lambda params: torch.optim.Adagrad(params), lambda params: stepwell.Adagrad(params)),
    "Adadelta": (lambda params: torch.optim.Adadelta(params), lambda params: stepwell.Adadelta(params)),
}


@pytest.mark.parametrize("what", ["optimizer", "state dict", "file", "checkpoint"])
@pytest.mark.parametrize("peer", PEERS)
def test_from_torch(peer: str, what: str, tmp_path: Path) -> None:
    theirs, ours = PEERS[peer]
    whole = made()
    first = theirs(whole.parameters())
    go(whole, first, 3)
    torch.save({"model": whole.state_dict(), "optimizer": first.state_dict()}, tmp_path / "a.pt")
    sources: dict[str, Callable[[], Any]] = {
        "optimizer": lambda: first,
        "state dict": first.state_dict,
        "file": lambda: tmp_path / "a.pt",
        "checkpoint": lambda: checkpoint.save(tmp_path / "run", model=whole, optimizer=first),
    }
    source = sources[what]()
    model = whole if what == "optimizer" else made(seeded=3)
    if what == "state dict":
        model.load_state_dict(whole.state_dict())
    second = ours(model.parameters())
    report = checkpoint.migrate(source, model=model, optimizer=second)
    assert {(one.how, one.rules) for one in report.moved} == {("kept", (peer, peer))}
    assert [one.name for one in report.moved] == [name for name, _ in model.named_parameters()]
    twin = made()
    uninterrupted = theirs(twin.parameters())
    go(twin, uninterrupted, 6)
    go(model, second, 3)
    assert_near(model, twin)


@pytest.mark.parametrize("peer", PEERS)
def test_back_to_torch(peer: str, tmp_path: Path) -> None:
    theirs, ours = PEERS[peer]
    whole = made()
    first = ours(whole.named_parameters())
    go(whole, first, 3)
    checkpoint.save(tmp_path, model=whole, optimizer=first, extra={"epoch": 3})
    state = checkpoint.torch_state(tmp_path)
    torch.save(state, tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert state["extra"] == {"epoch": 3}
    model = made(seeded=3)
    model.load_state_dict(state["model"])
    second = theirs(model.named_parameters())
    for group in state["optimizer"]["param_groups"]:
        assert group.keys() <= second.param_groups[0].keys()
    second.load_state_dict(state["optimizer"])
    go(model, second, 3)
    go(whole, first, 3)
    assert_near(model, whole)


def test_a_live_optimizer_of_torchs_takes_ours(tmp_path: Path) -> None:
    whole = made()
    first = stepwell.AdamW(whole.named_parameters(), lr=0.1)
    go(whole, first, 3)
    checkpoint.save(tmp_path, model=whole, optimizer=first)
    model = made(seeded=3)
    second = torch.optim.AdamW(model.parameters(), lr=0.1)
    checkpoint.migrate(tmp_path, model=model, optimizer=second)
    go(model, second, 3)
    go(whole, first, 3)
    assert_near(model, whole)


def test_several_rules_become_several_of_torchs(tmp_path: Path) -> None:
    one = training("muon", schedule="cosine").go(2)
    one.save(tmp_path)
    state = checkpoint.torch_state(tmp_path)
    assert state["step"] == 2
    assert set(state["optimizers"]) == {"Muon", "AdamW"}
    assert state["model"].keys() == one.model.state_dict().keys()
    muon = torch.optim.Muon([("1.weight", one.model[1].weight)])
    muon.load_state_dict(state["optimizers"]["Muon"])
    assert torch.equal(
        muon.state[one.model[1].weight]["momentum_buffer"],
        one.optimizer.state[one.model[1].weight]["momentum_buffer"],
    )


def test_tensors_in_extra_state_are_no_weights(tmp_path: Path) -> None:
    class Measuring(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"range": torch.ones(2)}

        def set_extra_state(self, state: Any) -> None:
            pass

    checkpoint.save(tmp_path, model=Measuring(2, 2))
    assert list(checkpoint.torch_state(tmp_path)["model"]) == ["weight", "bias"]


def test_what_torch_cannot_do_is_refused(tmp_path: Path) -> None:
    model = made()
    checkpoint.save(tmp_path / "a", model=model, optimizer=stepwell.Lion(model.parameters()))
    with pytest.raises(CheckpointError, match=r"is of Lion, and torch\.optim has no such optimizer$"):
        checkpoint.torch_state(tmp_path / "a")
    optimizer = stepwell.AdamW(model.parameters(), decay="independent", weight_decay=0.1)
    checkpoint.save(tmp_path / "b", model=model, optimizer=optimizer)
    with pytest.raises(
        CheckpointError, match=r"has independent weight decay, which torch\.optim\.AdamW does not have$"
    ):
        checkpoint.torch_state(tmp_path / "b")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (rules.SGD(average=True), r"has average=True, which torch\.optim\.SGD does not have$"),
        (rules.AdamW(correct_bias=False), r"has correct_bias=False, which torch\.optim\.AdamW does not have$"),
        (rules.Adafactor(), r"has relative_step=True, which torch\.optim\.Adafactor does not have$"),
        (rules.lookahead(rules.AdamW()), r"is of lookahead\(AdamW\), and torch\.optim\.AdamW takes other steps$"),
        (rules.cautious(rules.AdamW()), r"is of cautious\(AdamW\), and torch\.optim\.AdamW takes other steps$"),
        (rules.ema(rules.AdamW()), None),
    ],
    ids=str,
)
def test_what_torch_does_otherwise_is_refused(rule: Rule, said: str | None, tmp_path: Path) -> None:
    model = made()
    optimizer = stepwell.Optimizer(model.parameters(), rule)
    go(model, optimizer, 1)
    checkpoint.save(tmp_path, model=model, optimizer=optimizer)
    if said is None:
        torch.optim.AdamW(model.parameters()).load_state_dict(checkpoint.torch_state(tmp_path)["optimizer"])
    else:
        with pytest.raises(CheckpointError, match=said):
            checkpoint.torch_state(tmp_path)


# Between rules.


def test_from_adamw_to_muon_and_adamw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = training("adamw").go(3)
    first.save(tmp_path, extra={"epoch": 3})
    second = training("muon", seeded=5, weight_decay=0.01)
    with caplog.at_level(logging.INFO, "stepwell"):
        report = checkpoint.migrate(
            tmp_path, model=second.model, optimizer=second.optimizer, scheduler=second.scheduler
        )
    assert str(report) == (
        f"{tmp_path / '000001'}:\n"
        "  converted  1 parameter, AdamW → Muon: exp_avg as momentum_buffer\n"
        "  kept       4 parameters, AdamW: exp_avg, exp_avg_sq\n"
        "  note       the scheduler goes on at step 3"
    )
    assert caplog.messages[-1] == f"migrated from {report}"
    assert report.extra == {"epoch": 3}
    assert json.loads(json.dumps(report.to_data()))["moved"][0]["how"] == "converted"
    for name, p in first.model.named_parameters():
        assert torch.equal(second.model.get_parameter(name), p)
        old, new = first.optimizer.state[p], second.optimizer.state[second.model.get_parameter(name)]
        if name == "1.weight":
            assert torch.equal(new["momentum_buffer"], old["exp_avg"])
        else:
            assert torch.equal(new["exp_avg"], old["exp_avg"])
            assert torch.equal(new["exp_avg_sq"], old["exp_avg_sq"])
        assert new["step"] == 3
    assert second.scheduler.last_epoch == 3
    second.go(2)


def test_to_schedule_free_and_back(tmp_path: Path) -> None:
    first = training("adamw", schedule=None).go(3)
    first.save(tmp_path / "a")
    second = training("schedule-free", schedule=None, seeded=5, warmup_steps=2)
    report = checkpoint.migrate(tmp_path / "a", model=second.model, optimizer=second.optimizer)
    assert {one.what for one in report.moved} == {"it starts from the weights"}
    assert not second.optimizer.state
    second.go(3)
    second.save(tmp_path / "b")
    third = training("adamw", schedule=None, seeded=6)
    report = checkpoint.migrate(tmp_path / "b", model=third.model, optimizer=third.optimizer)
    assert report.notes == ("the weights of '0.weight' and 4 more are their average, as Schedule-Free evaluates them",)
    assert isinstance(second.optimizer, stepwell.Optimizer)
    with second.optimizer.averaged():
        for p, q in zip(third.model.parameters(), second.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    third.go(1)


def test_schedule_free_that_was_saved_for_evaluation(tmp_path: Path) -> None:
    first = training("schedule-free", schedule=None).go(3)
    assert isinstance(first.optimizer, stepwell.Optimizer)
    first.optimizer.eval()
    first.save(tmp_path)
    other = training("adamw", schedule=None, seeded=2)
    report = checkpoint.migrate(tmp_path, model=other.model, optimizer=other.optimizer)
    assert report.notes == ("the weights of '0.weight' and 4 more were saved as their average, and stay that",)
    assert all(map(torch.equal, other.model.parameters(), first.model.parameters()))
    same = training("schedule-free", schedule=None, seeded=2)
    checkpoint.migrate(tmp_path, model=same.model, optimizer=same.optimizer)
    assert same.optimizer.param_groups[0]["holds"] == "averaged"
    for each in (first, same):
        assert isinstance(each.optimizer, stepwell.Optimizer)
        each.optimizer.train()
        seed(1)
        each.go(2)
    assert same.everything()[0] == first.everything()[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_slots_in_another_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    first = training("adamw").go(2)
    first.save(tmp_path)
    second = training("adamw", seeded=5)
    checkpoint.migrate(tmp_path, model=second.model, optimizer=second.optimizer, dtype=dtype)
    for p, q in zip(first.parameters, second.parameters, strict=True):
        for slot in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(second.optimizer.state[q][slot], first.optimizer.state[p][slot].to(dtype))
    second.go(1)


@pytest.mark.parametrize("what", ["checkpoint", "optimizer", "state dict"])
@pytest.mark.parametrize("there", ["8bit", "4bit", "bfloat16", "float32"])
@pytest.mark.parametrize("here", [None, "8bit", "4bit", "bfloat16", "float32"])
def test_between_storages(here: Any, there: Any, what: str, tmp_path: Path) -> None:
    """A slot has what it had, as near as the rougher of the two storages: 8 bits keep 3 digits after the leading one,
    4 bits one, where a number is not far below the largest of its block."""

    def made(state_dtype: Any) -> tuple[nn.Linear, stepwell.Optimizer]:
        seed(0)
        model = nn.Linear(96, 64, bias=False)
        return model, stepwell.AdamW(model.named_parameters(), lr=0.01, state_dtype=state_dtype)

    model, old = made(there)
    for _ in range(2):
        model.weight.grad = torch.sin(torch.arange(96 * 64.0)).view(64, 96)
        old.step()
    sources = {"optimizer": old, "state dict": old.state_dict(), "checkpoint": tmp_path}
    checkpoint.save(tmp_path, model=model, optimizer=old)
    other, new = made(here)
    report = checkpoint.migrate(sources[what], model=other, optimizer=new)
    assert {one.how for one in report.moved} == {"kept"}
    rule = stepwell.rules.AdamW().fit((64, 96))
    before, after = (joined(rule, each.state[p], (64, 96)) for each, p in ((old, model.weight), (new, other.weight)))
    rough = max({"8bit": 0.05, "4bit": 0.3, "bfloat16": 2**-8}.get(each, 1e-7) for each in (here, there))
    for slot in ("exp_avg", "exp_avg_sq"):
        largest = float(before[slot].abs().max())
        assert float((before[slot] - after[slot]).abs().max()) <= rough * largest
    other.weight.grad = torch.ones(64, 96)
    new.step()


def test_torch_takes_what_was_kept_in_8_bits(tmp_path: Path) -> None:
    model = nn.Linear(96, 64, bias=False)
    ours = stepwell.AdamW(model.named_parameters(), lr=0.01, state_dtype="8bit")
    model.weight.grad = torch.ones(64, 96)
    ours.step()
    checkpoint.save(tmp_path, optimizer=ours)
    theirs = torch.optim.AdamW(model.parameters())
    theirs.load_state_dict(checkpoint.torch_state(tmp_path)["optimizer"])
    state = theirs.state[model.weight]
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    # (1 − 0.9)·1 and (1 − 0.999)·1, each the largest of its block, which 8 bits keep.
    torch.testing.assert_close(state["exp_avg"], torch.full((64, 96), 0.1))
    torch.testing.assert_close(state["exp_avg_sq"], torch.full((64, 96), 0.001))
    theirs.step()


def test_what_the_source_lacks_and_what_the_model_lacks(tmp_path: Path) -> None:
    first = training("adamw").go(1)
    first.save(tmp_path)
    seed(4)
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 3))
    optimizer = stepwell.create_optimizer(model, "adamw")
    report = checkpoint.migrate(tmp_path, model=model, optimizer=optimizer)
    assert [(one.name, one.how) for one in report.moved] == [
        *(("0.weight", "kept"), ("1.weight", "kept"), ("2.weight", "fresh"), ("2.bias", "fresh"))
    ]
    assert report.notes == (
        "lr of group 'adamw' is 0.001; it was 0.01",
        "the state of '1.bias' and 2 more is left out: they are not here",
        "'2.weight' and 1 more of the model stay as they are: {} does not have them".format(tmp_path / "000001"),
    )
