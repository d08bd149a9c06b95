"""The source of kernels, shown to users."""

import pytest
import torch

import stepwell


def test_the_source_can_be_shown() -> None:
    optimizer = stepwell.AdamW([torch.nn.Parameter(torch.ones(3))])
    source = optimizer.kernel_source()
    assert source.startswith('"""AdamW.update, for p float32, g float32, exp_avg float32, exp_avg_sq float32.')
    assert "math.sqrt(" in source
    compile(source, "kernel", "exec")


def test_there_is_no_kernel_to_show_where_none_runs() -> None:
    optimizer = stepwell.Muon([torch.nn.Parameter(torch.ones(3, 3))])
    with pytest.raises(ValueError, match="no parameter of this optimizer runs in the fused engine"):
        optimizer.kernel_source()
