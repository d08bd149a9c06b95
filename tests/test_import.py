"""What `import stepwell` brings, and what it leaves alone."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepwell
from stepwell import algebra, checkpoint, rules, schedules

# A package, or a module beside them, imports only those that stand before it.
HOUSE = (
    *("text", "importing", "machine", "algebra", "rules", "schedules", "codecs", "layout", "engines", "optimizer"),
    *("scheduler", "roles", "select", "recipes", "advice", "pictures", "horizon", "planning", "routing", "catalogue"),
    *("facades", "checkpoint", "compare", "report", "range_test", "integrations", "cli"),
)
LATER = (
    *("numba", "llvmlite", "safetensors", "rich", "typer", "plotly"),
    *("jax", "optuna", "optax", "keras", "transformers"),
)


def fresh_python(code: str) -> str:
    """What a new interpreter prints."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_import_brings_torch_and_nothing_heavy() -> None:
    code = "import json, sys, torch; before = set(sys.modules); import stepwell\n"
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    new = json.loads(fresh_python(code))
    assert "stepwell.optimizer" in new
    assert not [name for name in new if name.split(".")[0] in LATER]
    later = ("stepwell.cli", "stepwell.report", "stepwell.compare", "stepwell.engines.fused")
    assert not [name for name in new if name.startswith(later)]


def test_import_prints_nothing_and_does_no_work() -> None:
    code = "import threading, torch; threads = threading.active_count(); grad = torch.is_grad_enabled()\n"
    code += "number, dtype = torch.get_num_threads(), torch.get_default_dtype()\n"
    code += "import stepwell\n"
    code += "assert threading.active_count() == threads\n"
    code += "assert (torch.get_num_threads(), torch.get_default_dtype()) == (number, dtype)\n"
    code += "assert torch.is_grad_enabled() == grad\n"
    assert fresh_python(code) == ""


PUBLIC = [stepwell, algebra, checkpoint, rules, schedules]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_name_exists_and_is_documented(module: types.ModuleType) -> None:
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        public = getattr(module, name)
        if callable(public) or isinstance(public, types.ModuleType):
            assert public.__doc__, f"{module.__name__}.{name} has no docstring"


@pytest.mark.parametrize("name", stepwell.__all__)
def test_public_methods_are_documented_and_typed(name: str) -> None:
    public = getattr(stepwell, name)
    if isinstance(public, types.ModuleType):
        return
    methods = {"": public} if inspect.isfunction(public) else dict(inspect.getmembers(public, inspect.isfunction))
    ours = {
        key: function
        for key, function in methods.items()
        if not key.startswith("_") and function.__module__.startswith("stepwell")
    }
    for key, function in ours.items():
        assert inspect.getdoc(function), f"{name}.{key} has no docstring"
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{key} does not say what it returns"
        for parameter in list(signature.parameters.values())[0 if not key else 1 :]:
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}.{key}({parameter.name}) has no type"


def test_every_module_says_what_it_is() -> None:
    (folder,) = stepwell.__path__
    found = [module.name for module in pkgutil.walk_packages([folder], "stepwell.")]
    assert "stepwell.engines.fused.engine" in found
    for name in found:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert source.startswith('"""'), f"{name} has no docstring"


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports of ours, at its head or late, but for types."""
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    left_out = {id(node) for each in for_types for node in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_run_one_way() -> None:
    (folder,) = map(Path, stepwell.__path__)
    rooms = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__"} == set(HOUSE)
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        if room not in HOUSE:
            continue
        allowed = {*HOUSE[: HOUSE.index(room) + 1], "__version__"}
        ours = {
            name.split(".")[1] for name in imported(ast.parse(path.read_text("utf-8"))) if name.startswith("stepwell.")
        }
        assert ours <= allowed, f"{path.relative_to(folder)} imports {sorted(ours - allowed)}, which stand above it"


def test_the_package_is_typed() -> None:
    (folder,) = stepwell.__path__
    assert (Path(folder) / "py.typed").is_file()


def test_the_version_is_a_version() -> None:
    assert [part.isdigit() for part in stepwell.__version__.split(".")[:2]] == [True, True]
