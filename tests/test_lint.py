"""What `dev.py lint` and `dev.py structure` check, and the examples in the core's docstrings."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest
import spectrum_accelerate.spectrum_core as core

from tools import structure, typecheck
from tools.package import ROOT

MODULES = sorted(module.name for module in pkgutil.walk_packages(core.__path__, f"{core.__name__}."))


def examples():
    """The docstrings of the core that hold examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in map(importlib.import_module, MODULES):
        yield from (found for found in finder.find(module) if found.examples)


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]], ids=" ".join)
def test_rules_and_format(check):
    result = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_types():
    status, text = typecheck.check()
    assert status == 0, text


def test_the_core_has_examples():
    assert list(examples())


@pytest.mark.parametrize(
    "example", list(examples()), ids=lambda example: example.name.removeprefix(f"{core.__name__}.")
)
def test_examples_are_true(example):
    said = []
    assert not doctest.DocTestRunner().run(example, out=said.append).failed, "".join(said)


def test_the_document_shows_the_structure():
    text = structure.DOCUMENT.read_text(encoding="utf-8")
    assert structure.drawn(text, structure.read()) == text, "run: python dev.py structure"


def test_no_file_imports_another_in_a_circle():
    assert structure.circles(structure.read()) == []


def test_imports_are_found_in_packages_too(tmp_path):
    sources = {
        "nodes/__init__.py": '"""Nodes.\n\nMore."""\nfrom .one import Node\n',
        "nodes/one.py": "from .inner import two\nfrom ..spectrum_core.deep import three\n",
        "nodes/inner/__init__.py": "NAME = 1\n",
        "nodes/inner/two.py": "from ..one import Node\nfrom . import NAME\nimport torch\n",
        "spectrum_core/deep/three.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    files = {file.path: file for file in structure.read(tmp_path)}
    assert set(files) == set(sources)
    assert files["nodes/__init__.py"].purpose == "Nodes."
    assert files["nodes/one.py"].imports == ("nodes/inner/two.py", "spectrum_core/deep/three.py")
    assert files["nodes/inner/two.py"].imports == ("nodes/inner/__init__.py", "nodes/one.py")
    assert structure.circles(list(files.values())) == [["nodes/one.py", "nodes/inner/two.py"]]
    assert "nodes_inner -->|1 import 1| nodes" in structure.graph(list(files.values()))
