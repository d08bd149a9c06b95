"""Roles and depths of timm's models, and how the depths compare with those of its own layer decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from peers.importing_timm import timm_imported
from roles.reading_tables import expected, found
from stepwell.roles import deepest, parameter_roles

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    with timm_imported() as timm:
        yield timm


MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "resnet": lambda models: models.resnet.ResNet(models.resnet.BasicBlock, (2, 1, 2, 1), num_classes=3),
    "resnet-bottleneck": lambda models: models.resnet.ResNet(models.resnet.Bottleneck, (1, 1, 1, 1), num_classes=3),
    "convnext": lambda models: models.convnext.ConvNeXt(num_classes=3, depths=(1, 2, 1, 1), dims=(8, 16, 32, 64)),
    "timm-vit": lambda models: models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=4, init_values=1e-4
    ),
    "swin": lambda models: models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=2, num_classes=3, embed_dim=8, depths=(1, 2, 1), num_heads=(2, 2, 2), window_size=4
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_roles_and_depths(timm, name):
    with torch.device("meta"):
        model = MODELS[name](timm.models)
    assert found(parameter_roles(model)) == expected(name)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("resnet50", ()),
        ("resnext26ts", ()),
        ("convnext_atto", ()),
        ("convmixer_768_32", ()),
        ("vit_tiny_patch16_224", ("norm.",)),
        ("deit3_small_patch16_224", ("norm.",)),
        ("beit_base_patch16_224", ()),
        ("eva02_tiny_patch14_224", ()),
        ("swin_tiny_patch4_window7_224", ("norm.",)),
        ("swinv2_tiny_window8_256", ("norm.",)),
        ("hiera_tiny_224", ()),
        ("davit_tiny", ()),
        ("levit_128s", ()),
        ("efficientnet_b0", ("conv_head.", "bn2.")),
        ("mambaout_tiny", ()),
        ("mixer_s32_224", ("norm.",)),
    ],
)
def test_depths_are_those_of_timms_layer_decay(timm, name, after):
    """All of them, but that what follows the last block and is no head belongs to the last block there."""
    with torch.device("meta"):
        model = timm.create_model(name)
    theirs = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    entries = parameter_roles(model)
    assert deepest(entries) == max(theirs.values())
    for entry in entries:
        joined = entry.name.startswith(after) if after else False
        assert entry.depth == theirs[entry.name] + joined, entry.name
