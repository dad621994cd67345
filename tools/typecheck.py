"""Run mypy on the shipped code: `python -m tools.typecheck`; `dev.py lint` does it too.

The pack is a package whose folder may have any name, also one that Python cannot import. So mypy sees it through a link
with the name that the tests use.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "spectrum_accelerate"
PARTS = ("spectrum_core", "nodes")


def check() -> tuple[int, str]:
    """mypy's exit status, and what it says, with paths relative to the repository."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / PACK
        package.mkdir()
        for name in ("__init__.py", *PARTS):
            (package / name).symlink_to(ROOT / name, target_is_directory=name in PARTS)
        options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        modules = [argument for name in PARTS for argument in ("--package", f"{PACK}.{name}")]
        command = [sys.executable, "-m", "mypy", *options, *modules]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    return result.returncode, (result.stdout + result.stderr).replace(f"{PACK}/", "")


def main() -> int:
    """Say what mypy says."""
    status, text = check()
    sys.stdout.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
