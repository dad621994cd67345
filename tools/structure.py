"""Draw the structure of the shipped code into docs/design.md: `python dev.py structure`; --check only compares.

A graph of the packages and a table of the files, made from the imports between them. What stands between the two marks
in docs/design.md is replaced.
"""

from __future__ import annotations

import argparse
import ast
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "design.md"
PARTS = ("nodes", "spectrum_core")
BEGIN, END = "<!-- structure: python dev.py structure -->", "<!-- /structure -->"

log = logging.getLogger("structure")


@dataclass(frozen=True)
class File:
    """A source file.

    Attributes:
        path: relative to the repository, with slashes.
        lines: how many it has.
        purpose: the first sentence of its docstring.
        imports: paths of the files of ours that it imports, sorted.
    """

    path: str
    lines: int
    purpose: str
    imports: tuple[str, ...]

    @property
    def package(self) -> str:
        """The folder."""
        return self.path.rpartition("/")[0]


def _modules(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every module that relative imports may name, as path components from the root; `from . import x` is two."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            yield base
            yield from ((*base, alias.name) for alias in node.names)


def read(root: Path = ROOT, parts: Sequence[str] = PARTS) -> list[File]:
    """All source files of these folders, recursively, in the order of their paths."""
    paths = sorted(path for part in parts for path in (root / part).rglob("*.py"))
    known = {path.relative_to(root).with_suffix("").parts: path.relative_to(root).as_posix() for path in paths}
    known |= {parts_[:-1]: path for parts_, path in known.items() if parts_[-1] == "__init__"}
    files = []
    for path in paths:
        relative = path.relative_to(root)
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        found: set[str] = set()
        for module in _modules(tree, relative.parts[:-1]):
            if module in known:
                found.add(known[module])
        # `from .package import name` names the package's file only where `name` is not a file of its own.
        for target in [target for target in found if target.endswith("/__init__.py")]:
            if not _takes_from(tree, relative.parts[:-1], target, known):
                found.discard(target)
        purpose = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
        found.discard(relative.as_posix())
        files.append(File(relative.as_posix(), len(text.splitlines()), purpose, tuple(sorted(found))))
    return files


def _takes_from(tree: ast.Module, package: tuple[str, ...], target: str, known: Mapping[tuple[str, ...], str]) -> bool:
    """Whether anything that is no file is imported from a package's __init__.py."""
    wanted = tuple(target.removesuffix("/__init__.py").split("/"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            if base == wanted and any((*base, alias.name) not in known for alias in node.names):
                return True
    return False


def circles(files: Sequence[File]) -> list[list[str]]:
    """Files that import each other, directly or through others: each circle once, as a list of paths."""
    imports = {file.path: file.imports for file in files}
    found: dict[frozenset[str], list[str]] = {}

    def follow(path: str, way: list[str]) -> None:
        if path in way:
            circle = way[way.index(path) :]
            found.setdefault(frozenset(circle), circle)
            return
        if path not in done:
            for target in imports.get(path, ()):
                follow(target, [*way, path])
            done.add(path)

    done: set[str] = set()
    for file in files:
        follow(file.path, [])
    return list(found.values())


def graph(files: Sequence[File]) -> str:
    """The imports between packages, as a Mermaid graph; an arrow says how many files import how many of the other."""
    packages = {file.path: file.package for file in files}
    arrows: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for file in files:
        for target in file.imports:
            if packages[target] != file.package:
                arrows.setdefault((file.package, packages[target]), []).append((file.path, target))
    lines = ["```mermaid", "graph TD"]
    for package in dict.fromkeys(packages.values()):
        inside = [file for file in files if file.package == package]
        label = f"{package}<br>{len(inside)} files, {sum(file.lines for file in inside)} lines"
        lines.append(f'    {package.replace("/", "_")}["{label}"]')
    for (source, target), pairs in sorted(arrows.items()):
        importing, imported = len({a for a, _ in pairs}), len({b for _, b in pairs})
        names = (name.replace("/", "_") for name in (source, target))
        lines.append(f"    {next(names)} -->|{importing} import {imported}| {next(names)}")
    return "\n".join([*lines, "```"])


def table(files: Sequence[File]) -> str:
    """A row per file: its lines, what it is, what it imports of ours."""
    rows = ["| file | lines | what it is | imports |", "|---|---:|---|---|"]
    for file in files:
        near = f"{file.package}/"
        imports = ", ".join(path.removeprefix(near).removesuffix(".py") for path in file.imports)
        purpose = file.purpose.replace("|", "\\|")
        rows.append(f"| `{file.path}` | {file.lines} | {purpose} | {imports} |")
    total = sum(file.lines for file in files)
    return "\n".join([*rows, f"| {len(files)} files | {total} | | |"])


def drawn(text: str, files: Sequence[File]) -> str:
    """The document with the structure between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT.name} needs two lines to draw between: {BEGIN} and {END}")
    met = circles(files)
    verdict = "No file imports another in a circle." if not met else "Circles: " + "; ".join(map(" - ".join, met))
    arrows = "An arrow *a import b*: so many files use so many of the other package."
    return before + "\n\n".join([BEGIN, f"{arrows} {verdict}", graph(files), table(files), END]) + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document, or say whether it is up to date."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(prog="dev.py structure", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the document is out of date")
    options = parser.parse_args(arguments)
    old = DOCUMENT.read_text(encoding="utf-8")
    new = drawn(old, read())
    if options.check:
        log.info("up to date" if new == old else "out of date; run: python dev.py structure")
        return int(new != old)
    DOCUMENT.write_text(new, encoding="utf-8")
    log.info("%s", DOCUMENT.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
