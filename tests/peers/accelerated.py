"""A training with Accelerate, on the processes that `torch.distributed.run` has started:

    python -m torch.distributed.run --nproc-per-node 2 accelerated.py folder precision

Each process trains twice, the second time from the state that the first has saved half-way, and writes down how many
steps were taken, where the scheduler stood, and the weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SAMPLES, BATCH, ACCUMULATION, EPOCHS = 24, 4, 2, 2


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def loader(processes: int) -> DataLoader[Any]:
    inputs = torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(inputs, inputs.sum(1)), batch_size=BATCH // processes)


def train(folder: Path, precision: str, *, resume: bool) -> dict[str, Any]:
    """Train; save the state after the first epoch, or begin from it."""
    import accelerate
    from accelerate.state import AcceleratorState, GradientState

    import stepwell

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=ACCUMULATION, mixed_precision=precision, cpu=True)
    made, data = model(), loader(accelerator.num_processes)
    horizon = stepwell.horizon(data, epochs=EPOCHS, accumulation=ACCUMULATION, world_size=accelerator.num_processes)
    inner, scheduler = stepwell.plan(made, "muon", horizon=horizon).build()
    scheduler = stepwell.Scheduler(inner, counts="steps", horizon=horizon, **scheduler.schedules)
    wrapped, optimizer, data, prepared = accelerator.prepare(made, inner, data, scheduler)
    taken: list[int] = []
    inner.register_step_post_hook(lambda *_: taken.append(scheduler.last_epoch))
    if resume:
        accelerator.load_state(str(folder / "state"))
    for epoch in range(1 if resume else 0, EPOCHS):
        for inputs, targets in data:
            with accelerator.accumulate(wrapped):
                accelerator.backward((wrapped(inputs)[:, 0] - targets).square().mean())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
                optimizer.step()
                prepared.step()
                optimizer.zero_grad()
        if epoch == 0:
            accelerator.save_state(str(folder / "state"))
    weights = {name: p.detach().clone() for name, p in accelerator.unwrap_model(wrapped).named_parameters()}
    rates = [float(group["lr"]) for group in inner.param_groups]
    return {"taken": len(taken), "at": scheduler.last_epoch, "horizon": horizon, "rates": rates, "weights": weights}


if __name__ == "__main__":
    folder, precision = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    found = [train(folder, precision, resume=resume) for resume in (False, True)]
    torch.save(found, folder / f"process-{os.environ.get('RANK', '0')}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    # A thread of gloo's that lets go of a tensor as Python ends aborts the process (pytorch issue 190489).
    os._exit(0)
