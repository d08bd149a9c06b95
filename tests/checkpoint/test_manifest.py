"""The manifest: its own checksum, its format, and what is said of one that is not as it should be."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from checkpoint.small_training import sealed
from stepwell.checkpoint import manifest
from stepwell.checkpoint.errors import CheckpointError, DamagedError
from stepwell.checkpoint.manifest import NAME, Manifest
from stepwell.checkpoint.tensorfile import FileRecord

CONTENT = Manifest(
    training="ab12",
    step=3,
    files={"model.safetensors": FileRecord(8, 1, {"w": 2})},
    model={"class": "M", "tied": {}, "extra_state": {}},
    extra={"epoch": 3, "ä": [1.5, None]},
)


def data() -> dict[str, Any]:
    found = json.loads(CONTENT.to_bytes())
    del found["sha256"]
    return found


def test_it_comes_back_and_is_json(tmp_path: Path) -> None:
    manifest.write(tmp_path, CONTENT)
    assert manifest.read(tmp_path) == CONTENT
    text = json.loads((tmp_path / NAME).read_text(encoding="utf-8"))
    assert (text["kind"], text["format"], text["extra"]) == ("stepwell checkpoint", 1, {"epoch": 3, "ä": [1.5, None]})
    assert set(text["versions"]) == {"stepwell", "torch", "python"}


def test_the_checksum_is_of_what_comes_after_its_line() -> None:
    first, body = CONTENT.to_bytes().split(b"\n", 1)
    assert first.decode() == f'{{"sha256": "{hashlib.sha256(body).hexdigest()}",'


def test_every_byte_counts(tmp_path: Path) -> None:
    whole = CONTENT.to_bytes()
    for position in range(len(whole)):
        changed = whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :]
        (tmp_path / NAME).write_bytes(changed)
        with pytest.raises(DamagedError, match=r"is damaged: it does not have the checksum"):
            manifest.read(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 80, -1])
def test_it_is_cut_off(length: int, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT.to_bytes()[:length])
    with pytest.raises(DamagedError, match="is damaged"):
        manifest.read(tmp_path)


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=rf"^{tmp_path} is no checkpoint: it has no checkpoint\.json$"):
        manifest.read(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(DamagedError, match=r"checkpoint\.json cannot be read: Is a directory$"):
        manifest.read(tmp_path)


def test_a_newer_format_says_who_wrote_it_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(sealed({**data(), "format": 7, "versions": {"stepwell": "3.2.1"}, "model": "new"}))
    message = (
        f"{tmp_path} has format 7, written by stepwell 3.2.1; this stepwell reads up to format 1: "
        "pip install --upgrade stepwell"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("change", [{"kind": "other"}, {"format": "1"}, {"format": None}, {"format": True}])
def test_of_another_kind(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(sealed({**data(), **change}))
    with pytest.raises(CheckpointError, match="is no manifest of a checkpoint: its kind is"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": []},
        {"optimizer": 3},
        {"training": None},
        {"step": "3"},
        {"files": []},
        {"files": {"model.safetensors": {}}},
        {"files": {"../model.safetensors": {"size": 8, "header": 1, "tensors": {}}}},
        {"files": {"/etc/passwd": {"size": 8, "header": 1, "tensors": {}}}},
    ],
)
def test_a_section_of_the_wrong_kind(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(sealed({**data(), **change}))
    with pytest.raises(DamagedError, match=r"lacks what a checkpoint of its format has: "):
        manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["model", "files", "extra", "training", "random"])
def test_a_section_that_is_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(sealed({key: value for key, value in data().items() if key != name}))
    with pytest.raises(DamagedError, match=rf"lacks what a checkpoint of its format has: '{name}'"):
        manifest.read(tmp_path)


def test_json_that_nests_too_deep(tmp_path: Path) -> None:
    body = b'"a":' * 100_000 + b"1}\n"
    content = b'{"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DamagedError, match="is no manifest"):
        manifest.read(tmp_path)
    body = b'"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    (tmp_path / NAME).write_bytes(b'{"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body)
    with pytest.raises(DamagedError, match="is no manifest"):
        manifest.read(tmp_path)
