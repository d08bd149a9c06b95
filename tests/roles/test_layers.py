"""What a module's own parameters are for, by what the module is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stepwell.roles import parameter_roles


def roles_of(model: nn.Module, **overrides) -> dict[str, str]:
    return {entry.name: entry.role for entry in parameter_roles(model, **overrides)}


def test_layers_of_torch():
    model = nn.ModuleDict(
        {
            "bag": nn.EmbeddingBag(5, 4),
            "conv1": nn.Conv1d(4, 4, 3),
            "conv3": nn.ConvTranspose3d(4, 4, 3),
            "group": nn.GroupNorm(2, 4),
            "rms": nn.RMSNorm(4),
            "instance": nn.InstanceNorm2d(4, affine=True),
            "prelu": nn.PReLU(4),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3, vdim=5),
            "bilinear": nn.Bilinear(4, 4, 4),
            "out": nn.Linear(4, 2),
        }
    )
    assert roles_of(model) == {
        "bag.weight": "embedding",
        "conv1.weight": "convolution",
        "conv1.bias": "bias",
        "conv3.weight": "convolution",
        "conv3.bias": "bias",
        "group.weight": "norm",
        "group.bias": "norm",
        "rms.weight": "norm",
        "instance.weight": "norm",
        "instance.bias": "norm",
        "prelu.weight": "scalar",
        "attention.q_proj_weight": "hidden matrix",
        "attention.k_proj_weight": "hidden matrix",
        "attention.v_proj_weight": "hidden matrix",
        "attention.in_proj_bias": "bias",
        "attention.bias_k": "bias",
        "attention.bias_v": "bias",
        "attention.out_proj.weight": "hidden matrix",
        "attention.out_proj.bias": "bias",
        "bilinear.weight": "hidden matrix",
        "bilinear.bias": "bias",
        "out.weight": "head",
        "out.bias": "bias",
    }


class TestNamesThatLie:
    def test_linear_layers_named_like_norms_and_biases(self):
        model = nn.ModuleDict(
            {
                name: nn.Linear(4, 4)
                for name in ("ln_1", "norm_f", "bn1", "debias_proj", "bias_net", "embedding", "head", "conv")
            }
        )
        model["last"] = nn.Linear(4, 4)
        assert [name for name, role in roles_of(model).items() if role == "hidden matrix"] == [
            f"{name}.weight"
            for name in ("ln_1", "norm_f", "bn1", "debias_proj", "bias_net", "embedding", "head", "conv")
        ]

    def test_norms_and_embeddings_named_like_linear_layers(self):
        model = nn.ModuleDict({"fc": nn.LayerNorm(4), "proj": nn.RMSNorm(4), "linear": nn.Embedding(4, 4)})
        assert roles_of(model) == {
            "fc.weight": "norm",
            "fc.bias": "norm",
            "proj.weight": "norm",
            "linear.weight": "embedding",
        }


class TestForeignLayers:
    def layer(self, **parameters: Tensor) -> nn.Module:
        layer = nn.Module()
        for name, tensor in parameters.items():
            setattr(layer, name, nn.Parameter(tensor))
        return layer

    def roles(self, layer: nn.Module) -> dict[str, str]:
        """The roles of a layer in a model whose head is another."""
        found = roles_of(nn.ModuleDict({"layer": layer, "out": nn.Linear(7, 2)}))
        return {name.removeprefix("layer."): role for name, role in found.items() if name.startswith("layer.")}

    def test_transposed_linear_layer(self):
        """Hugging Face's Conv1D: weight (in, out), bias (out)."""
        layer = self.layer(weight=torch.zeros(5, 7), bias=torch.zeros(7))
        assert self.roles(layer) == {"weight": "hidden matrix", "bias": "bias"}

    def test_transposed_linear_layer_can_be_the_head(self):
        layer = self.layer(weight=torch.zeros(5, 11), bias=torch.zeros(11))
        model = nn.ModuleDict({"body": self.layer(weight=torch.zeros(4, 5), bias=torch.zeros(5)), "out": layer})
        found = {"body.weight": "hidden matrix", "body.bias": "bias", "out.weight": "head", "out.bias": "bias"}
        assert roles_of(model) == found

    @pytest.mark.parametrize(
        ("declared", "shape", "role"),
        [
            ({"in_features": 5, "out_features": 7}, (7, 5), "hidden matrix"),
            ({"in_features": 5, "out_features": 14}, (7, 5), "hidden matrix"),
            ({"num_embeddings": 50, "embedding_dim": 4}, (50, 4), "embedding"),
            ({"in_channels": 3, "out_channels": 4}, (4, 3, 2, 2), "convolution"),
        ],
        ids=["linear", "sharded linear", "embedding", "convolution"],
    )
    def test_layers_that_declare_what_torch_layers_declare(self, declared, shape, role):
        layer = self.layer(weight=torch.zeros(shape), bias=torch.zeros(shape[0]), scale=torch.ones(3))
        for name, size in declared.items():
            setattr(layer, name, size)
        assert self.roles(layer) == {"weight": role, "bias": "bias", "scale": "scalar"}

    def test_a_declaration_that_the_shape_contradicts_is_not_believed(self):
        layer = self.layer(weight=torch.zeros(9, 9))
        layer.in_features, layer.out_features = 5, 7
        assert self.roles(layer) == {"weight": "custom matrix"}

    @pytest.mark.parametrize("shape", [(6,), (1, 1, 6), (6, 1, 1)])
    @pytest.mark.parametrize("epsilon", ["eps", "variance_epsilon", "layer_norm_eps"])
    def test_scale_and_shift_beside_an_epsilon_is_a_norm(self, shape, epsilon):
        layer = self.layer(gamma=torch.ones(shape))
        setattr(layer, epsilon, 1e-6)
        assert self.roles(layer) == {"gamma": "norm"}
        layer = self.layer(gamma=torch.ones(shape), beta=torch.zeros(shape))
        setattr(layer, epsilon, 1e-6)
        assert self.roles(layer) == {"gamma": "norm", "beta": "norm"}

    def test_a_norm_may_say_so_itself_or_be_made_of_one(self):
        class ScaleNorm(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.g = nn.Parameter(torch.ones(6))

        class Modulated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.g = nn.Parameter(torch.ones(6))
                self.inner = nn.LayerNorm(6, elementwise_affine=False)

        assert self.roles(ScaleNorm()) == {"g": "norm"}
        assert self.roles(Modulated()) == {"g": "norm"}

    @pytest.mark.parametrize("shape", [(6,), (1, 1, 6), (6, 1, 1)])
    def test_scale_and_shift_alone_are_scalars(self, shape):
        """Layer scales (CaiT, DINOv2), ResMLP's affine layers, DoRA's magnitudes: nothing is normalised."""
        layer = self.layer(gamma=torch.ones(shape))
        layer.steps = 4  # no epsilon
        assert self.roles(layer) == {"gamma": "scalar"}
        both = self.layer(alpha=torch.ones(shape), beta=torch.zeros(shape))
        assert self.roles(both) == {"alpha": "scalar", "beta": "scalar"}

    def test_vectors_of_different_lengths_are_no_norm(self):
        layer = self.layer(a=torch.ones(6), b=torch.ones(5))
        assert self.roles(layer) == {"a": "scalar", "b": "scalar"}

    def test_a_model_is_no_layer(self):
        assert roles_of(self.layer(w=torch.zeros(6))) == {"w": "scalar"}
        assert roles_of(self.layer(w=torch.zeros(6, 6))) == {"w": "other"}

    def test_numbers_are_scalars(self):
        layer = self.layer(temperature=torch.tensor(1.0), one=torch.ones(1), square=torch.ones(1, 1))
        assert set(self.roles(layer).values()) == {"scalar"}

    def test_what_stands_beside_child_modules_is_scalar_or_other(self):
        class VisionTransformer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token = nn.Parameter(torch.zeros(1, 1, 8))
                self.positions = nn.Parameter(torch.zeros(1, 16, 8))
                self.layer_scale = nn.Parameter(torch.ones(8))
                self.A_log = nn.Parameter(torch.zeros(8, 4))
                self.head = nn.Linear(8, 3)

        assert roles_of(VisionTransformer()) == {
            "token": "scalar",
            "positions": "other",
            "layer_scale": "scalar",
            "A_log": "other",
            "head.weight": "head",
            "head.bias": "bias",
        }

    def test_position_table_in_a_layer_of_its_own_is_other(self):
        assert self.roles(self.layer(table=torch.zeros(1, 16, 8))) == {"table": "other"}

    def test_experts_are_custom_matrices_and_their_biases_biases(self):
        layer = self.layer(
            gate_up=torch.zeros(4, 6, 8),
            gate_up_bias=torch.zeros(4, 8),
            down=torch.zeros(4, 3, 6),
            down_bias=torch.zeros(4, 3),
        )
        layer.activation = nn.SiLU()
        assert self.roles(layer) == {
            "gate_up": "custom matrix",
            "gate_up_bias": "bias",
            "down": "custom matrix",
            "down_bias": "bias",
        }

    @pytest.mark.parametrize("declared", ["num_experts", "num_local_experts", "n_routed_experts"])
    def test_experts_that_are_counted_are_hidden(self, declared):
        layer = self.layer(
            gate_up=torch.zeros(4, 6, 8),
            gate_up_bias=torch.zeros(4, 8),
            down=torch.zeros(4, 3, 6),
            down_bias=torch.zeros(4, 6),
            table=torch.zeros(7, 6),
        )
        setattr(layer, declared, 4)
        assert self.roles(layer) == {
            "gate_up": "hidden matrix",
            "gate_up_bias": "bias",
            "down": "hidden matrix",
            "down_bias": "bias",
            "table": "other",
        }

    @pytest.mark.parametrize("bias", [{}, {"bias": torch.zeros(4)}], ids=["no bias", "bias"])
    def test_a_router_is_hidden_as_a_linear_one_is(self, bias):
        router = self.layer(weight=torch.zeros(4, 6), **bias)
        router.num_experts = 4
        assert self.roles(router) == {"weight": "hidden matrix"} | dict.fromkeys(bias, "bias")
        linear = nn.Linear(6, 4, bias=bool(bias))
        block = nn.ModuleDict({"gate": linear, "experts": nn.Linear(6, 4)})
        found = roles_of(nn.ModuleDict({"layers": nn.ModuleList([block, nn.Linear(4, 4)]), "out": nn.Linear(4, 2)}))
        assert found["layers.0.gate.weight"] == "hidden matrix"

    def test_a_lone_matrix_may_be_a_table(self):
        assert self.roles(self.layer(weight=torch.zeros(5, 7))) == {"weight": "custom matrix"}

    def test_a_table_beside_integers_that_pick_its_rows_is_other(self):
        """A relative bias that is a layer of its own, as in Swin, is no more decayed than one in an attention."""
        layer = self.layer(table=torch.zeros(9, 2))
        layer.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool))
        assert self.roles(layer) == {"table": "custom matrix"}
        layer.register_buffer("index", torch.zeros(4, 4, dtype=torch.long))
        assert self.roles(layer) == {"table": "other"}

    def test_matrices_beside_unexplained_vectors_are_other(self):
        layer = self.layer(A_log=torch.zeros(8, 4), D=torch.zeros(8))
        assert self.roles(layer) == {"A_log": "other", "D": "scalar"}

    def test_parameter_lists_say_nothing(self):
        model = nn.ModuleDict(
            {
                "list": nn.ParameterList([torch.zeros(4, 4)]),
                "dict": nn.ParameterDict({"v": torch.zeros(3)}),
                "out": nn.Linear(4, 2),
            }
        )
        assert roles_of(model)["list.0"] == "other"
        assert roles_of(model)["dict.v"] == "scalar"


