"""The states of the random generators that a training draws from, as plain values."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from stepwell.checkpoint.errors import CheckpointError


def states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, and of those of an accelerator that is in use."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": (version, _words(words), gauss),
        "numpy": (kind, _words(keys), *rest),
        "torch": _bytes(torch.get_rng_state()),
    }
    device, module = _accelerator()
    if module is not None and getattr(module, "is_initialized", lambda: True)():  # torch.mps does not say
        found["accelerator"] = (device, [_bytes(module.get_rng_state(index)) for index in range(module.device_count())])
    return found


def check(saved: Any) -> None:
    """Raise CheckpointError where these are no states that `states` gave; tried on generators of this check's own."""
    try:
        random.Random().setstate(_of_python(saved))
        np.random.RandomState(0).set_state(_of_numpy(saved))
        torch.Generator().set_state(_tensor(saved["torch"]))
        kind, per_device = saved.get("accelerator", (None, []))
        for index, state in enumerate(per_device[: _devices(kind)]):
            torch.Generator(f"{kind}:{index}").set_state(_tensor(state))
    except Exception as error:  # each package has errors of its own for a state that is none
        raise CheckpointError(f"its states of random generators cannot be used: {error}") from error


def restore(saved: Any) -> list[str]:
    """Put the states back; gives a line for each that has no generator here."""
    random.setstate(_of_python(saved))
    np.random.set_state(_of_numpy(saved))
    torch.set_rng_state(_tensor(saved["torch"]))
    kind, per_device = saved.get("accelerator", (None, []))
    here, (_, module) = _devices(kind), _accelerator()
    for index, state in enumerate(per_device[:here]):
        module.get_rng_state(index)  # starts the device, which then seeds itself: later it would do so over this state
        module.set_rng_state(_tensor(state), index)
    left = len(per_device) - here
    return [f"the random generators of {left} {kind} device{'s' * (left > 1)} have no counterpart here"] * (left > 0)


def _devices(kind: str | None) -> int:
    """How many accelerators of this kind there are."""
    device, module = _accelerator()
    return module.device_count() if module is not None and kind == device else 0


def _accelerator() -> tuple[str, Any]:
    """The name and the torch module of the accelerator whose generators can be reached; None where torch knows of none.

    Whether one is there is not asked: that may start its driver, and no process that was forked off could use it.
    """
    found = torch.accelerator.current_accelerator()
    module = None if found is None else torch.get_device_module(found.type)
    return ("", None) if found is None or not hasattr(module, "get_rng_state") else (found.type, module)


def _words(state: Any) -> bytes:
    """The words of a Mersenne Twister; Python counts its place among them."""
    return np.asarray(state, dtype="<u4").tobytes()


def _of_python(saved: Any) -> tuple[Any, ...]:
    version, words, gauss = saved["python"]
    return version, tuple(np.frombuffer(words, dtype="<u4").tolist()), gauss


def _of_numpy(saved: Any) -> tuple[Any, ...]:
    kind, words, *rest = saved["numpy"]
    return kind, np.frombuffer(words, dtype="<u4"), *rest


def _bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
