"""Is the estimated error true? Estimate and truth of each picture, over models, samplers, guidance and largeness.

python dev.py bench estimate            # docs/estimate.md, on reporting seeds
python dev.py bench estimate --tuning   # on tuning seeds; no file
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

The estimate follows from how far the latent was off in its worst gap, before that was corrected, and from the guidance
scale, which magnifies what is left (`spectrum_core/estimate.py`). Its constants were fitted on other seeds. At strong
guidance it is often too high. With samplers that add noise, a picture may turn by the noise alone; there the node
says that the error is not known, as it does without correction.
"""


def measure(model: Any, sampler: str, steps: int, cfg: float, seed: int) -> tuple[float, float] | None:
    """Estimate and truth of one picture; None where nothing was forecast."""
    bench = Bench(model, steps, cfg, 1, seed)
    bench.full = bench.sample(model, steps, sampler)
    fast = accelerate(model, Settings.of())
    true = float(bench.errors(bench.sample(fast, steps, sampler))[0])
    attached = attachment(fast)
    assert attached is not None
    estimated = attached.runs[-1].error
    return None if estimated is None else (estimated, true)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="tuning seeds; no file")
    parser.add_argument("--pictures", type=int, default=2)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    first = TUNING if options.tuning else REPORTING
    loaded = {name: load() for name, load in MODELS.items()}
    found: dict[tuple[str, str], list[float]] = {}
    every = list(itertools.product(MODELS, LARGENESS, SAMPLERS, SETTINGS, range(first, first + options.pictures)))
    for name, k, sampler, (steps, cfg), seed in tqdm(every, disable=None):
        pair = measure(enlarged(loaded[name], k), sampler, steps, cfg, seed)
        if pair is not None:
            for group in (("model", name), ("k", f"{k:g}"), ("sampler", sampler), ("CFG", f"{cfg:g}"), ("all", "")):
                found.setdefault(group, []).append(pair[1] / max(pair[0], 1e-9))
    lines = ["| | pictures | true / estimated, median | 10 % to 90 % | within 2x |", "|---|---|---|---|---|"]
    for (kind, value), ratios in sorted(found.items()):
        low, high = np.percentile(ratios, [10, 90])
        near = np.mean([0.5 <= ratio <= 2 for ratio in ratios])
        label = f"{kind} {value}".strip()
        lines.append(f"| {label} | {len(ratios)} | {np.median(ratios):.2f} | {low:.2f} to {high:.2f} | {near:.0%} |")
    table = "\n".join(lines)
    log.info(table)
    if not options.tuning:
        OUTPUT.write_text(HEADER.format(table=table))


if __name__ == "__main__":
    main()
