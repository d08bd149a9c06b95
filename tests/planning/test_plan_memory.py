"""Planned memory is measured memory: state to the byte, the peak of a step within 2 %."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell
from bench.memory import allocated_peak
from small_models import Language
from stepwell import Recipe, Route, rules
from stepwell.codecs import Storage
from stepwell.planning.memory import state_of
from stepwell.planning.rehearsal import rehearse
from stepwell.recipes import RecipeError
from stepwell.rules.registry import rule_class, rule_names

RULES = [name for name in rule_names() if rule_class(name).__module__.startswith("stepwell.rules.")]


class Wide(nn.Module):
    """Large enough that what Python takes in a step, about 10 KB, is far below 2 % of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, 96)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(96, 160), nn.Linear(160, 96)) for _ in range(3)])
        self.head = nn.Linear(96, 500)


def recipe_of(rule: str, engine: str = "auto") -> Recipe:
    """The rule for the parameters that it is made for, and AdamW for the rest."""
    if rule_class(rule).acts_on != "matrices":
        return Recipe(routes=Route(rule=rule), engine=engine)
    rest = Route(rule="AdamW", name="rest")
    return Recipe(routes=(Route(rule=rule, select="role('hidden matrix')"), rest), engine=engine)


def measured(plan: stepwell.Plan) -> tuple[int, int]:
    """Bytes of state, and of everything at the fullest moment of a step."""
    optimizer = plan.build_optimizer()
    parameters = list(plan.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    for _ in range(2):
        optimizer.step()
    state = sum(
        value.nbytes for slots in optimizer.state.values() for value in slots.values() if isinstance(value, Tensor)
    )
    # Rules that renew a basis now and then: a whole round of steps, the first of them included.
    round_ = 1 + max(group.get("precondition_frequency", 0) for group in optimizer.param_groups)
    for slots in optimizer.state.values():
        slots["step"] = 0
    temporaries = max(allocated_peak(optimizer.step) for _ in range(round_))
    return state, 2 * sum(parameter.nbytes for parameter in parameters) + state + temporaries


def check(rule: str, engine: str, dtype: torch.dtype, **storage: Any) -> None:
    plan = stepwell.plan(Wide().to(dtype), recipe_of(rule, engine).replace(**storage))
    planned = plan.memory(beside=()).own
    state, peak = measured(plan)
    assert planned.state == state
    assert planned.peak == pytest.approx(peak, rel=0.02)
    assert planned.weights == planned.gradients == sum(parameter.nbytes for parameter in plan.model.parameters())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule):
    check(rule, "auto", torch.float32)


@pytest.mark.parametrize("rule", ["AdamW", "Lion", "LAMB", "Adafactor", "ScheduleFreeAdamW", "Prodigy", "Muon", "SOAP"])
@pytest.mark.parametrize("engine", ["foreach", "reference"])
def test_every_engine(rule, engine):
    check(rule, engine, torch.float32)


@pytest.mark.parametrize("rule", ["AdamW", "Adafactor", "Muon", "SOAP"])
@pytest.mark.parametrize("engine", ["auto", "foreach"])
def test_weights_in_16_bits(rule, engine):
    check(rule, engine, torch.bfloat16)


STORED = [
    ("AdamW", "auto", torch.float32, {"state_dtype": "8bit"}),
    ("AdamW", "auto", torch.float32, {"state_dtype": "4bit"}),
    ("AdamW", "auto", torch.bfloat16, {"state_dtype": "8bit", "master": "stochastic"}),
    ("AdamW", "auto", torch.bfloat16, {"state_dtype": "bfloat16", "master": "kahan"}),
    ("AdamW", "auto", torch.bfloat16, {"state_dtype": "float32", "master": "compensated"}),
    ("AdamW", "auto", torch.float16, {"master": "float32"}),
    ("AdamW", "foreach", torch.float32, {"state_dtype": "8bit"}),
    ("AdamW", "foreach", torch.bfloat16, {"state_dtype": "bfloat16", "master": "stochastic"}),
    ("Adafactor", "auto", torch.bfloat16, {"state_dtype": "float32"}),
    ("ScheduleFreeAdamW", "auto", torch.bfloat16, {"state_dtype": "8bit", "master": "kahan"}),
    ("Muon", "auto", torch.float32, {"state_dtype": "8bit"}),
    ("SOAP", "auto", torch.float32, {"state_dtype": "4bit"}),
]


