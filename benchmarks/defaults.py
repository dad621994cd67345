"""Which forecast is the default? Relative L2 to the full run on the embedded model, at the node's own schedule.

    python dev.py bench defaults            # the table of docs/defaults.md on reporting seeds
    python dev.py bench defaults --sweep    # the search it was chosen by, on tuning seeds

Closed loop through ComfyUI's real sampler: forecast evaluations are really skipped. Every row of a table has the same
number of network evaluations in a column, the controls included: first as many as the defaults compute, then as many as
the paper's schedule does.
"""

import argparse
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _embedded import REPORTING, TUNING, Case, Setting
from spectrum_accelerate.nodes.attach import attach, attachment
from spectrum_accelerate.nodes.settings import DEFAULTS, GROWING, Settings
from spectrum_accelerate.spectrum_core.forecast import INTERCEPTS, Forecaster
from spectrum_accelerate.spectrum_core.schedule import budget
from tqdm import tqdm

CASES = (Setting(50, 3.0, 3.0), Setting(50, 1.0, 1.0), Setting(30, 1.0, 3.0), Setting(20, 3.0, 3.0))
CONTROLS = ("euler", "dpmpp_2m", "ipndm")
PAPER_FIT = {"degree": 4, "window": 64, "ridge": 0.1, "blend": 0.5, "intercept": "paper", "correct": False}
PAPER_SCHEDULE = {"schedule": GROWING, "warmup": 5}
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
    """The search: fits, ridges with their scalings, blends, warm-ups, tails."""
    for warmup, tail in itertools.product((1, 2, 3, 4, 5), (0, 1, 2)):
        yield {"warmup": warmup, "tail": tail}
    for degree, window in ((1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (3, 4), (4, 8), (4, 64)):
        yield {"degree": degree, "window": window}
    for ridge, scaling, intercept, (degree, window) in itertools.product(
        (1e-2, 0.1, 1.0), ("run", "window"), ("free", "paper"), ((2, 4), (4, 64))
    ):
        yield {"degree": degree, "window": window, "ridge": ridge, "scaling": scaling, "intercept": intercept}
    for blend, (degree, window, ridge) in itertools.product((0.25, 0.5), ((2, 3, 0.0), (2, 5, 0.0), (4, 64, 0.1))):
        yield {"degree": degree, "window": window, "ridge": ridge, "blend": blend}


def table() -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the first table of docs/defaults.md: as many evaluations as the defaults compute."""
    yield "the defaults", {}
    yield "not corrected", {"correct": False}
    yield "target model output", {"target": "model output"}
    for warmup in (2, 3, 5):
        yield f"warmup {warmup}", {"warmup": warmup}
    for tail in (0, 2, 3):
        yield f"tail {tail}", {"tail": tail}
    for blend in (0.0, 0.25, 0.75, 1.0):
        yield f"blend {blend:g}", {"blend": blend}
    yield "degree 3, window 4", {"degree": 3, "window": 4}
    for ridge, intercept in itertools.product((0.01, 0.1), INTERCEPTS):
        yield (
            f"window 4, ridge {ridge:g}, intercept {intercept}",
            {"window": 4, "ridge": ridge, "intercept": intercept},
        )
    yield "the paper's fit", PAPER_FIT


def paper_table(setting: Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the second table: as many evaluations as the paper's schedule and one more, the last, compute."""
    for tail in (0, 1):
        name = "the paper's schedule" + (" and the last evaluation" if tail else "")
        yield f"{name}, our fit, not corrected", {**PAPER_SCHEDULE, "tail": tail, "correct": False}
        yield f"{name}, its fit", {**PAPER_SCHEDULE, **PAPER_FIT, "tail": tail}
    yield (
        "the paper's schedule, its fit, official scaling",
        {**PAPER_SCHEDULE, **PAPER_FIT, "tail": 0, "scaling": "paper"},
    )
    count = len(variant(**PAPER_SCHEDULE, tail=0).scheduled(()).plan(setting.steps))
    yield "balanced, our fit", {"evaluations": count}
    yield "balanced, the paper's fit", {"evaluations": count, **PAPER_FIT}


def measure(case: Case, settings: Settings) -> tuple[np.ndarray, int]:
    """Errors [16] and network evaluations of one accelerated run."""
    model = attach(case.model, settings)
    errors = case.errors(case.sample(model))
    attached = attachment(model)
    assert attached is not None
    return errors, attached.runs[-1].computed


def rows_of(setting: Setting, rows: Iterable[tuple[str, dict[str, Any]]], seed: int) -> Iterator[dict[str, Any]]:
    """Measured rows of one setting, with the controls of the first row's number of evaluations."""
    case = Case(setting, seed)
    asked, count = budget(setting.steps, variant().speedup), None  # or the rest is computed where forecasts miss
    for name, changes in tqdm(list(rows), desc=str(setting), disable=None):
        errors, computed = measure(case, variant(**{"evaluations": asked, **changes}))
        yield _row(setting, name, errors, computed)
        if count is None:
            count = computed
            for sampler in CONTROLS:
                errors = case.errors(case.sample(case.model, steps=count, sampler=sampler))
                yield _row(setting, f"fewer steps, {sampler}", errors, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="search on tuning seeds instead of the tables")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    if options.sweep:
        search = [(json.dumps(changes), changes) for changes in sweep()]
        tables = [[row for setting in CASES for row in rows_of(setting, search, TUNING)]]
    else:
        tables = [
            [row for setting in CASES for row in rows_of(setting, table(), REPORTING)],
            [row for setting in CASES for row in rows_of(setting, paper_table(setting), REPORTING)],
        ]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / ("defaults-sweep.json" if options.sweep else "defaults.json")
    path.write_text(json.dumps(tables, indent=1))
    text = "\n".join(map(markdown, tables))
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
