"""Boot the real ComfyUI in this process, once, before any test imports it; and its server, for the tests that ask."""

import re
import sys
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS.parent), str(TESTS)]

from demo.comfy_server import ComfyServer  # noqa: E402  (the path comes first)
from demo.inprocess import boot  # noqa: E402

boot()

from compatibility import Compatibility  # noqa: E402  (ComfyUI comes first)

FAST_FILES = {"test_structure.py", "test_package.py", "test_lint.py", "test_lifecycle.py", "test_workflow.py"}
"""What the fast tier runs besides the tests of the core: walls, package, life cycle."""
FAST_MODELS = {"sd15", "flux", "z_image", "wan21_t2v", "ltxv"}
"""What the fast tier runs per architecture: one of each kind (UNet, DiT, single-stream DiT, video)."""
KNOWS_COMFYUI = re.compile(r"^\s*(?:from|import) (?:comfy|nodes|zoo|sampling|spectrum_accelerate\.nodes)", re.MULTILINE)
DOCUMENT = TESTS.parent / "docs" / "compatibility.md"
DESELECTED = pytest.StashKey[bool]()


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also what takes minutes (marker `all`)")
    parser.addoption("--fast", action="store_true", help="only the core, one model of each kind, and the walls")
    parser.addoption("--write-compatibility", action="store_true", help="write docs/compatibility.md from what runs")


@cache
def is_of_the_core(file):
    """Whether a file tests the core, and gets by without ComfyUI."""
    text = file.read_text(encoding="utf-8")
    return "spectrum_core" in text and not KNOWS_COMFYUI.search(text)


def is_fast(item):
    """Whether a test belongs to the fast tier: marked so, or by the rules above."""
    if item.get_closest_marker("fast"):
        return True
    if {"server", "browser", "scan"} & {mark.name for mark in item.iter_markers()} or "server" in item.fixturenames:
        return False
    if item.path.name == "test_architectures.py":
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return not FAST_MODELS.isdisjoint(map(str, parameters.values()))
    return item.path.name in FAST_FILES or is_of_the_core(item.path)


def pytest_collection_modifyitems(config, items):
    """Without --all, what is marked `all` is deselected: it is no part of that run, and so not skipped either."""
    chosen = items
    if not config.getoption("--all"):
        chosen = [item for item in chosen if item.get_closest_marker("all") is None]
    if config.getoption("--fast"):
        chosen = [item for item in chosen if is_fast(item)]
    if len(chosen) < len(items):
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = chosen


def pytest_deselected(items):
    if items:
        items[0].config.stash[DESELECTED] = True


@pytest.fixture(scope="session")
def compatibility(request):
    """Called by a test with what it ran and what came of it: a row of docs/compatibility.md (see compatibility.py)."""
    config = request.config
    record = Compatibility(DOCUMENT, config.getoption("--write-compatibility"))
    yield record
    all_files = {config.invocation_params.dir / argument for argument in config.args} == {TESTS}
    record.close(whole=all_files and not config.stash.get(DESELECTED, False) and not request.session.testsfailed)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI server with the pack, the demo's nodes and the embedded model; one for the whole session."""
    with ComfyServer(tmp_path_factory.mktemp("comfyui")) as running:
        yield running
