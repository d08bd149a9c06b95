"""The gradient accumulator under `tf.distribute`, in a process of its own: TensorFlow fixes its devices once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers


def test_each_replica_adds_up_its_own_and_a_step_takes_them_together() -> None:
    pytest.importorskip("keras")
    script = Path(__file__).with_name("two_replicas.py")
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["step"] == 3
    # (1, 2) + (3, −1) + (−2, 2), and (−1, 1) + (−1, −1) + (3, −2).
    assert said["sums"] == [[2.0, 3.0], [1.0, -2.0]]
    # SGD with the sum over both, (3, 1), at a rate of 0.1.
    assert said["weights"] == pytest.approx([3.7, 2.9])
    # Adam's first step is the rate along the sign, after the decay of 0.1 · 0.5 of the weights.
    assert said["decayed"] == pytest.approx([3.7 * 0.95 - 0.1, 2.9 * 0.95 - 0.1], abs=1e-5)
    assert said["step after reset"] == 0
    assert said["sums after reset"] == [[0.0, 0.0], [0.0, 0.0]]
    assert said["sums again"] == [[1.0, 2.0], [-1.0, 1.0]]
