"""The package that the registry gets: every file that git tracks, less what .comfyignore names.

`comfy node publish` packs the same way; `includes` in pyproject.toml would add files, and this project has none.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "comfyui-spectrum-accelerate"
"""The project's name in pyproject.toml; the registry installs into a folder of this name."""


def _git(*arguments: str) -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    return [name for name in found.split("\0") if name]


def files() -> list[Path]:
    """Paths of the package's files, relative to the repository.

    Raises:
        subprocess.CalledProcessError: this is not a git checkout.
    """
    ignored = set(_git("--cached", "--ignored", "--exclude-from", str(ROOT / ".comfyignore")))
    tracked = [Path(name) for name in _git("--cached") if name not in ignored]
    return sorted(path for path in tracked if (ROOT / path).is_file())


def pack(folder: Path) -> Path:
    """Copy the package's files to `folder`/NAME; returns that path."""
    target = folder / NAME
    for path in files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target / path)
    return target
