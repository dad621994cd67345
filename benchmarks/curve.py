"""Error against evaluations: ours, the official method, and fewer steps. Writes docs/quality.

python dev.py bench curve
"""

import logging
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy as np
from _embedded import REPORTING
from matplotlib import pyplot
from schedules import PAPER_FIT, Bench, enlarged, official

from demo import inprocess

from spectrum_accelerate.nodes.settings import Settings  # isort: skip

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "quality"
STEPS, PICTURES = 30, 6
COUNTS = (6, 8, 10, 12, 15, 20)
PANELS = ((7.5, 1.0), (7.5, 3.0), (1.0, 3.0))
"""k and guidance scale of each panel."""


def points(k: float, cfg: float) -> dict[str, list[tuple[int, float]]]:
    """Method -> (evaluations, mean error)."""
    bench = Bench(enlarged(inprocess.embedded_model(), k), STEPS, cfg, PICTURES, REPORTING)
    found: dict[str, list[tuple[int, float]]] = {"Spectrum Accelerate": [], "official Spectrum": [], "fewer steps": []}
    for count in COUNTS:
        found["Spectrum Accelerate"].append((count, bench.accelerated(Settings.of(evaluations=count)).mean()))
        found["fewer steps"].append((count, bench.fewer(count).mean()))
        paper = official(STEPS, count)
        if paper is not None:
            error = bench.accelerated(Settings.of(**{**PAPER_FIT, **paper})).mean()
            found["official Spectrum"].append((count, error))
    return found


def main() -> None:
    logging.getLogger().setLevel(logging.WARNING)
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(10.5, 3.4), sharey=True, layout="constrained")
    lines = [
        "| model | guidance | evaluations | Spectrum Accelerate | official Spectrum | fewer steps |",
        "|---" * 6 + "|",
    ]
    for axis, (k, cfg) in zip(axes, PANELS, strict=True):
        found = points(k, cfg)
        kind = "moves at the start" if k > 1 else "moves at the end"
        guided = f"CFG {cfg:g}" if cfg != 1 else "no CFG"
        for (name, values), style in zip(found.items(), ("o-", "s--", "^:"), strict=True):
            axis.plot(*np.array(values).T, style, label=name)
        axis.set(title=f"{kind}, {guided}", xlabel=f"evaluations computed, of {STEPS}", yscale="log")
        axis.grid(alpha=0.3, which="both")
        official_errors = dict(found["official Spectrum"])
        for (count, ours), (_, fewer) in zip(found["Spectrum Accelerate"], found["fewer steps"], strict=True):
            other = f"{official_errors[count]:.3f}" if count in official_errors else ""
            lines.append(f"| {kind} | {guided} | {count} of {STEPS} | {ours:.3f} | {other} | {fewer:.3f} |")
    axes[0].set_ylabel("relative L2 error of the latent")
    axes[0].legend(fontsize=8)
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / "curve.png", dpi=80)
    (FOLDER / "README.md").write_text(PAGE.format(table="\n".join(lines), pictures=PICTURES))


PAGE = """# What to expect

![Error against evaluations](curve.png)

`python dev.py bench curve`: how far the result is from the full run of 30 Euler steps, for as many evaluations. Mean of
{pictures} pictures, reporting seeds, the trained tiny Flux of this repository, CPU. *Moves at the start*: with latents
7.5 times as large, as published profiles of large models look; *moves at the end*: as it was trained. *Fewer steps*:
the best of euler, dpmpp_2m, ipndm_v and heun, the honest alternative.

**Nothing was measured on a large model here.** Others report with Spectrum or similar methods on large models:

| model | evaluations | quality | who |
|---|---|---|---|
| FLUX.1, Qwen-Image, Wan with other caches | 2.5 to 4 times fewer | 24 to 31 dB PSNR | their papers |
| MiniMax-H3 | 2.5 times faster | 27 dB PSNR | SGLang, with Spectrum |

So expect a picture that is slightly another one, not an identical one. Raise the number of evaluations where that
matters, and compare with *Spectrum Compare*.

{table}

* All schedules, models and settings: [../schedules.md](../schedules.md).
* How true the estimated error is: [../estimate.md](../estimate.md).
* Samplers: [../samplers.md](../samplers.md).
* Other caches and forecasts: `python dev.py bench quality`.
"""

if __name__ == "__main__":
    main()
