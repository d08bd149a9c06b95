from __future__ import annotations

import dataclasses
import math
import statistics

import pytest
import torch

from bench.__main__ import main
from bench.quality import large, page
from bench.quality.large import LARGE_RULES, Size, run_all, task_on, trained, transferred
from stepwell.compare.bytegpt import ByteGPT
from stepwell.compare.contestants import ContestantError
from stepwell.compare.kept import Order, Outcome, Runs

SMALL = Size(width=128, layers=1, heads=2, context=16, sequences=2, held_out=3)
CPU = torch.device("cpu")


@pytest.fixture
def tuned(tmp_path):
    """Tries of all rules on the small GPT: of each, the second is the better one."""
    runs = Runs(tmp_path / "gpt")
    for rule in LARGE_RULES:
        for index, (lr, loss) in enumerate([(0.5, 3.0), (0.032, 2.0)]):
            settings = {"lr": lr, "weight_decay": 0.1} | ({"adamw_lr": 0.008} if rule == "muon" else {})
            order = Order(
                task="gpt", recipe=rule, stage=f"try-{index:02}", settings=settings, seed=0, steps=200, recipe_hash="0"
            )
            runs.keep(Outcome(order=order, losses=((0, 5.0), (200, loss)), diverged_at=None, state_bytes=1))
    return tmp_path


def test_the_model_has_126_million_parameters():
    size = Size()
    with torch.device("meta"):
        model = ByteGPT(width=size.width, layers=size.layers, heads=size.heads, context=size.context)
    # 12 matrices of 1024² a block, an embedding and a head for 256 bytes, and 2·10 + 1 norms.
    assert sum(p.numel() for p in model.parameters()) == 10 * 12 * 1024**2 + 2 * 256 * 1024 + 21 * 1024


def test_rates_are_divided_by_the_growth_of_the_width(tuned):
    assert transferred("adamw", 1024, tuned) == {"lr": 0.002, "weight_decay": 0.1}
    assert transferred("muon", 1024, tuned) == {"lr": 0.008, "weight_decay": 0.1, "adamw_lr": 0.0005}
    with pytest.raises(ContestantError, match=r"^rule 'prodigy' has no finished try on the task 'gpt' in "):
        transferred("prodigy", 1024, tuned)


def test_batches_are_the_same_for_every_rule_and_others_at_every_step():
    task = task_on(CPU, SMALL)
    assert task.batch(3).shape == (2, 17)
    assert torch.equal(task.batch(3), task_on(CPU, SMALL).batch(3))
    assert not torch.equal(task.batch(3), task.batch(4))


def test_the_loss_is_computed_in_bfloat16_and_is_that_of_guessing_at_first():
    task, losses, seen = task_on(CPU, SMALL), [], []
    for seed in range(8):  # frequent bytes are guessed well or badly by chance
        torch.manual_seed(seed)
        model = task.model()
        model.head.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
        with torch.no_grad():
            losses.append(task.validate(model))
    # A head of standard deviation 1/√width makes logits of variance 1, which cost ½ beside equal ones.
    assert statistics.fmean(losses) == pytest.approx(math.log(256) + 0.5, abs=0.3)
    assert set(seen) == {torch.bfloat16}


def test_runs_are_kept_and_not_made_again(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(large.running, "FOLDER", tuned)
    monkeypatch.setattr(large, "transferred", lambda rule, width: transferred(rule, width, tuned))
    folder = tmp_path / "large"
    paths = run_all(["adamw", "muon"], CPU, folder, steps=3, size=SMALL)
    adamw, muon = large.load(folder)
    assert [path.name for path in paths] == ["adamw.json", "muon.json"]
    assert (adamw.rule, adamw.settings) == ("adamw", {"lr": 0.016, "weight_decay": 0.1})
    assert [step for step, *_ in adamw.losses] == [0, 1, 2, 3]
    # 12·128² in matrices, 2·256·128 at both ends, 3 norms of 128; two moments of four bytes.
    assert adamw.parameters == 12 * 128**2 + 2 * 256 * 128 + 3 * 128
    assert adamw.state_bytes == 8 * adamw.parameters
    assert muon.state_bytes == 4 * 12 * 128**2 + 8 * (2 * 256 * 128 + 3 * 128)
    assert muon.losses[0][2] == adamw.losses[0][2]
    monkeypatch.setattr(large, "trained", lambda *_: pytest.fail("made again"))
    assert run_all(["adamw", "muon"], CPU, folder, steps=3, size=SMALL) == paths
    (section,) = ["\n".join(page._large([adamw, muon]))]
    assert "3 steps of 32 bytes" in section
    assert "| Muon + AdamW |" in section


def test_seconds_to_a_loss_are_those_of_the_curve(tuned):
    run = trained("lion", transferred("lion", 128, tuned), CPU, SMALL, steps=2)
    curve = ((0, 0.0, 5.0), (10, 2.0, 3.0), (20, 4.0, 1.0))
    assert dataclasses.replace(run, losses=curve).seconds_to(2.0) == pytest.approx(3.0)
    assert dataclasses.replace(run, losses=curve).seconds_to(0.5) is None
    assert dataclasses.replace(run, losses=curve, diverged_at=15).seconds_to(2.0) is None


def test_what_is_given_wrongly_is_one_line(capsys):
    for arguments, words in [
        (["--rules", "adamv", "--device", "cpu"], "unknown rule 'adamv' (did you mean 'adamw'?)"),
        (["--steps", "0", "--device", "cpu"], "--steps must be at least 1, got 0"),
    ]:
        with pytest.raises(SystemExit):
            main(["large", *arguments])
        assert words in capsys.readouterr().err
