"""What is true of every wrapper: it stays a rule like any other, and says what it does not fit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from rules.walking import quartic
from stepwell import Optimizer, Rule, agc, cautious, clip_value, ema, grokfast, lookahead, sam, schedule_free
from stepwell.rules import SGD, SOAP, Adam, AdamW, Lion, Muon, Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD, Scion
from stepwell.rules.registry import rule_class

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])

Wrap = Callable[[Rule], Rule]
WRAPPERS: dict[str, Wrap] = {
    "cautious": cautious,
    "lookahead": lookahead,
    "ema": ema,
    "grokfast": grokfast,
    "schedule_free": schedule_free,
    "sam": sam,
    "clip_value": clip_value,
    "agc": agc,
}
each = pytest.mark.parametrize("word", WRAPPERS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each
@pytest.mark.parametrize("inner", [AdamW(lr=0.05, betas=(0.8, 0.9)), SGD(lr=0.05, momentum=0.9)])
def test_its_name_is_in_groups_and_checkpoints(word: str, inner: Rule) -> None:
    rule = WRAPPERS[word](inner)
    name = f"{word}({type(inner).__name__})"
    p = random(4).requires_grad_()
    optimizer = Optimizer([p], rule)
    optimizer.step(quartic([p], optimizer))
    assert optimizer.param_groups[0]["rule"] == name
    assert optimizer.param_groups[0]["lr"] == 0.05
    q = p.detach().clone().requires_grad_()
    resumed = Optimizer([{"params": [q], "rule": name}], AdamW())
    resumed.load_state_dict(optimizer.state_dict())
    for weights, running in ((p, optimizer), (q, resumed)):
        running.step(quartic([weights], running))
    assert torch.equal(p.detach(), q.detach())
    with pytest.raises(ValueError, match=rf"^the state was saved by {word}\({type(inner).__name__}\), the rule"):
        Optimizer([q], Lion()).load_state_dict(optimizer.state_dict())


@each
def test_it_has_one_class_by_whatever_way(word: str) -> None:
    kind = type(WRAPPERS[word](AdamW()))
    assert kind is type(WRAPPERS[word](AdamW(lr=0.5)))
    assert kind is rule_class(f"{word}(AdamW)") is rule_class(f"{word.upper().replace('_', '-')}(adamw)")
    assert kind.__name__ == f"{word}(AdamW)"
    assert issubclass(kind, AdamW)
    assert "Adam with decoupled weight decay" in (kind.__doc__ or "")


@each
def test_rules_and_their_optimizers_can_be_copied(word: str) -> None:
    rule = WRAPPERS[word](AdamW(lr=0.5))
    for twin in (pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
        assert twin == rule
        assert type(twin) is type(rule)
    p = random(4).requires_grad_()
    optimizer = Optimizer([p], rule)
    optimizer.step(quartic([p], optimizer))
    twin = pickle.loads(pickle.dumps(optimizer))
    (q,) = twin.param_groups[0]["params"]
    optimizer.step(quartic([p], optimizer))
    twin.step(quartic([q], twin))
    assert torch.equal(p.detach(), q.detach())


@each
def test_the_inner_rules_numbers_stay_live(word: str) -> None:
    p = random(4).requires_grad_()
    optimizer = Optimizer([p], WRAPPERS[word](SGD(lr=0.1)))
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.detach().clone()
    optimizer.step(quartic([p], optimizer))
    assert torch.equal(p.detach(), before)


def test_wrappers_may_be_nested() -> None:
    rule = ema(cautious(AdamW(lr=0.1)), decay=0.5)
    assert type(rule).__name__ == "ema(cautious(AdamW))"
    assert rule_class("ema(cautious(AdamW))") is type(rule)
    assert rule.slot_list()[-1].name == "ema"
    p = torch.ones(3, requires_grad=True)
    optimizer = Optimizer([p], rule)
    p.grad = torch.ones(3)
    optimizer.step()
    assert set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq", "ema"}


@ENGINES
@pytest.mark.parametrize("wrap", [ema, lookahead, grokfast, clip_value, agc])
def test_nested_in_any_other_it_runs_in_float32(wrap: Wrap, engine: str) -> None:
    # The mask of `cautious` is made of two plain numbers, in whatever is computed in.
    rule = wrap(cautious(AdamW(lr=0.1)))
    p = random(3, 4).float().requires_grad_()
    exact = p.detach().double().requires_grad_()
    optimizers = Optimizer([p], rule, engine=engine), Optimizer([exact], rule, engine="reference")
    for step in range(3):
        gradient = random(3, 4, seed=step + 1).float()
        p.grad, exact.grad = gradient, gradient.double()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(p.detach().double(), exact.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("word", ["cautious", "lookahead", "ema", "grokfast", "schedule_free", "clip_value", "agc"])
@pytest.mark.parametrize("engine", ["reference", "auto"])
def test_around_muon(word: str, engine: str) -> None:
    # Matrices of one shape in one optimizer, of which some may be stacked, are what each is alone.
    rule = WRAPPERS[word](Muon(lr=0.1))
    together = [random(4, 6, seed=seed).requires_grad_() for seed in range(3)]
    alone = [p.detach().clone().requires_grad_() for p in together]
    groups = [Optimizer(together, rule, engine=engine), *(Optimizer([p], rule, engine=engine) for p in alone)]
    for step in range(4):
        for index, pair in enumerate(zip(together, alone, strict=True)):
            for p in pair:
                p.grad = random(4, 6, seed=10 * step + index)
        for optimizer in groups:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-10, atol=1e-10)


def test_around_a_rule_that_another_serves_for_vectors() -> None:
    # SOAP gives vectors to Adam, and so does it inside a wrapper.
    vector, matrix = torch.ones(4, requires_grad=True), random(3, 4).float().requires_grad_()
    expected = torch.ones(4, requires_grad=True)
    ours = Optimizer([vector, matrix], cautious(SOAP(lr=0.1)))
    plain = Optimizer([expected], cautious(Adam(lr=0.1, betas=(0.95, 0.95), weight_decay=0.01, decay="decoupled")))
    for step in range(3):
        vector.grad, matrix.grad = random(4, seed=step).float(), random(3, 4, seed=step).float()
        expected.grad = vector.grad.clone()
        ours.step()
        plain.step()
    assert torch.equal(vector.detach(), expected.detach())


@pytest.mark.parametrize(
    ("wrap", "rule", "reason"),
    [
        (cautious, ScheduleFreeSGD(), "it masks a rule's direction, and this rule gives a whole update"),
        (schedule_free, ScheduleFreeAdamW(), "it keeps an average of its own"),
        (schedule_free, ema(SGD()), "it keeps an average of its own"),
        (schedule_free, lookahead(SGD()), "it averages a rule's direction, and this rule gives a whole update"),
        (lookahead, ScheduleFreeSGD(), "it keeps an average of its own"),
        (ema, ScheduleFreeAdamW(), "it keeps an average of its own"),
        (ema, ema(SGD()), "it keeps an average of its own"),
        (clip_value, Prodigy(), "it measures the gradients of all parameters before they are clipped"),
        (agc, Prodigy(), "it measures the gradients of all parameters before they are clipped"),
        (grokfast, Prodigy(), "it measures all gradients before they are amplified"),
        (grokfast, grokfast(SGD()), "both have a hyper-parameter called 'grok_alpha'"),
    ],
)
def test_what_does_not_fit_says_why(wrap: Wrap, rule: Rule, reason: str) -> None:
    with pytest.raises(TypeError) as raised:
        wrap(rule)
    word = next(word for word, wrapper in WRAPPERS.items() if wrapper is wrap)
    assert str(raised.value) == f"{word} does not fit {type(rule).__name__}: {reason}"


@pytest.mark.parametrize("inner", [ScheduleFreeSGD(lr=0.1), ScheduleFreeAdamW(lr=0.1)])
@pytest.mark.parametrize("wrap", [grokfast, sam])
def test_around_schedule_free_where_it_fits(wrap: Wrap, inner: Rule) -> None:
    p = random(4).requires_grad_()
    optimizer = Optimizer([p], wrap(inner))
    for _ in range(3):
        optimizer.step(quartic([p], optimizer))
    trained = p.detach().clone()
    with optimizer.averaged():
        assert not torch.equal(p.detach(), trained)
    assert torch.equal(p.detach(), trained)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: cautious(AdamW),
            TypeError,
            r"^cautious takes a stepwell.Rule such as stepwell.rules.AdamW\(\), got",
        ),
        (lambda: lookahead(SGD(), k=0), ValueError, r"^sync_period must be a whole number at least 1, got 0$"),
        (lambda: lookahead(SGD(), alpha=0.0), ValueError, r"^slow_step must be in \(0, 1\], got 0\.0$"),
        (lambda: ema(SGD(), decay=1.0), ValueError, r"^ema_decay must be in \[0, 1\), got 1\.0$"),
        (lambda: grokfast(SGD(), lamb=-1.0), ValueError, r"^grok_lambda must be at least 0, got -1\.0$"),
        (lambda: clip_value(SGD(), limit=0.0), ValueError, r"^value_limit must be above 0, got 0\.0$"),
        (lambda: agc(SGD(), ratio=0.0), ValueError, r"^agc_ratio must be above 0, got 0\.0$"),
        (lambda: sam(SGD(), rho=-0.1), ValueError, r"^rho must be at least 0, got -0\.1$"),
        (lambda: cautious(SGD(), least_share=0.0), ValueError, r"^least_share must be above 0, got 0\.0$"),
        (lambda: schedule_free(SGD(), warmup_steps=0.5), ValueError, r"^warmup_steps must be a whole number"),
        # A weight decay of 0 is live, and would do nothing where it grows.
        (lambda: schedule_free(SGD(decay="independent")), ValueError, r"decay must be 'coupled' or 'decoupled'"),
        (lambda: schedule_free(AdamW(decay="proximal")), ValueError, r"decay must be 'coupled' or 'decoupled'"),
        (lambda: rule_class("cautios(AdamW)"), ValueError, r"^unknown wrapper 'cautios' \(did you mean 'cautious'\?\)"),
        (lambda: rule_class("cautious(Lionn)"), ValueError, r"^unknown rule 'Lionn' \(did you mean 'Lion'\?\)"),
    ],
)
def test_values_that_are_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_wrappers_are_in_the_package() -> None:
    for word, wrapper in WRAPPERS.items():
        assert getattr(stepwell, word) is wrapper


@pytest.mark.parametrize(
    ("rule", "for_a_vector"),
    [
        (lookahead(clip_value(Scion())), "lookahead(clip_value(ScionOfVectors))"),
        (sam(clip_value(lookahead(SOAP()))), "sam(clip_value(lookahead(Adam)))"),
        (clip_value(ema(Muon())), "clip_value(ema(Muon))"),
        (ema(SGD()), "ema(SGD)"),
    ],
)
def test_wrappers_stay_around_what_fits_the_shape(rule: Rule, for_a_vector: str) -> None:
    shape = (3, 3) if "Muon" in for_a_vector else (3,)
    fitted = rule.fit(shape)
    assert type(fitted).__name__ == for_a_vector
    assert fitted.fit(shape) is fitted
    named = {name: value for name, value in rule.values().items() if name in fitted.values()}
    assert {"value_limit", "sync_period", "ema_decay", "rho"} & named.keys()
    assert named.items() <= fitted.values().items()


def test_an_inner_wrapper_works_on_vectors_too() -> None:
    v = torch.nn.Parameter(torch.zeros(3))
    optimizer = Optimizer([v], ema(clip_value(SOAP(lr=1.0), limit=0.5)))
    v.grad = torch.tensor([3.0, -2.0, 0.25])
    optimizer.step()
    assert optimizer.state[v]["exp_avg"].tolist() == pytest.approx([0.05 * 0.5, 0.05 * -0.5, 0.05 * 0.25])
    with optimizer.averaged():
        assert not torch.equal(v, torch.zeros(3))
