"""docs/compatibility.md: what came of the runs that the tests make anyway. Tests write it, and tests keep it true.

>>> compatibility("feature", "PAG", runs(fast), distance(result, plain))       # in a test: a row
>>> compatibility("sampler", "heun", runs(fast), error, column="flux")         # one cell of a row

A test whose row is not as the document has it fails; figures may differ somewhat. With --write-compatibility nothing is
compared: a whole session writes the document anew, a part of one replaces what it recorded.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import comfyui_version
import pytest
from spectrum_accelerate.nodes.samplers.table import IRREGULAR, REPLACES_NOISE, UNGUIDED
from spectrum_accelerate.spectrum_core.trace import Trace

Tables = dict[str, dict[str, dict[str, str]]]
"""Area -> row -> column -> text."""

SHORT = {REPLACES_NOISE: "noise", UNGUIDED: "unguided", IRREGULAR: "path", "left the noise levels": "levels"}
"""Why a sampler is not accelerated, as it stands in the cells of its table."""

FACTOR, SLACK = 1.5, 0.01
"""Figures agree up to this: another processor rounds otherwise."""

AREAS = {
    "model": (
        "Every tiny model of `tests/zoo.py` by its block output; *model output*: with `target` set to that, and CFG 1."
    ),
    "sampler": (
        "Every sampler of ComfyUI on a few kinds of models: evaluations computed, and the error. What runs in full:\n\n"
        + "\n".join(f"* {word}: {text}" for text, word in SHORT.items())
    ),
    "feature": "Workflows of ComfyUI's own nodes, and what else may happen to a MODEL.",
}
HEAD = """# Compatibility

Written by the tests, from what they ran (`python dev.py test --all --write-compatibility`); do not edit. Every later
run of the tests compares itself with it: evaluations and reasons are equal, errors differ by less than a factor of
{factor}, plus {slack}.

ComfyUI {version}: its own classes, samplers and nodes, on tiny models with random weights, on the CPU. An error on
random weights tells that a combination works, not how good pictures are; [schedules.md](schedules.md) is about that.
Where nothing else is said: 12 steps, CFG 3, `schedule` paper, `skip_interval` 2, `ridge` 0, `warmup` 3, `tail` 1.

