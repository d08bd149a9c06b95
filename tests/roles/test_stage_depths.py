"""How deep each parameter stands in networks of stages, as those of vision."""

from __future__ import annotations

import pytest
from torch import nn

from roles.depth_models import Block, by_depth, depths_of, inside


class TestStages:
    class Residual(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, bias=False)
            if inputs != outputs:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def test_residual_network(self):
        """The stages are attributes of the model, and a stage may hold a single block."""

        class ResNet(nn.Module):
            def __init__(self, block: type[nn.Module]) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(3, 8, 7, bias=False)
                self.bn1 = nn.BatchNorm2d(8)
                self.layer1 = nn.Sequential(block(8, 8), block(8, 8))
                self.layer2 = nn.Sequential(block(8, 16))
                self.layer3 = nn.Sequential(block(16, 32), block(32, 32))
                self.fc = nn.Linear(32, 10)

        plain = ("conv1", "bn1", "conv2")
        wider = (*plain, "downsample.0", "downsample.1")
        assert by_depth(ResNet(self.Residual)) == [
            ["conv1", "bn1"],
            inside("layer1.0", plain),
            inside("layer1.1", plain),
            inside("layer2.0", wider),
            inside("layer3.0", wider),
            inside("layer3.1", plain),
            ["fc"],
        ]

    @pytest.mark.parametrize("kind", [nn.ModuleList, lambda stages: nn.Sequential(*stages)], ids=["list", "sequential"])
    @pytest.mark.parametrize("last", [False, True], ids=["downsampling first", "downsampling last"])
    def test_downsampling_belongs_to_the_block_that_it_feeds(self, kind, last):
        class Stage(nn.Module):
            def __init__(self, width: int, blocks: int) -> None:
                super().__init__()
                if not last:
                    self.downsample = nn.Conv2d(width // 2, width, 2, bias=False)
                self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
                if last:
                    self.downsample = nn.Conv2d(width, 2 * width, 2, bias=False)

        stages = kind([Stage(8, 1), Stage(16, 2), Stage(32, 1)])
        model = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 4), "stages": stages, "norm": nn.LayerNorm(32)})
        found = depths_of(model)
        assert [found[f"stages.{name}.attn.qkv.weight"] for name in ("0.blocks.0", "1.blocks.0", "1.blocks.1")] == [
            1,
            2,
            3,
        ]
        assert found["stages.2.blocks.0.attn.qkv.weight"] == 4
        downsampling = [found[f"stages.{stage}.downsample.weight"] for stage in range(3)]
        # First: the one before the first block is part of the stem. Last: the one after all blocks follows them.
        assert downsampling == ([2, 4, 5] if last else [0, 2, 4])
        assert found["stem.weight"] == 0
        assert found["norm.weight"] == 5

    def test_sequentials_of_sequentials(self):
        """EfficientNet: a stage may hold a single block, of a class of its own."""

        class Inverted(self.Residual):
            pass

        class Separable(self.Residual):
            pass

        stages = nn.Sequential(
            nn.Sequential(Separable(4, 8)),
            nn.Sequential(Inverted(8, 16), Inverted(16, 16)),
            nn.Sequential(Inverted(16, 32), Inverted(32, 32)),
        )
        model = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "blocks": stages, "conv_head": nn.Conv2d(32, 64, 1)})
        found = depths_of(model)
        assert [found[f"blocks.{name}.conv1.weight"] for name in ("0.0", "1.0", "1.1", "2.0", "2.1")] == [1, 2, 3, 4, 5]
        assert (found["stem.weight"], found["conv_head.weight"]) == (0, 6)

    def test_squeeze_and_excitation_inside_a_block_is_no_stage(self):
        """A list inside a block may repeat its members too, but they are not most of the block."""

        class Squeeze(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.fc1 = nn.Conv2d(width, 2, 1)
                self.fc2 = nn.Conv2d(2, width, 1)

        class Inverted(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.block = nn.Sequential(
                    nn.Conv2d(width, 4 * width, 1), Squeeze(4 * width), nn.Conv2d(4 * width, 2 * width, 1)
                )

        model = nn.Sequential(nn.Conv2d(3, 8, 3), Inverted(8), Inverted(16), Inverted(32), nn.Linear(64, 3))
        found = depths_of(model)
        assert [{depth for name, depth in found.items() if name.startswith(f"{i}.")} for i in range(5)] == [
            {0},
            {1},
            {2},
            {3},
            {4},
        ]

    def test_a_stem_of_single_layers_is_no_block(self):
        class ConvNorm(nn.Module):
            def __init__(self, inputs: int, outputs: int) -> None:
                super().__init__()
                self.conv = nn.Conv2d(inputs, outputs, 3)
                self.bn = nn.BatchNorm2d(outputs)

        model = nn.ModuleDict(
            {
                "stem": nn.Sequential(ConvNorm(3, 4), ConvNorm(4, 8)),
                "blocks": nn.Sequential(Block(8), Block(8)),
                "head": nn.Linear(8, 2),
            }
        )
        assert by_depth(model)[0] == ["stem.0.conv", "stem.0.bn", "stem.1.conv", "stem.1.bn"]
