"""Checkpoints and state dicts with anything in them: refused in words, without a trace, or loaded as they are."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stepwell
from checkpoint.small_training import Training, as_values, sealed, training
from stepwell.checkpoint import CheckpointError, MismatchError

Draw = Callable[[Any], Any]

FUZZED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
RECIPES = st.sampled_from(["adamw", "muon", "schedule-free"])
FILES = ("checkpoint.json", "model.safetensors", "optimizer.safetensors", "values.safetensors")

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.sampled_from(["", "AdamW", "1.weight", "$tensor", "float32", "training", "__class__", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["step", "exp_avg", "$tensor", "$dict", "params", "lr", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
TENSORS = st.builds(
    lambda shape, dtype: torch.ones(shape, dtype=dtype),
    st.sampled_from([(), (0,), (8,), (8, 8), (16, 8), (2, 2)]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
)


@cache
def saved(recipe: str, folder: Path) -> tuple[Path, Any]:
    """A checkpoint, and what it gives."""
    whole = training(recipe).go(2)
    where = whole.save(folder / recipe, extra={"epoch": 2, "order": torch.arange(3)})
    return where, whole.everything()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def changed(draw: Draw, tree: Any, others: st.SearchStrategy[Any]) -> Any:
    """The tree with one of its values replaced, taken away, or put elsewhere too."""
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, Any]] = []

    def walk(each: Any) -> None:
        items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, value in items:
            places.append((each, key))
            walk(value)

    walk(tree)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places))
        if (key not in holder) if isinstance(holder, dict) else (key >= len(holder)):
            continue  # already gone
        way = draw(st.sampled_from(["replace", "remove", "swap", "add"]))
        if way == "replace":
            holder[key] = draw(others)
        elif way == "remove":
            del holder[key]
        elif way == "swap":
            other, place = draw(st.sampled_from(places))
            if (place in other) if isinstance(other, dict) else (place < len(other)):
                holder[key] = copy.deepcopy(other[place])
        elif isinstance(holder, list):
            holder.append(draw(others))
        else:
            holder["ghost"] = draw(others)
    return tree


def check(one: Training, load: Callable[[], Any], errors: type[Exception] | tuple[type[Exception], ...]) -> bool:
    """Whether it loads. If it does not, nothing has changed; and in both cases the training can go on or be undone."""
    before = one.everything()
    refusal = refused(load, errors)
    if refusal is None:
        return True
    if isinstance(refusal, CheckpointError) and not isinstance(refusal, MismatchError):
        assert len(str(refusal).splitlines()) == 1
    assert one.everything() == before
    one.go(1)
    return False


def refused(load: Callable[[], Any], errors: type[Exception] | tuple[type[Exception], ...]) -> Exception | None:
    """What it raises of these."""
    try:
        load()
    except errors as error:
        return error
    return None


@FUZZED
@given(data=st.data(), recipe=RECIPES, file=st.sampled_from(FILES))
def test_files_with_other_bytes(data: st.DataObject, recipe: str, file: str, folder: Path) -> None:
    where, expected = saved(recipe, folder)
    work = folder / "work" / "000001"
    shutil.rmtree(work.parent, ignore_errors=True)
    shutil.copytree(where, work)
    content = bytearray((work / file).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 64)))
    content[start:end] = data.draw(st.binary(max_size=64))
    unchanged = content == (work / file).read_bytes()
    (work / file).write_bytes(content)
    one = training(recipe, seeded=4)
    if check(one, lambda: one.load(work, strict=data.draw(st.booleans())), CheckpointError):
        assert unchanged
        assert isinstance(one.optimizer, stepwell.Optimizer)
        one.optimizer.train()
        assert one.everything() == expected


@FUZZED
@given(data=st.data(), recipe=RECIPES)
def test_manifests_with_other_values(data: st.DataObject, recipe: str, folder: Path) -> None:
    where, _ = saved(recipe, folder)
    work = folder / "work" / "000001"
    shutil.rmtree(work.parent, ignore_errors=True)
    shutil.copytree(where, work)
    content = json.loads((work / "checkpoint.json").read_text(encoding="utf-8"))
    del content["sha256"]
    changed_content = changed(data.draw, content, PLAIN)
    (work / "checkpoint.json").write_bytes(sealed(changed_content))
    one = training(recipe, seeded=4)
    check(one, lambda: one.load(work, strict=data.draw(st.booleans())), CheckpointError)


@FUZZED
@given(data=st.data(), recipe=RECIPES)
def test_state_dicts_with_other_values(data: st.DataObject, recipe: str) -> None:
    state = training(recipe).go(2).optimizer.state_dict()
    one = training(recipe, seeded=4).go(1)
    state = changed(data.draw, state, PLAIN | TENSORS)
    kept = as_values(state)
    check(one, lambda: one.optimizer.load_state_dict(state), (ValueError, TypeError))
    assert str(as_values(state)) == str(kept)


def test_nothing_of_a_file_is_run(tmp_path: Path) -> None:
    # What a pickle would run, as the values of a checkpoint: they stay values.
    evil = {"__reduce__": ["os.system", "touch gone"], "$py": {"object": "os.system"}, "rate": math.inf}
    with pytest.raises(CheckpointError):
        training().go(1).save(tmp_path, extra={"f": eval})
    one = training().go(1)
    one.save(tmp_path, extra=evil)
    assert one.load(tmp_path) == evil


@pytest.mark.peers
def test_files_that_a_coverage_guided_fuzzer_makes(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    program = Path(__file__).with_name("guided_fuzzing.py")
    options = ["-runs=600", "-seed=1", "-len_control=0", "-max_len=128"]
    ran = subprocess.run(
        [sys.executable, str(program), str(tmp_path), *options],
        capture_output=True, text=True, check=False, cwd=tmp_path,  # where it would leave what has failed
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "Done 600 runs" in ran.stderr
