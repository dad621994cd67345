"""The package that the registry gets: what is in it, that ComfyUI can load it, and what scanners say."""

import compileall
import io
import json
import os
import re
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

import dev
from demo.comfy_server import PACK
from tools.package import NAME, ROOT, files, pack

tomllib = pytest.importorskip("tomllib")  # Python 3.11, which dev.py asks for

SHIPPED = {"__init__.py", "nodes", "spectrum_core", "web", "locales", "workflows", "subgraphs",
           "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "requirements.txt"}  # fmt: skip
LIMIT = 800_000
"""Bytes of the zip file."""
IMPORT_SECONDS = 0.1
# What the registry's scanner flags, in any file, comments too.
FLAGGED = ("os.environ", "os.getenv", "requests.get(", "urlopen(", "socket.socket(", ".connect(", "subprocess.",
           "b64decode")  # fmt: skip

# Loads the pack as ComfyUI does, and says which modules that brought and how long it took.
LOAD = """
import asyncio, gc, importlib.util, json, sys, time
sys.path.insert(0, sys.argv[1])
import comfy.options
from comfy.cli_args import args
args.cpu = True
import nodes  # ComfyUI's
import comfy_api.latest
before = set(sys.modules)
gc.collect()
gc.freeze()  # else a collection of all that ComfyUI holds may fall into our time
start = time.process_time()
folder = sys.argv[2]
spec = importlib.util.spec_from_file_location("packed", folder + "/__init__.py", submodule_search_locations=[folder])
module = sys.modules["packed"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
classes = asyncio.run(extension.get_node_list())
seconds = time.process_time() - start
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"nodes": [c.GET_SCHEMA().node_id for c in classes], "modules": new, "seconds": seconds}))
"""


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed") / "custom_nodes")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What LOAD says of the package in a folder whose path has a space."""
    folder = pack(tmp_path_factory.mktemp("with space") / "custom_nodes")
    compileall.compile_dir(folder, quiet=2)  # as it is from the second start on
    command = [sys.executable, "-c", LOAD, os.environ["COMFYUI_PATH"], str(folder)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def scan(package):
    command = [dev.scan_environment(), "-m", "tools.scan", "--package", package]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)


def test_it_holds_the_runtime_and_nothing_else():
    names = {path.parts[0] for path in files()}
    assert names <= SHIPPED
    assert names >= SHIPPED - {"subgraphs"}
    tracked = subprocess.run(["git", "ls-files", "nodes", "spectrum_core", "web", "locales", "workflows", "subgraphs"],
                             cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    assert {path.as_posix() for path in files()} >= set(tracked.stdout.splitlines())


def test_it_is_small(packed):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in files():
            file.write(packed / path, path)
    assert len(archive.getvalue()) < LIMIT


def test_the_folder_has_the_projects_name(project, packed):
    assert project["project"]["name"] == NAME == PACK == packed.name


def test_comfyui_loads_it_from_a_path_with_a_space(loaded):
    assert {"SpectrumAccelerate", "SpectrumReport"} <= set(loaded["nodes"])


def test_loading_it_brings_no_other_package(loaded):
    """torch, numpy and PIL are there by then; what else was slow to import would be felt at every start."""
    assert set(loaded["modules"]) - set(sys.stdlib_module_names) <= {"packed"}


def test_loading_it_takes_no_time(loaded):
    assert loaded["seconds"] < IMPORT_SECONDS


def test_nothing_has_to_be_installed(project):
    assert project["project"]["dependencies"] == []
    assert dev.requirement_lines(ROOT / "requirements.txt") == []
    assert "://" not in (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_every_source_file_is_ascii(packed):
    """Tools on Windows read them as cp1252."""
    for file in sorted(packed.rglob("*")):
        if file.suffix in (".py", ".toml", ".js"):
            lines = [line for line in file.read_bytes().splitlines() if not line.isascii()]
            assert not lines, file.relative_to(packed)


def test_no_source_file_has_what_the_registry_flags(packed):
    for file in packed.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not [pattern for pattern in FLAGGED if pattern in text], file.relative_to(packed)


def test_the_registry_gets_pictures_and_addresses(project):
    comfy, urls = project["tool"]["comfy"], project["project"]["urls"]
    assert set(urls) <= {"Homepage", "Documentation", "Repository", "Issues"}, "it reads no other names"
    base = urls["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    for key, right in (("Icon", lambda w, h: w == h <= 400), ("Banner", lambda w, h: w * 9 == h * 21)):
        assert comfy[key].startswith(base)
        with Image.open(ROOT / comfy[key].removeprefix(base)) as image:
            assert right(*image.size), key


def test_the_version_is_the_changelogs(project):
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == project["project"]["version"]


@pytest.mark.scan
def test_the_scanners_find_nothing(packed):
    result = scan(packed)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.scan
def test_the_scanners_would_find_something(tmp_path):
    bad = pack(tmp_path / "custom_nodes")
    lines = (
        "import base64; exec(base64.b64decode('cHJpbnQoMSk='))",
        "KEY = 'aGVsbG8gd29ybGQhIFRoaXMgaXMgYSBwYXlsb2FkIFhZWjEyMzQ1Njc4OTA='",
        "from comfy.model_patcher import NoSuchThing",
    )
    with (bad / "nodes" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines))
    found = scan(bad)
    assert found.returncode == 1
    for expected in ("high nodes/__init__.py", "high-entropy literal", "NoSuchThing"):
        assert expected in found.stdout


def test_the_pictures_are_the_scripts(tmp_path, monkeypatch):
    from demo import brand

    monkeypatch.setattr(brand, "IMAGES", tmp_path)
    monkeypatch.setattr(brand, "ROOT", tmp_path)
    assert brand.main() == 0
    for name in ("icon", "banner"):
        folders = (tmp_path, ROOT / "docs" / "images")
        drawn, kept = (Image.open(folder / f"{name}.png").convert("RGB") for folder in folders)
        assert drawn.tobytes() == kept.tobytes(), "run: python -m demo.brand"
