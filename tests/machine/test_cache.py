"""Where kernels are kept."""

import errno
import inspect
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from stepwell.machine import cache


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> None:
    cache._say_not_kept.cache_clear()
    cache._absolute.cache_clear()


def test_a_cache_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(blocked))
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        for name in ("one.py", "other.py"):
            cache.keep(name, b"x = 1")
    assert cache.kept("one.py") is None
    assert [record.message for record in caplog.records] == [
        f"kernels are compiled anew in each process, for {blocked / 'kernels'} cannot be written (Not a directory); "
        "set STEPWELL_CACHE_DIR"
    ]


def test_what_is_kept_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(tmp_path))
    assert cache.kept("one.py") is None
    for content in (b"x = 1", b"x = 2"):
        cache.keep("one.py", content)
        assert cache.kept("one.py") == content
    shutil.rmtree(tmp_path / "kernels")  # in mid-process
    cache.keep("one.py", b"x = 3")
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["one.py"]

    def full(descriptor: int, mode: str) -> None:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    cache.keep("two.py", b"x = 4")
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["one.py"]


def test_a_relative_cache_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_CACHE_DIR", "a folder that no other test speaks of")
    monkeypatch.chdir(tmp_path)
    first = cache.cache_folder()
    monkeypatch.chdir(tmp_path.parent)
    assert cache.cache_folder() == first == tmp_path / "a folder that no other test speaks of"


def test_a_module_has_its_source_whether_or_not_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(tmp_path))
    source = "def twice(x):\n    return 2 * x\n"
    module = cache.module_of("twice.py", source)
    assert module.twice(3) == 6
    assert inspect.getsource(module.twice) == source
    assert not any(tmp_path.iterdir())


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_CACHE_DIR", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere")
    monkeypatch.setenv("STEPWELL_CACHE_DIR", "~/kernels")
    assert cache.cache_folder() == Path.home() / "kernels"
    monkeypatch.delenv("STEPWELL_CACHE_DIR")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
        assert cache.cache_folder() == Path("/elsewhere/stepwell")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks no table of users")
@pytest.mark.parametrize("chosen", ["", "~/kernels"])
def test_a_user_without_a_home_keeps_kernels_for_the_process_which_is_said_once(
    chosen: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEPWELL_CACHE_DIR", chosen)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        for name in ("one.py", "other.py"):
            cache.keep(name, b"x = 1")
            assert cache.kept(name) is None
    assert [record.message for record in caplog.records] == [
        "kernels are compiled anew in each process, for there is no home folder to keep them in; set STEPWELL_CACHE_DIR"
    ]
