"""Boot the real ComfyUI in this process, once, before any test imports it; and its server, for the tests that ask."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS.parent), str(TESTS)]

from demo.comfy_server import ComfyServer  # noqa: E402  (the path comes first)
from demo.inprocess import boot  # noqa: E402

boot()

from compatibility import Compatibility  # noqa: E402  (ComfyUI comes first)

DOCUMENT = TESTS.parent / "docs" / "compatibility.md"
DESELECTED = pytest.StashKey[bool]()


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also what takes minutes (marker `all`)")
    parser.addoption("--write-compatibility", action="store_true", help="write docs/compatibility.md from what runs")


def pytest_collection_modifyitems(config, items):
    """Without --all, what is marked `all` is deselected: it is no part of that run, and so not skipped either."""
    if not config.getoption("--all"):
        chosen = [item for item in items if item.get_closest_marker("all") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
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
