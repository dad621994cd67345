"""Where are evaluations best spent? Schedules on models that move at the end and on models that move at the start.

    python dev.py bench schedules            # docs/schedules.md, on reporting seeds
    python dev.py bench schedules --tuning   # on tuning seeds, which the constants were chosen on

Every schedule computes the same number of evaluations. *adaptive*: the default. *by noise*: a plan made beforehand that
follows the noise (the default before). *knows*: the same plan in the model's own time, which a user cannot know.
*paper*: the official schedule and fit. *fewer steps*: the best of euler, dpmpp_2m, ipndm_v and heun with as many
evaluations, the honest control.
"""

import argparse
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _embedded import REPORTING, TUNING

from demo import inprocess

import comfy.sample  # isort: skip
import comfy.samplers  # isort: skip
import torch  # isort: skip
from _enlarged import enlarged  # isort: skip
from _methods import PAPER_FIT, official  # isort: skip
from spectrum_accelerate.nodes.runtime import accelerate, attachment  # isort: skip
from spectrum_accelerate.nodes.settings import Settings  # isort: skip
from spectrum_accelerate.spectrum_core import schedule as schedules  # isort: skip
from spectrum_accelerate.spectrum_core.schedule.adaptive import own_times  # isort: skip
from spectrum_accelerate.spectrum_core.schedule.balanced import Plan, balanced, budget  # isort: skip
from tqdm import tqdm  # isort: skip

log = logging.getLogger("schedules")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "schedules.md"
MODELS: dict[str, Callable[[], Any]] = {
    "flux": inprocess.embedded_model,
    "lumina": inprocess.lumina_model,
    "unet": inprocess.unet_model,
    "wan": inprocess.wan_model,
}
LARGENESS = (1.0, 3.0, 7.5, 15.0)
SETTINGS = (
    *((20, 8, 1.0, "euler"), (20, 10, 3.0, "euler"), (30, 10, 1.0, "euler"), (30, 10, 3.0, "euler")),
    *((30, 15, 5.0, "euler"), (50, 15, 3.0, "euler"), (20, 10, 1.0, "dpmpp_2m"), (30, 12, 3.0, "dpmpp_2m")),
)
"""Steps, evaluations computed, guidance scale, sampler."""
CONTROLS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("euler", {}, 1),
    ("dpmpp_2m", {}, 1),
    ("ipndm_v", {"max_order": 2}, 1),
    ("heun", {}, 2),
)
COLUMNS = ("adaptive", "by noise", "knows", "paper", "fewer steps")
NO_GAIN = {"fewer steps": 0.9, "paper": 1.0}
"""Ratio of errors, ours to a control's, above which a row is named as one without a gain."""


