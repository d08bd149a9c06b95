"""Roles of whole models: read from the modules and how they are joined, never from names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stepwell.roles import ROLES, parameter_roles


def roles_of(model: nn.Module, **overrides) -> dict[str, str]:
    return {entry.name: entry.role for entry in parameter_roles(model, **overrides)}


def named(model: nn.Module, role: str) -> list[str]:
    return [name for name, found in roles_of(model).items() if found == role]


class HandmadeRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_f = HandmadeRMSNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)


class GPT(nn.Module):
    def __init__(self, *, tied: bool, layers: int = 2) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, 8)
        self.wpe = nn.Embedding(16, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(layers))
        self.ln_f = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 50, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


class BasicBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(BasicBlock(4), BasicBlock(4))
        self.fc = nn.Linear(4, 10)


def test_every_parameter_has_one_of_the_known_roles_in_the_order_of_registration():
    model = GPT(tied=False)
    found = parameter_roles(model)
    assert [entry.name for entry in found] == [name for name, _ in model.named_parameters()]
    assert [entry.parameter for entry in found] == list(model.parameters())
    assert {entry.role for entry in found} <= set(ROLES)


class TestNetworks:
    def test_perceptron(self):
        model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
        assert roles_of(model) == {
            "0.weight": "hidden matrix",
            "0.bias": "bias",
            "2.weight": "hidden matrix",
            "2.bias": "bias",
            "4.weight": "head",
            "4.bias": "bias",
        }

    @pytest.mark.parametrize("layers", [1, 2])
    def test_gpt_with_a_head_of_its_own(self, layers):
        model = GPT(tied=False, layers=layers)
        assert named(model, "embedding") == ["wte.weight", "wpe.weight"]
        assert named(model, "head") == ["lm_head.weight"]
        assert named(model, "hidden matrix") == [
            f"blocks.{layer}.{name}.weight" for layer in range(layers) for name in ("qkv", "out", "up", "down")
        ]
        assert named(model, "norm") == [
            *(f"blocks.{layer}.{name}" for layer in range(layers) for name in ("ln_1.weight", "ln_1.bias", "norm_f.g")),
            "ln_f.weight",
            "ln_f.bias",
        ]

    def test_gpt_with_a_tied_head_lists_it_once_as_an_embedding(self):
        model = GPT(tied=True)
        assert named(model, "head") == []
        (entry,) = [entry for entry in parameter_roles(model) if entry.parameter is model.lm_head.weight]
        assert (entry.name, entry.aliases, entry.role) == ("wte.weight", ("lm_head.weight",), "embedding")
        assert entry.why == "weight of Embedding, tied with lm_head.weight"

    def test_a_tie_takes_the_stronger_role_even_where_the_weaker_use_comes_first(self):
        model = nn.ModuleDict({"out": nn.Linear(8, 50, bias=False), "tokens": nn.Embedding(50, 8)})
        model["out"].weight = model["tokens"].weight
        assert roles_of(model) == {"out.weight": "embedding"}

    def test_a_module_used_twice_is_listed_once(self):
        layer = nn.Linear(8, 8)
        first, second = parameter_roles(nn.ModuleDict({"a": layer, "b": layer, "out": nn.Linear(8, 2)}))[:2]
        assert (first.name, first.aliases, first.role) == ("a.weight", ("b.weight",), "hidden matrix")
        assert (second.name, second.aliases, second.role) == ("a.bias", ("b.bias",), "bias")

    def test_residual_network(self):
        model = ResNet()
        assert named(model, "head") == ["fc.weight"]
        assert named(model, "convolution") == [
            "conv1.weight",
            *(f"layer1.{block}.conv{number}.weight" for block in (0, 1) for number in (1, 2)),
        ]
        assert named(model, "hidden matrix") == [
            f"layer1.{block}.{name}.weight" for block in (0, 1) for name in ("squeeze", "excite")
        ]
        assert all(("bn" in name) == (role == "norm") for name, role in roles_of(model).items())

    @pytest.mark.filterwarnings("ignore:enable_nested_tensor")
    @pytest.mark.parametrize("layers", [1, 2])
    def test_torch_transformer_has_no_head(self, layers):
        model = nn.Transformer(8, 2, layers, layers, 16)
        assert named(model, "head") == []
        assert named(model, "hidden matrix") == [
            name for name, parameter in model.named_parameters() if parameter.ndim == 2
        ]

    def test_recurrent_classifier(self):
        model = nn.ModuleDict(
            {
                "embed": nn.Embedding(20, 4),
                "lstm": nn.LSTM(4, 8, num_layers=2, bidirectional=True, proj_size=3),
                "cell": nn.GRUCell(6, 6),
                "out": nn.Linear(6, 2),
            }
        )
        expected = {"embed.weight": "embedding", "out.weight": "head", "out.bias": "bias"}
        for name, parameter in model.named_parameters():
            assert roles_of(model)[name] == expected.get(name, "hidden matrix" if parameter.ndim == 2 else "bias")

    def test_low_rank_adapters_of_frozen_layers(self):
        class Adapted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.base = nn.Linear(8, 8).requires_grad_(False)
                self.down = nn.Linear(8, 2, bias=False)
                self.up = nn.Linear(2, 8, bias=False)
                self.direct = nn.Parameter(torch.zeros(8, 2))

        class Subclassed(nn.Linear):
            def __init__(self) -> None:
                super().__init__(8, 8)
                self.lora_a = nn.Parameter(torch.zeros(2, 8))
                self.magnitude = nn.Parameter(torch.ones(8))

        model = nn.ModuleDict(
            {"layers": nn.ModuleList([Adapted(), Adapted()]), "sub": Subclassed(), "out": nn.Linear(8, 2)}
        )
        found = roles_of(model)
        assert {name.removeprefix("layers.0."): role for name, role in found.items() if "layers.0." in name} == {
            "direct": "other",
            "base.weight": "hidden matrix",
            "base.bias": "bias",
            "down.weight": "hidden matrix",
            "up.weight": "hidden matrix",
        }
        assert found["sub.weight"] == "hidden matrix"
        assert found["sub.lora_a"] == "other"
        assert found["sub.magnitude"] == "scalar"
        assert named(model, "head") == ["out.weight"]


class TestOverrides:
    def test_by_parameter_module_and_pattern(self):
        model = GPT(tied=False)
        found = roles_of(
            model, overrides={"blocks.0.qkv.weight": "other", "lm_head": "hidden matrix", "blocks.*.up.*": "head"}
        )
        assert found["blocks.0.qkv.weight"] == "other"
        assert found["blocks.1.qkv.weight"] == "hidden matrix"
        assert found["lm_head.weight"] == "hidden matrix"
        assert found["blocks.1.up.weight"] == "head"
        assert found["blocks.1.up.bias"] == "bias"

    def test_the_first_that_matches_wins(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        assert roles_of(model, overrides={"0.weight": "head", "*": "other"})["0.weight"] == "head"

    def test_a_tied_parameter_answers_to_each_of_its_names(self):
        model = GPT(tied=True)
        (entry,) = [e for e in parameter_roles(model, {"lm_head.weight": "head"}) if e.parameter is model.wte.weight]
        assert (entry.name, entry.role, entry.why) == ("wte.weight", "head", "set by roles['lm_head.weight']")

    def test_stacks_may_be_called_hidden(self):
        experts = nn.Module()
        experts.up = nn.Parameter(torch.zeros(4, 3, 5))
        model = nn.ModuleDict({"experts": experts, "out": nn.Linear(3, 2)})
        assert roles_of(model, overrides={"experts": "hidden matrix"})["experts.up"] == "hidden matrix"

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (
                {"lm_head.weight": "haed"},
                "unknown role 'haed' for 'lm_head.weight' (did you mean 'head'?); roles are hidden matrix, "
                "convolution, embedding, head, norm, bias, scalar, custom matrix, other",
            ),
            (
                {"lm_haed.weight": "head"},
                "roles['lm_haed.weight'] matches no parameter (did you mean 'lm_head.weight'?)",
            ),
            ({"ln_g": "norm"}, "roles['ln_g'] matches no parameter (did you mean 'ln_f'?)"),
            (
                {"*": "other", "wte": "head"},
                "roles['wte'] gives no parameter its role: all it matches are vectors or have an earlier key",
            ),
            (
                {"ln_f": "head"},
                "roles['ln_f'] gives no parameter its role: all it matches are vectors or have an earlier key",
            ),
            (
                {"ln_f.bias": "hidden matrix"},
                "role 'hidden matrix' needs at least 2 dimensions, 'ln_f.bias' has shape (8,)",
            ),
        ],
        ids=["role", "parameter", "module", "shadowed", "module of vectors", "vector"],
    )
    def test_mistakes_are_named(self, overrides, message):
        with pytest.raises(ValueError) as error:
            parameter_roles(GPT(tied=False), overrides)
        assert str(error.value) == message

    def test_a_kernel_is_no_matrix(self):
        with pytest.raises(ValueError) as error:
            parameter_roles(ResNet(), {"conv1": "hidden matrix"})
        assert str(error.value) == (
            "role 'hidden matrix' needs shape (…, rows, cols), "
            "but 'conv1.weight' (4, 3, 7, 7) ends in the shape of a kernel"
        )


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_parameters_are_refused():
    with pytest.raises(ValueError) as error:
        parameter_roles(nn.Sequential(nn.LazyLinear(3)))
    assert (
        str(error.value) == "parameter '0.weight' has no shape yet: run one forward pass through its lazy module first"
    )


def test_models_without_data_and_without_parameters():
    with torch.device("meta"):
        assert named(GPT(tied=False), "head") == ["lm_head.weight"]
    assert parameter_roles(nn.ReLU()) == []


def test_reading_roles_changes_nothing():
    model = GPT(tied=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameter_roles(model, {"lm_head.weight": "head"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
