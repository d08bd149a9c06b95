from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_table import MACHINE, STEP

from bench import __main__ as command
from bench import step
from bench.__main__ import main
from bench.records import MemoryRow, Report, load
from bench.subjects import SUBJECTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["step", "--rules", "adamw,loin"],
            f"unknown rule 'loin' (did you mean 'lion'?); known are {', '.join(SUBJECTS)}",
        ),
        (
            ["memory", "--shapes", "smal"],
            "unknown shapes 'smal' (did you mean 'small'?); known are gpt2, large, small, thousand, square, hidden",
        ),
        (["step", "--repeats", "0"], "--repeats must be at least 1, got 0"),
    ],
)
def test_what_is_not_known_ends_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"python -m bench: error: {message}"


def test_cuda_without_a_device(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["step", "--device", "cuda"])
    assert capsys.readouterr().err.endswith("error: --device cuda: torch sees no CUDA device\n")


def test_a_quick_run_is_printed_but_not_saved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", Path("/nowhere"))
    monkeypatch.setattr(step, "measure", lambda *_: [STEP])
    main(["step", "--rules", "lion", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("| Lion | **50.0 ms** |")
    assert lines[-1] == "too few rounds, so nothing is saved; --out DIR saves it there"


@pytest.mark.parametrize(("what", "usual", "quick"), [("start", 3, 1), ("plan", 3, 1), ("schedule", 9, 3)])
def test_a_quick_run_has_fewer_rounds(what: str, usual: int, quick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(getattr(command, what), "measure", lambda *given: seen.append(given[-1]) or [STEP])
    monkeypatch.setattr(command, "_keep", lambda *_: None)
    main([what])
    main([what, "--quick"])
    assert seen == [usual, quick]


def test_a_part_takes_its_place_among_the_saved_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command.table, "write", lambda: "the table")
    monkeypatch.setattr(command.gallery, "write", lambda: "the gallery")
    monkeypatch.setattr(command, "this_machine", lambda _: MACHINE)
    other = replace(STEP, rule="AdamW")
    Report("step", MACHINE, {"rounds": "7", "peers": "torch 2"}, [other, STEP]).save(tmp_path)
    monkeypatch.setattr(step, "measure", lambda *_: [replace(STEP, note="again")])
    main(["step", "--rules", "lion"])
    (path,) = tmp_path.iterdir()
    found = load(path)
    assert found.rows == [other, replace(STEP, note="again")]
    assert found.settings["rounds"] == "7 to 9"
    main(["step"])
    assert load(path).rows == [replace(STEP, note="again")]  # a whole run begins anew


def test_a_part_from_other_software_is_refused_before_it_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "this_machine", lambda _: replace(MACHINE, torch="2.14.0", date="2026-02-01"))
    Report("step", MACHINE, {"rounds": "7"}, [STEP]).save(tmp_path)
    with pytest.raises(SystemExit):
        main(["step", "--rules", "lion"])
    assert capsys.readouterr().err.endswith(
        "error: the saved results of step are of torch 2.13.0, this is 2.14.0; measure everything, or say with "
        "--out DIR where to save a part\n"
    )


def test_rules_and_shapes_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["step", "--rules", "muon", "--shapes", "small", "--out", str(tmp_path)])
    assert capsys.readouterr().err.endswith(
        "error: nothing to measure: rules of matrices take --shapes hidden, the others gpt2, small and square\n"
    )


def test_what_is_measured_is_printed_as_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["memory", "--rules", "sgd", "--shapes", "small", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "",
        "300 tensors of 768: 230,400 parameters",
        "",
        "| rule | contender | allocated | resident |",
    ]
    assert lines[5].startswith("| SGD + momentum | stepwell | ")


def test_a_part_is_saved_where_one_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["memory", "--rules", "sgd", "--shapes", "small", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["what"] == "memory"
    assert content["rows"][0]["kind"] == MemoryRow.__name__