@dataclass
class Bench:
    """Some pictures of one model.

    Attributes:
        model: the MODEL.
        steps, cfg: of the full run.
        pictures: how many.
        seed: of prompts and noise.
    """

    model: Any
    steps: int
    cfg: float
    pictures: int
    seed: int
    sampler: str = "euler"

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.seed)
        names = inprocess.labels()
        emoji = generator.choice(len(names["emoji"]), self.pictures, replace=False).tolist()
        backgrounds = generator.integers(len(names["bg"]), size=self.pictures).tolist()
        self.positive = inprocess.prompts(emoji, backgrounds)
        self.negative = inprocess.prompts([-1] * self.pictures, [-1] * self.pictures)
        noise = torch.Generator().manual_seed(self.seed)
        self.noise = torch.randn((self.pictures, *inprocess.latent_shape(self.model)), generator=noise)
        self.full = self.sample(self.model, self.steps)

    def sample(self, model: Any, steps: int, name: str = "", options: dict[str, Any] | None = None) -> torch.Tensor:
        """Final latents."""
        sampler = comfy.samplers.ksampler(name or self.sampler, options or {})
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        with torch.inference_mode():
            result: torch.Tensor = comfy.sample.sample_custom(
                model, self.noise, self.cfg, sampler, sigmas, self.positive, self.negative,
                torch.zeros_like(self.noise), seed=self.seed, disable_pbar=True,
            )  # fmt: skip
        return result

    def errors(self, latents: torch.Tensor) -> np.ndarray:
        """Relative L2 distance of each picture to the full run."""
        distance = (latents - self.full).flatten(1).norm(dim=1) / self.full.flatten(1).norm(dim=1)
        return distance.double().numpy()

    def fewer(self, count: int) -> np.ndarray:
        """The best of the controls."""
        tried = [
            self.errors(self.sample(self.model, (count + stages - 1) // stages, name, options))
            for name, options, stages in CONTROLS
        ]
        return min(tried, key=lambda errors: errors.mean())

    def accelerated(self, settings: Settings) -> np.ndarray:
        """The node."""
        model = accelerate(self.model, settings)
        return self.errors(self.sample(model, self.steps))

    def computed(self, settings: Settings) -> str:
        """What the node computes: c or f for each step."""
        model = accelerate(self.model, settings)
        self.sample(model, self.steps)
        attached = attachment(model)
        assert attached is not None
        return attached.runs[-1].kinds


def planned(k: float) -> Any:
    """A schedule that follows the noise, in the time of a model with latents k times as large."""

    class Known(Plan):
        @classmethod
        def build(cls, request: Any) -> Plan:
            return balanced(own_times(request.times, k), budget(request), request.warmup, request.tail)

    return patch.dict(schedules.SCHEDULES, {"adaptive": Known})


def row(bench: Bench, count: int, k: float) -> dict[str, np.ndarray]:
    """The errors of all schedules."""
    settings = Settings.of(evaluations=count)
    found = {"adaptive": bench.accelerated(settings), "fewer steps": bench.fewer(count)}
    for name, own in (("by noise", 1.0), ("knows", k)):
        with planned(own):
            found[name] = bench.accelerated(settings)
    paper = official(bench.steps, count)
    if paper is not None:
        found["paper"] = bench.accelerated(Settings.of(**{**PAPER_FIT, **paper}))
    return found


Place = tuple[str, float, tuple[int, int, float, str]]
Found = dict[str, np.ndarray]


@cache
def loaded(name: str) -> Any:
    return MODELS[name]()


def found_at(place: Place, seed: int, pictures: int) -> tuple[Place, Found]:
    """One row."""
    logging.getLogger().setLevel(logging.WARNING)
    name, k, (steps, count, cfg, sampler) = place
    return place, row(Bench(enlarged(loaded(name), k), steps, cfg, pictures, seed, sampler), count, k)


def rows(seed: int, pictures: int, jobs: int) -> Iterator[tuple[Place, Found]]:
    """All rows."""
    places = [(name, k, setting) for k in LARGENESS for name in MODELS for setting in SETTINGS]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        measure = partial(found_at, seed=seed, pictures=pictures)
        yield from tqdm(pool.imap(measure, places), total=len(places), disable=None)


def geometric(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="tuning seeds; no file")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    lines = [f"| model | k | setting | {' | '.join(COLUMNS)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    against: dict[tuple[float, str], list[float]] = {}
    off: dict[float, list[float]] = {}
    behind: dict[str, list[str]] = {"fewer steps": [], "paper": []}
    seed = TUNING if options.tuning else REPORTING
    for (name, k, (steps, count, cfg, sampler)), found in rows(seed, options.pictures, options.jobs):
        guided = f"{sampler}, " * (sampler != "euler") + (f"CFG {cfg:g}" if cfg != 1 else "no CFG")
        cells = [f"{found[c].mean():.3f} ({np.median(found[c]):.3f})" if c in found else "" for c in COLUMNS]
        lines.append(f"| {name} | {k:g} | {count} of {steps}, {guided} | {' | '.join(cells)} |")
        for column in COLUMNS[1:]:
            if column in found:
                ratio = found["adaptive"].mean() / found[column].mean()
                against.setdefault((k, column), []).append(ratio)
                if column in behind and ratio > NO_GAIN[column]:
                    behind[column].append(f"{name}, k {k:g}, {count} of {steps}, {guided}")
        off.setdefault(k, []).append(float((found["adaptive"] > 0.1).mean()))
        log.info(lines[-1])
    summary = [f"| k | {' | '.join('/ ' + c for c in COLUMNS[1:])} | pictures off by more than .1 |", "|---" * 6 + "|"]
    for k in LARGENESS:
        cells = [f"{geometric(against.get((k, c), [])):.2f}" for c in COLUMNS[1:]]
        summary.append(f"| {k:g} | {' | '.join(cells)} | {np.mean(off[k]):.0%} |")
    text = "\n".join(summary)
    log.info(text)
    if not options.tuning:
        listed = {column: "\n".join(f"* {place}" for place in places) or "* none" for column, places in behind.items()}
        OUTPUT.write_text(
            HEADER.format(
                pictures=options.pictures,
                summary=text,
                table="\n".join(lines),
                rows=len(lines) - 2,
                fewer=listed["fewer steps"],
                paper=listed["paper"],
            )
        )


HEADER = """# Where evaluations are spent

`python dev.py bench schedules`: relative L2 distance of the final latent to the full run of 20, 30 or 50 steps (euler,
unless said), mean of {pictures} pictures (median), reporting seeds, trained tiny models (`demo/model`; wan draws clips
of nine frames), CPU, one thread. k: the latents are k times as large, so that the model decides its picture earlier;
the published change of large models from step to step looks like k = 3 to 15 (`benchmarks/_enlarged.py` says how).
Every schedule computes the same number of evaluations.

* *adaptive*: the default. It computes the first two steps, sees how fast the model moves, places the rest in the
  model's own time, and forecasts along it.
* *by noise*: a plan made beforehand that follows the noise; it does not know the model.
* *knows*: the same plan, in the model's own time, which nobody knows beforehand.
* *paper*: the official method (degree 4, all points, ridge .1, warm-up 5, growing intervals, no correction).
* *fewer steps*: the best of euler, dpmpp_2m, ipndm_v (order 2) and heun with as many evaluations.

Adaptive against the others, geometric mean of the ratios of mean errors:

{summary}

Of {rows} rows, fewer steps are as good in these (ratio above .9). Take fewer steps there, or compute more evaluations:

{fewer}

The official method is nearer in these:

{paper}

{table}
"""

if __name__ == "__main__":
    main()
