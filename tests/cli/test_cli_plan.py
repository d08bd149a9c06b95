"""`stepwell plan`, `stepwell memory` and `stepwell presets`."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

import stepwell as package
from stepwell import Recipe
from stepwell.advice.measured import citations
from stepwell.cli.summary import show_plan
from stepwell.recipes import PRESETS

MODELS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 10, bias=False)


class Huge(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(1 << 18, 1 << 18)


def tied():
    model = Net()
    model.head.weight = model.embed.weight
    return model


def empty():
    return nn.ReLU()


def frozen():
    return Net().requires_grad_(False)


def failing():
    raise FileNotFoundError(2, "No such file or directory", "weights.pt")


def number():
    return 3


five = 5
"""


@pytest.fixture
def models(here):
    (here / "nets.py").write_text(MODELS)
    yield here
    sys.modules.pop("nets", None)


class TestPlan:
    def test_the_table(self, stepwell, models):
        code, out, err = stepwell("plan", "muon", "--model", "nets:Net", "--horizon", "1000")
        assert (code, err) == (0, "")
        heading, hidden, *_ = out.splitlines()
        assert heading.split() == ["group", "rule", "tensors", "parameters", "lr", "decay", "why"]
        assert hidden.split()[:10] == ["hidden", "Muon", "4", "1,024", "0", "→", "0.001", "→", "0", "0.1"]
        assert "hidden matrix: role('hidden matrix')" in out
        assert "blocks.0.up.weight" in out
        assert f"recipe muon {PRESETS['muon'].hash}, 1,000 steps" in out

    def test_warnings_stand_below_it(self, stepwell, models):
        code, out, _ = stepwell("plan", "muon", "--model", "nets:Net")
        assert code == 0
        assert "warning: Cosine(warmup=0.1) of lr needs a horizon" in out

    def test_a_recipe_in_a_file(self, stepwell, models):
        PRESETS["adamw"].set(lr=5e-4).replace(name="mine").save(models / "Mine.TOML".lower())
        code, out, _ = stepwell("plan", "mine.toml", "--model", "nets:Net", "--horizon", "1000", "--json")
        assert code == 0
        data = json.loads(out)
        assert Recipe.from_dict(data["recipe"]).name == "mine"
        assert [group["lr"] for group in data["groups"]] == [[0.0, 5e-4, 0.0]] * 2
        assert data["parameters"] == 2 * 80 + 2 * (16 + 8 * 32 + 32 + 32 * 8 + 8)

    def test_a_model_without_data(self, stepwell, models):
        """2³⁶ numbers: nothing like it fits into memory."""
        code, out, _ = stepwell("plan", "muon", "--model", "nets:Huge", "--meta", "--horizon", "1000", "--json")
        assert code == 0
        assert json.loads(out)["parameters"] == 2**36 + 2**18

    def test_one_parameter(self, stepwell, models):
        code, out, _ = stepwell("plan", "muon", "--model", "nets:tied", "--explain", "head.weight")
        assert code == 0
        assert out.startswith("embed.weight: 10 × 8, 80 numbers, float32\n")
        assert "tied with: head.weight" in out

    def test_a_page(self, stepwell, models):
        code, out, _ = stepwell("plan", "adamw", "--model", "nets:Net", "--horizon", "1000", "--html", "plan.html")
        assert code == 0
        assert out.endswith("\n\nplan.html\n")
        assert (models / "plan.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    def test_a_page_beside_json(self, stepwell, models):
        code, out, _ = stepwell("plan", "adamw", "--model", "nets:Net", "--html", "plan.html", "--json")
        assert code == 0
        assert json.loads(out)["hash"] == PRESETS["adamw"].hash
        assert (models / "plan.html").exists()

    @pytest.mark.parametrize("width", [80, 200])
    def test_in_a_terminal_reasons_stand_beside_or_below(self, models, monkeypatch, width):
        monkeypatch.syspath_prepend(str(models))
        import nets

        where = Console(width=width, file=io.StringIO(), force_terminal=False)
        show_plan(package.plan(nets.Net(), "muon", horizon=100), where)
        lines = where.file.getvalue().splitlines()
        assert all(len(line) <= width for line in lines)
        assert ("why" in lines[0].split()) == (width == 200)
        below = "hidden: hidden matrix: role('hidden matrix'); maps"
        assert any(line.startswith(below) for line in lines) == (width == 80)


class TestMemory:
    def test_the_table(self, stepwell, models):
        code, out, err = stepwell("memory", "lion", "--model", "nets:Net")
        assert (code, err) == (0, "")
        heading, *rows = out.splitlines()
        assert heading.split() == ["weights", "gradients", "state", "step", "peak", "state", "by", "slot"]
        assert [row.split()[0] for row in rows if not row.startswith(" ")] == ["lion", "adamw", "muon", "t5-adafactor"]

    def test_ranks_and_others_as_data(self, stepwell, models):
        PRESETS["lion"].replace(name="ours").save(models / "ours.json")
        code, out, _ = stepwell(
            *("memory", "adamw", "--model", "nets:Huge", "--meta", "--world-size", "64", "--sharded"),
            *("--beside", "sgd,ours.json", "--json"),
        )
        assert code == 0
        data = json.loads(out)
        assert (data["world_size"], data["sharded"]) == (64, True)
        assert [row["title"] for row in data["recipes"]] == ["adamw", "sgd", "ours"]
        # 2¹⁸ rows of 2¹⁸ numbers and as many offsets, of 4 bytes, over 64 ranks; two slots for each.
        assert data["recipes"][0]["weights"] == 4 * (2**36 + 2**18) // 64
        assert data["recipes"][0]["state"] == 2 * data["recipes"][0]["weights"]

    def test_ranks_are_named(self, stepwell, models):
        _, out, _ = stepwell("memory", "adamw", "--model", "nets:Net", "--world-size", "4")
        assert out.splitlines()[-1] == "per rank, 4 ranks, each with everything"


class TestPresets:
    def test_all(self, stepwell):
        code, out, err = stepwell("presets")
        assert (code, err) == (0, "")
        table, note = out.split("\n\n")
        assert [line.split()[0] for line in table.splitlines()[1:] if not line.startswith(" ")] == list(PRESETS)
        assert "arXiv:1711.05101" in table
        assert "sgd with Nesterov momentum" in note

    def test_all_as_data(self, stepwell):
        _, out, _ = stepwell("presets", "--json")
        assert [Recipe.from_dict(data) for data in json.loads(out)] == list(PRESETS.values())

    def test_one(self, stepwell):
        _, out, _ = stepwell("presets", "LLRD")
        assert Recipe.from_toml(out) == PRESETS["llrd"]
        _, out, _ = stepwell("presets", "llrd", "--json")
        assert Recipe.from_json(out) == PRESETS["llrd"]

    def test_one_that_was_run_cites_its_runs(self, stepwell):
        _, out, _ = stepwell("presets", "adamw")
        comments = [line for line in out.splitlines() if line.startswith("# ")]
        assert comments == [f"# {line}" for line in citations("adamw")]
        assert "run vit/adamw/try-" in comments[0]
        assert Recipe.from_toml(out) == PRESETS["adamw"]


MODEL = ("--model", "nets:Net")


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("plan",), "missing argument 'RECIPE'"),
            (("plan", "muon"), "name a model: --model module:function, or --hf-config file.json"),
            (
                ("plan", "muon", *MODEL, "--hf-config", "config.json"),
                "--model and --hf-config name two models: give one of them",
            ),
            (("plan", "mun", *MODEL), "unknown recipe 'mun' (did you mean 'muon'?); recipes are "),
            (("plan", "mine.toml", *MODEL), "mine.toml: cannot be read: No such file or directory"),
            (("plan", "nets.py", *MODEL), "nets.py: a recipe's file ends in .toml or .json"),
            (("plan", "muon", *MODEL, "--horizon", "0"), "--horizon must be a whole number of at least 1, got '0'"),
            (("plan", "muon", *MODEL, "--horizon", "nan"), "--horizon must be a whole number of at least 1, got 'nan'"),
            (("plan", "muon", *MODEL, "--html", "plan.svg"), "--html must end in .html, got 'plan.svg'"),
            (("plan", "muon", *MODEL, "--html", "no/plan.html"), "cannot write 'no/plan.html': No such file or "),
            (
                ("plan", "muon", *MODEL, "--explain", "blocks.0.up.wieght"),
                "the model has no parameter 'blocks.0.up.wieght' (did you mean 'blocks.0.up.weight'?)",
            ),
            (
                ("plan", "muon", *MODEL, "--explain", "head.weight", "--json"),
                "--explain prints text and --json data: give one of them",
            ),
            (("plan", "muon", "--model", "nets"), "unknown model 'nets'; allowed is module:function"),
            (("plan", "muon", "--model", "netz:Net"), "unknown model module 'netz': no such module in "),
            (("plan", "muon", "--model", "nets:Nett"), "model module 'nets' has no function 'Nett' (did you mean "),
            (
                ("plan", "muon", "--model", "nets:five"),
                "model 'nets:five' must be a function that returns a torch.nn.Module, got int",
            ),
            (("plan", "muon", "--model", "nets:number"), "model 'nets:number' must return a torch.nn.Module, got int"),
            (
                ("plan", "muon", "--model", "nets:failing"),
                "model 'nets:failing' failed: FileNotFoundError: [Errno 2] No such file or directory: 'weights.pt' "
                "(nets.py:",
            ),
            (("plan", "muon", "--model", "nets:empty"), "ReLU has no parameters to train: it has none at all"),
            (
                ("plan", "muon", "--model", "nets:frozen"),
                "Net has no parameters to train: all 14 are frozen (requires_grad=False)",
            ),
            (("plan", "muon", "--hf-config", "nowhere.json"), "cannot read 'nowhere.json': No such file or directory"),
            (
                ("memory", "muon", *MODEL, "--world-size", "-1"),
                "--world-size must be a whole number of at least 1, got '-1'",
            ),
            (("memory", "muon", *MODEL, "--beside", "lion,sopa"), "unknown recipe 'sopa' (did you mean 'soap'?)"),
            (("memory", "muon", *MODEL, "--shraded"), "no such option: --shraded"),
            (("presets", "lama"), "unknown recipe 'lama' (did you mean 'llama'?)"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )  # fmt: skip
    def test_one_line(self, stepwell, models, arguments, message):
        code, out, err = stepwell(*arguments)
        assert (code, out) == (2, "")
        assert err.lower().startswith(f"stepwell: {message}".lower())
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("text", "lines"),
        [
            ("routes = [\n", ["mine.toml: no TOML: Invalid value (at line 2, column 1)"]),
            (
                "version = 7\n",
                ["mine.toml: it is written in format 7, this stepwell reads up to 1; a newer stepwell reads it"],
            ),
            (
                "layer_decay = nan\n[defaults]\nlr = -1\nbetas = [0.9, nan]\n[stages]\nclip_norm = -1\n"
                "[[routes]]\nrule = 'AdamW'\n",
                [
                    "mine.toml has 4 mistakes:",
                    "- layer_decay must be in (0, 1), got nan",
                    "- clip_norm must be above 0, got -1",
                    "- defaults, for AdamW: lr must be at least 0, got -1",
                    "- defaults, for AdamW: betas[1] must be in [0, 1), got nan",
                ],
            ),
            (
                "undecayed = \"name('*.bais')\"\n"
                "[[routes]]\nrule = 'Lion'\nselect = \"name('bloks')\"\n[[routes]]\nrule = 'AdamW'\n",
                [
                    "this recipe on Net has 2 mistakes:",
                    "- route 'lion': name('bloks') matches no parameter (did you mean 'blocks'?)",
                    "- undecayed: name('*.bais') matches no parameter",
                ],
            ),
            (
                "[[routes]]\nrule = 'Lion'\nselect = \"name('embed')\"\n"
                "[[routes]]\nrule = 'AdamW'\nselect = \"name('head')\"\n"
                "[[routes]]\nrule = 'SGD'\n",
                [
                    "this recipe on Net: 'embed.weight' and 'head.weight' are one tied parameter, which route 'lion' "
                    "takes by the one name and route 'adamw' by the other; name it in one of them, and take it out of "
                    "the other by & ~name('embed.weight')",
                ],
            ),
        ],
        ids=["syntax", "version", "values", "selectors", "tied"],
    )  # fmt: skip
    @pytest.mark.parametrize("command", ["plan", "memory"])
    def test_every_mistake_of_a_recipe(self, stepwell, models, command, text, lines):
        (models / "mine.toml").write_text(text)
        code, out, err = stepwell(command, "mine.toml", "--model", "nets:tied")
        assert (code, out) == (2, "")
        assert err.splitlines() == [f"stepwell: {lines[0]}", *lines[1:]]


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 20,
    "dtype": "bfloat16",
}


