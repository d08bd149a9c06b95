from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.__main__ import main
from bench.records import MemoryRow


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["step", "--rules", "adamw,loin"],
            "unknown rule 'loin'; did you mean 'lion'?; "
            "known are adamw, sgd, lion, lamb, schedule-free, adamw-bf16, muon",
        ),
        (["memory", "--shapes", "smal"], "unknown shapes 'smal'; did you mean 'small'?; known are gpt2, small, square"),
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


def test_a_part_is_printed_but_not_saved(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", Path("/nowhere"))
    main(["memory", "--rules", "sgd", "--shapes", "small"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "",
        "300 tensors of 768: 230,400 parameters",
        "",
        "| rule | contender | allocated | resident |",
    ]
    assert lines[5].startswith("| SGD + momentum | stepwell | ")
    assert lines[-1] == "only a part was measured, so nothing is saved; --out DIR saves it there"


def test_a_part_is_saved_where_one_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["memory", "--rules", "sgd", "--shapes", "small", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["what"] == "memory"
    assert content["rows"][0]["kind"] == MemoryRow.__name__