@pytest.mark.parametrize(
    ("rule", "engine", "dtype", "storage"),
    [pytest.param(*each, id="-".join((*each[:2], str(each[2])[6:], *each[3].values()))) for each in STORED],
)
def test_every_storage(rule, engine, dtype, storage):
    check(rule, engine, dtype, **storage)


class TestNumbers:
    """Language has 768 parameters: 512 hidden, 88 in the embedding, 88 in the head, 80 in norms and biases."""

    def test_adamw(self):
        own = stepwell.plan(Language(), "adamw", horizon=10).memory().own
        assert (own.weights, own.gradients) == (4 * 768, 4 * 768)
        assert own.slots == {"exp_avg": 4 * 768, "exp_avg_sq": 4 * 768}
        assert (own.state, own.step, own.peak) == (8 * 768, 0, 16 * 768)

    def test_frozen_weights_have_no_gradient_and_no_state(self):
        model = Language()
        model.embed.requires_grad_(False)
        own = stepwell.plan(model, "lion", horizon=10).memory().own
        assert (own.weights, own.gradients, own.slots) == (4 * 768, 4 * 680, {"exp_avg": 4 * 680})

    def test_others_stand_beside_it(self):
        rows = {row.title: row for row in stepwell.plan(Language(), "muon", horizon=10).memory().rows}
        assert list(rows) == ["muon", "muon bf16", "adamw", "lion", "t5-adafactor"]
        assert rows["muon bf16"].state == rows["muon"].state // 2
        assert rows["lion"].state == 4 * 768
        assert rows["muon"].slots == {"momentum_buffer": 4 * 512, "exp_avg": 4 * 256, "exp_avg_sq": 4 * 256}
        # Rows and columns: up 16 + 8 and down 8 + 16, twice; embedding and head 11 + 8; a number each for the rest.
        assert rows["t5-adafactor"].state == 4 * (2 * 48 + 2 * 19 + 80)

    def test_the_user_says_which(self):
        plan = stepwell.plan(Language(), "muon", horizon=10)
        others = ("soap", Recipe(routes=Route(rule="SGD"), name="plain"))
        assert [row.title for row in plan.memory(beside=others).rows] == ["muon", "soap", "plain"]
        with pytest.raises(ValueError, match=r"^unknown recipe 'sopa' \(did you mean 'soap'\?\)"):
            plan.memory(beside=("sopa",))
        for one in ("soap", Recipe.preset("soap")):
            assert [row.title for row in plan.memory(beside=one).rows] == ["muon", "soap"]
        assert [row.title for row in plan.memory(beside=Storage("bfloat16")).rows] == ["muon", "muon bf16"]

    def test_a_recipe_that_needs_the_same_is_not_shown_again(self):
        titles = [row.title for row in stepwell.plan(Language(), "gpt", horizon=10_000).memory().rows]
        assert titles == ["gpt", "gpt bf16", "lion", "muon", "t5-adafactor"]  # all too small for blocks

    def test_an_alternative_that_does_not_fit_is_left_out(self):
        model = nn.Linear(4, 4, dtype=torch.complex64)
        with pytest.raises(RecipeError):
            stepwell.plan(model, "t5-adafactor")
        titles = [row.title for row in stepwell.plan(model, "adamw", horizon=10).memory().rows]
        assert "t5-adafactor" not in titles