class TestConfigurations:
    @pytest.mark.peers
    def test_a_model_of_transformers(self, stepwell, here):
        (here / "config.json").write_text(json.dumps(CONFIG))
        code, out, err = stepwell("plan", "muon", "--hf-config", "config.json", "--horizon", "100", "--json")
        assert (code, err) == (0, "")
        data = json.loads(out)
        groups = {group["name"]: group for group in data["groups"]}
        assert groups["hidden"]["tensors"] == 2 * 7
        assert groups["adamw"]["names"] == ["model.embed_tokens.weight", "lm_head.weight"]
        code, out, _ = stepwell("memory", "adamw", "--hf-config", "config.json", "--json")
        assert json.loads(out)["recipes"][0]["weights"] == 2 * data["parameters"]  # two bytes each

    @pytest.mark.peers
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"architectures": ["LlamaForCausalML"]},
                " has no model 'LlamaForCausalML' (did you mean 'LlamaForCausalLM'?)",
            ),
            ({"architectures": None}, "'config.json' must name the model's class, such as \"architectures\": "),
            ({"hidden_size": "wide"}, "LlamaForCausalLM of 'config.json' failed: "),
        ],
    )
    def test_configurations_that_make_no_model(self, stepwell, here, change, message):
        (here / "config.json").write_text(json.dumps({**CONFIG, **change}))
        code, out, err = stepwell("plan", "muon", "--hf-config", "config.json")
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "'config.json' is no JSON: Expecting property name enclosed in double quotes (at line 1, column 2)"),
            ("[]", "'config.json' must hold a configuration, got list"),
            ("[" * 100_000, "'config.json' is no configuration: none is nested that deep"),
        ],
    )
    def test_files_that_hold_none(self, stepwell, here, text, message):
        (here / "config.json").write_text(text)
        code, out, err = stepwell("memory", "muon", "--hf-config", "config.json")
        assert (code, out, err) == (2, "", f"stepwell: {message}\n")

    def test_without_transformers_the_command_that_installs_it_is_named(self, stepwell, here, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        (here / "config.json").write_text(json.dumps(CONFIG))
        code, out, err = stepwell("plan", "muon", "--hf-config", "config.json")
        assert (code, out) == (2, "")
        assert err == "stepwell: --hf-config needs transformers: pip install transformers\n"
