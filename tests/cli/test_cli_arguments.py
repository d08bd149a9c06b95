from __future__ import annotations

import pytest

from stepwell.cli.arguments import InputError, listed, number, output_directory, whole_number, write_whole


def test_whole_numbers():
    assert whole_number("--steps", "12", low=1) == 12
    with pytest.raises(InputError, match=r"^--seed must be a whole number from 0 to 9, got '10'$"):
        whole_number("--seed", "10", low=0, high=9)


def test_a_number_is_finite():
    assert number("--lr", "0.1", above=0) == 0.1
    with pytest.raises(InputError, match=r"^--lr must be a finite number above 0, got 'inf'$"):
        number("--lr", "inf", above=0)
    with pytest.raises(InputError, match=r"^--lr must be a number above 0, got '-1'$"):
        number("--lr", "-1", above=0)


def test_lists_with_commas():
    assert listed(" AdamW,A.toml ,,") == ["AdamW", "A.toml"]
    assert listed("") == []


def test_a_directory_that_stays_empty_is_removed_again(tmp_path):
    with output_directory(tmp_path / "a" / "b") as made:
        assert made.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with output_directory(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()


def test_a_directory_with_content_stays(tmp_path):
    with output_directory(tmp_path / "a") as made:
        (made / "x").touch()
    assert (tmp_path / "a" / "x").exists()


def test_what_is_no_unicode_is_written_as_in_source(tmp_path):
    write_whole(tmp_path / "x.txt", "café caf\udce9")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == r"café caf\udce9"


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "x.txt", "one")
    write_whole(tmp_path / "x.txt", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "two"
    (tmp_path / "y.txt").mkdir()
    with pytest.raises(InputError, match=r"^cannot write '.*/y\.txt': Is a directory$"):
        write_whole(tmp_path / "y.txt", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.txt", "y.txt"]
