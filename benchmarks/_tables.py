"""What the quality bench shows: rows with their statistics, tables, plots."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")
import matplotlib.pyplot as plt

Array = NDArray[np.float64]
OURS, OFFICIAL, FULL = "Accelerate", "Spectrum, w 0.5", "full"
GOALS = {"official": 0.30, "control": 0.45}
BOOTSTRAP = 2000
GENERATED = "<!-- All below is written by `python dev.py bench quality`; what stands above stays. -->"


@dataclass(frozen=True)
class Row:
    """A method in one setting at one number of computed steps; arrays have one entry a picture.

    Attributes:
        full: relative L2 distance to the full run.
        ode: the same to the converged solution; empty for stochastic samplers.
        psnr, ssim: of the decoded picture, against the full run's.
    """

    setting: str
    steps: int
    stochastic: bool
    count: int
    method: str
    kind: str
    evaluations: float
    full: Array
    ode: Array
    psnr: Array
    ssim: Array


class Table:
    """All methods of one setting at one number of computed steps."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = sorted(rows, key=lambda row: row.full.mean())
        self.setting, self.count = rows[0].setting, rows[0].count
        self.pictures = min(len(row.full) for row in rows)

    def __getitem__(self, method: str) -> Row | None:
        return next((row for row in self.rows if row.method == method), None)

    def best(self, *kinds: str, by: str = "full") -> Row | None:
        """The row of these kinds with the smallest mean error."""
        rows = [row for row in self.rows if row.kind in kinds]
        return min(rows, key=lambda row: getattr(row, by).mean(), default=None)


def tables(rows: Iterable[Row]) -> list[Table]:
    """Rows by setting and count, in the order of their first appearance."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.setting, row.count), []).append(row)
    return [Table(group) for group in groups.values()]


def standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def ratio(ours: Array, other: Array) -> tuple[float, float, float]:
    """Ratio of the mean errors over the same pictures, and its 95 % interval (bootstrap over pictures)."""
    drawn = np.random.default_rng(0).integers(len(ours), size=(BOOTSTRAP, len(ours)))
    low, high = np.quantile(ours[drawn].mean(1) / other[drawn].mean(1), [0.025, 0.975])
    return float(ours.mean() / other.mean()), float(low), float(high)


# ------------------------------------------------------------------------------------------------- text


def _pm(values: Array, digits: int = 4) -> str:
    if not len(values):
        return "-"
    return f"{values.mean():.{digits}f} ±{standard_error(values):.{digits}f}"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _header(*names: str) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _ratio(ours: Array, other: Array, goal: float | None = None) -> str:
    value, low, high = ratio(ours, other)
    text = f"{value:.2f} ({low:.2f} to {high:.2f})"
    if goal is None:
        return text
    return f"**{text}**" if value <= goal else f"{text} **missed**"


def setting_table(table: Table) -> list[str]:
    """Every method of a setting, best first."""
    control = table.best("control")
    lines = [
        f"### {table.setting}: {table.count} steps computed",
        "",
        f"{table.pictures} pictures. *vs. best control*: paired difference of *to full run* to the best plain run.",
        "",
    ]
    lines += _header("method", "evaluations", "to full run", "vs. best control", "to converged ODE", "PSNR, dB", "SSIM")
    for row in table.rows:
        shared = min(len(row.full), len(control.full)) if control else 0
        paired = row.full[:shared] - control.full[:shared] if control and row is not control else np.empty(0)
        name = f"**{row.method}**" if row.method == OURS else row.method
        cells = (_pm(row.full), f"{paired.mean():+.4f} ±{standard_error(paired):.4f}" if len(paired) else "-")
        if row.method == FULL:
            cells = ("0", "-")
        likeness = ("-", "-") if row.method == FULL else (_pm(row.psnr, 2), _pm(row.ssim))
        lines.append(_line([name, f"{row.evaluations:g}", *cells, _pm(row.ode), *likeness]))
    return [*lines, ""]


def shown(table: Table) -> bool:
    """Whether the goals are about this table: 20 steps or more, nothing random."""
    row = table[OURS]
    return row is not None and row.steps >= 20 and not row.stochastic


def must_show(found: Sequence[Table], by: str) -> list[str]:
    """Ours against the official method and against the best plain run."""
    goals = by == "full"
    lines = _header(
        "setting",
        "evaluations",
        "pictures",
        "ours",
        "official",
        "ours / official",
        "ours / best official variant",
        "best control",
        "ours / best control",
        "medians: ours / official, best control",
        "ours / best other forecast or cache",
    )
    for table in filter(shown, found):
        us, them = table[OURS], table[OFFICIAL]
        variant, control = table.best("official", by=by), table.best("control", by=by)
        other = table.best("forecast", "ComfyUI", by=by)
        if us is None or them is None or variant is None or control is None or other is None:
            continue
        a, b, c, d, e = (getattr(row, by)[: table.pictures] for row in (us, them, variant, control, other))
        lines.append(
            _line(
                [
                    table.setting,
                    f"{us.evaluations:g}",
                    table.pictures,
                    f"{a.mean():.4f}",
                    f"{b.mean():.4f}",
                    _ratio(a, b, GOALS["official"] if goals else None),
                    f"{_ratio(a, c)} {variant.method.removeprefix('Spectrum, ')}",
                    f"{d.mean():.4f} {control.method.removeprefix('fewer steps, ')}",
                    _ratio(a, d, GOALS["control"] if goals else None),
                    ", ".join(f"{np.median(a) / np.median(theirs):.2f}" for theirs in (b, d)),
                    f"{_ratio(a, e)} {other.method} ({other.evaluations:g})",
                ]
            )
        )
    return [*lines, ""]


def markdown(rows: Sequence[Row], header: str, images: Sequence[str]) -> str:
    """The generated part of README.md."""
    found = tables(rows)
    lines = [
        GENERATED,
        "",
        header,
        "",
        "## Must show",
        "",
        f"Goals: at most {GOALS['official']:.2f} of the official method's error and {GOALS['control']:.2f} of the best "
        "plain run's, on deterministic samplers with 20 steps or more. Ratios of mean errors, 95 % interval in "
        "brackets (bootstrap over pictures); bold: goal met.",
        "",
        "### Distance to the full run: does it imitate?",
        "",
        *must_show(found, "full"),
        "### Distance to the converged ODE: does it solve?",
        "",
        "No goal was set here: a full run is itself some way off (row *full* of the tables below).",
        "",
        *must_show(found, "ode"),
        *(f"![error against evaluations]({image})\n" for image in images),
        "## All methods",
        "",
    ]
    for table in found:
        lines += setting_table(table)
    return "\n".join(lines).rstrip() + "\n"


def summary(row: Row) -> dict[str, Any]:
    """A row as numbers for results.json and results.csv."""
    values: dict[str, Any] = {
        "setting": row.setting,
        "computed": row.count,
        "method": row.method,
        "kind": row.kind,
        "evaluations": row.evaluations,
        "pictures": len(row.full),
    }
    for name in ("full", "ode", "psnr", "ssim"):
        array = getattr(row, name)
        values[name] = float(array.mean()) if len(array) else None
        values[f"{name}_standard_error"] = standard_error(array) if len(array) > 1 else None
    return values


def write(rows: Sequence[Row], folder: Path, header: str, plots: bool) -> None:
    """README.md (what stands above its generated part stays), results.json, results.csv and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [draw(rows, folder, "full"), draw(rows, folder, "ode")] if plots else []
    readme = folder / "README.md"
    head = readme.read_text().split(GENERATED)[0] if readme.exists() else "# Quality at equal network evaluations\n\n"
    readme.write_text(head + markdown(rows, header, [image.name for image in images if image]))
    results = [summary(row) for row in rows]
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)


