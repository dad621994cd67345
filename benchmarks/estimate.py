"""Is the estimated error true? Estimate and truth of each picture, over models, samplers, guidance and largeness.

python dev.py bench estimate            # docs/estimate.md, on reporting seeds
python dev.py bench estimate --tuning   # on tuning seeds; no file
python dev.py bench estimate --fit      # the constants of spectrum_core/estimate.py, from tuning seeds; no file
"""

import argparse
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
from _embedded import REPORTING, TUNING
from schedules import MODELS, Bench
from tqdm import tqdm

from _enlarged import enlarged  # isort: skip
from spectrum_accelerate.nodes.runtime import accelerate, attachment  # isort: skip
from spectrum_accelerate.nodes.settings import Settings  # isort: skip

log = logging.getLogger("estimate")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "estimate.md"
SAMPLERS = ("euler", "dpmpp_2m", "heun")
LARGENESS = (1.0, 3.0, 7.5)
SETTINGS = ((20, 1.0), (30, 3.0), (30, 7.0))

HEADER = """# The estimated error

`python dev.py bench estimate`: the error that the node estimates for the worst picture of a run, against the true one,
the relative L2 distance of its final latent to the full run's. Runs of one picture, reporting seeds, trained tiny
models, CPU; k as in [schedules.md](schedules.md). *within 2x*: share of pictures whose true error is between half and
twice the estimate.

{table}

The estimate follows from how far the latent was off in each gap, before that was corrected
(`spectrum_core/estimate.py`). Its constants were fitted on other seeds (`--fit`). At strong guidance it is less sure.
With samplers that add noise, a picture may turn by the noise alone; there the node says that the error is not known, as
it does without correction.
"""


def measure(model: Any, sampler: str, steps: int, cfg: float, seed: int) -> tuple[float, float, float] | None:
    """Estimate and truth of one picture, and its drifts' root sum of squares; None where nothing was forecast."""
    bench = Bench(model, steps, cfg, 1, seed)
    bench.full = bench.sample(model, steps, sampler)
    fast = accelerate(model, Settings.of())
    true = float(bench.errors(bench.sample(fast, steps, sampler))[0])
    attached = attachment(fast)
    assert attached is not None
    trace = attached.runs[-1]
    drifts = [e.drift for e in trace.evaluations if e.drift is not None]
    return None if trace.error is None else (trace.error, true, float(np.linalg.norm(drifts)))


def fitted(drifts: list[float], errors: list[float], rounds: int = 30) -> tuple[float, float]:
    """Share and power of error = share * drift ** power: least absolute deviations of the logarithms."""
    x, y = np.column_stack([np.ones(len(drifts)), np.log(drifts)]), np.log(errors)
    weights = np.ones(len(y))
    for _ in range(rounds):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(x @ solution - y), 0.1)
    return float(np.exp(solution[0])), float(solution[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="tuning seeds; no file")
    parser.add_argument("--fit", action="store_true", help="the constants, from tuning seeds; no file")
    parser.add_argument("--pictures", type=int, default=2)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    first = TUNING if options.tuning or options.fit else REPORTING
    drifts: list[float] = []
    errors: list[float] = []
    loaded = {name: load() for name, load in MODELS.items()}
    found: dict[tuple[str, str], list[float]] = {}
    every = list(itertools.product(MODELS, LARGENESS, SAMPLERS, SETTINGS, range(first, first + options.pictures)))
    for name, k, sampler, (steps, cfg), seed in tqdm(every, disable=None):
        measured = measure(enlarged(loaded[name], k), sampler, steps, cfg, seed)
        if measured is not None:
            estimated, true, drift = measured
            drifts.append(max(drift, 1e-6))
            errors.append(max(true, 1e-6))
            for group in (("model", name), ("k", f"{k:g}"), ("sampler", sampler), ("CFG", f"{cfg:g}"), ("all", "")):
                found.setdefault(group, []).append(true / max(estimated, 1e-9))
    lines = ["| | pictures | true / estimated, median | 10 % to 90 % | within 2x |", "|---|---|---|---|---|"]
    for (kind, value), ratios in sorted(found.items()):
        low, high = np.percentile(ratios, [10, 90])
        near = np.mean([0.5 <= ratio <= 2 for ratio in ratios])
        label = f"{kind} {value}".strip()
        lines.append(f"| {label} | {len(ratios)} | {np.median(ratios):.2f} | {low:.2f} to {high:.2f} | {near:.0%} |")
    table = "\n".join(lines)
    log.info(table)
    if options.fit:
        log.info("SHARE, POWER = %.3f, %.3f", *fitted(drifts, errors))
    elif not options.tuning:
        OUTPUT.write_text(HEADER.format(table=table))


if __name__ == "__main__":
    main()
