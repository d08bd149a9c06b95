"""The table of what an optimizer does to which parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stepwell
from stepwell.optimizer.describing import Count, describe


def two_groups() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(784, 300), nn.LayerNorm(300), nn.Linear(300, 10))
    named = list(model.named_parameters())
    groups = [
        {
            "params": [(n, p) for n, p in named if p.ndim == 2],
            "name": "matrices",
            "role": "head",
            "why": "they multiply",
        },
        {"params": [(n, p) for n, p in named if p.ndim == 1], "weight_decay": 0.0, "lr": torch.tensor(0.5)},
    ]
    return model, torch.optim.AdamW(groups, lr=0.02, weight_decay=0.1)


def test_rows_hold_what_the_groups_hold():
    _, optimizer = two_groups()
    first, second = describe(optimizer).rows
    assert (first.group, first.rule, first.tensors, first.parameters) == ("matrices", "AdamW", 2, 784 * 300 + 300 * 10)
    assert (first.lr, first.weight_decay, first.role, first.why) == (0.02, 0.1, "head", "they multiply")
    assert first.names == ("0.weight", "2.weight")
    assert (second.group, second.rule, second.tensors, second.parameters) == ("group 1", "AdamW", 4, 300 * 3 + 10)
    assert (second.lr, second.weight_decay, second.role, second.why) == (0.5, 0.0, "", "")
    assert describe(optimizer).total == Count(6, 784 * 300 + 300 * 10 + 300 * 3 + 10)


def test_a_group_that_names_its_rule_shows_it():
    _, optimizer = two_groups()
    optimizer.param_groups[0]["rule"] = "Muon"
    assert [row.rule for row in describe(optimizer).rows] == ["Muon", "AdamW"]


def test_values_are_those_of_now():
    _, optimizer = two_groups()
    optimizer.param_groups[0]["lr"] = 0.01
    assert describe(optimizer).rows[0].lr == 0.01


def test_the_table():
    _, optimizer = two_groups()
    assert str(describe(optimizer)).splitlines() == [
        "group     rule   tensors  parameters    lr  decay  why",
        "matrices  AdamW        2     238,200  0.02    0.1  head: they multiply",
        "                                                   0.weight, 2.weight",
        "group 1   AdamW        4         910   0.5      0  0.bias, 1.weight and 2 more",
        "total                  6     239,110",
    ]


def test_frozen_and_forgotten_parameters_are_counted_where_the_model_is_given():
    model, optimizer = two_groups()
    other = nn.ModuleDict({"trained": model, "frozen": nn.Linear(3, 5), "forgotten": nn.Linear(2, 2, bias=False)})
    other["frozen"].requires_grad_(False)
    description = describe(optimizer, other)
    assert (description.frozen, description.missing) == (Count(2, 20), Count(1, 4))
    assert str(description).splitlines()[-3:] == [
        "total                  6     239,110",
        "frozen                 2          20               requires_grad=False: in no group, never changed",
        "missing                1           4               trainable, but in no group: never changed",
    ]
    assert "frozen" not in str(describe(optimizer, model))
    assert "missing" not in str(describe(optimizer, model))


@pytest.mark.parametrize("width", [100, 110, 200])
def test_no_line_is_wider_than_asked(width):
    _, optimizer = two_groups()
    optimizer.param_groups[0]["why"] = "a reason that takes many words to give, " * 5
    optimizer.param_groups[0]["name"] = "a_name_longer_than_any_column_of_a_table_should_be"
    optimizer.param_groups[0]["param_names"] = ["a.parameter.name.with.many.parts." * 6, "b"]
    text = describe(optimizer).to_text(width)
    assert max(map(len, text.splitlines())) <= width
    assert "a_name_longer_than_any_column_o…" in text


def test_narrow_tables_keep_their_numbers():
    _, optimizer = two_groups()
    assert "238,200" in describe(optimizer).to_text(20)


def test_optimizers_without_names_rates_or_decay():
    parameter = nn.Parameter(torch.zeros(3))
    assert str(describe(torch.optim.LBFGS([parameter]))).splitlines() == [
        "group    rule   tensors  parameters  lr  decay  why",
        "group 0  LBFGS        1           3   1      –",
        "total                 1           3",
    ]


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError) as error:
        describe(nn.Linear(2, 2))  # type: ignore[arg-type]
    assert str(error.value) == "describe takes a torch optimizer, got Linear"


def test_a_rate_that_is_scheduled_stands_beside_its_base():
    model, optimizer = two_groups()
    optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 1e-3, 0.5
    scheduler = stepwell.create_scheduler(optimizer, "cosine", horizon=100, warmup=4)
    rows = describe(optimizer, model).rows
    assert [(row.lr, row.base_lr) for row in rows] == [(0.0, 1e-3), (0.0, 0.5)]
    assert "0 of 0.001" in str(describe(optimizer))
    scheduler.step(1)
    assert "0.125 of 0.5" in str(describe(optimizer))
    scheduler.step(4)
    assert "of" not in str(describe(optimizer)).split()
