"""How near is the picture at the same number of network evaluations? Ours and others.

    python dev.py bench quality                             # output/benchmarks/quality; resumable
    python dev.py bench quality --seeds 4 --settings 20     # a quick look: 4 pictures, settings whose names hold "20"

Closed loop through ComfyUI's real samplers: a forecast evaluation does not run the network. Evaluations are counted at
the network's first block. Every finished cell (setting, method, pictures) is kept in output/benchmarks/quality; a cell
is measured again when what it depends on has changed.
"""

import argparse
import datetime
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from _cases import SAMPLERS, Case, Setting, decode, distances, likeness, present
from _embedded import REPORTING, TUNING
from _methods import METHODS, Method, tuned
from _tables import FULL, Row, write
from comfyui_version import __version__ as comfyui_version
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from demo import inprocess

PICTURES, CHUNK, TUNING_CHUNK = 32, 8, 4
SOLVED = 200
"""Steps of dpmpp_2m that stand for the converged ODE: within 0.002 (shift 1) and 0.004 (shift 3) of 500 steps."""

SETTINGS: tuple[Setting, ...] = (
    Setting("flux", "euler", 50, 3.0, 3.0, (14,)),
    Setting("flux", "euler", 50, 1.0, 1.0, (14,)),
    Setting("flux", "euler", 30, 1.0, 3.0, (10,)),
    Setting("flux", "euler", 20, 3.0, 3.0, (9, 8)),
    Setting("flux", "euler", 20, 1.0, 1.0, (8,)),
    Setting("flux", "dpmpp_2m", 30, 1.0, 3.0, (10,)),
    Setting("flux", "dpmpp_2m", 20, 3.0, 3.0, (8,)),
    Setting("flux", "heun", 20, 1.0, 1.0, (8,)),
    Setting("flux", "euler_ancestral", 20, 1.0, 3.0, (14,)),
    Setting("flux", "euler", 8, 3.0, 3.0, (5,)),
    Setting("unet", "euler", 30, 3.0, 3.0, (10,)),
    Setting("unet", "dpmpp_2m", 20, 3.0, 3.0, (8,)),
    Setting("lumina", "euler", 30, 3.0, 3.0, (10,)),
    Setting("lumina", "dpmpp_2m", 20, 3.0, 3.0, (8,)),
    # More evaluations, for the plots.
    Setting("flux", "euler", 50, 1.0, 1.0, (20, 25)),
    Setting("flux", "euler", 30, 1.0, 3.0, (12, 15)),
    Setting("flux", "euler", 20, 3.0, 3.0, (12,)),
)
"""With and without CFG, shift 1 and 3, 50 to 8 steps, one and two evaluations a step, with and without fresh noise.
14 of 50 and 9 of 20 are what the official schedule computes by itself; others are the node's fastest, about, or
more. A fifth of the steps is not among them: the node computes at least 2 sqrt(steps)."""

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "output" / "benchmarks" / "quality"
HEADER = """Measured on {date}: {models} (tiny models trained in this repository, 96x96 emoji), on the CPU, one thread;
nothing here was measured on a production model. `python dev.py bench quality{arguments}`; ComfyUI {comfyui}; this
repository's nodes/ and spectrum_core/ with hash {code}; scheduler simple; prompts and noises that no default was chosen
on. Means ± standard error over pictures (each its own prompt and noise).

* *evaluations*: of the network, for each picture, counted at its first block. *to full run*: relative L2 distance of
  the final latent. *to converged ODE*: the same to {solved} steps of dpmpp_2m (itself within 0.004
  of 500 steps): does a method solve, or merely imitate?
* *fewer steps* (controls): plain runs. AB2 is ComfyUI's ipndm_v with max_order 2, which is exact on uneven steps (the
  order 2 of ipndm assumes even ones); ipndm is of order 4. A stochastic sampler draws another picture in fewer steps.
* *EasyCache*, *LazyCache*: ComfyUI's nodes, threshold by bisection on {tuning} tuning pictures for the nearest number
  of evaluations; other widgets at their defaults, so that the first 15 % and the last 5 % are always computed. A batch
  decides together, by every eighth row and column of a latent that has twelve. In float32 EasyCache changes the
  sampler's latent in place; here it gets a copy, as it does in half precision.
* *reuse*, *TaylorSeer*, *HiCache*: formulas as published, at their authors' schedule (warm-up 3, then a fixed distance,
  fractional so that the number of evaluations is met; reuse: warm-up 1). They forecast the guided raw output of the
  network; their authors forecast features of each block. *our schedule*: on the evaluations that Accelerate computes.
* *Spectrum*: the official method (degree 4, all points, ridge 0.1, no tail) through our node: the hidden feature before
  the head. Positions are scaled to the run, which is kinder to it than the official code's fixed 50 steps. Warm-up 5,
  interval 2 and growth 0.75 where that gives the number of evaluations; else the growth that does, and a longer
  interval only where no growth does. *on the model output* (50 steps only): its forecast of the guided output, which is
  what the forecasts above use.
* *Accelerate*: this node's defaults with that number of evaluations. *paper's schedule*: its forecast on the
  evaluations of *Spectrum, w 0.5*.
* heun: the stages of a step are computed or forecast together, and the last step has one; a method that does not
  compute the last step has one evaluation more.
* A method without a row cannot compute that number of evaluations."""


