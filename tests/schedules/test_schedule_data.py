"""What data and text may say, and what is said of what they may not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stepwell.schedules import (
    Constant,
    Cosine,
    Function,
    Linear,
    MultiStep,
    from_dict,
    from_toml,
    parse,
    product,
    sequence,
    to_dict,
    to_toml,
    warmup,
)


def test_a_schedule_is_a_plain_dict() -> None:
    schedule = warmup(sequence(Constant(), Cosine(end=0.1), at=[0.5]), 100, shape="cosine")
    data = {
        "kind": "Warmup",
        "schedule": {
            "kind": "Sequence",
            "pieces": [{"kind": "Constant"}, {"kind": "Cosine", "end": 0.1}],
            "at": [0.5],
        },
        "length": 100,
        "shape": "cosine",
    }
    assert to_dict(schedule) == data
    assert from_dict(data) == schedule


def test_a_schedule_is_a_toml_document() -> None:
    text = 'kind = "Product"\nschedules = [{ kind = "Linear", warmup = 0.1 }, { kind = "MultiStep", at = [10, 0.5] }]\n'
    schedule = product(Linear(warmup=0.1), MultiStep(at=[10, 0.5]))
    assert to_toml(schedule) == text
    assert from_toml(text) == schedule


@pytest.mark.parametrize("kind", ["cosine-restarts", "CosineRestarts", "cosine_restarts"])
def test_kinds_go_by_any_spelling(kind: str) -> None:
    assert to_dict(from_dict({"kind": kind, "cycles": 2})) == {"kind": "CosineRestarts", "cycles": 2}


@pytest.mark.parametrize("text", ["cosine", " Cosine() ", "Cosine(warmup=0)"])
def test_a_name_alone_is_a_schedule(text: str) -> None:
    assert parse(text) == Cosine()


def test_a_name_alone_is_a_schedule_in_a_composition_too() -> None:
    assert parse("product(warmup(cosine, 10), Linear())") == product(warmup(Cosine(), 10), Linear())
    with pytest.raises(ValueError, match=r"^unknown schedule 'cosin' \(did you mean 'Cosine'\?\)"):
        parse("warmup(cosin, 10)")


def test_functions_are_named_and_given_never_imported() -> None:
    schedule = Function(function=abs)
    assert to_dict(schedule) == {"kind": "Function", "function": "builtins.abs"}
    assert from_dict(to_dict(schedule), functions={"builtins.abs": abs}) == schedule
    message = "the function 'builtins.abs' is not among functions=['builtins.ab'] (did you mean 'builtins.ab'?)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(repr(schedule), functions={"builtins.ab": abs})


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"kind": "Cosin"}, ValueError, "unknown schedule 'Cosin' (did you mean 'Cosine'?); known are "),
        (
            {"kind": "Cosine", "warmpu": 3},
            TypeError,
            "unknown argument 'warmpu' for Cosine; it takes horizon, warmup, end, waves (did you mean 'warmup'?)",
        ),
        ({"warmup": 3}, ValueError, "a schedule needs a 'kind', such as 'Cosine', got warmup"),
        ("Cosine", TypeError, "a schedule must be a dict with a 'kind', got 'Cosine'"),
        ({"kind": "Cosine", "warmup": 1.0}, ValueError, "; write 1 for steps"),
        ({"kind": "Step"}, TypeError, "every"),
        ({"kind": "Warmup", "length": 3, "schedule": {"kind": "Linear", "ends": 1}}, TypeError, "did you mean 'end'?"),
    ],
)
def test_data_that_is_no_schedule(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        from_dict(data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Cosine(", "'Cosine(' is not a schedule such as 'Cosine(warmup=0.1)'"),
        ("3", "'3' is not a schedule"),
        ("Cosine(0.1)", "the arguments of Cosine go by name, got Cosine(0.1)"),
        ("Cosine(warmup=2*3)", "holds '2 * 3', which is neither a schedule nor a number"),
        ("__import__('os')", "unknown schedule '__import__'"),
        ("os.system('x')", "neither a schedule nor a number"),
        ("cosin", "did you mean 'Cosine'?"),
    ],
)
def test_text_that_is_no_schedule(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert message in str(caught.value)
