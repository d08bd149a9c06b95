"""The code of the README and of the docs runs as written."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from stepwell import schedules
from stepwell.cli import main
from stepwell.pictures.gallery import EXAMPLES, gallery
from stepwell.schedules import parse

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            *("what-is-a-number", "schedules", "optimizers", "checkpoints", "storage", "memory", "telemetry", "scale"),
            *("many-ranks", "getting-started", "own-optimizer", "migrating", "troubleshooting"),
        )
    ),
]
RECIPES = ROOT / "docs" / "recipes.md"
SHOW_A_KERNEL = PAGES[:2]
WITHOUT_CODE = [ROOT / "docs" / f"{name}.md" for name in ("evidence", "choosing", "examples")]
WITH_PEERS = [ROOT / "docs" / f"{name}.md" for name in ("huggingface", "lightning", "logging", "jax")]
WITH_KERAS = ROOT / "docs" / "keras.md"


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
    if page == PAGES[0]:
        (table,) = re.findall(r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert table in printed


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # other packages warn of much that is not ours
@pytest.mark.parametrize("page", WITH_PEERS, ids=lambda page: page.name)
def test_python_blocks_with_other_packages_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(page)


@pytest.mark.peers
@pytest.mark.keras
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_python_blocks_of_keras_run_in_order() -> None:
    run(WITH_KERAS)


def test_the_picture_of_schedules_is_what_the_program_draws() -> None:
    drawn = (ROOT / "docs" / "schedules.svg").read_text(encoding="utf-8")
    assert drawn == f"{gallery()}\n", "run python -m stepwell.pictures.gallery docs/schedules.svg"
    kinds = {type(parse(text)) for text in EXAMPLES}
    known = {one for one in vars(schedules).values() if isinstance(one, type) and issubclass(one, schedules.Schedule)}
    assert known - kinds == {schedules.Schedule, schedules.Function}


@pytest.mark.usefixtures("float32_products")
def test_recipes_print_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python and commands run in order, in a folder of their own; each text is what the block before it prints. A block
    that begins with the name of a file is that file, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delenv("COLUMNS", raising=False)
    scope: dict[str, object] = {"__name__": "docs_recipes"}
    printed, shown = "", 0
    page = RECIPES.read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        if kind == "text":
            shown += 1
            assert [line.rstrip() for line in printed.strip("\n").splitlines()] == block.splitlines()
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            if kind == "python":
                if named := re.match(r"# (\w+\.py)\n", block):
                    (tmp_path / named[1]).write_text(block, encoding="utf-8")
                exec(compile(block, str(RECIPES), "exec", dont_inherit=True), scope)
            else:
                assert kind == "console"
                for line in block.splitlines():
                    with pytest.raises(SystemExit) as ended:
                        main(shlex.split(line)[1:])
                    assert ended.value.code == (2 if " mun " in line else 0)
        printed = out.getvalue()
    assert shown == 12
    sys.modules.pop("mymodel")


def test_links_lead_to_files() -> None:
    for page in [*PAGES, RECIPES, *WITHOUT_CODE, *WITH_PEERS, WITH_KERAS]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
