"""The walls of the house, and what run-time code must never do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "spectrum_core").rglob("*.py"))
SHIPPED = [ROOT / "__init__.py", *CORE, *sorted((ROOT / "nodes").rglob("*.py"))]
FORBIDDEN = {"pickle", "socket", "urllib", "requests", "http", "subprocess", "tempfile", "shutil"}


def named(file):
    """A file by its path in the pack, as a test's id."""
    return str(file.relative_to(ROOT))


def imported(file):
    """Top-level names of what a file imports; of relative imports, the folder of the pack."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1].relative_to(ROOT).parts
            yield (*folder, *(node.module or node.names[0].name).split("."))[0]
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_knows_torch_and_numpy_only(file):
    assert set(imported(file)) <= {*sys.stdlib_module_names, "torch", "numpy", "spectrum_core"}


def test_the_folder_of_a_relative_import_is_found():
    assert {"comfy", "nodes", "spectrum_core"} <= set(imported(ROOT / "nodes" / "runtime" / "run.py"))


def test_the_core_works_alone():
    """Imported without ComfyUI on the path, as another project would."""
    code = "import spectrum_core.forecast as f; print(sum(f.Forecaster(2, 3, 0.0).weights([0, 2, 4], 6, 50)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(1.0)


@pytest.mark.parametrize("file", SHIPPED, ids=named)
def test_shipped_code_reaches_for_nothing_unsafe(file):
    """No network, no pickle, no other process, no files; no eval, no print."""
    assert not set(imported(file)) & FORBIDDEN
    called = {node.func.id for node in ast.walk(ast.parse(file.read_text()))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    assert not called & {"eval", "exec", "open", "print", "__import__"}


def test_the_pack_is_v3_only():
    """With NODE_CLASS_MAPPINGS beside it, ComfyUI would ignore the entry point."""
    assert "NODE_CLASS_MAPPINGS" not in (ROOT / "__init__.py").read_text()
