"""Roles and depths of transformers' models, built small from their configurations."""

from __future__ import annotations

import pytest
import torch

from peers.transformers_models import MODELS, build
from roles.reading_tables import expected, found
from stepwell.roles import deepest, parameter_roles

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("name", MODELS)
def test_roles_and_depths(name):
    model = MODELS[name]()
    assert found(parameter_roles(model)) == expected(name)


@pytest.mark.parametrize("name", ["gpt2", "llama-tied", "t5", "mamba", "bert-masked"])
def test_a_tied_head_is_listed_once(name):
    model = MODELS[name]()
    (entry,) = [entry for entry in parameter_roles(model) if entry.parameter is model.get_output_embeddings().weight]
    assert entry.parameter is model.get_input_embeddings().weight
    assert (entry.role, entry.depth) == ("embedding", 0)
    assert len(entry.names) > 1


def test_seventy_billion_parameters_without_memory():
    with torch.device("meta"):
        model = build(
            "LlamaForCausalLM",
            "LlamaConfig",
            vocab_size=128256,
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
        )
    entries = parameter_roles(model)
    assert deepest(entries) == 81
    assert len(entries) == 3 + 80 * 9
    assert all(entry.parameter.is_meta for entry in entries)
