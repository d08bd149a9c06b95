"""What `state_dtype` and `master` mean for one parameter: which tensors its state holds."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import stepwell
from stepwell import rules
from stepwell.codecs import Stored, layout
from stepwell.codecs.choosing import FEWEST_IN_BLOCKS
from stepwell.rules import Rule, Slot
from stepwell.rules.registry import rule_names

LARGE, SMALL = (64, 128), (63, 65)
F32, BF16, F16, U8 = torch.float32, torch.bfloat16, torch.float16, torch.uint8


def held(rule: Rule, shape: tuple[int, ...], dtype: torch.dtype, **storage: Any) -> dict[str, tuple[Any, Any]]:
    return {part.name: (part.shape, part.dtype) for part in layout(rule, shape, dtype, **storage)}


def alike(shape: tuple[int, ...], **dtypes: torch.dtype) -> dict[str, tuple[Any, Any]]:
    return {name: (shape, dtype) for name, dtype in dtypes.items()}


def test_small_is_below_4096_elements() -> None:
    assert FEWEST_IN_BLOCKS - 1 == 63 * 65


@pytest.mark.parametrize("dtype", [F32, BF16, F16, torch.float64], ids=str)
def test_by_default_state_is_as_the_parameter(dtype: torch.dtype) -> None:
    assert held(rules.AdamW(), LARGE, dtype) == alike(LARGE, exp_avg=dtype, exp_avg_sq=dtype)


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_state_in_32_and_in_16_bits(dtype: torch.dtype) -> None:
    for state_dtype, kept in (("float32", F32), ("bfloat16", BF16)):
        expected = alike(SMALL, exp_avg=kept, exp_avg_sq=kept)
        assert held(rules.AdamW(), SMALL, dtype, state_dtype=state_dtype) == expected


def test_state_in_8_and_in_4_bits() -> None:
    # 8192 elements are 32 blocks of 256.
    scales = {"exp_avg_scale": ((32,), F32), "exp_avg_sq_scale": ((32,), F32)}
    in_8 = held(rules.AdamW(), LARGE, F32, state_dtype="8bit")
    assert in_8 == {**alike(LARGE, exp_avg=U8, exp_avg_sq=U8), **scales}
    in_4 = held(rules.AdamW(), LARGE, BF16, state_dtype="4bit")
    assert in_4 == {**alike((4096,), exp_avg=U8, exp_avg_sq=U8), **scales}
    for state_dtype in ("8bit", "4bit"):
        small = held(rules.AdamW(), SMALL, BF16, state_dtype=state_dtype)
        assert small == alike(SMALL, exp_avg=F32, exp_avg_sq=F32)


@pytest.mark.parametrize(
    ("master", "beside"),
    [
        ("stochastic", {}),
        ("kahan", {"weight_compensation": BF16}),
        ("compensated", {"weight_remainder": torch.int16}),
        ("compensated8", {"weight_remainder": torch.int8}),
        ("float32", {"weight_master": F32}),
    ],
)
def test_what_is_kept_beside_bfloat16_weights(master: str, beside: dict[str, torch.dtype]) -> None:
    slots = {"momentum_buffer": BF16}
    assert held(rules.SGD(momentum=0.9), SMALL, BF16, master=master) == alike(SMALL, **beside, **slots)
    for wide in (F32, torch.float64):
        assert held(rules.SGD(), SMALL, wide, master=master) == {}


def test_float16_weights_take_a_master() -> None:
    assert held(rules.SGD(), SMALL, F16, master="float32") == alike(SMALL, weight_master=F32)
    for master in ("stochastic", "kahan", "compensated", "compensated8"):
        message = f"float16 weights take master='float32' or None, got {master!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            layout(rules.SGD(), SMALL, F16, master=master)


def test_complex_parameters_are_stored_as_they_are() -> None:
    assert held(rules.AdamW(), LARGE, torch.complex64) == alike(
        LARGE, exp_avg=torch.complex64, exp_avg_sq=torch.complex64
    )
    message = "complex64 parameters take state_dtype=None and master=None, got state_dtype='8bit', master='kahan'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layout(rules.AdamW(), LARGE, torch.complex64, "8bit", "kahan")


def test_bytes() -> None:
    # AdamW in bfloat16 with compensated weights and 8-bit state, beside the parameter: 2 + 1 + 1 bytes an element, and
    # two float32 for each of 32 blocks.
    parts = layout(rules.AdamW(), LARGE, BF16, "8bit", "compensated")
    assert sum(part.nbytes for part in parts) == 4 * 8192 + 2 * 4 * 32
    fewer = layout(rules.AdamW(), LARGE, BF16, "8bit", "compensated8")
    assert sum(part.nbytes for part in fewer) == 3 * 8192 + 2 * 4 * 32
    assert Stored("scalar", (), F32).nbytes == 4


# What is no statistic


def test_an_average_of_weights_is_kept_as_the_weights_or_wider() -> None:
    rule = rules.ScheduleFreeAdamW()
    for state_dtype in ("bfloat16", "8bit", "4bit"):
        assert held(rule, LARGE, F32, state_dtype=state_dtype)["z"] == (LARGE, F32)
        assert held(rule, LARGE, BF16, state_dtype=state_dtype)["z"] == (LARGE, BF16)
    assert held(rule, LARGE, BF16, state_dtype="float32")["z"] == (LARGE, F32)
    assert held(rule, LARGE, BF16, master="stochastic")["z"] == (LARGE, BF16)
    for master in ("compensated", "compensated8", "float32"):
        assert held(rule, LARGE, BF16, master=master)["z"] == (LARGE, F32)
    kahan = held(rule, LARGE, BF16, master="kahan")
    assert (kahan["z"], kahan["z_compensation"]) == ((LARGE, BF16), (LARGE, BF16))


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "8bit", "4bit"])
def test_numbers_a_row_or_a_column_have_32_bits(state_dtype: str) -> None:
    expected = {"row_var": ((64, 1), F32), "col_var": ((1, 128), F32)}
    assert held(rules.Adafactor(), LARGE, BF16, state_dtype=state_dtype) == expected


def test_wide_slots_stay_wide() -> None:
    found = held(rules.SOAP(), LARGE, BF16, state_dtype="8bit")
    assert {name: dtype for name, (_, dtype) in found.items() if "factor" in name or "basis" in name} == {
        "row_factor": F32, "column_factor": F32, "row_basis": F32, "column_basis": F32,
    }  # fmt: skip
    assert found["exp_avg"] == (LARGE, U8)


def test_signs_of_small_numbers_and_small_differences_are_not_coded() -> None:
    prev = held(rules.Rprop(), LARGE, F32, state_dtype="4bit")
    assert (prev["prev"][1], prev["step_size"][1]) == (F32, U8)
    centered = held(rules.RMSprop(centered=True, momentum=0.9), LARGE, F32, state_dtype="8bit")
    assert (centered["square_avg"][1], centered["grad_avg"][1], centered["momentum_buffer"][1]) == (F32, F32, U8)
    assert held(rules.RMSprop(), LARGE, F32, state_dtype="8bit")["square_avg"][1] == U8


def test_second_moments_are_positive() -> None:
    # What divides by its root, or is a size: none of the library's rules keeps such a slot with a sign.
    named = re.compile(r"(_sq|_var|_inf|square_avg|acc_delta|sum|variance|step_size)$")
    for name in rules.__all__:
        if name in rule_names():
            for slot in getattr(rules, name)().fit((8, 8)).slot_list():
                if slot.shape is None and not slot.scalar:
                    assert slot.positive == bool(named.search(slot.name)), f"{name}.{slot.name}"


def test_slots_that_start_from_the_weights_are_fine() -> None:
    assert Slot("z", start="weights").fine
    assert not Slot("exp_avg").fine


# What cannot be


@pytest.mark.parametrize("rule", [rules.SGD(), rules.SignSGD(), rules.Adafactor()], ids=lambda r: type(r).__name__)
def test_rules_without_state_for_each_element_say_what_they_take(rule: Rule) -> None:
    p = torch.zeros(LARGE).requires_grad_()
    message = (
        f"{type(rule).__name__} keeps no state that state_dtype='4bit' could store; "
        "it takes None, 'float32' or 'bfloat16' (group 'all')"
    )
    group = {"params": [p], "name": "all", "state_dtype": "4bit"}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stepwell.Optimizer([group], rule)
    # A vector is what Adafactor keeps a whole second moment of.
    stepwell.Adafactor([p, torch.zeros(8192).requires_grad_()], state_dtype="8bit")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"state_dtype": "8bits"},
            "state_dtype must be one of 'float32', 'bfloat16', '8bit', '4bit', got '8bits' (did you mean '8bit'?)",
        ),
        (
            {"master": "khan"},
            "master must be one of 'stochastic', 'kahan', 'compensated', 'compensated8', 'float32', got 'khan' "
            "(did you mean 'kahan'?)",
        ),
        ({"rounding_seed": -1}, "rounding_seed must be a whole number at least 0, got -1"),
    ],
)
def test_words_that_are_none(values: dict[str, Any], message: str) -> None:
    p = torch.zeros(3).requires_grad_()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stepwell.AdamW([p], **values)
    with pytest.raises(ValueError, match=f"^{re.escape(message)} \\(group 0\\)$"):
        stepwell.AdamW([{"params": [p], **values}])


def test_float16_and_complex_parameters_are_named() -> None:
    named = [("half", torch.zeros(3, dtype=F16).requires_grad_())]
    message = "float16 weights take master='float32' or None, got 'kahan', for parameter 'half' (group 0)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stepwell.AdamW(named, master="kahan")