# ------------------------------------------------------------------------------------------------- cells


@cache
def code(*paths: str) -> str:
    """Hash of source files, or of all in a folder."""
    files = [
        file for path in paths for file in sorted((ROOT / path).rglob("*.py") if "." not in path else [ROOT / path])
    ]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


BENCH_CODE = tuple(f"benchmarks/{name}.py" for name in ("_cases", "_foreign", "_methods"))
OUR_CODE = code("nodes", "spectrum_core")  # now, as it was imported


@cache
def weights_of(model: str) -> str:
    """Hash of a trained model."""
    return hashlib.sha256((inprocess.MODEL / present()[model].file).read_bytes()).hexdigest()[:16]


def key_of(what: dict[str, Any]) -> str:
    """Everything that a result depends on -> the name it is kept under."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


class Store:
    """Finished cells: one JSON line each, appended as they come.

    Args:
        folder: where cells.jsonl is, and the latents that others are compared with.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = folder / "cells.jsonl"
        self._cells: dict[str, dict[str, Any]] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # cut off when a run was killed
                continue
            self._cells[record["key"]] = record

    def get(self, what: dict[str, Any]) -> dict[str, Any] | None:
        return self._cells.get(key_of(what))

    def put(self, what: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        record = {"key": key_of(what), "what": what, **result}
        self._cells[record["key"]] = record
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record


@cache
def vae() -> Any:
    return inprocess.embedded_vae()


class Bench:
    """Pictures of one setting: what is compared, and with what. Nothing is loaded or sampled before it is asked for."""

    def __init__(self, store: Store, setting: Setting, seed: int, batch: int) -> None:
        self._store, self.setting, self._seed, self._batch = store, setting, seed, batch

    def what(self, **more: Any) -> dict[str, Any]:
        """What all cells of these pictures depend on."""
        setting = self.setting
        return {
            "weights": weights_of(setting.model),
            "sampling": [setting.model, setting.cfg, setting.shift],
            "pictures": [self._seed, self._batch],
            "comfyui": comfyui_version,
            **more,
        }

    @cached_property
    def case(self) -> Case:
        return Case(self.setting, self._seed, self._batch)

    def _latents(self, sampler: str, steps: int) -> tuple[Any, float]:
        """Latents of a plain run and its evaluations, kept."""
        what = self.what(plain=[sampler, SAMPLERS[sampler].options, steps], code=code(BENCH_CODE[0]))
        file = self._store.folder / f"{key_of(what)}.safetensors"
        record = self._store.get(what)
        if record is None or not file.exists():
            latents, evaluations = self.case.sample(steps=steps, sampler=SAMPLERS[sampler])
            save_file({"latents": latents.contiguous()}, file)
            record = self._store.put(what, {"evaluations": evaluations})
        return load_file(file)["latents"], record["evaluations"]

    @cached_property
    def full(self) -> tuple[Any, float]:
        """Latents of the full run and its evaluations."""
        return self._latents(self.setting.sampler, self.setting.steps)

    @cached_property
    def solved(self) -> Any:
        """The converged solution, or None for a stochastic sampler."""
        return None if SAMPLERS[self.setting.sampler].stochastic else self._latents("dpmpp_2m", SOLVED)[0]

    @cached_property
    def pictures(self) -> Any:
        return decode(vae(), self.full[0])

    def threshold(self, method: Method, count: int) -> float:
        """A cache's threshold, tuned on other pictures."""
        tuning = Bench(self._store, self.setting, TUNING, TUNING_CHUNK)
        what = tuning.what(
            threshold=method.name,
            steps=self.setting.steps,
            sampler=self.setting.sampler,
            count=count,
            code=code(*BENCH_CODE),
        )
        found = self._store.get(what) or self._store.put(what, {"threshold": tuned(method, tuning.case, count)})
        return found["threshold"]

    def cell(self, method: Method | None, count: int) -> dict[str, Any] | None:
        """What came of a method (None: the full run); None where it cannot do with so few evaluations."""
        what = self.what(
            method=method.name if method else FULL,
            steps=self.setting.steps,
            sampler=self.setting.sampler,
            count=count if method else self.setting.steps,
            code=[code(*BENCH_CODE), OUR_CODE if method and method.node else ""],
        )
        record = self._store.get(what)
        if record is None:
            record = self._store.put(what, self._measure(method, count))
        return record if "full" in record else None

    def _measure(self, method: Method | None, count: int) -> dict[str, Any]:
        if method is None:
            result = self.full
        else:
            tuning = (self.threshold(method, count),) if method.tunes else ()
            result = method.run(self.case, count, *tuning)
        if result is None:
            return {}
        latents, evaluations = result
        psnr, ssim = likeness(decode(vae(), latents), self.pictures)
        ode = [] if self.solved is None else distances(latents, self.solved).tolist()
        return {
            "evaluations": evaluations,
            "full": distances(latents, self.full[0]).tolist(),
            "ode": ode,
            "psnr": psnr.tolist(),
            "ssim": ssim.tolist(),
        }


# ------------------------------------------------------------------------------------------------- the run

Place = tuple[Setting, int, "Method | None"]


def places(settings: list[Setting]) -> list[Place]:
    """Every row of every table."""
    return [(setting, count, method) for setting in settings for count in setting.counts for method in (None, *METHODS)]


def chunks(pictures: int) -> Iterator[tuple[int, int]]:
    """Seeds and sizes of the batches that the pictures come in."""
    for index, start in enumerate(range(0, pictures, CHUNK)):
        yield REPORTING + index, min(CHUNK, pictures - start)


def rows_of(records: dict[Place, list[dict[str, Any]]]) -> list[Row]:
    """All pictures of each place together."""

    def joined(found: list[dict[str, Any]], name: str) -> np.ndarray:
        return np.concatenate([record[name] for record in found]).astype(np.float64)

    return [
        Row(
            setting=str(setting),
            steps=setting.steps,
            stochastic=SAMPLERS[setting.sampler].stochastic,
            count=count,
            method=method.name if method else FULL,
            kind=method.kind if method else FULL,
            evaluations=round(float(np.mean([record["evaluations"] for record in found])), 2),
            full=joined(found, "full"),
            ode=joined(found, "ode"),
            psnr=joined(found, "psnr"),
            ssim=joined(found, "ssim"),
        )
        for (setting, count, method), found in records.items()
        if found
    ]


def run(settings: list[Setting], pictures: int, store: Store, folder: Path, arguments: str = "") -> list[Row]:
    """Measure what is missing, all settings with the first pictures first; write what there is after each setting, and
    the plots after each batch of pictures."""
    header = HEADER.format(
        date=datetime.date.today(),
        models=", ".join(dict.fromkeys(setting.model for setting in settings)),
        arguments=arguments,
        comfyui=comfyui_version,
        code=OUR_CODE,
        solved=SOLVED,
        tuning=TUNING_CHUNK,
        chunk=CHUNK,
    )
    batches = list(chunks(pictures))
    every = places(settings)
    records: dict[Place, list[dict[str, Any]]] = {place: [] for place in every}
    rows: list[Row] = []
    with tqdm(total=len(every) * len(batches), disable=None, unit="cell") as bar:
        for seed, batch in batches:
            for setting in settings:
                bar.set_description(str(setting))
                bench = Bench(store, setting, seed, batch)
                for place in places([setting]):
                    record = bench.cell(place[2], place[1])
                    records[place] += [record] if record else []
                    bar.update()
                rows = rows_of(records)
                write(rows, folder, header, plots=setting is settings[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=PICTURES, help=f"pictures (prompt and noise) a setting, {PICTURES}"
    )
    parser.add_argument("--models", nargs="*", default=list(present()), help="only these models")
    parser.add_argument("--settings", nargs="*", default=[""], help="only settings whose names hold one of these texts")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    chosen = [
        setting
        for setting in SETTINGS
        if setting.model in present()
        and setting.model in options.models
        and any(text in str(setting) for text in options.settings)
    ]
    if not chosen:
        parser.error("no setting of a trained model fits: " + "; ".join(map(str, SETTINGS)))
    arguments = "".join(f" {argument!r}" if " " in argument else f" {argument}" for argument in sys.argv[1:])
    run(chosen, options.seeds, Store(OUTPUT), OUTPUT, arguments)
    logging.getLogger().setLevel(logging.INFO)
    logging.info("Written: %s", OUTPUT / "README.md")


if __name__ == "__main__":
    main()
