"""What an optimizer takes as parameters and groups, and what it refuses, in which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule
from stepwell.rules import SGD, Adafactor, Adagrad, Adam, AdamW, Lion, Muon


def weight(*shape: int, **options: Any) -> Tensor:
    return torch.ones(shape or (2,), requires_grad=True, **options)


def groups_of(params: Any, rule: Any = None) -> list[dict[str, Any]]:
    return Optimizer(params, rule or AdamW(lr=0.1)).param_groups


# What is taken


def test_tensors_make_one_group_of_plain_values() -> None:
    p = weight()
    storage = {"state_dtype": None, "master": None, "rounding_seed": 0}
    assert groups_of([p]) == [{"params": [p], "rule": "AdamW", **AdamW(lr=0.1).values(), **storage}]
    assert groups_of(iter([p]))[0]["params"] == [p]


def test_names_are_kept() -> None:
    model = torch.nn.Linear(2, 3)
    (group,) = groups_of(model.named_parameters())
    assert group["param_names"] == ["weight", "bias"]
    assert [id(p) for p in group["params"]] == [id(model.weight), id(model.bias)]


def test_a_group_may_be_one_tensor_pairs_or_tensors_with_names_beside_them() -> None:
    p, q = weight(), weight()
    assert groups_of([{"params": p}])[0]["params"] == [p]
    assert groups_of([{"params": [("p", p), ("q", q)]}])[0]["param_names"] == ["p", "q"]
    assert groups_of([{"params": [p, q], "param_names": ["p", "q"]}])[0]["param_names"] == ["p", "q"]


def test_a_groups_values_are_its_own_and_the_rest_is_the_optimizers() -> None:
    first, second = groups_of([{"params": [weight()], "lr": 0.3}, {"params": [weight()], "betas": [0.5, 0.6]}])
    assert (first["lr"], first["betas"]) == (0.3, (0.9, 0.999))
    assert (second["lr"], second["betas"]) == (0.1, (0.5, 0.6))


def test_a_group_may_carry_a_rule_or_the_name_of_one() -> None:
    groups = groups_of(
        [
            {"params": [weight(2, 2)], "rule": Muon(lr=0.02, momentum=0.8), "name": "hidden", "why": "a matrix"},
            {"params": [weight()], "rule": "lion"},
            {"params": [weight()], "rule": "adam-w"},
            {"params": [weight()], "rule": Lion(lr=0.5), "lr": 0.25},
            {"params": [weight()], "role": "norm"},
        ],
        AdamW(lr=0.3, eps=1e-5),
    )
    assert [group["rule"] for group in groups] == ["Muon", "Lion", "AdamW", "Lion", "AdamW"]
    assert {name: groups[0][name] for name in Muon(lr=0.02).values()} == Muon(lr=0.02, momentum=0.8).values()
    assert (groups[0]["name"], groups[0]["why"], groups[4]["role"]) == ("hidden", "a matrix", "norm")
    # Another rule's name brings that rule's defaults; the optimizer's own rule brings the optimizer's values.
    assert groups[1]["lr"] == Lion().lr
    assert (groups[2]["lr"], groups[2]["eps"]) == (0.3, 1e-5)
    assert groups[3]["lr"] == 0.25
    assert "momentum" not in groups[1]


def test_a_rule_is_not_its_parent() -> None:
    (group,) = groups_of([{"params": [weight()], "rule": "Adam"}], AdamW(lr=0.3))
    assert (group["lr"], group["decay"]) == (1e-3, "coupled")


def test_defaults_are_the_rules_values() -> None:
    # Schedulers of other packages divide by `defaults["lr"]`.
    assert Optimizer([weight()], SGD(lr=0.7, momentum=0.5)).defaults == SGD(lr=0.7, momentum=0.5).values()


def test_the_callers_dicts_are_left_as_they_are() -> None:
    p = weight()
    given = {"params": [p], "rule": Lion(lr=0.5), "name": "all"}
    groups_of([given])
    assert given == {"params": [p], "rule": Lion(lr=0.5), "name": "all"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_dtypes_that_can_be_trained(dtype: torch.dtype) -> None:
    assert groups_of([weight(dtype=dtype)])[0]["params"][0].dtype == dtype


def test_a_tensor_that_keeps_its_gradient_is_taken_as_torch_takes_it() -> None:
    product = weight() * 2
    product.retain_grad()
    assert groups_of([product])[0]["params"] == [product]


# What is refused

REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nothing": (list, ValueError, r"^optimizer got an empty parameter list$"),
    "a tensor": (weight, TypeError, r"^params argument given to the optimizer should be an iterable of Tensors or"),
    "a set": (
        lambda: {weight(), weight()},
        TypeError,
        r"^params must be tensors in an order, or groups of them, got a set; pass a list of tensors or groups$",
    ),
    "a module": (
        lambda: torch.nn.Linear(2, 2),
        TypeError,
        r"^params must be tensors in an order, or groups of them, got a Linear; pass model.parameters\(\)$",
    ),
    "None": (
        lambda: None,
        TypeError,
        r"^params must be tensors in an order, or groups of them, got a NoneType; pass a list of tensors or groups$",
    ),
    "a set in a group": (
        lambda: [{"params": {weight()}, "name": "norms"}],
        TypeError,
        r"^parameters must come in an order, got a set \(group 'norms'\); use a list$",
    ),
    "a number": (lambda: [0.5], TypeError, r"^an optimizer takes tensors, got a float \(group 0\)$"),
    "a named number": (
        lambda: [{"params": [("a", 0.5)], "name": "norms"}],
        TypeError,
        r"^an optimizer takes tensors, got a float \(group 'norms'\)$",
    ),
    "no params": (
        lambda: [{"param": []}],
        TypeError,
        r"^a parameter group must be a dict with 'params', got only \['param'\]$",
    ),
    "a product": (
        lambda: [weight(), weight() * 2],
        ValueError,
        r"^parameter number 1 is no leaf: it is the result of an operation \(group 0\)$",
    ),
    "integers": (
        lambda: [("w", weight()), ("ids", torch.zeros(2, dtype=torch.int64))],
        TypeError,
        r"^parameter 'ids' has dtype torch.int64; what can be trained is float64, float32, bfloat16, ",
    ),
    "eight bits": (
        lambda: [torch.zeros(2).to(torch.float8_e4m3fn)],
        TypeError,
        r"^parameter number 0 has dtype torch.float8_e4m3fn; what can be trained is .*complex32 \(group 0\)$",
    ),
    "names for some": (
        lambda: [("w", weight()), weight()],
        ValueError,
        r"^either all parameters of a group have names or none \(group 0\)$",
    ),
    "names from the second on": (
        lambda: [weight(), ("w", weight())],
        ValueError,
        r"^either all parameters of a group have names or none \(group 0\)$",
    ),
    "names in one group": (
        lambda: [{"params": [("w", weight())]}, {"params": [weight()], "name": "norms"}],
        ValueError,
        r"^either all parameter groups have names or none \(group 'norms'\); the parameters that are there have names, "
        r"so write {'params': \[\('a name', tensor\), …\]}$",
    ),
    "a misspelled key": (
        lambda: [{"params": [weight()], "weight_deacy": 0.1, "name": "norms"}],
        TypeError,
        r"^unknown hyper-parameter 'weight_deacy' for AdamW \(did you mean 'weight_decay'\?\) \(group 'norms'\)$",
    ),
    "a misspelled note": (
        lambda: [{"params": [weight()], "names": "norms"}],
        TypeError,
        r"^unknown hyper-parameter 'names' for AdamW \(did you mean 'name'\?\) \(group 0\)$",
    ),
    "another rule's key": (
        lambda: [{"params": [weight()]}, {"params": [weight()], "rule": "lion", "amsgrad": True}],
        TypeError,
        r"^unknown hyper-parameter 'amsgrad' for Lion.* \(group 1\)$",
    ),
    "a negative rate": (
        lambda: [{"params": [weight()], "lr": -0.1, "name": "norms"}],
        ValueError,
        r"^lr must be at least 0, got -0.1 \(group 'norms'\)$",
    ),
    "a negative decay": (
        lambda: [{"params": [weight()]}, {"params": [weight()], "weight_decay": -0.1}],
        ValueError,
        r"^weight_decay must be at least 0, got -0.1 \(group 1\)$",
    ),
    "values that do not go together": (
        lambda: [{"params": [weight()], "rule": "sgd", "nesterov": True}],
        ValueError,
        r"^nesterov=True needs momentum above 0 and dampening 0, got momentum 0.0 and dampening 0.0 \(group 0\)$",
    ),
    "an unknown rule": (
        lambda: [{"params": [weight()], "rule": "adamww"}],
        ValueError,
        r"^unknown rule 'adamww' \(did you mean 'AdamW'\?\); known are .*Adam, .*AdamW, .*",
    ),
    "a vector for Muon": (
        lambda: [{"params": [("norm.weight", weight(3))], "rule": "muon", "name": "hidden"}],
        ValueError,
        r"^Muon acts on real matrices \(…, rows, cols\), but parameter 'norm.weight' has shape \(3,\) and dtype "
        r"torch.float32 \(group 'hidden'\); put it into a group with a rule such as 'AdamW', as a recipe "
        r"does whose routes are \(Route\(rule='Muon', select=\"role\('hidden matrix'\)\"\), Route\(rule='AdamW'\)\)$",
    ),
    "complex matrices for Muon": (
        lambda: [{"params": [weight(2, 2, dtype=torch.complex64)], "rule": "muon"}],
        ValueError,
        r"^Muon acts on real matrices .* parameter number 0 has shape \(2, 2\) and dtype torch.complex64 \(group 0\);",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    make, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        groups_of(make())


def test_duplicates_within_a_group_and_across_groups() -> None:
    p = weight()
    with pytest.raises(
        ValueError, match=r"^parameter number 1 is in the optimizer twice \(group 0\); list tied weights once$"
    ):
        groups_of([p, p])
    with pytest.raises(ValueError, match=r"^parameter 'head' is in the optimizer twice \(group 'rest'\); list tied"):
        groups_of([{"params": [("embedding", p)]}, {"params": [("head", p)], "name": "rest"}])


def test_two_parameters_of_one_name_could_not_be_told_apart_when_loading() -> None:
    with pytest.raises(ValueError, match=r"'w'.*\(group 0\)"):
        groups_of([("w", weight()), ("w", weight())])


def test_as_many_names_as_parameters() -> None:
    for names in (["a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=r"names.*\(group 'norms'\)"):
            groups_of([{"params": [weight(), weight()], "param_names": names, "name": "norms"}])


@pytest.mark.parametrize("rule", [AdamW, "adamw", None, 3])
def test_the_rule_is_a_rule(rule: Any) -> None:
    with pytest.raises(TypeError, match=r"^rule must be a stepwell.Rule such as stepwell.rules.AdamW\(\), got "):
        Optimizer([weight()], rule)


def test_a_groups_rule_is_a_rule_or_a_name() -> None:
    for rule in (Lion, 3):
        with pytest.raises(
            TypeError,
            match=r"^rule must be a stepwell.Rule such as stepwell.rules.AdamW\(\), or a name, got .* \(group "
            r"'norms'\)$",
        ):
            groups_of([{"params": [weight()], "rule": rule, "name": "norms"}])


def test_engines_have_names() -> None:
    with pytest.raises(
        ValueError,
        match=r"^engine must be one of 'auto', 'reference', 'foreach', 'fused', got 'fussed' \(did you mean 'fused'",
    ):
        Optimizer([weight()], AdamW(), engine="fussed")  # type: ignore[arg-type]


def test_fused_refuses_at_once_what_it_cannot_run() -> None:
    gaps = torch.ones(4, 4)[:, ::2].requires_grad_()
    with pytest.raises(
        ValueError,
        match=r"^engine='fused' cannot run a torch.float32 parameter of shape \(4, 2\) with strides \(4, 2\) on cpu: "
        r"it serves tensors of float64, float32, bfloat16, float16 that lie in the device's memory without gaps; "
        r"use engine='auto'$",
    ):
        Optimizer([gaps], AdamW(), engine="fused")


# Groups that come later


def test_add_param_group_checks_the_same() -> None:
    p = weight()
    optimizer = Optimizer([p], AdamW())
    bad = [
        ({"params": [p]}, ValueError, r"^parameter number 0 is in the optimizer twice \(group 1\)"),
        ({"params": [weight()], "lr": -1.0}, ValueError, r"^lr must be at least 0, got -1.0 \(group 1\)$"),
        ({"params": [weight()], "beta": 1}, TypeError, r"'beta' for AdamW \(did you mean 'betas'\?\) \(group 1\)$"),
        (
            {"params": [("w", weight())]},
            ValueError,
            r"^either all parameter groups have names or none \(group 1\); give this group's .* without their names$",
        ),
        ([weight()], TypeError, r"^a parameter group must be a dict with 'params', got a list$"),
    ]
    for group, error, message in bad:
        with pytest.raises(error, match=message):
            optimizer.add_param_group(group)  # type: ignore[arg-type]
    assert len(optimizer.param_groups) == 1  # a refused group leaves nothing behind
    optimizer.add_param_group({"params": [weight()], "rule": Adam(lr=0.5), "name": "late"})
    assert [(group["rule"], group["lr"]) for group in optimizer.param_groups] == [("AdamW", 1e-3), ("Adam", 0.5)]


def test_initial_values_that_schedulers_leave_may_be_given() -> None:
    (group,) = groups_of([{"params": [weight()], "initial_lr": 0.5}])
    assert group["initial_lr"] == 0.5


def test_a_misspelt_initial_value_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"unknown hyper-parameter 'initial_accumulator_valu' for Adagrad \(did you mean"
    ):
        Optimizer([{"params": [weight()], "initial_accumulator_valu": 0.5}], Adagrad())


def test_what_other_packages_write_into_groups_is_kept() -> None:
    p = weight()
    (group,) = groups_of([{"params": [p], "lr_scale": 0.5, "swa_lr": 0.01}])
    assert (group["lr_scale"], group["swa_lr"]) == (0.5, 0.01)
    theirs = torch.optim.AdamW([p], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.3, total_steps=9)
    ours = Optimizer([p], AdamW(lr=0.1))
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["max_lr"] == 0.3


def test_a_note_of_ones_own_has_a_way_in() -> None:
    way = r"; for a note of your own, set optimizer.param_groups\[0\]\['flavour'\] afterwards \(group 0\)$"
    with pytest.raises(TypeError, match=way):
        groups_of([{"params": [weight()], "flavour": 1}])


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
@pytest.mark.parametrize(
    "row",
    [
        [0.5, 0.75],
        [np.float64(0.5), np.float64(0.75)],
        (torch.tensor(0.5), np.float32(0.75)),
        np.array([0.5, 0.75]),
        torch.tensor([0.5, 0.75]),
    ],
    ids=["list", "numpys", "mixed", "array", "tensor"],
)
def test_a_live_pair_may_be_any_row_of_numbers(engine: Any, row: Any, tmp_path: Path) -> None:
    def stepped(betas: Any, *, steps_before: int) -> Tensor:
        p = weight()
        optimizer = Optimizer([p], AdamW(lr=0.1), engine=engine)
        for step in range(3):
            if step == steps_before:
                optimizer.param_groups[0]["betas"] = betas
            p.grad = torch.tensor([1.0, -2.0])
            optimizer.step()
        torch.save(optimizer.state_dict(), tmp_path / "saved.pt")
        optimizer.load_state_dict(torch.load(tmp_path / "saved.pt", weights_only=True))
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.75)
        return p.detach()

    for steps_before in (0, 1):  # read as the batches are made, and from batches that are there
        assert torch.equal(stepped(row, steps_before=steps_before), stepped((0.5, 0.75), steps_before=steps_before))


@pytest.mark.parametrize(
    ("rule", "name", "value", "said"),
    [
        (SGD(momentum=0.9, average=True), "dampening", 0.5, r"average=True takes no dampening, got 0\.5"),
        (
            SGD(momentum=0.9, nesterov=True),
            "dampening",
            0.5,
            "nesterov=True needs .* and dampening 0, got .*",
        ),
        (Adafactor(eps_as_floor=True), "eps", (0.0, 1e-3), "eps_as_floor=True needs the first of eps above 0, .*"),
        (Adafactor(eps_as_floor=True), "eps", [0.0, 1e-3], "eps_as_floor=True needs the first of eps above 0, .*"),
    ],
    ids=["averaged", "nesterov", "floor", "floor-list"],
)
def test_what_does_not_go_together_is_refused_live_too(rule: Rule, name: str, value: Any, said: str) -> None:
    p = weight()
    optimizer = Optimizer([{"params": [p], "name": "body"}], rule)
    p.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    kept = p.detach().clone()
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=rf"^{said} \(group 'body'\)$"):
        optimizer.step()
    assert torch.equal(p, kept)
    assert optimizer.state[p]["step"] == 1
