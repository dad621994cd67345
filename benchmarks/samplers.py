"""How much of each sampler can be forecast? Relative L2 to the sampler's own full run, on the embedded model.

    python dev.py bench samplers                # docs/samplers.md, on reporting seeds
    python dev.py bench samplers --model unet   # docs/samplers-unet.md: a model that predicts noise
    python dev.py bench samplers --tuning       # on tuning seeds, which nodes/samplers/table.py was made by

Each sampler runs in full, with the node's defaults, with as many evaluations spent on fewer of its own steps, and
as if it had no limit of its own: that row is what the table of samplers avoids.
"""

import argparse
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from _embedded import REPORTING, TUNING, Case, Setting
from spectrum_accelerate.nodes.runtime import accelerate, attachment
from spectrum_accelerate.nodes.samplers.table import IRREGULAR, REPLACES_NOISE, SAMPLERS, WIDGET, SamplerInfo
from spectrum_accelerate.nodes.settings import Settings
from tqdm import tqdm

CASES = {"flux": (Setting(30, 3.0, 3.0), Setting(50, 1.0, 1.0)), "unet": (Setting(30, 3.0, None),)}
BATCH = 6
log = logging.getLogger("samplers")
DOCS = Path(__file__).resolve().parent.parent / "docs"
OUTPUT = {"flux": DOCS / "samplers.md", "unet": DOCS / "samplers-unet.md"}

HEADER = """# How much of each sampler is forecast: {title}

`python dev.py bench samplers{option}`: relative L2 distance of the final latent to the same sampler's full run, mean of
{batch} pictures, {model}; CPU, reporting seeds. *computed*: evaluations computed of all, with the node's defaults;
*error*: of that run; *fewer steps*: of the same sampler with as many evaluations on fewer steps, the honest control
(ancestral samplers draw another picture then: other steps, other noise; those of the dpmpp sde family the same one);
*else*: the error with a third of the evaluations, which `nodes/samplers/table.py` prevents.

Of samplers that add noise, the denoised latent is forecast, and fewer times than of others: their limits were chosen on
tuning pictures (`--tuning`) so that results are nearer than those of fewer steps. lcm starts afresh at every step, and
CFG++ samplers go by the unguided output: of these everything is computed.

"""
TITLES = {
    "flux": ("a flow", "", "the embedded Flux (tiny, trained)"),
    "unet": ("a model that predicts noise", " --model unet", "the embedded UNet (tiny, trained)"),
}


def names() -> Iterator[tuple[str, SamplerInfo]]:
    """Samplers that evaluate the model at regular positions; variants for other devices and flows are left out."""
    for name, sampler in SAMPLERS.items():
        if sampler.obstacle != IRREGULAR and not name.endswith(("_gpu", "_RF")):
            yield name, sampler


def accelerated(case: Case, name: str, **changes: Any) -> tuple[float, int, int]:
    """Mean error, evaluations computed and evaluations in all."""
    model = accelerate(case.model, Settings.of(**changes))
    error = case.errors(case.sample(model, sampler=WIDGET.get(name, name))).mean()
    attached = attachment(model)
    assert attached is not None
    trace = attached.runs[-1]
    return float(error), trace.computed, len(trace.evaluations)


def measure(setting: Setting, seed: int, name: str, sampler: SamplerInfo) -> dict[str, Any]:
    """One row of one setting."""
    case = Case(setting, seed, BATCH, sampler=WIDGET.get(name, name))
    error, computed, total = accelerated(case, name)
    row = {"computed": f"{computed} of {total}", "error": error}
    if computed < total:
        steps = max(2, round((computed + sampler.stages - 1) / sampler.stages))
        row["fewer"] = float(case.errors(case.sample(case.model, steps, WIDGET.get(name, name))).mean())
    noisy = sampler.noisy or sampler.obstacle == REPLACES_NOISE
    if noisy or sampler.obstacle:
        free = replace(sampler, obstacle="", max_speedup=sys.float_info.max if noisy else math.inf)
        with patch.dict(SAMPLERS, {name: free}):
            row["else"] = accelerated(case, name, correct=not sampler.obstacle, evaluations=total // 3)[0]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="tuning seeds; no file")
    parser.add_argument("--model", choices=CASES, default="flux")
    parser.add_argument("names", nargs="*", help="only these samplers; no file")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    chosen = [(name, sampler) for name, sampler in names() if not options.names or name in options.names]
    cases = CASES[options.model]
    columns = [f"{setting}: computed | error | fewer steps | else" for setting in cases]
    lines = [f"| sampler | evaluations a step | {' | '.join(columns)} |", "|---" * (2 + 4 * len(cases)) + "|"]
    for name, sampler in tqdm(chosen, disable=None):
        cells = [name, str(sampler.stages)]
        for setting in cases:
            row = measure(setting, TUNING if options.tuning else REPORTING, name, sampler)
            cells.append(row["computed"] if "fewer" in row else "all")
            cells += [f"{row[key]:.3f}" if row.get(key) else "" for key in ("error", "fewer", "else")]
        lines.append("| " + " | ".join(cells) + " |")
        log.info(lines[-1])
    if not options.tuning and not options.names:
        title, option, model = TITLES[options.model]
        header = HEADER.format(batch=BATCH, title=title, option=option, model=model)
        OUTPUT[options.model].write_text(header + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
