"""Muon and AdamW under FSDP2, saved on all ranks: torchrun --nproc-per-node 2 examples/fsdp2.py

Each matrix is put together on one rank and orthogonalised there; what comes out is what one process works out.
"""

import os
import tempfile
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

import stepwell


def main(steps: int = 60) -> float:
    """Learn to add up digits; returns the last loss, a mean over the ranks."""
    torch.manual_seed(0)  # the same weights on all ranks
    model = nn.Sequential(nn.Embedding(10, 32), nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 19))
    fully_shard(model[2])
    fully_shard(model)
    optimizer = stepwell.create_optimizer(model, "muon", lr=2e-2, weight_decay=0.01)
    scheduler = stepwell.create_scheduler(optimizer, "cosine", horizon=steps, warmup=0.1)
    torch.manual_seed(1 + dist.get_rank())  # other data on each
    for _ in range(steps):
        digits = torch.randint(10, (128, 2))
        loss = nn.functional.cross_entropy(model(digits), digits.sum(1))
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    weights, state = get_state_dict(model, optimizer)
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
    mean = loss.detach()
    dist.all_reduce(mean)
    return float(mean) / dist.get_world_size()


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # NCCL wants a GPU for each rank
        torch.set_default_device("cuda")
    found = main()
    if dist.get_rank() == 0:
        print(f"loss {found:.3f}")
    dist.destroy_process_group()
    # FSDP keeps threads of gloo, which abort where they let go of a tensor as Python ends (pytorch issue 190489).
    time.sleep(0.5)
