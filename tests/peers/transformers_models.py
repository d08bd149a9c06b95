"""Models of transformers, built small from their configurations: one for each table of expected roles."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

LLAMA = {
    "vocab_size": 99,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BERT = {
    "vocab_size": 99,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
}
GPT2 = {
    "vocab_size": 99,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 20,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
T5 = {"vocab_size": 99, "d_model": 16, "d_kv": 4, "d_ff": 40, "num_layers": 2, "num_heads": 4}
MAMBA = {"vocab_size": 99, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}


def build(model: str, config: str, **sizes: Any) -> nn.Module:
    """A model of transformers, by the names of its class and of its configuration's."""
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():  # of a library that is not the subject
        warnings.simplefilter("ignore")
        return getattr(transformers, model)(getattr(transformers, config)(**sizes))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: build("BertForSequenceClassification", "BertConfig", **BERT, num_labels=3),
    "bert-masked": lambda: build("BertForMaskedLM", "BertConfig", **BERT),
    "gpt2": lambda: build("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "gpt2-untied": lambda: build("GPT2LMHeadModel", "GPT2Config", **GPT2, tie_word_embeddings=False),
    "llama": lambda: build("LlamaForCausalLM", "LlamaConfig", **LLAMA, tie_word_embeddings=False),
    "llama-tied": lambda: build("LlamaForCausalLM", "LlamaConfig", **LLAMA, tie_word_embeddings=True),
    "phi3": lambda: build("Phi3ForCausalLM", "Phi3Config", **LLAMA, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "mixtral": lambda: build("MixtralForCausalLM", "MixtralConfig", **LLAMA, num_local_experts=3),
    "t5": lambda: build("T5ForConditionalGeneration", "T5Config", **T5, num_decoder_layers=3),
    "t5-1.1": lambda: build(
        "T5ForConditionalGeneration",
        "T5Config",
        **T5,
        num_decoder_layers=3,
        feed_forward_proj="gated-gelu",
    ),
    "switch": lambda: build(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        **T5,
        num_decoder_layers=2,
        num_experts=3,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    "vit": lambda: build(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=3,
    ),
    "mamba": lambda: build("MambaForCausalLM", "MambaConfig", **MAMBA),
    "mamba2": lambda: build("Mamba2ForCausalLM", "Mamba2Config", **MAMBA, num_heads=8, head_dim=4, n_groups=2),
}