*Computed* counts the evaluations on which the network ran, of all that the sampler asked for; two runs of one workflow
are joined by +. *Error* is the relative L2 distance of the final latent to that of the same workflow without the node.
"""


class Compatibility:
    """What a session recorded, and the document.

    Args:
        path: of the document.
        write: write it when the session is over, instead of comparing with it.
        version: of the ComfyUI that runs; with another one than the document's, nothing is compared or written.
    """

    def __init__(self, path: Path, write: bool, version: str = comfyui_version.__version__) -> None:
        self._path, self._write, self._version = path, write, version
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._written, self._recorded = parse(text), Tables()
        self._active = write or not text or f"ComfyUI {version}:" in text

    def __call__(self, area: str, name: str, traces: Sequence[Trace], error: float, *, column: str = "") -> None:
        """Record a row, or one cell of it.

        Args:
            area: one of AREAS.
            name: of the row.
            traces: of the accelerated runs.
            error: relative L2 distance of the result to that of the plain run.
            column: for one cell, its column.
        """
        cells = {column: short(traces, error)} if column else full(traces, error)
        row = self._recorded.setdefault(area, {}).setdefault(name, {})
        assert not row.keys() & cells, f"{area} {name!r} is recorded twice"
        row |= cells
        if not self._active or self._write:
            return
        written = self._written.get(area, {}).get(name, {})
        wrong = [
            f"{key} is {text!r}, not {written.get(key, '')!r}"
            for key, text in cells.items()
            if not agree(text, written.get(key, ""))
        ]
        if wrong:
            pytest.fail(
                f"{self._path.name} has otherwise: {area} {name!r}: {'; '.join(wrong)}. If it should be so, run this "
                "again with --write-compatibility.",
                pytrace=False,
            )

    def close(self, whole: bool) -> None:
        """The end of a session, in which all tests ran and passed, or not."""
        if not self._active:
            return
        if self._write:
            tables = self._recorded if whole else merged(self._written, self._recorded)
            self._path.write_text(render(tables, self._version), encoding="utf-8")
        elif whole and (stale := absent(self._written, self._recorded)):
            pytest.fail(
                f"{self._path.name} has what no test records any more: {', '.join(stale)}. Write it anew: "
                "--all --write-compatibility.",
                pytrace=False,
            )


def computed(traces: Sequence[Trace]) -> str:
    """Evaluations computed and in all, of each run; one that is not accelerated from its beginning is not counted."""
    return " + ".join(f"{t.computed}/{len(t.evaluations)}" if t.evaluations else "all" for t in traces)


def remarks(traces: Sequence[Trace]) -> str:
    """Why not accelerated, and what else the runs say of themselves."""
    found = []
    for trace in traces:
        if not trace.forecast:
            found.append(str(trace.full))
        found += map(str, trace.notes)
    return "; ".join(dict.fromkeys(found))


def full(traces: Sequence[Trace], error: float) -> dict[str, str]:
    """A row of its own."""
    network, sampler = (" + ".join(dict.fromkeys(getattr(t, field) for t in traces)) for field in ("model", "sampler"))
    figure = f"{error:#.2g}" if any(trace.forecast for trace in traces) else ""
    return {
        "network": network,
        "sampler": sampler,
        "computed": computed(traces),
        "error": figure,
        "remarks": remarks(traces),
    }


def short(traces: Sequence[Trace], error: float) -> str:
    """All of it in one cell."""
    said = remarks(traces)
    if said:
        return "full: " + next((word for text, word in SHORT.items() if text in said), said)
    return f"{computed(traces)}, {error:#.2g}"


_FIGURE = re.compile(r"\d+\.\d+(?:e[+-]\d+)?")


def agree(text: str, other: str) -> bool:
    """Whether two cells say the same, with figures that are near each other."""
    if _FIGURE.sub("#", text) != _FIGURE.sub("#", other):
        return False
    figures = (map(float, _FIGURE.findall(cell)) for cell in (text, other))
    return all(max(pair) <= FACTOR * min(pair) + SLACK for pair in zip(*figures, strict=True))


def merged(old: Tables, new: Tables) -> Tables:
    """The old tables with the cells of the new ones put in."""
    both = {area: {name: dict(row) for name, row in rows.items()} for area, rows in old.items()}
    for area, rows in new.items():
        for name, row in rows.items():
            both.setdefault(area, {}).setdefault(name, {}).update(row)
    return both


def absent(old: Tables, new: Tables) -> list[str]:
    """What the old tables have and the new ones have not."""
    return [
        f"{area} {name!r} ({column})"
        for area, rows in old.items()
        for name, row in rows.items()
        for column, text in row.items()
        if text and column not in new.get(area, {}).get(name, {})
    ]


def render(tables: Tables, version: str) -> str:
    """The document."""
    parts = [HEAD.format(version=version, factor=FACTOR, slack=SLACK)]
    for area, text in AREAS.items():
        rows = tables.get(area, {})
        columns = [*dict.fromkeys(column for row in rows.values() for column in row)]
        columns = [column for column in columns if any(row.get(column) for row in rows.values())]
        lines = [[area, *columns], ["---"] * (1 + len(columns))]
        lines += [[name, *(rows[name].get(c, "") for c in columns)] for name in sorted(rows, key=str.lower)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {area.capitalize()}s\n\n{text}\n\n{table}\n")
    return "\n".join(parts)


def parse(text: str) -> Tables:
    """The tables of the document."""
    tables = Tables()
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        name, *cells = (cell.strip() for cell in line[1:-1].split("|"))
        if name in AREAS and name not in tables:
            rows, columns = tables.setdefault(name, {}), cells
        elif name != "---":
            rows[name] = dict(zip(columns, cells, strict=True))
    return tables
