"""Run the registry's validation and two scanners on the package: `python dev.py scan`.

* `comfy node validate`: the metadata and ruff's security rules, as the registry checks them.
* `comfy-import-guard`: every `comfy.*` import and call, bound against the source of ComfyUI.
* `nodesafe`: patterns of malicious node packs. It reports literals and attribute names that it cannot judge; `accepted`
  says which of these are harmless, and why. Anything else fails.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .package import NAME, pack

TOOLS = Path(sys.executable).parent
LONGEST_WORD = 40
"""Prose has shorter words; an encoded payload is one long word."""

log = logging.getLogger("scan")


def tool(name: str, *arguments: str | Path, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment; it finds no configuration of the user and sends no telemetry."""
    variables = {
        **os.environ,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUTF8": "1",
    }
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=variables, text=True, encoding="utf-8", errors="replace", capture_output=True, check=False
    )


def comfyui_repository(comfyui: Path, folder: Path) -> None:
    """A git repository `folder`/ComfyUI with ComfyUI's Python files as origin/master: what comfy-import-guard reads."""
    target = folder / "ComfyUI"
    for file in comfyui.rglob("*.py"):
        path = file.relative_to(comfyui)
        if path.parts[0] not in ("custom_nodes", "venv", ".venv"):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / path)
    author = ["-c", "user.name=scan", "-c", "user.email=scan@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*author, "commit", "--quiet", "--message", "source"],
        ["update-ref", "refs/remotes/origin/master", "HEAD"],
    ):
        subprocess.run(["git", *arguments], cwd=target, check=True)


def _is_prose(package: Path, finding: Mapping[str, Any]) -> bool:
    """Whether every long literal that begins on the finding's line is made of words."""
    tree = ast.parse((package / finding["file"]).read_text(encoding="utf-8"))
    literals = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno == finding["line"]
    ]
    return bool(literals) and all(len(word) < LONGEST_WORD for text in literals for word in text.split())


def _is_part_of_a_name(package: Path, finding: Mapping[str, Any]) -> bool:
    """Whether the reported call is only the end of a longer name, as `ord(` is of `event.record(`."""
    match = re.search(r"pattern `(\w+)\(`", finding["title"])
    return match is not None and not re.search(rf"(?<!\w){match[1]}\(", finding["snippet"])


def _reads_an_attribute(package: Path, finding: Mapping[str, Any]) -> bool:
    """Whether an attribute is read by a name from our own tables; setting or calling one would be reported."""
    reads = finding["title"].startswith("Dynamic `getattr`")
    return reads and not re.search(r"getattr\([^()]*\)\(", finding["snippet"])


ACCEPTED: dict[str, tuple[str, Callable[[Path, Mapping[str, Any]], bool]]] = {
    "code_obfuscation_high_entropy": ("a literal of ordinary words", _is_prose),
    "obfuscation_chains": ("the end of a longer name", _is_part_of_a_name),
    "dynamic_attribute_access": ("an attribute that a table names is read", _reads_an_attribute),
}


def accepted(package: Path, finding: Mapping[str, Any]) -> str | None:
    """Why a finding is harmless; None if nothing says so."""
    reason, holds = ACCEPTED.get(finding["category"], ("", lambda *_: False))
    return reason if finding["severity"] in ("info", "low", "medium") and holds(package, finding) else None


def validate(package: Path, home: Path) -> bool:
    """`comfy node validate`."""
    log.info("comfy-cli %s: comfy node validate", version("comfy-cli"))
    result = tool("comfy", "--skip-prompt", "node", "validate", cwd=package, home=home)
    said = (result.stdout + result.stderr).strip()
    log.info("  %s", said.replace("\n", "\n  "))
    return result.returncode == 0 and not re.search(r"warning|error", said, re.IGNORECASE)


def guard(package: Path, home: Path, comfyui: Path) -> bool:
    """`comfy-import-guard check`, offline."""
    log.info("comfy-import-guard %s: check --strict", version("comfy-import-guard"))
    with tempfile.TemporaryDirectory() as folder:
        comfyui_repository(comfyui, Path(folder))
        options = ["--json", "--quiet", "--offline", "--strict", "--cache-dir", folder]
        result = tool(
            "comfy-import-guard", "check", *options, "--comfy-dir", package.parent.parent, cwd=package, home=home
        )
    if result.returncode not in (0, 1):
        log.info("  %s", result.stderr.strip())
        return False
    (found,) = json.loads(result.stdout)["packs"]
    log.info("  %s: %d comfy.* references in %d files", found["verdict"], found["references"], found["python_files"])
    for kind in ("breaking", "soft", "unresolvable", "signature_drift", "unparseable"):
        for entry in found[kind]:
            log.info("  %s: %s", kind, entry)
    return result.returncode == 0 and found["verdict"] == "SAFE"


def nodesafe(package: Path, home: Path) -> bool:
    """`nodesafe scan`; findings that are not `accepted` fail."""
    log.info("nodesafe %s: scan", version("nodesafe"))
    result = tool("nodesafe", "scan", "--format", "json", "--fail-on", "none", ".", cwd=package, home=home)
    try:
        report = json.loads(result.stdout[result.stdout.index("{") :])
    except ValueError:
        log.info("  %s", (result.stdout + result.stderr).strip())
        return False
    reasons = [accepted(package, finding) for finding in report["findings"]]
    log.info("  its verdict: %s (%.2f)", report["verdict"]["label"], report["verdict"]["score"])
    for reason, count in Counter(filter(None, reasons)).items():
        log.info("  harmless: %d x %s", count, reason)
    left = [finding for finding, reason in zip(report["findings"], reasons, strict=True) if reason is None]
    for finding in left:
        log.info("  %s %s:%s %s", finding["severity"], finding["file"], finding["line"], finding["title"])
        log.info("      %s", finding["snippet"])
    log.info("  %d findings left", len(left))
    return not left


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack, then run all three; 0 if all are clean."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(prog="dev.py scan", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--package", type=Path, help="a packed folder below custom_nodes/ (default: pack this tree)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        package = options.package or pack(Path(folder) / "custom_nodes")
        log.info("%s: %d files", NAME, sum(file.is_file() for file in package.rglob("*")))
        comfyui = Path(os.environ["COMFYUI_PATH"])
        results = [validate(package, home), guard(package, home, comfyui), nodesafe(package, home)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
