from __future__ import annotations

import json

import pytest

from stepwell.catalogue import entries


def test_the_list_has_a_line_for_each(stepwell):
    code, out, err = stepwell("list", "--memory", "0.5")
    assert (code, err) == (0, "")
    first = [line.split()[0] for line in out.splitlines()[1:] if not line.startswith(" ")]
    assert first == [entry.name for entry in entries(memory=0.5)]
    assert "0.00163" in out
    assert "Gradient descent with heavy-ball or" in out


def test_json_has_all_that_there_is_to_say(stepwell):
    code, out, _ = stepwell("list", "--acts-on", "matrices", "--memory", "1", "--json")
    assert code == 0
    found = json.loads(out)
    assert [one["name"] for one in found] == [entry.name for entry in entries(acts_on="matrices", memory=1)]
    muon = next(one for one in found if one["name"] == "Muon")
    assert muon["slots"] == ["momentum_buffer"]
    assert muon["memory"] == 1.0
    assert muon["source"].startswith("Jordan et al. 2024")


def test_none_as_asked_for(stepwell):
    assert stepwell("list", "--acts-on", "matrices", "--memory", "0")[1] == "No optimizer is as asked for.\n"
    assert stepwell("list", "--acts-on", "matrices", "--memory", "0", "--json")[1] == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--memory", "-1"), "--memory must be a number of at least 0, got '-1'"),
        (("--memory", "much"), "--memory must be a number of at least 0, got 'much'"),
        (
            ("--acts-on", "matrix"),
            "--acts-on must be one of 'elements', 'tensors', 'matrices', got 'matrix' (did you mean 'matrices'?)",
        ),
    ],
)
def test_bad_input_is_one_line(stepwell, arguments, message):
    assert stepwell("list", *arguments) == (2, "", f"stepwell: {message}\n")
