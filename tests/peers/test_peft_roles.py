"""Roles and depths of adapters: those of a hidden matrix, at the depth of the layer that they adapt."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from torch import nn

from peers.transformers_models import MODELS
from roles.reading_tables import expected, found
from stepwell.roles import deepest, parameter_roles

pytestmark = pytest.mark.peers

peft = pytest.importorskip("peft")


def adapted(model: str, **config: Any) -> nn.Module:
    with warnings.catch_warnings():  # of libraries that are not the subject
        warnings.simplefilter("ignore")
        return peft.get_peft_model(MODELS[model](), peft.LoraConfig(r=2, **config))


@pytest.mark.parametrize(
    ("table", "model", "config"),
    [
        ("lora", "bert", {"task_type": "SEQ_CLS"}),
        ("lora-all-linear", "llama", {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}),
        ("dora", "gpt2", {"task_type": "CAUSAL_LM", "target_modules": ["c_attn"], "use_dora": True}),
    ],
)
def test_what_is_trained(table, model, config):
    entries = parameter_roles(adapted(model, **config))
    assert found(entry for entry in entries if entry.parameter.requires_grad) == expected(table)
    assert deepest(entries) == 3


def test_what_is_frozen_keeps_its_role_and_depth():
    plain = expected("llama")
    for name, row in found(parameter_roles(adapted("llama", target_modules=["q_proj"]))).items():
        if "lora" not in name:
            assert row == plain[name.removeprefix("base_model.model.").replace(".base_layer", "")]
