"""Which matrices hold query, key and value side by side, and where each of them lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stepwell.roles import parameter_roles

THIRDS = (8, 8, 8)


def splits(model: nn.Module) -> dict[str, tuple[tuple[int, ...], int]]:
    """The blocks of each parameter that has any, with their dimension."""
    return {entry.name: (entry.split, entry.split_dim) for entry in parameter_roles(model) if entry.split}


def attention(layer: nn.Module, name: str = "qkv", **declared: Any) -> nn.Module:
    """A model whose attention owns a layer under a name, and declares some sizes."""
    owner = nn.Module()
    owner.add_module(name, layer)
    for attribute, size in declared.items():
        setattr(owner, attribute, size)
    return nn.ModuleDict({"attn": owner, "mlp": nn.Linear(8, 8), "out": nn.Linear(8, 3)})


class Transposed(nn.Module):
    """Hugging Face's Conv1D: weight (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))


@pytest.mark.parametrize("name", ["qkv", "qkv_proj", "to_qkv", "Wqkv", "c_attn", "in_proj"])
def test_three_times_as_many_outputs_as_inputs(name):
    assert splits(attention(nn.Linear(8, 24), name)) == {f"attn.{name}.weight": (THIRDS, -2)}


def test_columns_of_a_transposed_layer():
    assert splits(attention(Transposed(8, 24), "c_attn")) == {"attn.c_attn.weight": (THIRDS, -1)}


def test_attention_of_torch():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 3)})
    assert splits(model) == {"attn.in_proj_weight": (THIRDS, -2)}
    # Keys and values of other widths have matrices of their own.
    assert splits(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, kdim=4, vdim=6), "out": nn.Linear(8, 3)})) == {}


class TestDeclaredSizes:
    @pytest.mark.parametrize(
        "declared",
        [
            {"num_heads": 4, "head_dim": 2},
            {"num_attention_heads": 4, "head_dim": 2, "num_key_value_heads": 4},
            {"n_head": 4},
        ],
        ids=str,
    )
    def test_as_many_heads_for_keys_and_values(self, declared):
        assert splits(attention(nn.Linear(8, 24), **declared)) == {"attn.qkv.weight": (THIRDS, -2)}

    @pytest.mark.parametrize(
        "declared",
        [
            {"num_heads": 4, "head_dim": 4, "num_key_value_heads": 2},
            {"head_dim": 4, "num_key_value_heads": 2},
            {"n_heads": 4, "n_kv_heads": 2},
        ],
        ids=str,
    )
    def test_fewer_heads_for_keys_and_values(self, declared):
        """4 heads of width 4 for queries, 2 for keys and 2 for values: 16 + 8 + 8 outputs."""
        assert splits(attention(nn.Linear(8, 32), **declared)) == {"attn.qkv.weight": ((16, 8, 8), -2)}

    def test_heads_wider_than_their_share_of_the_model(self):
        """4 heads of width 4 in a model of width 8: 48 outputs, not 24."""
        found = splits(attention(nn.Linear(8, 48), num_heads=4, head_dim=4))
        assert found == {"attn.qkv.weight": ((16, 16, 16), -2)}

    @pytest.mark.parametrize(("parts", "dim"), [(2, -1), (3, -1)])
    def test_split_size(self, parts, dim):
        """GPT-2 cuts c_attn at its split size, into keys and values alone where the queries come from elsewhere."""
        found = splits(attention(Transposed(8, parts * 8), "c_attn", split_size=8, num_heads=2))
        assert found == {"attn.c_attn.weight": ((8,) * parts, dim)}

    @pytest.mark.parametrize(
        "declared",
        [
            {"num_heads": 4, "head_dim": 4},
            {"num_heads": 4, "head_dim": 2, "num_key_value_heads": 2},
            {"num_heads": 4, "num_key_value_heads": 3},
            {"head_dim": 5, "num_key_value_heads": 2},
            {"split_size": 10},
        ],
        ids=str,
    )
    def test_what_contradicts_the_declaration_is_one_matrix(self, declared):
        assert splits(attention(nn.Linear(8, 24), **declared)) == {}


class TestWhatIsNotFused:
    @pytest.mark.parametrize("name", ["query_key_value", "dense", "gate_up_proj", "qkvz"])
    def test_other_names(self, name):
        """`query_key_value` lays the heads out one after the other in GPT-NeoX, BLOOM and Falcon."""
        assert splits(attention(nn.Linear(8, 24), name)) == {}

    def test_other_sizes(self):
        """Mamba's in_proj makes the state's input and its gate."""
        assert splits(attention(nn.Linear(8, 32), "in_proj")) == {}

    def test_what_is_no_hidden_matrix(self):
        assert splits(attention(nn.Conv2d(8, 24, 1))) == {}
        assert splits(attention(nn.Embedding(24, 8))) == {}

    def test_a_model_that_is_one_layer(self):
        assert splits(nn.Linear(8, 24)) == {}


def test_a_tied_layer_keeps_its_blocks():
    model = nn.ModuleDict({"plain": nn.Linear(8, 24), "attn": nn.ModuleDict({"qkv": nn.Linear(8, 24)})})
    model["plain"].weight = model["attn"]["qkv"].weight
    assert splits(model) == {"plain.weight": (THIRDS, -2)}


def test_the_blocks_add_up():
    model = nn.Sequential(attention(nn.Linear(8, 32), num_heads=4, head_dim=4, num_key_value_heads=2), nn.Linear(3, 3))
    for entry in parameter_roles(model):
        assert not entry.split or sum(entry.split) == entry.parameter.shape[entry.split_dim]
