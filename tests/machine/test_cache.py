"""Where kernels are kept."""

import logging
import sys
from pathlib import Path

import pytest

from stepwell.machine import cache


def test_a_cache_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(blocked))
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        first = cache.kernel_folder(cache.cache_folder())
        again = cache.kernel_folder(cache.cache_folder())
    assert first == again
    assert first.is_dir()
    assert [record.message.partition(", for ")[0] for record in caplog.records] == [
        "kernels are compiled anew in each process"
    ]
    assert "STEPWELL_CACHE_DIR" in caplog.text


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
    cache.kernel_folder.cache_clear()
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        first = cache.kernel_folder(cache.cache_folder())
        again = cache.kernel_folder(cache.cache_folder())
    assert first == again
    assert first.is_dir()
    assert [record.message for record in caplog.records] == [
        "kernels are compiled anew in each process, for there is no home folder to keep them in; set STEPWELL_CACHE_DIR"
    ]
