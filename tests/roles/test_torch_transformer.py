"""torch's own Transformer, module by module."""

from __future__ import annotations

import pytest
from torch import nn

from roles.reading_tables import expected, found
from stepwell.roles import parameter_roles


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_torch_transformer():
    model = nn.Transformer(8, 2, num_encoder_layers=2, num_decoder_layers=3, dim_feedforward=16)
    assert found(parameter_roles(model)) == expected("torch-transformer")
