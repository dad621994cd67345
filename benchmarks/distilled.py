"""What forecasting is worth on a model that was distilled to 8 steps.

    python dev.py bench distilled   # docs/distilled.md

The full run has 8 Euler steps without guidance. *fewer steps* is the best of euler, dpmpp_2m, ipndm_v and heun with as
many evaluations, the honest control.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from _embedded import REPORTING
from schedules import Bench

from demo import inprocess

from spectrum_accelerate.nodes.settings import Settings  # isort: skip

log = logging.getLogger("distilled")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "distilled.md"
STEPS = 8


def cell(errors: np.ndarray) -> str:
    """Mean, median, and the share of pictures that are off by more than .1."""
    return f"{errors.mean():.3f} ({np.median(errors):.3f}), {(errors > 0.1).mean():.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    bench = Bench(inprocess.few_step_model(), STEPS, 1.0, options.pictures, REPORTING)
    lines = ["| computed | schedule | adaptive | fewer steps |", "|---|---|---|---|"]
    for count in range(7, 2, -1):
        settings = Settings.of(evaluations=count)
        shown = bench.computed(settings)
        cells = [f"{shown.count('c')} of {STEPS}", f"`{shown}`"]
        cells += [cell(bench.accelerated(settings)), cell(bench.fewer(shown.count("c")))]
        lines.append(f"| {' | '.join(cells)} |")
        log.info(lines[-1])
    usual = bench.computed(Settings.of())
    OUTPUT.write_text(HEADER.format(pictures=options.pictures, table="\n".join(lines), usual=usual))


HEADER = """# Distilled models

`python dev.py bench distilled`: the tiny Flux of this repository with a LoRA that was distilled to 8 steps without
guidance (`demo/train/distil.py`). Relative L2 distance of the final latent to the full run of 8 Euler steps: mean of
{pictures} pictures (median), share of pictures that are off by more than .1. Reporting seeds, CPU, one thread. *fewer
steps*: the best of euler, dpmpp_2m, ipndm_v and heun with as many evaluations.

{table}

With its defaults the node computes `{usual}` (c: computed, f: forecast).
"""

if __name__ == "__main__":
    main()
