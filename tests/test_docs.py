"""The code of the README and of the docs runs as written."""

import re
from pathlib import Path

import pytest

from stepwell import schedules
from stepwell.report.gallery import EXAMPLES, gallery
from stepwell.schedules import parse

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("what-is-a-number", "schedules", "optimizers", "checkpoints")),
]
SHOW_A_KERNEL = PAGES[:2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no code"
    scope: dict[str, object] = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    for block in blocks:
        exec(compile(block, str(page), "exec", dont_inherit=True), scope)
    printed = capsys.readouterr().out
    assert ("def phase0(" in printed) == (page in SHOW_A_KERNEL)


def test_the_picture_of_schedules_is_what_the_program_draws() -> None:
    drawn = (ROOT / "docs" / "schedules.svg").read_text(encoding="utf-8")
    assert drawn == f"{gallery()}\n", "run python -m stepwell.report.gallery docs/schedules.svg"
    kinds = {type(parse(text)) for text in EXAMPLES}
    known = {one for one in vars(schedules).values() if isinstance(one, type) and issubclass(one, schedules.Schedule)}
    assert known - kinds == {schedules.Schedule, schedules.Function}


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