class TestRanks:
    def test_each_rank_holds_a_part(self):
        """Of 3 ranks, the first has ⌈11/3⌉ = 4 rows of embedding and head, ⌈16/3⌉ = 6 and ⌈8/3⌉ = 3 of the others."""
        memory = stepwell.plan(Language(), "lion", horizon=10).memory(world_size=3, sharded=True)
        # 2 blocks of norm 3 + 3, up 6·8 + 6 and down 3·16 + 3; embedding and head 4·8.
        first = 2 * (6 + 54 + 51) + 2 * 32
        assert (memory.own.weights, memory.own.gradients, memory.own.state) == (4 * first,) * 3
        assert str(memory).endswith("per rank, 3 ranks, sharded")

    def test_each_rank_holds_all(self):
        plan = stepwell.plan(Language(), "lion", horizon=10)
        memory = plan.memory(world_size=3)
        assert memory.own == plan.memory().own
        assert str(memory).endswith("per rank, 3 ranks, each with everything")

    def test_temporaries_of_a_part(self):
        """The reference engine takes one tensor at a time, in float64: a third of the rows, a third of the bytes."""
        plan = stepwell.plan(nn.Linear(9, 12, bias=False), Recipe(routes=Route(rule="Lion"), engine="reference"))
        assert plan.memory(world_size=3, sharded=True).own.step == plan.memory().own.step / 3

    def test_a_matrix_rule_puts_its_matrices_together(self):
        """Of 4 matrices of 16 × 8 or 8 × 16 the first of 3 ranks has two: 512 bytes each of weights, gradient and
        two momenta arrive, as much was sent, and weights and momenta go back, as a message and as it arrives."""
        routes = (Route(rule="AdaMuon", select="role('hidden matrix')"), Route(rule="AdamW", name="rest"))
        plan = stepwell.plan(Language(), Recipe(routes=routes), horizon=10)
        read, written = 2 * 4 * 512, 2 * 3 * 512
        assert plan.memory(world_size=3, sharded=True).own.step == 2 * read + 2 * written

    def test_a_rule_that_needs_one_matrix_puts_no_more_together(self, float32_products):
        """As above, of the momentum alone, which is made of ⌈16/3⌉ = 6 rows of 8 and ⌈8/3⌉ = 3 of 16 of each pair. With
        so little to send, the iteration's own temporaries are more than what goes back."""
        plan = stepwell.plan(Language(), "muon", horizon=10)
        there, made = 2 * 512, 2 * (6 * 8 + 3 * 16) * 4
        pair = [torch.empty(16, 8), torch.empty(8, 16)]
        work = rehearse(rules.Muon(), pair, "cpu", "matrices", state_of, "turn").peak
        assert work > 2 * there
        assert plan.memory(world_size=3, sharded=True).own.step == made + 2 * there + work

    def test_a_stack_that_is_cut_between_its_matrices_is_not_put_together(self):
        model = nn.Module()
        model.experts = nn.Parameter(torch.empty(6, 8, 4))
        recipe = Recipe(routes=Route(rule="Muon"))
        alone = nn.Module()
        alone.experts = nn.Parameter(torch.empty(2, 8, 4))
        one = stepwell.plan(alone, recipe).memory().own
        assert stepwell.plan(model, recipe).memory(world_size=3, sharded=True).own.step == one.step

    def test_a_part_is_stored_as_the_whole_is(self):
        """A quarter of 64 × 64 has fewer numbers than blocks are for, and lies in blocks; what is worked on together is
        stored alike, whatever comes first."""
        recipe = Recipe(routes=Route(rule="AdamW"), engine="foreach", state_dtype="8bit")
        steps = []
        for sizes in ((64, 256), (256, 64), (256,)):
            model = nn.Sequential(*(nn.Linear(n, n, bias=False) for n in sizes))
            steps.append(stepwell.plan(model, recipe).memory(world_size=4, sharded=True, beside=()).own.step)
        assert steps[0] == steps[1] > steps[2]

    @pytest.mark.parametrize("sharded", [True, "state"])
    def test_what_an_optimizer_refuses_in_parts(self, sharded):
        """Rules of matrices and tensors store parts as they are."""
        asked: Any = {"world_size": 3, "sharded": sharded}
        plan = stepwell.plan(nn.Sequential(*(nn.Linear(64, 64) for _ in range(3))), "muon", horizon=10)
        beside = (Storage("8bit"), Storage("bfloat16"), "lion")
        assert [row.title for row in plan.memory(beside=beside).rows] == ["muon", "muon 8-bit", "muon bf16", "lion"]
        assert [row.title for row in plan.memory(**asked, beside=beside).rows] == ["muon", "lion"]
        plan = stepwell.plan(plan.model, plan.recipe.replace(state_dtype="8bit"), horizon=10)
        for ask in (plan.memory, plan.traffic):
            with pytest.raises(
                ValueError, match=r"^parameter '0.weight' lies on many ranks, where Muon, .*'hidden'\)$"
            ):
                ask(**asked)

    def test_the_state_alone_is_shared(self):
        """First of 3 ranks: as above, of the state."""
        own = stepwell.plan(Language(), "lion", horizon=10).memory(world_size=3, sharded="state").own
        first = 2 * (6 + 54 + 51) + 2 * 32
        assert (own.weights, own.gradients, own.state) == (4 * 768, 4 * 768, 4 * first)

    def test_replicas_hold_what_fewer_ranks_hold(self):
        plan = stepwell.plan(Language(), "lion", horizon=10)
        memory = plan.memory(world_size=6, sharded=True, replicas=2)
        assert memory.own == plan.memory(world_size=3, sharded=True).own
        assert str(memory).endswith("per rank, 6 ranks in 2 groups, sharded")

    def test_ranks_that_cannot_be_divided(self):
        plan = stepwell.plan(Language(), "lion", horizon=10)
        with pytest.raises(ValueError, match=r"^replicas must divide the 6 ranks, got 4$"):
            plan.memory(world_size=6, sharded=True, replicas=4)
        with pytest.raises(ValueError, match=r"^sharded must be True, False or 'state', got 'all'$"):
            plan.memory(world_size=6, sharded="all")

    @pytest.mark.parametrize(
        ("world_size", "message"),
        [
            (0, "world_size must be a whole number at least 1, got 0"),
            (-2, "world_size must be a whole number at least 1, got -2"),
            (float("nan"), "world_size must be a whole number, got nan of type float"),
            (True, "world_size must be a whole number at least 1, got True of type bool"),
        ],
    )
    @pytest.mark.parametrize("sharded", [True, False])
    def test_ranks_that_cannot_be(self, world_size, sharded, message):
        with pytest.raises((TypeError, ValueError)) as error:
            stepwell.plan(Language(), "lion", horizon=10).memory(world_size=world_size, sharded=sharded)
        assert str(error.value) == message


class TestPrinted:
    def test_as_text(self):
        memory = stepwell.plan(Language(), "lion", horizon=10).memory()
        heading, own, *_ = str(memory).splitlines()
        assert heading.split() == ["recipe", "weights", "gradients", "state", "step", "peak", "state", "by", "slot"]
        assert own.split() == ["lion", "3", "KiB", "3", "KiB", "3", "KiB", "0", "B", "9", "KiB", "exp_avg", "3", "KiB"]

    def test_as_data(self):
        data = json.loads(json.dumps(stepwell.plan(Language(), "lion", horizon=10).memory(world_size=2).to_dict()))
        assert (data["world_size"], data["sharded"]) == (2, False)
        own = data["recipes"][0]
        assert own == {
            "title": "lion",
            "weights": 3072,
            "gradients": 3072,
            "slots": {"exp_avg": 3072},
            "step": 0,
            "state": 3072,
            "peak": 9216,
        }
