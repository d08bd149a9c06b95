"""What cannot be worked on in parts is refused when the optimizer is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import Partial, Shard, distribute_tensor

import stepwell
from stepwell import rules
from stepwell.algebra import norm
from stepwell.layout.slots import state_mesh
from stepwell.rules import registry


@pytest.fixture(autouse=True)
def _one_rank(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def own_rules_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.rules.registry._RULES", dict(registry._RULES))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keeps_names", [False, True])
def test_flattened_shards(keeps_names: bool) -> None:
    model = FullyShardedDataParallel(nn.Linear(3, 2), use_orig_params=keeps_names, device_id=torch.device("cpu"))
    with pytest.raises(TypeError) as caught:
        stepwell.AdamW(model.named_parameters())
    assert str(caught.value).endswith(
        "is a flattened shard of FullyShardedDataParallel, in which no rule can see a tensor's rows, columns or norm "
        "(group 0); shard the model with torch.distributed.fsdp.fully_shard instead"
    )


def test_rows_joined_across_a_cut() -> None:
    mesh = init_device_mesh("cpu", (1,))
    weight = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    with pytest.raises(ValueError) as caught:
        stepwell.Optimizer([("qk", weight)], rules.AdamMini(heads=2))
    assert str(caught.value) == (
        "parameter 'qk' of shape (4, 3) is cut over ranks along dimension 0, and AdamMini sees it as (2, 6), which "
        "joins that with others (group 0); leave this parameter whole, or give it a rule that acts on elements, such "
        "as 'AdamW'"
    )
    stepwell.Optimizer([("qk", weight)], rules.AdamMini())


@pytest.mark.usefixtures("own_rules_are_forgotten")
@pytest.mark.parametrize("engine", ["auto", "foreach", "reference"])
@pytest.mark.parametrize("reduces", ["update", "measure", "averaged"])
def test_a_norm_under_a_rule_that_says_it_acts_on_elements(engine: Any, reduces: str) -> None:
    """Each rank would take the norm of its part."""

    @dataclass(frozen=True, kw_only=True)
    class Normalised(stepwell.Rule):
        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g / norm(g) if reduces == "update" else g, {}

        def measure(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return {"share": g / norm(g)} if reduces == "measure" else {}

        def averaged(self, p: Any, s: Any, h: Any) -> Any:
            return p / norm(p) if reduces == "averaged" else p

    weight = nn.Parameter(distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)]))
    with pytest.raises(TypeError) as caught:
        stepwell.Optimizer([weight], Normalised(), engine=engine)
    assert str(caught.value) == (
        f"Normalised.{reduces} takes a norm, mean or total of a tensor, and not each element by itself: say "
        "acts_on = 'tensors' in the class"
    )


@pytest.mark.usefixtures("own_rules_are_forgotten")
def test_a_rule_that_no_trace_can_follow_is_believed() -> None:
    class Patient(stepwell.Rule):
        def direction(self, p: Any, g: Any, s: Any, h: Any) -> Any:
            return g.nan_to_num(), {}

    weight = nn.Parameter(distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)]))
    stepwell.Optimizer([weight], Patient(), engine="foreach")


def test_sums_that_are_not_added_up() -> None:
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (1,))
    weight = nn.Parameter(DTensor.from_local(torch.ones(4, 3), mesh, [Partial()]))
    with pytest.raises(ValueError) as caught:
        stepwell.AdamW([("w", weight)])
    assert str(caught.value) == (
        "parameter 'w' is a sum that the ranks have not added up (group 0); call redistribute() on it first"
    )


@pytest.mark.parametrize("in_parts", [True, False])
def test_weights_on_another_device_than_their_ranks_talk_on(in_parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CPUOffloadPolicy leaves them: the mesh is a GPU's, the parts lie in the host's memory."""
    mesh = init_device_mesh("cpu", (1,))
    weight: Any = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]) if in_parts else torch.ones(4, 3))
    mesh = weight.device_mesh if in_parts else mesh  # torch keeps an equal one from before
    monkeypatch.setattr(mesh, "_device_type", "cuda")
    with pytest.raises(ValueError) as caught:
        stepwell.AdamW([("w", weight)], shard_state=False if in_parts else mesh)
    assert str(caught.value) == (
        "parameter 'w' lies on 'cpu', and its ranks talk on 'cuda', where torch would put its state (group 0); put the "
        "two on one device: fully_shard without CPUOffloadPolicy, or shard_state with a mesh of device type 'cpu'"
    )
    stepwell.AdamW([("w", nn.Parameter(weight.to("meta")))], shard_state=False if in_parts else mesh)


def test_fewer_bits_for_a_rule_of_matrices() -> None:
    mesh = init_device_mesh("cpu", (1,))
    weight = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    with pytest.raises(ValueError) as caught:
        stepwell.Muon([("w", weight)], state_dtype="bfloat16")
    assert str(caught.value) == (
        "parameter 'w' lies on many ranks, where Muon, which acts on matrices, stores state and weights as they are; "
        "take state_dtype=None and master=None (group 0)"
    )


def test_random_bits_where_parts_are_no_runs_of_elements() -> None:
    mesh = init_device_mesh("cpu", (1,))
    weight = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(1)]))
    with pytest.raises(ValueError) as caught:
        stepwell.AdamW([("w", weight)], state_dtype="bfloat16")
    assert str(caught.value) == (
        "parameter 'w' of shape (4, 3) is cut over ranks along dimension 1, and random bits are counted along runs of "
        "elements, which only dimension 0 leaves; take state_dtype=None or 'float32', and any master but 'stochastic' "
        "(group 0)"
    )
    stepwell.AdamW([("w", weight)], state_dtype="float32")


def test_state_is_shared_by_a_mesh_of_one_dimension() -> None:
    weight = nn.Parameter(torch.ones(4, 3))
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicas", "shards"))
    with pytest.raises(ValueError) as caught:
        stepwell.AdamW([weight], shard_state=mesh)
    assert str(caught.value) == (
        "shard_state must be a mesh of one dimension, got 2; mesh['name'] is one of its dimensions"
    )
    with pytest.raises(TypeError) as wrong:
        stepwell.AdamW([weight], shard_state="all")
    assert str(wrong.value) == "shard_state must be True, False or a DeviceMesh, got 'all'"
    stepwell.AdamW([weight], shard_state=mesh["shards"])


def test_state_cannot_be_shared_without_ranks() -> None:
    dist.destroy_process_group()
    for make in (
        lambda: stepwell.AdamW([nn.Parameter(torch.ones(2))], shard_state=True),
        lambda: stepwell.create_optimizer(nn.Linear(2, 2), shard_state=True),
    ):
        with pytest.raises(RuntimeError) as caught:
            make()
        assert str(caught.value) == "shard_state needs ranks: call torch.distributed.init_process_group() first"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # for the fixture to end


@pytest.mark.parametrize(("backends", "kind"), [("cpu:gloo,cuda:gloo", "cpu"), ("cuda:nccl", "cuda")])
def test_all_ranks_share_state_where_they_talk(backends: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a backend asked for, torch takes the accelerator's and calls it undefined."""
    monkeypatch.setattr(dist, "get_backend", lambda: "undefined")
    monkeypatch.setattr(dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *asked: asked)
    assert state_mesh(True) == (kind, (1,))
