"""Loads of files that atheris makes, which looks for bytes that lead to lines not seen before. Run as a program:

    python guided_fuzzing.py FOLDER -runs=2000 -seed=1        all of libFuzzer's options serve

It ends with an error where a load raises anything but a CheckpointError, or fails and has changed something.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from pathlib import Path

import atheris
import torch

with atheris.instrument_imports(include=["stepwell.checkpoint"]):
    import stepwell

from small_training import training  # a file beside this one

from stepwell.checkpoint import CheckpointError
from stepwell.checkpoint.tensorfile import TensorFile

FOLDER = Path(sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else tempfile.mkdtemp())
HERE = training("adamw", seeded=4).go(1)
WHERE = training("adamw").go(2).save(FOLDER / "run", extra={"order": torch.arange(3)})
MANIFEST = WHERE / "checkpoint.json"
BODY = MANIFEST.read_bytes().partition(b"\n")[2]
TENSORS = (WHERE / "optimizer.safetensors").read_bytes()


def spliced(source: atheris.FuzzedDataProvider, whole: bytes) -> bytes:
    """The bytes with some of them replaced."""
    start = source.ConsumeIntInRange(0, len(whole))
    end = source.ConsumeIntInRange(start, min(len(whole), start + 64))
    return whole[:start] + source.ConsumeBytes(64) + whole[end:]


def load_with_manifest(body: bytes) -> None:
    """A manifest whose checksum is right, whatever is in it."""
    MANIFEST.write_bytes(b'{"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body)
    before = HERE.everything()
    try:
        HERE.load(WHERE, strict=False)
    except CheckpointError:
        assert HERE.everything() == before, "a load that failed has changed something"


def read_tensors(content: bytes) -> None:
    """A file of tensors that no checksum guards, as one of another package."""
    path = FOLDER / "file.safetensors"
    path.write_bytes(content)
    try:
        with TensorFile(path) as file:
            for name in file.entries:
                file.read(name)
    except CheckpointError:
        pass


def one_input(data: bytes) -> None:
    source = atheris.FuzzedDataProvider(data)
    if source.ConsumeBool():
        load_with_manifest(spliced(source, BODY))
    else:
        read_tensors(spliced(source, TENSORS))


if __name__ == "__main__":
    assert stepwell.__version__
    logging.disable()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
