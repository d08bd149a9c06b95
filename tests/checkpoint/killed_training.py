"""A training that is killed and resumed, again and again. Run as a program; it prints what it found as JSON.

    python killed_training.py instants FOLDER KILLS SEED    SIGKILL at random instants
    python killed_training.py operations FOLDER             an end before each operation on files during a save

Every life of the training is a fork of this process, which has torch loaded: a start takes milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import stepwell
from stepwell import checkpoint

STEPS = 4  # for each kill: two or three pass from one to the next
SHARED = mmap.mmap(-1, 2)  # with the forks
SAVING, STARTED = 0, 1  # in it: whether a save is going on, whether the training goes on


class Training:
    def __init__(self, horizon: int = STEPS) -> None:
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(0)
        self.model = nn.Sequential(nn.Linear(12, 100), nn.Tanh(), nn.Dropout(0.1), nn.Linear(100, 1))
        self.optimizer = stepwell.create_optimizer(self.model, "muon", lr=0.01)
        self.scheduler = stepwell.create_scheduler(self.optimizer, "cosine", horizon=horizon, warmup=0.1)
        self.parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def step(self) -> None:
        x = torch.randn(8, 12) + random.random() + float(np.random.rand())
        self.model(x).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def save(self, folder: Path, step: int) -> None:
        SHARED[SAVING] = 1
        checkpoint.save(folder, **self.parts, extra={"step": step, "loss": (step * 7) % 13}, keep=KEEP)
        SHARED[SAVING] = 0

    def digest(self) -> str:
        """The bits of all that matters."""
        found = hashlib.sha256()
        state = [value for p in self.model.parameters() for value in (p, *self.optimizer.state[p].values())]
        for value in [*self.model.state_dict().values(), *state, torch.get_rng_state()]:
            found.update(value.detach().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
        found.update(repr((self.scheduler.state_dict(), random.getstate(), np.random.get_state())).encode())
        return found.hexdigest()


KEEP = checkpoint.Keep(last=2, best="loss")


def train(folder: Path, result: Path, steps: int) -> None:
    """One life: from the last checkpoint to the end, with a checkpoint after each step."""
    training = Training(steps)
    step = checkpoint.load(folder, **training.parts)["step"] if any(folder.glob("0*")) else 0
    SHARED[STARTED] = 1
    while step < steps:
        training.step()
        step += 1
        training.save(folder, step)
    result.write_text(training.digest())


def forked(work: Callable[[], Any]) -> int:
    """The process id of a fork that does the work and ends."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a process ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def instants(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill the training at random instants, and let it end then."""
    expected, found, steps = folder / "expected", folder / "found", STEPS * kills
    start = time.perf_counter()
    assert ended(forked(lambda: train(folder / "whole", expected, steps))) == 0
    step_seconds = (time.perf_counter() - start) / steps
    instant = random.Random(seed)
    during_save, outside, failed = 0, 0, 0
    for _ in range(kills):
        SHARED[SAVING], SHARED[STARTED] = 0, 0
        child = forked(lambda: train(folder / "killed", found, steps))
        wait = instant.random() < 0.9  # sometimes it is killed while it starts
        while wait and not SHARED[STARTED]:
            time.sleep(1e-3)
        time.sleep(instant.uniform(0.0, 4 * step_seconds))
        os.kill(child, signal.SIGKILL)
        code = ended(child)
        failed += code == 1
        during_save += code == -signal.SIGKILL and SHARED[SAVING]
        outside += code == -signal.SIGKILL and not SHARED[SAVING]
    failed += ended(forked(lambda: train(folder / "killed", found, steps))) != 0
    left = sorted(path.name for path in (folder / "killed").iterdir())
    return {
        "during_save": during_save,
        "outside": outside,
        "failed": failed,
        "same": expected.read_text() == found.read_text(),
        "left": len(left),
    }


# A folder is read by one of the last two, which depends on the release of Python.
FILE_EVENTS = frozenset(
    ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir", "os.scandir")
)


def operations(folder: Path) -> dict[str, Any]:
    """End a save before its first operation on files, its second, …; each time all must be as before or after."""
    begun = folder / "begun"
    training = Training()
    for step in range(1, 4):
        training.step()
        training.save(begun, step)
    known = [training.digest()]
    training.step()
    known.append(training.digest())
    seen = []
    for number in range(1000):
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(begun, work)

        def save(number: int = number, work: Path = work) -> None:
            count = 0

            def hook(event: str, _: Any) -> None:
                nonlocal count
                if event in FILE_EVENTS:
                    count += 1
                    if count > number:
                        os._exit(9)

            # The lineage of a training is known to the process alone, as after a load.
            checkpoint.load(work, **training.parts)
            training.step()
            sys.addaudithook(hook)
            training.save(work, 4)

        code = ended(forked(save))
        resumed = Training()
        step = checkpoint.load(work, **resumed.parts)["step"]
        assert resumed.digest() == known[step - 3], f"operation {number}"
        resumed.save(work, 5)  # and the next save clears away what is left
        assert not [path for path in work.iterdir() if path.name.startswith(".")], f"operation {number}"
        seen.append(step)
        if code == 0:
            return {"operations": number, "old": seen.count(3), "new": seen.count(4)}
        assert code == 9, f"operation {number}: exit code {code}"
    raise AssertionError("it never ends")


if __name__ == "__main__":
    torch.set_num_threads(1)
    Training().step()  # the forks find the kernels loaded
    what, where, *rest = sys.argv[1:]
    report = instants(Path(where), *map(int, rest)) if what == "instants" else operations(Path(where))
    print(json.dumps(report))
