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
WITH_PEERS = [ROOT / "docs" / "jax.md", ROOT / "docs" / "keras.md"]


def run(page: Path) -> None:
    """Run the page's blocks, one after another, in one scope."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks, f"{page.name} has no code"
    scope: dict[str, object] = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    for block in blocks:
        exec(compile(block, str(page), "exec", dont_inherit=True), scope)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(page)
    printed = capsys.readouterr().out
    assert ("def phase0(" in printed) == (page in SHOW_A_KERNEL)


@pytest.mark.peers
def test_python_blocks_of_jax_run_in_order() -> None:
    run(ROOT / "docs" / "jax.md")


@pytest.mark.peers
@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_python_blocks_of_keras_run_in_order() -> None:
    run(ROOT / "docs" / "keras.md")


def test_the_picture_of_schedules_is_what_the_program_draws() -> None:
    drawn = (ROOT / "docs" / "schedules.svg").read_text(encoding="utf-8")
    assert drawn == f"{gallery()}\n", "run python -m stepwell.report.gallery docs/schedules.svg"
    kinds = {type(parse(text)) for text in EXAMPLES}
    known = {one for one in vars(schedules).values() if isinstance(one, type) and issubclass(one, schedules.Schedule)}
    assert known - kinds == {schedules.Schedule, schedules.Function}


def test_links_lead_to_files() -> None:
    for page in PAGES + WITH_PEERS:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
