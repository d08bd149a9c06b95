from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from bench.__main__ import main
from bench.quality import pace, page, pictures, ravine, running, variations
from bench.quality.asks import Found, OnTask, loss_at, percent
from bench.quality.claims import CLAIMS, HOLDS, NOT_HERE, NOT_RUN, PARTLY, Claim
from bench.quality.tasks import TASKS, digits, text
from bench.quality.tasks.digits import shifted
from stepwell.advice import measured
from stepwell.compare import fair
from stepwell.compare.fair import Protocol
from stepwell.compare.fair_contestants import BASELINE, RULES
from stepwell.compare.kept import Order, Outcome, Runs
from stepwell.compare.task import Task
from stepwell.compare.training import Run


def outcome(stage: str, last: float | None, recipe: str = "adamw", steps: int = 100, lr: float = 0.1) -> Outcome:
    """A run whose loss falls evenly from 4 to the last, seen at five steps; None diverged."""
    order = Order(
        task="vit", recipe=recipe, stage=stage, settings={"lr": lr}, seed=1, steps=steps, recipe_hash="0" * 12
    )
    end = 4.0 if last is None else last
    losses = tuple((steps * part // 4, 4.0 + (end - 4.0) * part / 4) for part in range(5))
    return Outcome(order=order, losses=losses, diverged_at=steps if last is None else None, state_bytes=1000)


def stages(recipe: str = "adamw", longer: float | None = None, lr: float = 0.1, **last: float | None):
    """Runs by stage; an underscore in a keyword stands for a dash."""
    found = {name.replace("_", "-"): loss for name, loss in last.items()}
    runs = {stage: outcome(stage, loss, recipe, lr=lr) for stage, loss in found.items()}
    return runs | ({} if longer is None else {"longer": outcome("longer", longer, recipe, steps=400)})


ADAMW = stages(try_00=2.0, seed_1=2.0, seed_2=2.1, seed_3=1.9, longer=1.0)


def claim(words: str) -> Claim:
    (found,) = [one for one in CLAIMS if words in one.says]
    return found


class TestVerdicts:
    def verdict(self, words: str, **tasks) -> tuple[str, str]:
        one = dataclasses.replace(claim(words), of=tuple(tasks))
        verdict, found = one.verdict({name: OnTask(stages, name=name) for name, stages in tasks.items()})
        return verdict, "; ".join(found)

    def test_all_everywhere_holds_and_none_anywhere_does_not(self):
        def asked(*shares: float) -> str:
            answers = iter(shares)
            names = tuple(str(index) for index in range(len(shares)))
            one = Claim("", "", "", lambda _: Found(next(answers), ""), of=names)
            return one.verdict({name: OnTask({}) for name in names})[0]

        assert asked(1, 1) == HOLDS
        assert asked(0, 0) == NOT_HERE
        assert asked(1, 0) == asked(0.5, 0.5) == asked(0.5) == PARTLY
        assert Claim("", "", "", lambda _: None).verdict({"a": OnTask({})}) == (NOT_RUN, [])

    def test_fewer_steps(self):
        # From 4, evenly: to 2.0 in 2/3 of the steps for 1.0 at the end, in half of them for 0.0.
        fast = stages("soap", try_00=0.0, seed_1=0.0, seed_2=0.0, seed_3=0.0, longer=-1.0)
        assert self.verdict("40 % fewer", vit={"adamw": ADAMW, "soap": fast})[0] == HOLDS
        slow = stages("soap", try_00=1.0, seed_1=1.0, seed_2=1.0, seed_3=1.0, longer=0.9)
        verdict, words = self.verdict("40 % fewer", vit={"adamw": ADAMW, "soap": slow})
        assert (verdict, words) == (NOT_HERE, "`vit`: 67% of the steps, 97% over the longer horizon")
        mixed = {**slow, "longer": fast["longer"]}
        assert self.verdict("40 % fewer", vit={"adamw": ADAMW, "soap": mixed})[0] == PARTLY
        assert self.verdict("40 % fewer", vit={"adamw": ADAMW})[0] == NOT_RUN

    def test_time_is_steps_by_milliseconds(self):
        fast = stages("soap", try_00=0.0, seed_1=0.0, seed_2=0.0, seed_3=0.0, longer=-2.0)
        task = OnTask({"adamw": ADAMW, "soap": fast}, {"adamw": 10.0, "soap": 12.0})
        assert claim("35 % less time").verdict({"vit": task})[0] == f"{HOLDS}, so far without resnet, gpt"
        verdict, words = dataclasses.replace(claim("35 % less time"), of=("vit",)).verdict({"vit": task})
        # Half of the steps (the median seed), and 3/6 over the longer horizon; each step takes 1.2 times as long.
        assert verdict == HOLDS
        assert words[0].startswith("`vit`: 60% of the time, 60% over the longer horizon")
        assert claim("35 % less time").verdict({"vit": OnTask(task.outcomes)})[0] == NOT_RUN

    def test_storage_is_paired_by_seed(self):
        cheap = ADAMW | stages(**{"8bit_1": 2.002, "8bit_2": 2.1, "8bit_3": 1.9})
        assert self.verdict("8-bit", vit={"adamw": cheap}) == (HOLDS, "`vit`: +0.03% (+0.1%, +0.0%, +0.0%)")
        dear = ADAMW | stages(**{"8bit_1": 2.2, "8bit_2": 2.1, "8bit_3": 1.9})
        assert self.verdict("8-bit", vit={"adamw": dear})[0] == NOT_HERE
        assert self.verdict("8-bit", vit={"adamw": dear}, gpt={"adamw": cheap})[0] == PARTLY

    def test_adafactor_is_compared_as_it_is(self):
        worse = stages("adafactor", try_00=2.0, seed_1=2.2, seed_2=2.1, seed_3=1.9)
        assert self.verdict("Adafactor", vit={"adamw": ADAMW, "adafactor": worse})[0] == NOT_HERE

    def test_a_habit_helps_where_it_is_missed(self):
        missed = ADAMW | stages(all_decayed_1=2.1, all_decayed_2=2.2, all_decayed_3=1.8)
        verdict, words = self.verdict("Undecayed", vit={"adamw": missed})
        assert (verdict, "worse from 2 of 3 seeds" in words) == (HOLDS, True)
        lucky = ADAMW | stages(all_decayed_1=2.0, all_decayed_2=2.0, all_decayed_3=3.0)
        assert self.verdict("Undecayed", vit={"adamw": lucky})[0] == NOT_HERE  # higher in the mean, by one seed alone

    def test_lion_at_a_third(self):
        lion = stages("lion", try_00=1.9, third_1=2.0, third_2=2.15, third_3=1.9)
        lion = {stage: dataclasses.replace(run, state_bytes=500) for stage, run in lion.items()}
        assert self.verdict("Lion matches", vit={"adamw": ADAMW, "lion": lion})[0] == HOLDS
        whole = {stage: dataclasses.replace(run, state_bytes=1000) for stage, run in lion.items()}
        assert self.verdict("Lion matches", vit={"adamw": ADAMW, "lion": whole})[0] == PARTLY

    def test_schedule_free_is_asked_at_four_horizons(self):
        endless = {"endless": outcome("endless", 0.0, "schedule-free", steps=400)}
        cosines = {
            "horizon-half": outcome("horizon-half", 3.6, steps=50),  # 4 − 4·50/400 = 3.5 there: at or under
            "seed-1": outcome("seed-1", 3.0),  # 3.0: at
            "horizon-twice": outcome("horizon-twice", 1.9, steps=200),  # 2.0: above
            "longer": outcome("longer", 0.1, steps=400),
        }
        both = {"adamw": ADAMW | cosines, "schedule-free": endless}
        assert claim("Schedule-Free").ask(OnTask(both)).share == 0.75
        assert self.verdict("Schedule-Free", vit=both)[0] == PARTLY

    def test_a_loss_between_evaluations(self):
        assert loss_at(outcome("endless", 0.0, steps=400), 150) == 2.5
        assert loss_at(outcome("endless", 0.0, steps=400), 401) is None

    def test_who_needs_a_warm_up(self):
        hardy = stages(try_00=2.0, cold=2.09, cold_strained=3.0, warm_strained=3.0)
        frail = stages("lion", try_00=2.0, cold=2.2, cold_strained=None, warm_strained=3.0)
        rules = {"adamw": hardy, "lion": frail, "sgd": hardy, "muon": hardy}
        found = claim("Warm-up prevents").ask(OnTask(rules, name="gpt"))
        assert found == Found(
            0.25,
            "of 4 rules in need at the best rate: lion; at four times that: lion; "
            "lower without it at the best rate: none (one seed)",
        )
        del rules["muon"]
        assert claim("Warm-up prevents").ask(OnTask(rules, name="gpt")) is None  # not all of them have been run

    def test_batches(self):
        runs = stages(**{f"batch_{name}_{seed}": loss for name, loss in
                         (("same", 2.0), ("root", 1.9), ("twice", 2.1)) for seed in (1, 2, 3)})  # fmt: skip
        assert self.verdict("√2 times", vit={"adamw": ADAMW | runs})[0] == HOLDS
        assert self.verdict("wants 2 times", vit={"adamw": ADAMW, "sgd": runs})[0] == NOT_HERE

    def test_typical_rates(self):
        rates = {"adamw": 5e-4, "sgd": 0.05, "rmsprop": 1e-2, "adagrad": 0.02, "lion": 1e-2}
        found = {rule: stages(rule, try_00=2.0, lr=rate) for rule, rate in rates.items()}
        answer = claim("typical").ask(OnTask(found))
        assert answer.share == 0.6
        assert answer.words.startswith(
            "AdamW 0.0005 (0.0001 to 0.001), SGD + momentum 0.05 (0.01 to 0.1), RMSprop 0.01 "
        )
        del found["lion"]
        assert claim("typical").ask(OnTask(found)) is None

    def test_the_page_states_every_claim_beforehand(self):
        protocol = page.PAGE.read_text(encoding="utf-8").partition(page.MARKER)[0]
        (table,) = re.findall(r"^\| claim \| holds if \|\n((?:\|.*\n)+)", protocol, re.MULTILINE)
        # One row speaks of two ways of rounding, and two claims are about doubled batches.
        assert len(table.splitlines()) - 1 == len(CLAIMS) - 1
        for name, entry in TASKS.items():
            assert f"| `{name}` |" in protocol
            assert f"| {entry.steps} |" in protocol


def test_the_ravine():
    """On ½·(x² + 100·y²) plain SGD cannot go faster than 2/101 a step, and turns back in each of them."""
    plain, smooth = ravine.walks()
    assert plain.turns == 1.0
    assert plain.lr <= 2 / 100
    # Along it x shrinks by 1 − 0.019 a step: from 1 to a hundredth of √(1 + 0.3²) in ln(95.78) / −ln(0.981) steps.
    assert plain.steps == pytest.approx(4.562 / 0.019183, abs=1)
    assert smooth.steps < plain.steps / 3
    assert smooth.turns < 0.5
    assert ravine.drawing().count("<path") == 2 * (5 + 1)


class TestTasks:
    @pytest.mark.parametrize("name", ["vit", "resnet", "gpt", "recurrent", "experts"])
    def test_something_is_learnt(self, name):
        task = TASKS[name].of(1)
        assert task.name == name
        run = Run(task, RULES["adamw"], {"lr": 3e-3}, steps=16, seed=1)
        run.evaluate()
        run.advance(16)
        run.evaluate()
        before, after = (one.loss for one in run.result.evaluations)
        assert after < before

    def test_rules_of_matrices_have_matrices_and_kernels_on_every_task(self):
        for name, kinds in (
            ("vit", {"Linear"}),
            ("resnet", {"Conv2d"}),
            ("recurrent", {"GRU"}),
            ("experts", {"Linear"}),
        ):
            run = Run(TASKS[name].of(0), RULES["muon"], {}, steps=1, seed=0)
            muon = [group for group in run.optimizer.param_groups if group["rule"] == "Muon"]
            taken = {id(p) for group in muon for p in group["params"]}
            owners = {
                type(module).__name__
                for module in run.model.modules()
                for p in module.parameters(recurse=False)
                if id(p) in taken
            }
            assert kinds <= owners, name

    def test_the_same_seed_draws_the_same_batches(self):
        one, again, other = (TASKS["vit"].of(seed).batch(3) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        assert not torch.equal(one[0], other[0])

    def test_digits_are_split_once_and_move_by_a_pixel(self):
        (train, names), (held_out, _) = digits.digits()
        assert (len(train), len(held_out), len(names)) == (1347, 450, 1347)
        image = torch.full((1, 1, 8, 8), -1.0)
        image[0, 0, 3, 4] = 1.0
        moved = shifted(image, torch.tensor([2]), torch.tensor([0]))
        assert moved.flatten().argmax().item() == 8 * 4 + 3
        assert torch.equal(shifted(image, torch.tensor([1]), torch.tensor([1])), image)

    def test_fine_tuning_goes_over_to_files_that_were_not_seen(self):
        assert text.is_net("asyncio/base_events.py")
        assert text.is_net("ssl.py")
        assert not text.is_net("ast.py")
        assert not text.is_other("http/client.py")

    def test_batch_norms_are_settled_on_the_weights_that_are_validated(self):
        task = TASKS["resnet"].of(0)
        torch.manual_seed(0)
        model = task.model()
        model.eval()
        with torch.no_grad():
            before = task.validate(model)
            for norm in model.modules():
                if isinstance(norm, torch.nn.BatchNorm2d):
                    norm.running_mean.add_(100)
            assert task.validate(model) == before
        assert not any(module.training for module in model.modules())


class TestVariations:
    @pytest.mark.parametrize(
        ("task", "one"),
        [(task, one) for task in TASKS for one in variations.on(task)],
        ids=lambda value: value if isinstance(value, str) else f"{value.rule}-{value.name}",
    )
    def test_each_changes_one_thing(self, task, one, tmp_path, small):
        test = fair.FairTest(lambda _: small(task), Protocol(steps=4, longer=2), Runs(tmp_path))
        for rule in (BASELINE, one.rule):
            test.carry_out("try-00", variations.contestant(rule), {"lr": 0.01, "weight_decay": 0.1})
        one.run(test)
        found = {stage: run for stage, run in Runs(tmp_path).of(one.rule).items() if not stage.startswith("try-")}
        assert one.last in found
        assert all(run.order.recipe == one.rule for run in found.values())

    @pytest.fixture
    def small(self):
        def make(name: str) -> Task:
            return Task(
                name=name,
                model=lambda: torch.nn.Sequential(
                    torch.nn.Linear(4, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)
                ),
                batch=lambda _: torch.ones(2, 4),
                loss=lambda model, x: model(x).square().mean(),
                validate=lambda model: float(model(torch.ones(1, 4)).square().mean()),
            )

        return make

    def test_weights_in_sixteen_bits_compute_in_thirty_two(self):
        model = variations.SixteenBits(torch.nn.Linear(3, 2))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        out = model(torch.ones(1, 3))
        assert out.dtype == torch.float32
        out.sum().backward()
        assert model.model.weight.grad.dtype == torch.bfloat16

    def test_a_doubled_batch_is_two_batches(self):
        task = variations.doubled(TASKS["vit"].of)(3)
        images, labels = task.batch(5)
        first, second = (TASKS["vit"].of(3).batch(step) for step in (10, 11))
        assert torch.equal(images, torch.cat((first[0], second[0])))
        assert torch.equal(labels, torch.cat((first[1], second[1])))


class TestCommand:
    @pytest.fixture
    def short(self, monkeypatch):
        """Runs of two steps and two tries, at points that need no Optuna."""
        monkeypatch.setattr(running, "protocol_of", lambda *_, **__: Protocol(steps=2, tries=2, fresh=1, longer=2))
        points = {"centre": 0.5, "high": 0.9}
        monkeypatch.setattr(
            fair,
            "drawn",
            lambda space, count, _: [
                [axis.low ** (1 - part) * axis.high**part for axis in space] for part in list(points.values())[:count]
            ],
        )

    def test_a_rule_on_a_task(self, short, tmp_path, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["quality", "--tasks", "resnet", "--rules", "lamb", "--out", str(tmp_path)])
        assert ended.value.code == 0
        assert len(capsys.readouterr().out.splitlines()) == 6
        assert len(list((tmp_path / "resnet" / "lamb").iterdir())) == 6
        with pytest.raises(SystemExit):
            main(["quality", "--tasks", "resnet", "--rules", "lamb", "--out", str(tmp_path)])
        assert capsys.readouterr().out == ""  # all was there

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--tasks", "vti"], "unknown task 'vti' (did you mean 'vit'?); known are vit, resnet"),
            (["--rules", "adam"], "unknown rule 'adam' (did you mean 'adamw'?)"),
            (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        ],
    )
    def test_what_is_not_known_ends_with_one_line(self, arguments, message, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["quality", *arguments])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]

    def test_entrants_take_part_where_they_belong(self):
        titles = [unit.title for unit in running.units(["vit", "adapting"], None)]
        assert "vit adamw-linear" in titles
        assert "adapting adamw-layerwise" in titles
        assert "adapting adamw-linear" not in titles
        assert titles.index("adapting adamw-layerwise") < titles.index("vit adamw 8bit")
        assert not [unit for unit in running.units(["vit"], None, quick=True) if unit.variation]


class TestPage:
    @pytest.fixture
    def folder(self, tmp_path):
        """Two rules on one task, half run."""
        runs = Runs(tmp_path / "runs" / "vit")
        for found in (ADAMW, stages("muon", try_00=1.0, seed_1=1.0, seed_2=1.0, seed_3=1.0, longer=0.9)):
            for run in found.values():
                runs.keep(run)
        pace.save(tmp_path / "runs", "vit", {"adamw": 10.0, "muon": 12.0})
        for name in ("evidence.md", "choosing.md"):
            (tmp_path / name).write_text(f"# Evidence\n\n{page.MARKER}What was there\n", encoding="utf-8")
        return tmp_path

    def test_it_says_what_has_been_run_and_what_not(self, folder):
        paths = page.write(folder / "evidence.md", folder / "runs", folder)
        assert sorted(path.name for path in paths) == [
            *("choosing.md", "evidence-vit.svg", "evidence.md", "measured.json", "ravine.svg")
        ]
        written = (folder / "evidence.md").read_text(encoding="utf-8")
        assert "What was there" not in written
        assert "| Muon needs a third fewer steps than AdamW | **partly, so far without resnet, gpt** |" in written
        assert "- 8-bit state costs at most 0.5 % of loss (Dettmers et al. 2022, arXiv:2110.02861)." in written
        assert "| Muon + AdamW | 1.000 | 0.000 | 67% | 0.900 | 97% | – | – | 0 of 1 | 1 kB | 12.0 | 80% |" in written
        assert "| **AdamW** | 2.000 | 0.200 | 100% | 1.000 | 100% | – | – | 0 of 1 | 1 kB | 10.0 | 100% |" in written
        assert "| `gpt` | 0 | 0 | none |" in written
        assert re.search(r"^Milliseconds of `vit`: .+, \d+ threads?, .+\.$", written, re.MULTILINE)
        choosing = (folder / "choosing.md").read_text(encoding="utf-8")
        assert "| Muon + AdamW | -50.0% | – | 100% |" in choosing
        # Two thirds of the steps, each of which takes 1.2 times as long.
        assert "    - Muon + AdamW, loss over AdamW's: -50.0% on `vit` (at AdamW's in 67% of the" in choosing
        assert "steps and 80% of the time)." in choosing
        assert "SOAP + AdamW, loss" not in choosing  # not run, so nothing is said of it

    def test_the_picture_has_a_panel_for_each_rule(self, folder):
        drawn = pictures.curves(running.outcomes(folder / "runs")["vit"])
        assert drawn.count('class="name"') == 2
        assert drawn.count('class="behind"') == drawn.count('class="behind longer"') == 1
        assert drawn.count('class="rule"') == drawn.count('class="rule longer"') == 2

    def test_a_page_without_its_marker_is_left_alone(self, folder):
        (folder / "evidence.md").write_text("# Evidence\n", encoding="utf-8")
        with pytest.raises(ValueError, match="has no line"):
            page.write(folder / "evidence.md", folder / "runs", folder)
        assert (folder / "evidence.md").read_text(encoding="utf-8") == "# Evidence\n"

    def test_the_committed_page_is_what_the_committed_runs_say(self, tmp_path):
        copy = tmp_path / "evidence.md"
        for path in (page.PAGE, page.DOCS / page.CHOOSING):
            (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        for path in page.write(copy, package=tmp_path):
            committed = (page.PACKAGE if path.name == measured.FILE else page.DOCS) / path.name
            assert path.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), (
                "run python -m bench evidence"
            )


def test_milliseconds_are_those_of_the_turns_after_the_first():
    turn = [0.001] * 9 + [0.011]  # 2 ms a step, where every tenth has more to do
    assert pace._milliseconds([1.0] * 10 + turn * 3) == 2.0


def test_every_rule_is_searched_over_three_numbers_and_the_baseline_over_four():
    for name, rule in RULES.items():
        assert len(rule.space) == (4 if name == BASELINE else 3)
        assert [axis.name for axis in rule.space[:2]] == ["lr", "weight_decay"]
        widths = [round(axis.high / axis.low) for axis in rule.space]
        assert widths[:2] == [100, 100]
        assert set(widths[2:]) <= {100, 30, 10}
        assert rule.recipe.clip_norm == 1.0
    assert next(iter(RULES)) == BASELINE


def test_claims_of_several_seeds_know_their_words():
    assert percent(None) == "never"
    assert percent(0.666) == "67%"
