"""Presets: the numbers that their sources state, and that each of them trains."""

from __future__ import annotations

import math

import pytest
import torch

import stepwell
from small_models import Language, Vision
from stepwell import Recipe
from stepwell.recipes import PRESETS
from stepwell.schedules import Constant, Cosine, Linear, MultiStep

# By route of the preset: the rule and the numbers, from the papers and pages that `source` names.
NUMBERS = {
    # Loshchilov & Hutter; torch.optim.AdamW's defaults.
    "adamw": [("AdamW", {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01})],
    # Kingma & Ba, Alg. 1.
    "adam": [("Adam", {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})],
    # torch.optim.SGD's defaults.
    "sgd": [("SGD", {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0})],
    # Chen et al., Alg. 2 and their code: lr=1e-4, betas 0.9 and 0.99.
    "lion": [("Lion", {"lr": 1e-4, "betas": (0.9, 0.99)})],
    # You et al., sec. 4: beta1 = 0.9, beta2 = 0.999, eps = 1e-6.
    "lamb": [("LAMB", {"betas": (0.9, 0.999), "eps": 1e-6})],
    # Defazio et al. and their package: lr=0.0025, betas 0.9 and 0.999.
    "schedule-free": [("ScheduleFreeAdamW", {"lr": 2.5e-3, "betas": (0.9, 0.999)})],
    # Their package: lr=1.0, momentum=0.9.
    "schedule-free-sgd": [("ScheduleFreeSGD", {"lr": 1.0, "momentum": 0.9})],
    # Liu et al., sec. 2.2: 0.2·√max(rows, cols), decay 0.1, momentum 0.95, 5 steps of Newton and Schulz.
    "muon": [
        ("Muon", {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.1, "momentum": 0.95, "ns_steps": 5}),
        ("AdamW", {"weight_decay": 0.1}),
    ],
    # The Muon repository: lr=0.02, weight_decay=0.01 beside lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01.
    "muon-original": [
        ("Muon", {"lr": 0.02, "weight_decay": 0.01, "momentum": 0.95, "adjust_lr_fn": None}),
        ("AdamW", {"lr": 3e-4, "betas": (0.9, 0.95), "weight_decay": 0.01}),
    ],
    # The SOAP repository: lr=3e-3, betas=(.95, .95), weight_decay=.01, precondition_frequency=10.
    "soap": [
        ("SOAP", {"lr": 3e-3, "betas": (0.95, 0.95), "weight_decay": 0.01, "precondition_frequency": 10}),
        ("AdamW", {"lr": 3e-3, "betas": (0.95, 0.95), "weight_decay": 0.01}),
    ],
    # Brown et al., app. B: beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay 0.1, clipped at 1.0; table 2.1: 6.0e-4.
    "gpt": [("AdamW", {"lr": 6e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1})],
    # Touvron et al. 2023, sec. 2.2: beta1 = 0.9, beta2 = 0.95, eps = 1e-5, decay 0.1, clipped at 1.0; table 1: 3.0e-4.
    "llama": [("AdamW", {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.1})],
    # Mosbach et al.: 2e-5 with bias correction; Devlin et al., app. A.2: decay 0.01.
    "finetune": [("AdamW", {"lr": 2e-5, "betas": (0.9, 0.999), "weight_decay": 0.01})],
    # Clark et al., table 7: 1e-4 for Base, eps = 1e-6, beta1 = 0.9, beta2 = 0.999, decay 0.
    "llrd": [("AdamW", {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0})],
    # He et al., table 9: 1e-3 · 1024/256, betas 0.9 and 0.999, decay 0.05.
    "vit-finetune": [("AdamW", {"lr": 1e-3 * 1024 / 256, "betas": (0.9, 0.999), "weight_decay": 0.05})],
    # Touvron et al. 2021, table 9: 0.0005 · 1024/512, decay 0.05.
    "vit": [("AdamW", {"lr": 0.0005 * 1024 / 512, "weight_decay": 0.05})],
    # Goyal et al., sec. 5.1: 0.1 · 256/256, Nesterov's momentum of 0.9, decay 0.0001.
    "resnet": [("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4})],
    # Raffel et al., sec. 3.1.3: a constant 0.001.
    "t5-adafactor": [("Adafactor", {"lr": 1e-3, "relative_step": False, "scale_parameter": True})],
}
# By preset: the schedule of the rate, the decay by layer, the norm that gradients are clipped to.
AROUND = {
    "adamw": (Cosine(warmup=0.1), None, None),
    "adam": (Cosine(warmup=0.1), None, None),
    "sgd": (Cosine(warmup=0.1), None, None),
    "lion": (Cosine(warmup=0.1), None, None),
    "lamb": (Cosine(warmup=0.1), None, None),
    "schedule-free": (Constant(warmup=0.1), None, None),
    "schedule-free-sgd": (Constant(warmup=0.1), None, None),
    "muon": (Cosine(warmup=0.1), None, None),
    "muon-original": (Cosine(warmup=0.1), None, None),
    "soap": (Cosine(warmup=0.1), None, None),
    "gpt": (Cosine(warmup=375e6 / 300e9, end=0.1), None, 1.0),
    "llama": (Cosine(warmup=2000, end=0.1), None, 1.0),
    "finetune": (Linear(warmup=0.1), None, 1.0),
    "llrd": (Linear(warmup=0.1), 0.8, 1.0),
    "vit-finetune": (Cosine(warmup=5 / 100), 0.75, None),
    "vit": (Cosine(warmup=5 / 300), None, None),
    "resnet": (MultiStep(warmup=5 / 90, at=(30 / 90, 60 / 90, 80 / 90)), None, None),
    "t5-adafactor": (Constant(), None, None),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_numbers_are_those_of_the_source(name):
    recipe = PRESETS[name]
    rules = [recipe.rule_of(route) for route in recipe.routes]
    assert [type(rule).__name__ for rule in rules] == [rule for rule, _ in NUMBERS[name]]
    for rule, (_, numbers) in zip(rules, NUMBERS[name], strict=True):
        assert {key: rule.values()[key] for key in numbers} == numbers
    assert (recipe.schedules["lr"], recipe.layer_decay, recipe.clip_norm) == AROUND[name]
    assert recipe.source


@pytest.mark.parametrize("kind", [Language, Vision])
@pytest.mark.parametrize("name", PRESETS)
def test_each_lays_over_models_and_trains_a_step(name, kind):
    torch.manual_seed(0)
    model = kind()
    plan = stepwell.plan(model, name, horizon=10_000)
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    optimizer, scheduler = plan.build()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scheduler.step(2000)  # where every warm-up is over
    model.loss().backward()
    optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert math.isfinite(model.loss().item())


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"llama"}))  # its warm-up is 2000 steps, whatever the horizon
def test_each_whose_lengths_are_shares_is_tried_for_a_few_steps(name, horizon):
    model = Vision()
    optimizer, scheduler = stepwell.plan(model, name, horizon=horizon).build()
    for _ in range(horizon):
        model.loss().backward()
        optimizer.step()
        scheduler.step()
    assert math.isfinite(model.loss().item())


@pytest.mark.parametrize("name", ["Schedule-Free", "schedule_free", "SCHEDULE-FREE"])
def test_case_and_underscores_do_not_matter(name):
    assert Recipe.preset(name) is PRESETS["schedule-free"]


def test_a_name_that_is_not_there():
    with pytest.raises(ValueError) as error:
        Recipe.preset("lama")
    assert str(error.value) == f"unknown recipe 'lama' (did you mean 'llama'?); recipes are {', '.join(PRESETS)}"
