"""Which forecast is the default? Relative L2 to the full run on the embedded model, at the node's own schedule.

    python dev.py bench defaults            # the table of docs/defaults.md on reporting seeds
    python dev.py bench defaults --sweep    # the search it was chosen by, on tuning seeds

Closed loop through ComfyUI's real sampler: forecast evaluations are really skipped. Every row of a column has the same
number of network evaluations, the controls included.
"""

import argparse
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _embedded import REPORTING, TUNING, Case, Setting
from spectrum_accelerate.nodes.attach import attach, attachment
from spectrum_accelerate.nodes.settings import DEFAULTS, Settings
from spectrum_accelerate.spectrum_core.forecast import Forecaster
from tqdm import tqdm

CASES = (Setting(50, 3.0, 3.0), Setting(50, 1.0, 1.0), Setting(30, 1.0, 3.0), Setting(20, 3.0, 3.0))
CONTROLS = ("euler", "dpmpp_2m", "ipndm")
PAPER = {"degree": 4, "window": 64, "ridge": 0.1, "blend": 0.5, "intercept": "paper"}
OUTPUT = Path(__file__).resolve().parent.parent / "output" / "benchmarks"


@dataclass(frozen=True)
class Scaled(Settings):
    """Settings with a position scaling, which is no widget."""

    scaling: str = "run"

    def forecaster(self) -> Forecaster:
        return replace(super().forecaster(), scaling=self.scaling)


def variant(**changes: Any) -> Scaled:
    """The node's defaults with some values changed."""
    return Scaled(**{**DEFAULTS, **changes})


def sweep() -> Iterator[dict[str, Any]]:
    """The search: fits, ridges with their scalings, blends, targets, tails."""
    for degree, window in ((1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (3, 4), (4, 8), (4, 64)):
        yield {"degree": degree, "window": window}
    for ridge, scaling, intercept, (degree, window) in itertools.product(
        (1e-2, 0.1, 1.0), ("run", "window"), ("free", "paper"), ((2, 4), (4, 64))
    ):
        yield {"degree": degree, "window": window, "ridge": ridge, "scaling": scaling, "intercept": intercept}
    for blend, (degree, window, ridge) in itertools.product((0.25, 0.5), ((2, 3, 0.0), (2, 5, 0.0), (4, 64, 0.1))):
        yield {"degree": degree, "window": window, "ridge": ridge, "blend": blend}


def table() -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows that docs/defaults.md shows."""
    yield "the defaults", {}
    yield "defaults, target model output", {"target": "model output"}
    for tail in (0, 2, 3):
        yield f"defaults, tail {tail}", {"tail": tail}
    for blend in (0.0, 0.25, 0.75, 1.0):
        yield f"defaults, blend {blend:g}", {"blend": blend}
    yield "degree 3, window 4", {"degree": 3, "window": 4}
    for ridge, intercept in itertools.product((0.01, 0.1), ("free", "paper")):
        yield (
            f"degree 2, window 4, ridge {ridge:g}, intercept {intercept}",
            {
                "window": 4,
                "ridge": ridge,
                "intercept": intercept,
            },
        )
    for intercept, scaling in itertools.product(("free", "paper"), ("run", "paper")):
        name = "official" if scaling == "paper" else "run's own"
        yield (
            f"paper's fit, intercept {intercept}, {name} scaling",
            {
                **PAPER,
                "intercept": intercept,
                "scaling": scaling,
            },
        )
    yield "paper's fit and tail", {**PAPER, "tail": 0}


def measure(case: Case, settings: Settings) -> tuple[np.ndarray, int]:
    """Errors [16] and network evaluations of one accelerated run."""
    model = attach(case.model, settings)
    errors = case.errors(case.sample(model))
    attached = attachment(model)
    assert attached is not None
    return errors, attached.runs[-1].computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="search on tuning seeds instead of the table")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    seed = TUNING if options.sweep else REPORTING
    rows = [(json.dumps(c), c) for c in sweep()] if options.sweep else list(table())
    results: list[dict[str, Any]] = []
    for setting in CASES:
        case = Case(setting, seed)
        count = measure(case, variant())[1]
        for sampler in CONTROLS:
            errors = case.errors(case.sample(case.model, steps=count, sampler=sampler))
            results.append(_row(setting, f"fewer steps, {sampler}", errors, count))
        for name, changes in tqdm(rows, desc=str(setting), disable=None):
            errors, computed = measure(case, variant(**changes))
            results.append(_row(setting, name, errors, computed))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / ("defaults-sweep.json" if options.sweep else "defaults.json")
    path.write_text(json.dumps(results, indent=1))
    text = markdown(results)
    path.with_suffix(".md").write_text(text)
    logging.getLogger().setLevel(logging.INFO)
    logging.info(text)


def _row(setting: Setting, name: str, errors: np.ndarray, computed: int) -> dict[str, Any]:
    return {
        "setting": str(setting),
        "name": name,
        "computed": computed,
        "error": float(errors.mean()),
        "standard_error": float(errors.std(ddof=1) / np.sqrt(len(errors))),
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """A row per method, a column per setting, best mean rank first."""
    settings = list(dict.fromkeys(r["setting"] for r in results))
    cells = {(r["name"], r["setting"]): r for r in results}
    names = list(dict.fromkeys(r["name"] for r in results))
    names.sort(key=lambda n: np.mean([np.log(cells[n, s]["error"]) for s in settings]))
    lines = ["| method | " + " | ".join(settings) + " |", "|---" * (len(settings) + 1) + "|"]
    for name in names:
        row = [cells[name, s] for s in settings]
        lines.append(
            f"| {name} | "
            + " | ".join(f"{r['error']:.4f} ±{r['standard_error']:.4f} ({r['computed']})" for r in row)
            + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
