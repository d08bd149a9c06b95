from __future__ import annotations

import ast
from pathlib import Path

import stepwell
from bench import stub
from bench.gallery import own_entries


def test_the_stub_is_what_the_signatures_give() -> None:
    assert stub.STUB.read_text(encoding="utf-8") == stub.text()


def test_a_class_for_each_optimizer(tmp_path: Path) -> None:
    written = ast.parse(stub.write(tmp_path / "facades.pyi").read_text(encoding="utf-8"))
    classes = [each.name for each in written.body if isinstance(each, ast.ClassDef)]
    assert sorted(classes) == sorted(entry.name for entry in own_entries())
    assert set(classes) <= set(stepwell.__all__)


def test_adamw_as_it_is_written() -> None:
    adamw = stub.text().partition("class AdamW(")[2].partition("class ")[0]
    assert adamw.splitlines()[:15] == [
        "Named):",
        '    """Adam with decoupled weight decay."""',
        "",
        "    def __init__(",
        "        self,",
        "        params: Iterable[Any],",
        "        lr: float = 0.001,",
        "        betas: tuple[float, float] = (0.9, 0.999),",
        "        eps: float = 1e-08,",
        "        weight_decay: float = 0.01,",
        "        amsgrad: bool = False,",
        "        *,",
        '        decay: Literal["coupled", "decoupled", "independent", "proximal"] = "decoupled",',
        "        correct_bias: bool = True,",
        "        maximize: bool = False,",
    ]
