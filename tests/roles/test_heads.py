"""Which matrices are heads."""

from __future__ import annotations

import pytest
from torch import nn

from stepwell.roles import parameter_roles


def roles_of(model: nn.Module, **overrides) -> dict[str, str]:
    return {entry.name: entry.role for entry in parameter_roles(model, **overrides)}


def named(model: nn.Module, role: str) -> list[str]:
    return [name for name, found in roles_of(model).items() if found == role]


class TestHeads:
    def test_a_model_that_names_its_output_layer_is_believed(self):
        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(4, 9)
                self.last = nn.Linear(4, 4)

            def get_output_embeddings(self) -> nn.Module:
                return self.first

        assert named(Named(), "head") == ["first.weight"]
        assert named(nn.ModuleDict({"wrapped": Named()}), "head") == ["wrapped.first.weight"]
        (entry,) = [entry for entry in parameter_roles(Named()) if entry.role == "head"]
        assert entry.why == "weight of Linear, Named.get_output_embeddings()"

    @pytest.mark.parametrize("answer", [None, NotImplementedError(), AttributeError("lm_head")], ids=str)
    def test_a_model_that_names_none_is_read_from_its_structure(self, answer):
        class Silent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Linear(4, 4)
                self.out = nn.Linear(4, 2)

            def get_output_embeddings(self) -> None:
                if answer is not None:
                    raise answer

        assert named(Silent(), "head") == ["out.weight"]

    def test_parallel_outputs_are_all_heads(self):
        model = nn.ModuleDict(
            {
                "body": nn.Linear(6, 256),
                "classes": nn.Linear(256, 91),
                "box": nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 4)),
            }
        )
        assert named(model, "head") == ["classes.weight", "box.1.weight"]

    def test_the_pooler_before_a_classifier_is_hidden(self):
        model = nn.ModuleDict({"embed": nn.Embedding(9, 8), "pooler": nn.Linear(8, 8), "classifier": nn.Linear(8, 2)})
        assert named(model, "head") == ["classifier.weight"]

    def test_layers_that_feed_several_in_chunks_are_hidden(self):
        """One layer for query, key and value (3 × 8), then one for gate and value of a gated layer (2 × 32)."""
        model = nn.ModuleDict(
            {
                "qkv": nn.Linear(8, 24),
                "o": nn.Linear(8, 8),
                "wi": nn.Linear(8, 64),
                "wo": nn.Linear(32, 8),
                "out": nn.Linear(8, 50),
            }
        )
        assert named(model, "head") == ["out.weight"]

    @pytest.mark.parametrize(
        "consumer",
        [nn.Conv1d(12, 3, 3), nn.GRU(12, 3), nn.MultiheadAttention(12, 2), nn.Bilinear(5, 12, 3)],
        ids=lambda module: type(module).__name__,
    )
    def test_what_another_kind_of_layer_takes_in_is_no_output(self, consumer):
        model = nn.ModuleDict({"stem": nn.Linear(5, 12), "next": consumer})
        assert roles_of(model)["stem.weight"] == "hidden matrix"

    def test_lists_of_plain_layers_are_no_repeated_blocks(self):
        model = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)])
        assert named(model, "head") == ["2.weight"]
        staged = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 3)))
        assert named(staged, "head") == ["1.0.weight"]

    def test_a_model_that_is_one_matrix_is_a_head(self):
        assert roles_of(nn.Linear(4, 2)) == {"weight": "head", "bias": "bias"}

    def test_convolutional_outputs_stay_convolutions(self):
        assert named(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1)), "head") == []
