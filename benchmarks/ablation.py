"""What is each part of the corrector worth? The default without it, on all models.

    python dev.py bench ablation            # docs/corrector.md, on reporting seeds
    python dev.py bench ablation --tuning   # on tuning seeds; no file

A part that gains less than a tenth in the geometric mean does not stay.
"""

import argparse
import itertools
import logging
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _embedded import REPORTING, TUNING
from schedules import MODELS, Bench, geometric
from tqdm import tqdm

from _enlarged import enlarged  # isort: skip
from spectrum_accelerate.nodes.runtime import accelerate  # isort: skip
from spectrum_accelerate.nodes.runtime import corrector as latents  # isort: skip
from spectrum_accelerate.nodes.settings import Settings  # isort: skip
from spectrum_accelerate.spectrum_core import corrector  # isort: skip

log = logging.getLogger("ablation")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "corrector.md"
LARGENESS = (1.0, 3.0, 7.5, 15.0)
SETTINGS = ((20, 8, 1.0), (20, 10, 3.0), (30, 15, 7.0))
"""Steps, evaluations computed, guidance scale."""
SAMPLERS = ("euler", "dpmpp_2m")


def _unrevised(self: Any, evaluation: int, output: Any, mask: Any = None) -> Any:
    with patch.object(self, "_revisions", {k: [None] * len(v) for k, v in self._known.items()}):
        return FORECAST(self, evaluation, output, mask)


FORECAST = corrector.Corrector.forecast
WITHOUT: dict[str, Any] = {
    "less gain with guidance": patch.object(corrector, "CFG_COEFFICIENT", 0.0),
    "the response to an error, and revised forecasts": patch.object(latents, "denoiser_gain", lambda *_: 1.0),
    "revised forecasts": patch.object(corrector.Corrector, "forecast", _unrevised),
}


def row(bench: Bench, count: int, sampler: str) -> dict[str, np.ndarray]:
    """Errors by what is left out; "" for nothing, "all of it" for no correction."""

    def errors(**settings: Any) -> np.ndarray:
        model = accelerate(bench.model, Settings.of(evaluations=count, **settings))
        return bench.errors(bench.sample(model, bench.steps, sampler))

    bench.full = bench.sample(bench.model, bench.steps, sampler)
    found = {"": errors(), "all of it": errors(correct=False)}
    for name, change in WITHOUT.items():
        with change:
            found[name] = errors()
    return found


HEADER = """# What the corrector's parts are worth

`python dev.py bench ablation`: error of the final latent without a part, over the error with all of them; geometric
mean of the ratios of the mean errors of {pictures} pictures, reporting seeds, trained tiny models,
k = 1, 3, 7.5 and 15 (see [schedules.md](schedules.md)), euler and dpmpp_2m, 8 of 20 steps without guidance, 10 of 20 at
CFG 3, 15 of 30 at CFG 7. Above 1: the part helps.

{table}

Two parts went because they gained less than a tenth in the same rows (tuning seeds): a response that grew while outputs
alternated around their forecasts (the error without it was .79 of that with it), and a second correction of each gap
when the next one ended (1.00).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="tuning seeds; no file")
    parser.add_argument("--pictures", type=int, default=4)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    loaded = {name: load() for name, load in MODELS.items()}
    first = TUNING if options.tuning else REPORTING
    ratios: dict[tuple[str, str], list[float]] = {}
    for name, k, (steps, count, cfg), sampler in tqdm(
        list(itertools.product(loaded, LARGENESS, SETTINGS, SAMPLERS)), disable=None
    ):
        found = row(Bench(enlarged(loaded[name], k), steps, cfg, options.pictures, first), count, sampler)
        for without, errors in found.items():
            if without:
                for group in ("all", name, sampler, f"k {k:g}", f"CFG {cfg:g}"):
                    ratios.setdefault((without, group), []).append(errors.mean() / max(found[""].mean(), 1e-12))
    groups = list(dict.fromkeys(group for _, group in ratios))
    lines = [f"| without | {' | '.join(groups)} |", "|---" * (1 + len(groups)) + "|"]
    for without in ("all of it", *WITHOUT):
        lines.append(f"| {without} | {' | '.join(f'{geometric(ratios[without, g]):.2f}' for g in groups)} |")
    log.info("\n".join(lines))
    if not options.tuning:
        OUTPUT.write_text(HEADER.format(pictures=options.pictures, table="\n".join(lines)))


if __name__ == "__main__":
    main()