# ------------------------------------------------------------------------------------------------- plots

LINES: dict[str, tuple[str, str, str]] = {
    "fewer steps, euler": ("#000000", ":", "o"),
    "fewer steps, dpmpp_2m": ("#000000", "--", "s"),
    "fewer steps, AB2": ("#000000", "-.", "^"),
    "EasyCache": ("#E69F00", "--", "o"),
    "reuse": ("#CC79A7", ":", "s"),
    "TaylorSeer 2": ("#56B4E9", "-", "^"),
    "HiCache": ("#F0E442", "-", "D"),
    "TaylorSeer 2, our schedule": ("#56B4E9", "--", "v"),
    OFFICIAL: ("#D55E00", "-", "s"),
    OURS: ("#009E73", "-", "o"),
}
"""Method -> colour (Okabe and Ito, safe for colour-blind readers), line, marker."""
TITLES = {"full": "to the full run", "ode": "to the converged ODE"}


def draw(rows: Sequence[Row], folder: Path, by: str) -> Path | None:
    """Error against evaluations: a panel per setting with several counts, one line per method."""
    points: dict[str, list[Row]] = {}
    for row in rows:
        points.setdefault(row.setting, []).append(row)
    panels = [s for s, r in points.items() if len({row.count for row in r}) > 1 and len(getattr(r[0], by))]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 3.6 * lines), squeeze=False)
    for axis, setting in zip(axes.flat, panels, strict=False):
        _panel(axis, points[setting], by, lambda row: getattr(row, by).mean())
        axis.set_title(setting, fontsize=9)
        axis.set_xlabel("network evaluations", fontsize=8)
        axis.set_ylabel(f"rel. L2 {TITLES[by]}", fontsize=8)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.25 / lines, 1, 1))
    path = folder / f"error-{by}.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def _panel(axis: Any, rows: Sequence[Row], by: str, value: Callable[[Row], float]) -> None:
    for method, (colour, line, marker) in LINES.items():
        chosen = sorted((row for row in rows if row.method == method), key=lambda row: row.evaluations)
        axis.errorbar(
            [row.evaluations for row in chosen],
            [value(row) for row in chosen],
            yerr=[standard_error(getattr(row, by)) for row in chosen],
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=4,
            linewidth=2.2 if method == OURS else 1.2,
            label=method,
        )
    if by == "ode":
        full = next((row for row in rows if row.method == FULL), None)
        if full is not None:
            axis.axhline(value(full), color="#999999", linewidth=0.8)
            axis.annotate("full run", (0.01, value(full)), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    axis.set_yscale("log")
    axis.grid(True, which="both", linewidth=0.3)
    axis.tick_params(labelsize=8)