def test_a_weight_under_parametrization_is_never_a_hidden_matrix():
    """What is stored is not what is applied, so a matrix rule has nothing to hold on to."""
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    assert roles_of(model)["0.parametrizations.weight.original"] == "custom matrix"


WEIGHT_NORMS = [
    (nn.utils.parametrizations.weight_norm, "{0}.parametrizations.{1}.original1", "{0}.parametrizations.{1}.original0"),
    pytest.param(
        nn.utils.weight_norm, "{0}.{1}_v", "{0}.{1}_g", marks=pytest.mark.filterwarnings("ignore::FutureWarning")
    ),
]


@pytest.mark.parametrize(("normed", "directions", "lengths"), WEIGHT_NORMS)
def test_directions_of_a_weight_norm_are_matrices_and_their_lengths_scalars(normed, directions, lengths):
    model = nn.ModuleDict(
        {
            "linear": normed(nn.Linear(4, 6)),
            "conv": normed(nn.Conv1d(4, 6, 3)),
            "rnn": normed(nn.LSTM(4, 6), "weight_hh_l0"),
            "out": nn.Linear(4, 2),
        }
    )
    found = roles_of(model)
    for name, weight in (("linear", "weight"), ("conv", "weight"), ("rnn", "weight_hh_l0")):
        assert found[directions.format(name, weight)] == "custom matrix"
        assert found[lengths.format(name, weight)] == "scalar"
    assert found["linear.bias"] == "bias"
    assert found["rnn.weight_ih_l0"] == "hidden matrix"
