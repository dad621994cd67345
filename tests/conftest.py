"""Boot the real ComfyUI in this process, once, before any test imports it; and its server, for the tests that ask."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS.parent), str(TESTS)]

from demo.comfy_server import ComfyServer  # noqa: E402  (the path comes first)
from demo.inprocess import boot  # noqa: E402

boot()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI server with the pack, the demo's nodes and the embedded model; one for the whole session."""
    with ComfyServer(tmp_path_factory.mktemp("comfyui")) as running:
        yield running
