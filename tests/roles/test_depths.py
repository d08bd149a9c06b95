"""How deep each parameter stands, on a miniature of every structure that people train."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from roles.depth_models import Attention, Block, Mlp, by_depth, depths_of, inside
from stepwell.roles import deepest, parameter_roles


class TestBlocks:
    class GPT(nn.Module):
        def __init__(self, *, layers: int = 2, tied: bool = False) -> None:
            super().__init__()
            # A plain ModuleDict is a name space (nanoGPT), no list.
            self.transformer = nn.ModuleDict(
                {
                    "wte": nn.Embedding(50, 8),
                    "wpe": nn.Embedding(16, 8),
                    "h": nn.ModuleList(Block(8) for _ in range(layers)),
                    "ln_f": nn.LayerNorm(8),
                }
            )
            self.lm_head = nn.Linear(8, 50, bias=False)
            if tied:
                self.lm_head.weight = self.transformer["wte"].weight

    @pytest.mark.parametrize("layers", [1, 2, 12])
    def test_embeddings_blocks_and_what_follows(self, layers):
        assert by_depth(self.GPT(layers=layers)) == [
            ["transformer.wte", "transformer.wpe"],
            *(inside(f"transformer.h.{layer}") for layer in range(layers)),
            ["transformer.ln_f", "lm_head"],
        ]

    def test_a_tied_head_takes_the_depth_of_the_embedding(self):
        model = self.GPT(tied=True)
        (entry,) = [entry for entry in parameter_roles(model) if entry.parameter is model.lm_head.weight]
        assert (entry.name, entry.depth) == ("transformer.wte.weight", 0)

    def test_a_tied_head_that_is_registered_first(self):
        model = nn.ModuleDict(
            {"out": nn.Linear(8, 50), "layers": nn.ModuleList([Block(8), Block(8)]), "tokens": nn.Embedding(50, 8)}
        )
        model["out"].weight = model["tokens"].weight
        assert depths_of(model)["out.weight"] == 0

    @pytest.mark.parametrize("kind", [nn.ModuleList, lambda blocks: nn.Sequential(*blocks)], ids=["list", "sequential"])
    def test_vision_transformer(self, kind):
        class VisionTransformer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
                self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
                self.patch_embed = nn.Conv2d(3, 8, 4)
                self.blocks = kind([Block(8), Block(8), Block(8)])
                self.norm = nn.LayerNorm(8)
                self.head = nn.Linear(8, 3)

        assert by_depth(VisionTransformer()) == [
            ["cls_token", "pos_embed", "patch_embed"],
            *(inside(f"blocks.{layer}") for layer in range(3)),
            ["norm", "head"],
        ]

    def test_a_pooler_follows_the_last_block(self):
        model = nn.ModuleDict(
            {
                "embed": nn.Embedding(9, 8),
                "layer": nn.ModuleList([Block(8), Block(8)]),
                "pooler": nn.Linear(8, 8),
                "classifier": nn.Linear(8, 2),
            }
        )
        assert by_depth(model)[0] == ["embed"]
        assert by_depth(model)[3] == ["pooler", "classifier"]

    def test_a_declared_output_follows_the_blocks_wherever_it_stands(self):
        """The head of CamemBERT is registered before its encoder, with a dense layer and a norm of its own."""

        class Masked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lm_head = nn.ModuleDict(
                    {"dense": nn.Linear(8, 8), "norm": nn.LayerNorm(8), "decoder": nn.Linear(8, 50)}
                )
                self.embed = nn.Embedding(50, 8)
                self.layers = nn.ModuleList([Block(8), Block(8)])

            def get_output_embeddings(self) -> nn.Module:
                return self.lm_head["decoder"]

        assert by_depth(Masked()) == [
            ["embed"],
            inside("layers.0"),
            inside("layers.1"),
            inside("lm_head", ("dense", "norm", "decoder")),
        ]

    def test_an_embedding_registered_after_the_blocks_is_still_an_input(self):
        model = nn.ModuleDict({"layers": nn.ModuleList([Block(8), Block(8)]), "queries": nn.Embedding(9, 8)})
        assert depths_of(model)["queries.weight"] == 0

    def test_an_embedding_inside_a_block_is_of_the_block(self):
        """T5 looks its relative biases up in the first block."""
        model = nn.ModuleDict({"layers": nn.ModuleList([Block(8), Block(8)])})
        model["layers"][1].relative = nn.Embedding(32, 2)
        assert depths_of(model)["layers.1.relative.weight"] == 2

    def test_a_block_that_is_used_several_times_is_one(self):
        shared = Block(8)
        model = nn.ModuleDict({"layers": nn.ModuleList([shared, shared, shared]), "out": nn.Linear(8, 2)})
        assert by_depth(model) == [[], inside("layers.0"), ["out"]]

    def test_a_model_that_is_wrapped_keeps_its_depths(self):
        model = self.GPT()
        wrapped = nn.Sequential(nn.ModuleDict({"module": model}))
        assert list(depths_of(wrapped).values()) == list(depths_of(model).values())

    def test_lists_inside_a_block_are_no_depth(self):
        """Experts and attention heads run side by side, sublayers are halves of a block."""

        class Sparse(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gate = nn.Linear(8, 4, bias=False)
                self.experts = nn.ModuleList(Mlp(8) for _ in range(4))

        class SparseBlock(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.heads = nn.ModuleList(Attention(8) for _ in range(2))
                self.moe = Sparse()

        model = nn.ModuleDict(
            {"layers": nn.ModuleList([Block(8), SparseBlock(), SparseBlock()]), "out": nn.Linear(8, 2)}
        )
        assert set(depths_of(model).values()) == {1, 2, 3, 4}
        assert {depth for name, depth in depths_of(model).items() if name.startswith("layers.1")} == {2}

    @pytest.mark.parametrize("kind", [nn.ModuleList, lambda halves: nn.Sequential(*halves)], ids=["list", "sequential"])
    def test_a_list_of_lists_of_one_width_holds_blocks(self, kind):
        """An attention and a feed-forward in a list: one block."""

        class Residual(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(8)
                self.inner = inner

        layers = kind([kind([Residual(Attention(8)), Residual(Mlp(8))]) for _ in range(3)])
        model = nn.ModuleDict({"layers": layers, "out": nn.Linear(8, 2)})
        assert set(depths_of(model).values()) == {1, 2, 3, 4}
        assert {depth for name, depth in depths_of(model).items() if name.startswith("layers.1")} == {2}

    @pytest.mark.parametrize("kind", [nn.ModuleList, lambda parts: nn.Sequential(*parts)], ids=["list", "sequential"])
    def test_a_list_of_lists_of_equal_blocks_holds_groups_of_them(self, kind):
        """Funnel Transformer, or what is cut into parts for a pipeline."""
        model = nn.ModuleDict(
            {"parts": kind([kind([Block(8), Block(8)]), kind([Block(8), Block(8)])]), "out": nn.Linear(8, 2)}
        )
        assert by_depth(model) == [
            [],
            *(inside(f"parts.{part}.{block}") for part in range(2) for block in range(2)),
            ["out"],
        ]

    @pytest.mark.parametrize("part", [Attention, lambda width: nn.Linear(width, width)], ids=["attention", "linear"])
    def test_lists_side_by_side_hold_blocks_in_slices(self, part):
        """XLM's attentions, norms and feed-forwards; a graph network's layers and norms."""
        model = nn.ModuleDict(
            {
                "embed": nn.Embedding(9, 8),
                "parts": nn.ModuleList(part(8) for _ in range(3)),
                "norms": nn.ModuleList(nn.LayerNorm(8) for _ in range(3)),
                "mlps": nn.ModuleList(Mlp(8) for _ in range(3)),
                "out": nn.Linear(8, 9),
            }
        )
        found = depths_of(model)
        assert {name: depth for name, depth in found.items() if name.split(".")[1] not in "012"} == {
            "embed.weight": 0,
            "out.weight": 4,
            "out.bias": 4,
        }
        assert all(depth == int(name.split(".")[1]) + 1 for name, depth in found.items() if name.split(".")[1] in "012")

    def test_norms_beside_whole_blocks_follow_them(self):
        """The features of every stage are normalised on their way out of a backbone."""
        model = nn.ModuleDict(
            {
                "layers": nn.ModuleList([Block(8), Block(8)]),
                "norms": nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)]),
            }
        )
        assert by_depth(model) == [[], inside("layers.0"), inside("layers.1"), ["norms.0", "norms.1"]]

    def test_low_rank_adapters_have_the_depth_of_what_they_adapt(self):
        class Adapted(nn.Module):
            def __init__(self, base: nn.Linear) -> None:
                super().__init__()
                self.base_layer = base.requires_grad_(False)
                self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
                self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

        model = self.GPT(layers=3)
        for block in model.transformer["h"]:
            block.attn.qkv = Adapted(block.attn.qkv)
            block.mlp.up = Adapted(block.mlp.up)
        found = parameter_roles(model)
        adapters = [entry for entry in found if "lora" in entry.name]
        assert [(entry.role, entry.depth) for entry in adapters] == [
            ("hidden matrix", depth) for depth in (1, 2, 3) for _ in range(4)
        ]
        assert deepest(found) == 4

    def test_layers_under_a_weight_norm_are_layers(self):
        model, plain = self.GPT(layers=3), self.GPT(layers=3)
        for block in model.transformer["h"]:
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.up, block.mlp.down):
                nn.utils.parametrizations.weight_norm(layer)
        found, expected = depths_of(model), depths_of(plain)
        assert deepest(parameter_roles(model)) == deepest(parameter_roles(plain)) == 4
        made = "transformer.h.1.mlp.up.parametrizations.weight.original"
        assert found[f"{made}0"] == found[f"{made}1"] == expected["transformer.h.1.mlp.up.weight"] == 2


class TestEncoderAndDecoder:
    def test_the_decoder_is_counted_after_the_encoder(self):
        class Stack(nn.Module):
            def __init__(self, layers: int) -> None:
                super().__init__()
                # T5: each block is a list of sublayers, and the halves differ.
                self.block = nn.ModuleList(
                    nn.ModuleDict({"layer": nn.ModuleList([Attention(8), Mlp(8)])}) for _ in range(layers)
                )
                self.final_norm = nn.LayerNorm(8)

        class Seq2Seq(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shared = nn.Embedding(50, 8)
                self.encoder = Stack(2)
                self.decoder = Stack(3)
                self.lm_head = nn.Linear(8, 50, bias=False)

        found = depths_of(Seq2Seq())
        assert found["shared.weight"] == 0
        assert [found[f"encoder.block.{i}.layer.0.qkv.weight"] for i in range(2)] == [1, 2]
        assert [found[f"encoder.block.{i}.layer.1.down.weight"] for i in range(2)] == [1, 2]
        assert found["encoder.final_norm.weight"] == 3  # makes the input of the decoder's first block
        assert [found[f"decoder.block.{i}.layer.0.qkv.weight"] for i in range(3)] == [3, 4, 5]
        assert found["decoder.final_norm.weight"] == found["lm_head.weight"] == 6

    @pytest.mark.filterwarnings("ignore:enable_nested_tensor")
    def test_torch_transformer(self):
        found = depths_of(nn.Transformer(8, 2, 2, 3, 16))
        assert [found[f"encoder.layers.{i}.self_attn.in_proj_weight"] for i in range(2)] == [1, 2]
        assert found["encoder.norm.weight"] == 3
        assert [found[f"decoder.layers.{i}.multihead_attn.in_proj_weight"] for i in range(3)] == [3, 4, 5]
        assert found["decoder.norm.weight"] == max(found.values()) == 6


class TestNoBlocks:
    """Each layer is one depth; vectors belong to the layer before them."""

    def test_perceptron(self):
        model = nn.Sequential(nn.Linear(9, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        assert by_depth(model) == [[], ["0", "1"], ["3"], ["5"]]

    def test_convolutional_network_written_out(self):
        class LeNet(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(1, 4, 5)
                self.conv2 = nn.Conv2d(4, 8, 5)
                self.fc1 = nn.Linear(72, 16)
                self.fc2 = nn.Linear(16, 10)

        expected = [[], ["conv1"], ["conv2"], ["fc1"], ["fc2"]]
        assert by_depth(LeNet()) == expected
        wrapped = nn.ModuleDict({"module": LeNet()})
        assert by_depth(wrapped) == [[f"module.{name}" for name in names] for names in expected]

    def test_features_and_classifier_of_plain_layers(self):
        """VGG."""
        model = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3)),
            nn.Flatten(),
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
        )
        assert by_depth(model) == [[], ["0.0"], ["0.2"], ["2.0"], ["2.2"]]

    def test_a_backbone_that_holds_lists_of_layers_is_looked_into(self):
        class Backbone(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = nn.Conv2d(3, 4, 3)
                self.layers = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)])

        model = nn.ModuleDict({"backbone": Backbone(), "head": nn.Linear(4, 2)})
        assert by_depth(model) == [[], ["backbone.stem"], ["backbone.layers.0"], ["backbone.layers.1"], ["head"]]

    def test_backbone_and_head(self):
        class Backbone(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token = nn.Parameter(torch.zeros(8))
                self.mix = nn.Linear(8, 8)
                self.out = nn.Linear(8, 8)

        model = nn.ModuleDict({"backbone": Backbone(), "head": nn.Linear(8, 2)})
        assert by_depth(model) == [[], ["backbone.token", "backbone.mix", "backbone.out"], ["head"]]

    def test_recurrent_network(self):
        model = nn.ModuleDict(
            {
                "embed": nn.Embedding(20, 4),
                "lstm": nn.LSTM(4, 8, num_layers=2, bidirectional=True),
                "out": nn.Linear(16, 20),
            }
        )
        ends = ("", "_reverse")
        assert by_depth(model) == [
            ["embed"],
            *(
                [f"lstm.{kind}_l{k}{end}" for end in ends for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                for k in range(2)
            ),
            ["out"],
        ]

    def test_one_layer_and_none(self):
        assert depths_of(nn.Linear(4, 2)) == {"weight": 1, "bias": 1}
        assert deepest(parameter_roles(nn.ReLU())) == 0


class TestOverrides:
    def model(self) -> nn.Module:
        return nn.ModuleDict(
            {"embed": nn.Embedding(9, 8), "layers": nn.ModuleList([Block(8), Block(8)]), "head": nn.Linear(8, 2)}
        )

    def test_by_parameter_module_and_pattern(self):
        found = depths_of(
            self.model(), depths={"layers.0.attn.qkv.weight": 7, "layers.1": 5, "*.norm.*": 4, "embed": 1}
        )
        assert found["layers.0.attn.qkv.weight"] == 7
        assert found["layers.0.attn.proj.weight"] == 1
        assert found["layers.0.norm.bias"] == 4
        assert found["layers.1.norm.bias"] == 5  # the first that matches wins
        assert found["embed.weight"] == 1
        assert found["head.weight"] == 3

    def test_they_count_towards_the_deepest(self):
        assert deepest(parameter_roles(self.model(), depths={"head.bias": 9})) == 9

    def test_a_tied_parameter_answers_to_each_of_its_names(self):
        model = nn.ModuleDict({"tokens": nn.Embedding(50, 8), "out": nn.Linear(8, 50, bias=False)})
        model["out"].weight = model["tokens"].weight
        assert depths_of(model, depths={"out": 6}) == {"tokens.weight": 6}

    @pytest.mark.parametrize(
        ("depths", "message"),
        [
            ({"haed": 3}, "depths['haed'] matches no parameter (did you mean 'head'?)"),
            ({"head": -1}, "depths['head'] must be a whole number of at least 0, got -1"),
            ({"head": 1.5}, "depths['head'] must be a whole number of at least 0, got 1.5"),
            ({"head": True}, "depths['head'] must be a whole number of at least 0, got True"),
            ({"*": 2, "head": 3}, "depths['head'] gives no parameter its depth: all it matches have an earlier key"),
        ],
        ids=["name", "negative", "fraction", "flag", "shadowed"],
    )
    def test_mistakes_are_named(self, depths, message):
        with pytest.raises(ValueError) as error:
            parameter_roles(self.model(), depths=depths)
        assert str(error.value) == message
