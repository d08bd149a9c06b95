from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepwell import Recipe, Route, checkpoint, create_optimizer, create_scheduler

MODEL = """
import torch


def make():
    return torch.nn.Sequential(torch.nn.Embedding(6, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 6))


def wrong():
    return 3


def failing():
    raise RuntimeError("no weights")
"""


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.cos(3 * p.detach())
        optimizer.step()


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """A current directory with the run `a`, a checkpoint of transformers' kind, and a module that makes the model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "model_file.py").write_text(MODEL)
    model = made()
    optimizer = create_optimizer(model, "adamw", lr=0.01, betas=(0.8, 0.9))
    scheduler = create_scheduler(optimizer, "cosine", horizon=20)
    trained(model, optimizer)
    scheduler.step(2)
    checkpoint.save("a", model=model, optimizer=optimizer, scheduler=scheduler, extra={"epoch": 1, "size": (3, 4)})
    theirs = torch.optim.AdamW(model.parameters(), lr=0.01)
    trained(model, theirs)
    Path("theirs").mkdir()
    torch.save(theirs.state_dict(), "theirs/optimizer.pt")
    torch.save(model.state_dict(), "theirs/pytorch_model.bin")
    return tmp_path


def test_inspect(there, stepwell):
    code, out, err = stepwell("inspect", "a", "--verify")
    assert (code, err) == (0, "")
    for text in (
        "a/000001",
        "every checksum is right",
        "extra      size = (3, 4)",
        "lr Cosine(horizon=20)",
        "step 2",
        "recipe     adamw: AdamW",
    ):
        assert text in out
    rows = [re.split("  +", line) for line in out.splitlines() if line.startswith("adamw")]
    assert [row[:6] for row in rows] == [
        ["adamw", "AdamW", "3", "64", "0.01", "0.01"],
        ["adamw undecayed", "AdamW", "2", "10", "0.01", "0"],
    ]
    code, out, _ = stepwell("inspect", "a/000001", "--json")
    assert code == 0
    assert json.loads(out)["groups"][0]["slots"] == ["exp_avg", "exp_avg_sq"]


def test_diff(there, stepwell):
    assert stepwell("diff", "a", "a/000001") == (0, "They are the same.\n", "")
    checkpoint.save("b", model=made(), extra={"epoch": 2, "size": (3, 4)})
    code, out, err = stepwell("diff", "a", "b")
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "missing     the optimizer",
        "missing     the scheduler",
        "changed     the numbers of 5 of 5 weights: '0.weight', '1.weight', '1.bias' and 2 more",
        "changed     extra 'epoch': 1 in A, 2 in B",
    ]
    code, out, _ = stepwell("diff", "a", "b", "--json")
    assert code == 1
    assert json.loads(out)[-1] == {"kind": "changed", "what": "extra 'epoch'", "here": "1", "there": "2", "tells": True}


def resumed(path: str, recipe: str, **options: Any) -> Any:
    model = made()
    optimizer = create_optimizer(model, recipe, **options)
    scheduler = create_scheduler(optimizer, "cosine", horizon=20)
    return checkpoint.load(path, model=model, optimizer=optimizer, scheduler=scheduler), optimizer, scheduler


def test_migrate_to_a_recipe(there, stepwell, caplog):
    code, out, err = stepwell("migrate", "a", "b", "--to", "muon")
    assert (code, err) == (0, "")
    assert out == (
        "a/000001:\n"
        "  converted  1 parameter, AdamW → Muon: exp_avg as momentum_buffer\n"
        "  kept       4 parameters, AdamW: exp_avg, exp_avg_sq\n"
        "  note       the scheduler goes on at step 2\n"
        "\nb/000001\n"
    )
    assert caplog.text == ""  # no rate was another before: nothing was trained here
    extra, optimizer, scheduler = resumed(
        "b", "muon", adamw_lr=0.01, adamw_weight_decay=0.01, lr=1e-3, weight_decay=0.1, betas=(0.8, 0.9)
    )
    assert extra == {"epoch": 1, "size": (3, 4)}
    assert [group["rule"] for group in optimizer.param_groups] == ["Muon", "AdamW", "AdamW"]
    assert scheduler.last_epoch == 2


def test_migrate_to_a_recipe_of_a_file_takes_its_values(there, stepwell):
    recipe = Recipe(
        name="mine",
        routes=(Route(rule="Lion", select="ndim(at_least=2)", name="matrices"), Route(rule="AdamW")),
        defaults={"lr": 0.003},
    )
    recipe.save("mine.toml")
    code, out, err = stepwell("migrate", "a", "b", "--to", "mine.toml")
    assert (code, err) == (0, "")
    assert "kept       3 parameters, AdamW → Lion: exp_avg" in out
    assert [(group.name, group.rule, group.lr) for group in checkpoint.inspect("b").groups] == [
        ("matrices", "Lion", 0.003),
        ("adamw undecayed", "AdamW", 0.003),
    ]


def test_migrate_to_a_rule_keeps_the_groups(there, stepwell):
    code, out, _ = stepwell("migrate", "a", "b", "--to", "radam", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["target"], {one["how"] for one in report["moved"]}) == ("b/000001", {"kept"})
    groups = checkpoint.inspect("b").groups
    assert [(group.name, group.rule, group.weight_decay) for group in groups] == [
        ("adamw", "RAdam", 0.0),
        ("adamw undecayed", "RAdam", 0.0),
    ]


def test_migrate_keeps_torchs_kind_of_decay(there, stepwell):
    model = made()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01, weight_decay=0.1, decoupled_weight_decay=True)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "nadam.pt")
    code, _, err = stepwell("migrate", "nadam.pt", "b", "--to", "NAdam", "--model", "model_file:make")
    assert (code, err) == (0, "")
    content = json.loads(Path("b/000001/checkpoint.json").read_text())
    assert '"decay": "decoupled"' in json.dumps(content)


def test_migrate_from_transformers_with_the_model(there, stepwell):
    code, out, err = stepwell("migrate", "theirs", "b", "--to", "adamw", "--model", "model_file:make")
    assert (code, err) == (0, "")
    assert "kept       5 parameters, AdamW: exp_avg, exp_avg_sq" in out
    _, optimizer, _ = (model := made(), create_optimizer(model, "adamw", lr=0.01), None)
    checkpoint.load("b", model=model, optimizer=optimizer)
    assert optimizer.state[model[1].weight]["step"] == 2


def test_migrate_to_torch(there, stepwell):
    code, out, err = stepwell("migrate", "a", "a.pt", "--to", "torch")
    assert (code, err) == (0, "")
    assert out == (
        "a: model, optimizer, step, extra for torch; torch.load(…, weights_only=True) reads it\n"
        "optimizer: make torch's with these groups, of 3, 2 parameters in the order of their 'param_names'\n\na.pt\n"
    )
    model = made()
    matrices, biases = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": biases}])
    optimizer.load_state_dict(torch.load("a.pt", weights_only=True)["optimizer"])
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert stepwell("migrate", "a", "a.pt", "--to", "torch")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere"), "there is no folder nowhere"),
        (("inspect", "theirs"), "there is no checkpoint in theirs"),
        (
            ("inspect", "model_file.py"),
            "model_file.py is a file, and a checkpoint is a folder; `stepwell migrate` reads files of other packages",
        ),
        (("inspect",), "missing argument 'CHECKPOINT'"),
        (("diff", "a", "nowhere"), "there is no folder nowhere"),
        (("diff", "a"), "missing argument 'B'"),
        (("migrate", "a", "b"), "missing option '--to'"),
        (
            ("migrate", "a", "b", "--to", "moun"),
            "unknown recipe or rule 'moun' (did you mean 'muon'?); `stepwell presets` and "
            "`stepwell list` have the names",
        ),
        (
            ("migrate", "a", "b", "--to", "Muon-x"),
            "unknown recipe or rule 'Muon-x' (did you mean 'muon'?); `stepwell presets` and "
            "`stepwell list` have the names",
        ),
        (("migrate", "a", "b", "--to", "mine.toml"), "mine.toml: cannot be read: No such file or directory"),
        (("migrate", "a", "model_file.py", "--to", "torch"), "TARGET must be a new file, and 'model_file.py' is there"),
        (("migrate", "model_file.py", "b", "--to", "adamw"), None),
        (
            ("migrate", "theirs", "b", "--to", "adamw"),
            "theirs has its optimizer's state by number, not by name: give the model that it was saved from",
        ),
        (
            ("migrate", "theirs", "b", "--to", "adamw", "--model", "model_file"),
            "unknown model 'model_file'; allowed is module:function",
        ),
        (
            ("migrate", "theirs", "b", "--to", "adamw", "--model", "model_file:mak"),
            "model module 'model_file' has no function 'mak' (did you mean 'make'?)",
        ),
        (
            ("migrate", "theirs", "b", "--to", "adamw", "--model", "model_file:wrong"),
            "model 'model_file:wrong' must return a torch.nn.Module, got int",
        ),
        (
            ("migrate", "theirs", "b", "--to", "adamw", "--model", "model_file:failing"),
            "model 'model_file:failing' failed: RuntimeError: no weights (model_file.py:14)",
        ),
        (
            ("migrate", "a", "b", "--to", "adamw", "--rule", "adamv"),
            "unknown rule 'adamv' (did you mean 'Adam'?)",
        ),
        (("migrate", "a", "theirs/optimizer.pt", "--to", "adamw"), None),
        (
            ("migrate", "a", "b", "--to", "dion"),
            "a/000001 cannot be migrated to 'dion': Dion acts on real matrices (…, rows, cols), but parameter '1.bias' "
            "has shape (4,) and dtype torch.float32 (group 'adamw undecayed'); put it into a group with a rule such as "
            "'AdamW', as a recipe does with routes = [{rule = \"Dion\", select = \"role('hidden matrix')\"}, "
            '{rule = "AdamW"}]',
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(there, stepwell, arguments, message):
    before = sorted(path.name for path in there.rglob("*") if "__pycache__" not in str(path))
    code, out, err = stepwell(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("stepwell: ")
    if message is not None:
        assert err == f"stepwell: {message}\n"
    assert sorted(path.name for path in there.rglob("*") if "__pycache__" not in str(path)) == before


def test_damage_is_one_line(there, stepwell):
    path = there / "a" / "000001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for command in (("inspect", "a"), ("diff", "a", "a"), ("migrate", "a", "b", "--to", "lion")):
        code, out, err = stepwell(*command)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "model.safetensors is cut off" in err
