from __future__ import annotations

from stepwell.text.tabular import room_beside, text_table


def test_names_are_cut_and_numbers_are_not():
    name, number = "n" * 40, "1" * 40
    text = text_table((("name", "number"), "why"), [((name, number), "because")], 120)
    assert text.splitlines()[1] == f"{'n' * 31}…  {number}  because"
    assert room_beside([(name, number)], 120) == 120 - 32 - 40 - 4
