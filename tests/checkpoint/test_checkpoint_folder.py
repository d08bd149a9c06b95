"""How checkpoints come into being in a folder, which one is found, and what is left of a killed writer."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from stepwell.checkpoint import folder
from stepwell.checkpoint.errors import CheckpointError
from stepwell.checkpoint.manifest import NAME


def publish(path: Path, content: str = "x") -> Path:
    with folder.writing(path) as new:
        (new / NAME).write_text(content)
        return folder.publish(new)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_checkpoints_are_numbered_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    assert [publish(path).name for _ in range(3)] == ["000001", "000002", "000003"]
    folder.remove(path / "000002")
    assert publish(path).name == "000004"
    assert [one.name for one in folder.checkpoints(path)] == ["000001", "000003", "000004"] == names(path)


def test_more_than_a_million(tmp_path: Path) -> None:
    (tmp_path / "999999").mkdir()
    (tmp_path / "999999" / NAME).write_text("x")
    assert publish(tmp_path).name == "1000000"
    assert folder.find(tmp_path).name == "1000000"


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "12").mkdir()
    (tmp_path / "000001").mkdir()
    (tmp_path / "000001" / "a file").write_text("mine")
    assert publish(tmp_path).name == "000002"
    assert names(tmp_path) == ["000001", "000002", "12", "notes.txt"]


def test_a_date_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "20240101").mkdir()
    (tmp_path / "20240101" / "a file").write_text("mine")
    (tmp_path / "000002").mkdir()
    with pytest.raises(CheckpointError, match=rf"^there is no checkpoint in {tmp_path}$"):
        folder.find(tmp_path)
    with pytest.raises(CheckpointError, match=rf"^there is no checkpoint in {tmp_path}/20240101$"):
        folder.find(tmp_path / "20240101")
    assert [publish(tmp_path).name for _ in range(2)] == ["000001", "000003"]
    assert folder.find(tmp_path).name == "000003"
    assert names(tmp_path) == ["000001", "000002", "000003", "20240101"]


def test_nothing_is_seen_before_it_is_whole(tmp_path: Path) -> None:
    publish(tmp_path)
    with folder.writing(tmp_path) as new:
        (new / NAME).write_text("half")
        assert [one.name for one in folder.checkpoints(tmp_path)] == ["000001"]
        assert folder.find(tmp_path).name == "000001"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    publish(tmp_path)

    def fail() -> None:
        with folder.writing(tmp_path) as new:
            (new / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["000001"]


def _write_and_wait(path: str, ready: object) -> None:
    with folder.writing(Path(path)) as new:
        (new / "half").write_text("half")
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


def test_what_a_killed_writer_leaves_goes_at_the_next_save_and_a_live_one_is_left_alone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=_write_and_wait, args=(str(tmp_path), ready))
    writer.start()
    try:
        assert ready.wait(60)
        (half,) = tmp_path.glob(".writing-*")
        assert publish(tmp_path).name == "000001"
        assert half.is_dir()
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert half.is_dir()
        assert publish(tmp_path).name == "000002"
        assert names(tmp_path) == ["000001", "000002"]
    finally:
        writer.kill()
        writer.join()


def test_what_was_being_deleted_goes_at_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".removing-12345678").mkdir()
    (tmp_path / ".removing-12345678" / "half").write_text("half")
    publish(tmp_path)
    assert names(tmp_path) == ["000001"]


def test_writers_at_once_each_get_a_number(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def write(content: int) -> None:
        start.wait()
        for turn in range(5):
            publish(tmp_path, f"{content}-{turn}")

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = folder.checkpoints(tmp_path)
    assert [int(one.name) for one in found] == list(range(1, 41))
    assert len({(one / NAME).read_text() for one in found}) == 40
    assert len(names(tmp_path)) == 40


def test_a_folder_that_is_taken_before_its_lock_is_there_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = Path.mkdir, []

    def mkdir(self: Path, *args: object, **options: object) -> None:
        real(self, *args, **options)  # type: ignore[arg-type]
        if self.name.startswith(".writing-") and not made:
            made.append(self)
            folder.clear(tmp_path)  # another writer, at this very moment

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert publish(tmp_path).name == "000001"
    assert not made[0].exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EINVAL])
def test_where_there_are_no_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder.fcntl, "flock", flock)
    (tmp_path / ".writing-12345678").mkdir()  # which may be in use
    assert publish(tmp_path).name == "000001"
    assert names(tmp_path) == [".writing-12345678", "000001"]


# Finding one.


def test_find(tmp_path: Path) -> None:
    one, two = publish(tmp_path), publish(tmp_path)
    assert folder.find(tmp_path) == two
    assert folder.find(one) == one
    assert folder.one_before(two) == one
    assert folder.one_before(one) is None
    assert folder.one_before(tmp_path) is None


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^there is no checkpoint in {tmp_path}$"):
        folder.find(tmp_path)
    with pytest.raises(CheckpointError, match=rf"^there is no folder {tmp_path}/nowhere$"):
        folder.find(tmp_path / "nowhere")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".metadata").write_text("x")
    with pytest.raises(
        CheckpointError, match=r"parts was saved by torch\.distributed\.checkpoint: its own load reads it$"
    ):
        folder.find(tmp_path / "parts")
    (tmp_path / "a.pt").write_text("x")
    with pytest.raises(CheckpointError, match=r"a\.pt is a file, and a checkpoint is a folder; .*migrate reads files"):
        folder.find(tmp_path / "a.pt")


def test_a_checkpoint_without_its_manifest_is_not_passed_over(tmp_path: Path) -> None:
    publish(tmp_path)
    damaged = publish(tmp_path)
    (damaged / "model.safetensors").write_text("x")
    (damaged / NAME).unlink()
    assert folder.find(tmp_path).name == "000002"
    assert folder.find(tmp_path / "000002").name == "000002"
