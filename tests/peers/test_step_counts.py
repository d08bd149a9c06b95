"""The horizon is the number of optimizer steps that Accelerate, transformers' Trainer and Lightning really take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler

import stepwell
from peers import loops
from peers.loops import Samples, Setting

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # each of them warns of something

SETTINGS = [
    Setting(samples=9, batch_size=2, accumulation=1, epochs=2),
    Setting(samples=9, batch_size=2, accumulation=2, epochs=3),
    Setting(samples=8, batch_size=2, accumulation=4, epochs=2),
    Setting(samples=10, batch_size=3, accumulation=7, epochs=2),  # an epoch is less than one accumulation
    Setting(samples=11, batch_size=2, accumulation=3, epochs=2, drop_last=True),
    Setting(samples=13, batch_size=4, accumulation=3, epochs=1, drop_last=True),
]
EACH = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def ours(setting: Setting, **options: Any) -> int:
    """The horizon of a setting, the same from a loader, from a number of samples, and from a number of batches."""
    loader, shared = setting.loader(), {"epochs": setting.epochs, "accumulation": setting.accumulation, **options}
    found = stepwell.horizon(loader, **shared)
    counted = {"batch_size": setting.batch_size, "drop_last": setting.drop_last}
    assert stepwell.horizon(setting.samples, **counted, **shared) == found
    assert stepwell.horizon(Samples(setting.samples), **counted, **shared) == found
    if options.get("sharding") != "samples":
        assert stepwell.horizon(len(loader), drop_last=setting.drop_last, **shared) == found
    return found


@EACH
def test_accelerate(setting: Setting) -> None:
    assert ours(setting) == loops.accelerate(setting)


@EACH
def test_accelerate_with_accumulations_across_epochs(setting: Setting) -> None:
    if setting.samples == 10:  # eight batches: one accumulation of seven, and one left over
        assert loops.accelerate(setting, across_epochs=True) == 1
    assert ours(setting, remainder="carry") == loops.accelerate(setting, across_epochs=True)


@EACH
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_accelerates_share_of_one_process(setting: Setting, processes: int) -> None:
    taken = loops.accelerate(setting, shards=processes)
    if taken == 0:
        with pytest.raises(ValueError, match=f"^an epoch has no whole batch on {processes} processes"):
            ours(setting, world_size=processes)
    else:
        assert ours(setting, world_size=processes) == taken


def test_a_loader_that_accelerate_has_shared_out() -> None:
    from accelerate.data_loader import prepare_data_loader

    setting = Setting(samples=21, batch_size=2, accumulation=2, epochs=3)
    for dispatch in (False, True):
        shared = prepare_data_loader(
            setting.loader(), "cpu", num_processes=3, process_index=0, put_on_device=True, dispatch_batches=dispatch
        )
        if dispatch:
            shared.state = type("State", (), {"num_processes": 3})()
        # Eleven batches are four on each process: two steps an epoch.
        assert stepwell.horizon(shared, epochs=3, accumulation=2) == 6
        assert stepwell.horizon(shared, epochs=3, accumulation=2, world_size=3) == 6
        with pytest.raises(ValueError, match=r"is shared out over 3 processes already, got world_size=2$"):
            stepwell.horizon(shared, epochs=3, world_size=2)


@pytest.mark.parametrize(
    "setting",
    [*SETTINGS, *(Setting(samples=9, batch_size=2, accumulation=2, epochs=epochs) for epochs in (0.2, 1.1, 1.5, 2.7))],
    ids=str,
)
def test_the_trainer(setting: Setting) -> None:
    assert ours(setting) == loops.trainer(setting)


@EACH
def test_lightning(setting: Setting) -> None:
    assert ours(setting) == loops.lightning(setting, devices=1)


@pytest.mark.parametrize("steps", [3, 100])
def test_lightning_ends_where_the_first_limit_is(steps: int) -> None:
    setting = SETTINGS[1]
    assert ours(setting, steps=steps) == loops.lightning(setting, devices=1, max_steps=steps)


@EACH
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_lightnings_share_of_one_process(setting: Setting, processes: int) -> None:
    # Lightning puts this sampler into the loader; a loader that has it is counted as it is.
    sampler = DistributedSampler(Samples(setting.samples), processes, rank=0)
    shared = torch.utils.data.DataLoader(
        Samples(setting.samples), setting.batch_size, sampler=sampler, drop_last=setting.drop_last
    )
    options = {"world_size": processes, "sharding": "samples"}
    if not len(shared):
        for given in (setting.loader(), shared):
            with pytest.raises(ValueError, match=r"^an epoch has no whole batch"):
                stepwell.horizon(given, epochs=setting.epochs, **options)
        return
    expected = ours(setting, **options)
    assert stepwell.horizon(shared, epochs=setting.epochs, accumulation=setting.accumulation) == expected
    assert -(-len(shared) // setting.accumulation) * setting.epochs == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", loops.LOOPS)
def test_on_two_processes(name: str, tmp_path: Path) -> None:
    settings = [
        Setting(samples=9, batch_size=5, accumulation=2, epochs=2),
        Setting(samples=21, batch_size=2, accumulation=3, epochs=2),
        Setting(samples=29, batch_size=5, accumulation=1, epochs=2, drop_last=True),  # here they differ
    ]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [str(Path(loops.__file__)), name, json.dumps([asdict(one) for one in settings]), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, *program], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    sharding = "samples" if name == "lightning" else "batches"
    expected = [ours(setting, world_size=2, sharding=sharding) for setting in settings]
    assert expected[2] == {"samples": 6, "batches": 4}[sharding]
    found = [json.loads((tmp_path / f"process-{rank}.json").read_text()) for rank in range(2)]
    assert found == [expected, expected]
