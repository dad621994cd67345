"""Which evaluations are computed, and what comes of it: error control, correction, plans, targets. docs/schedules.md.

    python dev.py bench schedules                     # docs/schedules.md
    python dev.py bench schedules --quick             # 2 pictures a setting, to output/benchmarks
    python dev.py bench schedules --tables guidance   # one table only, to output/benchmarks

Closed loop through ComfyUI's real samplers on the trained models, but for the last two tables, which are closed forms:
of recorded full runs, and of published figures. Pictures are none that a default was chosen on.
"""

import argparse
import datetime
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from _cases import Array, Case, Setting, distances, present
from _methods import CALIBRATING, calibration, official, our_plan
from _tables import ratio, standard_error
from comfy.sd import load_lora_for_models
from comfyui_version import __version__ as comfyui_version
from quality import OUR_CODE
from scipy.interpolate import PchipInterpolator
from spectrum_accelerate.nodes.attach import attach, attachment
from spectrum_accelerate.nodes.auto import chosen
from spectrum_accelerate.nodes.settings import DEFAULTS, RAW_OUTPUT, Settings
from spectrum_accelerate.spectrum_core import schedule as schedule_module
from spectrum_accelerate.spectrum_core.calibration import Calibration
from spectrum_accelerate.spectrum_core.schedule import budget
from spectrum_accelerate.spectrum_core.trace import Trace
from tqdm import tqdm

SEED, PICTURES, QUICK = 9000, 8, 2
"""Of the prompts and noises, which nothing else uses; how many in each setting, in one batch."""

TOLERANCES = (0.005, 0.01, 0.02, 0.04, 0.08)
TOLERATED = (
    Setting("flux", "euler", 50, 3.0, 3.0, ()),
    Setting("flux", "euler", 50, 1.0, 1.0, ()),
    Setting("flux", "euler", 20, 3.0, 3.0, ()),
    Setting("flux", "dpmpp_2m", 20, 1.0, 3.0, ()),
    Setting("unet", "euler", 30, 3.0, 3.0, ()),
    Setting("lumina", "euler", 30, 3.0, 3.0, ()),
)
GUIDANCE = (1.0, 3.0, 5.0, 7.0)
GUIDED = (Setting("flux", "euler", 20, 1.0, 3.0, ()), Setting("unet", "euler", 30, 1.0, 3.0, ()))
TARGETED = (
    Setting("flux", "euler", 50, 3.0, 3.0, ()),
    Setting("unet", "euler", 30, 3.0, 3.0, ()),
    Setting("lumina", "euler", 30, 3.0, 3.0, ()),
)
RATED = (
    Setting("flux", "euler", 50, 3.0, 3.0, ()),
    Setting("flux", "euler", 20, 3.0, 3.0, ()),
    Setting("unet", "euler", 30, 3.0, 3.0, ()),
    Setting("lumina", "euler", 30, 3.0, 3.0, ()),
)
RATES = (-2, -1, 1, 2)
"""By how many evaluations cond gets more, and uncond fewer."""
STEPS, SHIFT = (20, 30, 50), 3.0
"""Of the runs of real models."""

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs" / "schedules.md"
OUTPUT = ROOT / "output" / "benchmarks" / "schedules.md"
RATIOS = Path(__file__).resolve().parent / "magcache_ratios.json"
GENERATED = "<!-- All below is written by `python dev.py bench schedules`; what stands above stays. -->"
HEADER = """Measured on {date}: {models} (tiny models trained in this repository), on the CPU, one thread; nothing
here was measured on a production model. ComfyUI {comfyui}; this repository's nodes/ and spectrum_core/ with hash
{code}; scheduler simple; in every setting {pictures} pictures in one batch (seed {seed}: prompts and noises that no
default was chosen on). *error*: relative L2 distance of the final latents to the full run's, mean of the pictures,
± standard error. *ratio*: of two mean errors, with its 95 % interval (bootstrap over the pictures). *evaluations*: of
the network, for each picture, counted at its first block. *balanced*: the node's default schedule."""

Cells = tuple[str, ...]
log = logging.getLogger("schedules")


# ------------------------------------------------------------------------------------------------- runs


class Pictures:
    """A case, its full run (sampled when it is asked for), and its accelerated runs, each of which is sampled once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._known: dict[tuple[Settings, int], Outcome] = {}

    @cached_property
    def full(self) -> torch.Tensor:
        return self.case.sample()[0]

    def run(self, settings: Settings, plan: Calibration | None = None) -> "Outcome":
        key = (settings, id(plan))
        if key not in self._known:
            model = attach(self.case.model, settings, calibration=plan)
            latents, evaluations = self.case.sample(model)
            attached = attachment(model)
            assert attached is not None
            self._known[key] = Outcome(self, latents, evaluations, attached.runs[-1])
        return self._known[key]


@dataclass(frozen=True)
class Outcome:
    """One accelerated run.

    Attributes:
        pictures: what it made.
        latents: final ones, [batch, 16, height, width].
        evaluations: of the network, for each picture.
        trace: what the node says about it.
    """

    pictures: Pictures
    latents: torch.Tensor
    evaluations: float
    trace: Trace

    @cached_property
    def errors(self) -> Array:
        """Relative L2 distance to the full run, by picture: [batch]."""
        return distances(self.latents, self.pictures.full)

    def __str__(self) -> str:
        error = standard_error(self.errors)
        return f"{self.errors.mean():.4f}" + (f" ±{error:.4f}" if math.isfinite(error) else "")


@cache
def pictures_of(setting: Setting, count: int) -> Pictures:
    """The pictures of a setting; tables share them."""
    return Pictures(Case(setting, SEED, count))


def defaults(**changes: Any) -> Settings:
    """The node's defaults with some values changed."""
    return Settings(**{**DEFAULTS, **changes})


def counted(setting: Setting, **changes: Any) -> Settings:
    """The same with as many evaluations as they plan, and no more where forecasts miss."""
    return defaults(evaluations=budget(setting.steps, defaults().speedup), **changes)


def compared(ours: Outcome, other: Outcome) -> str:
    """Ratio of two errors; the interval only where there are pictures to draw from."""
    value, low, high = ratio(ours.errors, other.errors)
    return f"{value:.2f} ({low:.2f} to {high:.2f})" if len(ours.errors) > 1 else f"{value:.2f}"


# ------------------------------------------------------------------------------------------------- tables


def tolerance(setting: Setting, count: int) -> Iterator[Cells]:
    """Error control at each tolerance, and `balanced` at as many evaluations."""
    pictures = pictures_of(setting, count)
    for value in TOLERANCES:
        found = pictures.run(chosen("tolerance", value))
        computed, error = found.trace.computed, found.trace.error
        even = pictures.run(chosen("evaluations", computed)) if found.trace.forecast else None
        yield (
            str(setting),
            f"{value:g}",
            f"{found.evaluations:g}",
            f"{error:.4f}" if error is not None else "",
            f"{found.errors.mean():.4f}",
            f"{np.median(found.errors):.4f}",
            f"{found.errors.max():.4f}",
            f"{found.errors.mean() / value:.2f}",
            f"{even.errors.mean():.4f}" if even and even.trace.computed == computed else "",
        )


def guidance(setting: Setting, count: int) -> Iterator[Cells]:
    """The default with and without correction at as many evaluations, and as it is: free to compute the rest."""
    pictures = pictures_of(setting, count)
    corrected, plain = (pictures.run(counted(setting, correct=correct)) for correct in (True, False))
    free = pictures.run(defaults())
    assert corrected.evaluations == plain.evaluations
    yield (
        str(setting),
        f"{corrected.evaluations:g}",
        str(corrected),
        str(plain),
        compared(corrected, plain),
        f"{np.median(corrected.errors) / np.median(plain.errors):.2f}",
        f"{free.evaluations:g}",
        str(free),
    )


@dataclass(frozen=True)
class Change:
    """What differs between the run that a plan was made from and the one that it is used for.

    Attributes:
        name: in the table.
        setting: of the run.
        itself: whether it is the very same run, prompt and noise.
        side: height and width of the latent.
        weights: size of a random low-rank change of each linear weight, relative to its norm.
    """

    name: str
    setting: Setting
    itself: bool = False
    side: int = 12
    weights: float = 0.0


PLANNED = Setting("flux", "euler", 50, 3.0, 3.0, ())
CHANGES = (
    Change("none: the same prompt and noise", PLANNED, itself=True),
    Change("prompt and noise (the normal case)", PLANNED),
    Change("resolution: latents 16x16, not 12x12", PLANNED, side=16),
    Change("CFG 5, not 3", replace(PLANNED, cfg=5.0)),
    Change("weights, as by a LoRA", PLANNED, weights=0.2),
    Change("30 steps, not 50", replace(PLANNED, steps=30)),
    Change("sampler dpmpp_2m, not euler", replace(PLANNED, sampler="dpmpp_2m")),
    Change("shift 1, not 3", replace(PLANNED, shift=1.0)),
)
RANK = 4


def changed(change: Change, count: int) -> tuple[Pictures, str]:
    """The pictures of a changed run, and how far a change of the weights moved them."""
    plain = pictures_of(change.setting, count)
    if change == Change(change.name, change.setting):
        return plain, ""
    case = Case(change.setting, CALIBRATING, 1) if change.itself else Case(change.setting, SEED, count)
    if change.side != 12:
        generator = torch.Generator().manual_seed(SEED)
        case.noise = torch.randn((count, 16, change.side, change.side), generator=generator)
    if not change.weights:
        return Pictures(case), ""
    case.model = with_lora(case.model, change.weights)
    pictures = Pictures(case)
    return pictures, f" (full run moved by {distances(pictures.full, plain.full).mean():.2f})"


def with_lora(model: Any, strength: float) -> Any:
    """A random change of rank `RANK` on every linear weight of the network, by ComfyUI's own way for LoRAs.

    Args:
        strength: norm of each change, relative to the weight's.
    """
    generator, lora = torch.Generator().manual_seed(SEED), {}
    for name, module in model.model.diffusion_model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, torch.nn.Linear) and weight is not None:
            up = torch.randn((weight.shape[0], RANK), generator=generator)
            down = torch.randn((RANK, weight.shape[1]), generator=generator)
            size = strength * weight.detach().float().norm().cpu() / (up @ down).norm()
            lora[f"diffusion_model.{name}.lora_up.weight"] = up * size
            lora[f"diffusion_model.{name}.lora_down.weight"] = down
    patched, _ = load_lora_for_models(model, None, lora, 1.0, 0.0)
    assert len(patched.patches) == len(lora) // 2, "ComfyUI knew all of its keys"
    return patched


def reach(change: Change, count: int) -> Iterator[Cells]:
    """A plan of one prompt, used for another run."""
    plan = calibration(PLANNED)
    pictures, moved = changed(change, count)
    planned = pictures.run(counted(change.setting), plan)
    note = "; ".join(planned.trace.notes)
    if "the plan is not used" in note:
        yield change.name, f"{planned.evaluations:g}", "", "", "", note
        return
    even = pictures.run(counted(change.setting))
    yield change.name + moved, f"{planned.evaluations:g}", str(planned), str(even), compared(planned, even), note


def target(setting: Setting, count: int) -> Iterator[Cells]:
    """Block output against model output."""
    pictures = pictures_of(setting, count)
    block, raw = pictures.run(counted(setting)), pictures.run(counted(setting, target=RAW_OUTPUT))
    assert block.evaluations == raw.evaluations
    yield str(setting), f"{block.evaluations:g}", str(block), str(raw), compared(block, raw)


def rates(setting: Setting, count: int) -> Iterator[Cells]:
    """Cond and uncond computed at the same evaluations, and at others, with as many in all."""
    case, cond, uncond = Case(setting, SEED, count), list[Array](), list[Array]()

    def guide(step: dict[str, Any]) -> torch.Tensor:
        level = step["sigma"].view(-1, 1, 1, 1)
        for outputs, name in ((cond, "cond_denoised"), (uncond, "uncond_denoised")):
            outputs.append(((step["input"] - step[name]) / level).flatten(1).double().numpy())
        return step["uncond"] + step["cond_scale"] * (step["cond"] - step["uncond"])

    model = case.model.clone()
    model.set_model_sampler_cfg_function(guide)
    size = case.sample(model)[0].flatten(1).double().norm(dim=1).numpy()
    one_each = euler_path(np.eye(setting.steps), case.sigmas(setting.steps).double().numpy())

    def displaced(computed: Sequence[int], outputs: Sequence[Array], scale: float) -> Array:
        """By how much forecasts of one of them move the final latent: [pictures, values]."""
        moved = one_each.displacements(computed, defaults().forecaster(), corrected=True)[-1]
        return scale * np.tensordot(moved @ one_each.factor.T, np.stack(outputs), 1)

    def errors(ours: Sequence[int], theirs: Sequence[int]) -> tuple[float, float, float]:
        """Of both, of cond alone and of uncond alone; means of the pictures."""
        one, other = displaced(ours, cond, setting.cfg), displaced(theirs, uncond, setting.cfg - 1)
        both, one, other = (float((np.linalg.norm(value, axis=1) / size).mean()) for value in (one - other, one, other))
        return both, one, other

    def plan(number: int) -> list[int]:
        planned = our_plan(case, number)
        assert planned is not None
        return planned[1]

    even = budget(setting.steps, defaults().speedup)
    same = errors(plan(even), plan(even))
    between = [(begin + end) // 2 for begin, end in itertools.pairwise(plan(even)[1:])]
    others = [errors(plan(even + more), plan(even - more))[0] for more in RATES]
    others.append(errors(plan(even), [0, *between, setting.steps - 1])[0])
    shares = ", ".join(f"{value:.4f}" for value in same[1:])
    yield str(setting), f"{even}", f"{same[0]:.4f}", shares, *(f"{other / same[0]:.2f}" for other in others)


# ------------------------------------------------------------------------------------------------- real models


def magnitudes(ratios: Sequence[float], steps: int) -> Array:
    """Published ratios of successive magnitudes -> magnitudes at the steps of a run, their mean being 1: [steps].

    Of lists with two passes a step every second entry counts. Between published steps, which are taken to lie evenly
    over the run, the logarithm is interpolated (piecewise cubic, monotone).
    """
    own = ratios[::2] if ratios[1] == 1 else ratios
    path = PchipInterpolator(np.linspace(0, 1, len(own)), np.log(own).cumsum())
    values = np.exp(path(np.linspace(0, 1, steps)))
    return values / values.mean()


def levels(steps: int) -> Array:
    """Noise levels of a flow: [steps + 1]."""
    even = np.linspace(1, 0, steps + 1)
    return SHIFT * even / (1 + (SHIFT - 1) * even)


def euler_path(gram: Array, sigmas: Array) -> Calibration:
    """A run of euler whose outputs have this Gram matrix: [steps, steps], with noise levels [steps + 1]."""
    coefficients = np.tril(np.ones((len(sigmas), len(gram))), -1) * np.diff(sigmas)
    return Calibration(gram, coefficients, tuple(sigmas.tolist()), 1, "benchmark", "euler")


def scalar_path(values: Array) -> Calibration:
    """A run of euler on a flow whose outputs have these sizes and all one direction."""
    return euler_path(np.outer(values, values), levels(len(values)))


@cache
def candidates(total: int) -> dict[str, list[int]]:
    """The schedules compared, each with as many evaluations as the node's default computes."""
    settings, times = defaults(), levels(total).tolist()
    count = budget(total, settings.speedup)
    growing = official(total, count)
    assert growing is not None
    found = {
        "growing interval": defaults(**growing).scheduled(times).plan(total),
        "even": np.linspace(0, total - 1, count).round().astype(int).tolist(),
        "balanced": settings.scheduled(times).plan(total),
    }
    with patch.multiple(schedule_module, EARLY=0.0, LATE=0.0):
        found["balanced, no shares"] = settings.scheduled(times).plan(total)
    found["balanced, warm-up 2"] = defaults(warmup=2).scheduled(times).plan(total)
    return found


def published() -> dict[str, list[float]]:
    """Model, or models that share a list -> published ratios."""
    names: dict[tuple[float, ...], list[str]] = {}
    for name, ratios in json.loads(RATIOS.read_text())["ratios"].items():
        names.setdefault(tuple(ratios), []).append(name)
    return {", ".join(alike): list(ratios) for ratios, alike in names.items()}


def real(steps: int, count: int) -> Iterator[Cells]:
    """Drift and final error by model; the last row has the geometric means."""
    forecaster, columns = defaults().forecaster(), []
    for name, ratios in published().items():
        path = scalar_path(magnitudes(ratios, steps))
        sizes = [math.hypot(1 - sigma, sigma) for sigma in path.sigmas[:-1]]
        pairs = [
            (path.estimated(computed, forecaster, sizes), path.predicted(computed, forecaster, corrected=True))
            for computed in candidates(steps).values()
        ]
        columns.append(pairs)
        yield name, f"{budget(steps, defaults().speedup)} of {steps}", *(_pair(pair) for pair in pairs)
    means = np.exp(np.log(np.array(columns)).mean(axis=0))
    yield "**geometric mean**", f"{budget(steps, defaults().speedup)} of {steps}", *(_pair(pair) for pair in means)


def _pair(pair: Sequence[float]) -> str:
    """Drift and final error in thousandths."""
    return " / ".join(f"{1000 * value:.3g}" if value < 1e-1 else f"{1000 * value:.0f}" for value in pair)


# ------------------------------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class Table:
    """One table of the page.

    Attributes:
        name: for the command line.
        text: title, and how to read it.
        columns: titles.
        parts: number of pictures -> some of its rows.
    """

    name: str
    text: str
    columns: Cells
    parts: tuple[Callable[[int], Iterator[Cells]], ...]


def tables() -> tuple[Table, ...]:
    """All tables, for the models that are there."""
    here = present()
    guided = [replace(setting, cfg=cfg) for setting in GUIDED if setting.model in here for cfg in GUIDANCE]
    return (
        Table(
            "tolerance",
            "## Tolerance\n\nWith 'error control': is the error what was asked for? *estimated*: by the node, during "
            "the run, of the batch; *median*, *worst*: of the pictures; *balanced*: error with as many evaluations.",
            (
                "setting",
                "tolerance",
                "evaluations",
                "estimated",
                "error",
                "median",
                "worst",
                "error / tolerance",
                "balanced",
            ),
            tuple(partial(tolerance, setting) for setting in TOLERATED if setting.model in here),
        ),
        Table(
            "guidance",
            "## Guidance\n\nThe defaults with a number of evaluations, corrected (`correct`) and not, by the scale of "
            "classifier-free guidance; a "
            "*ratio* below 1 says that correction helps. *free*: where no number of evaluations is asked for, so that "
            "the rest is computed once the estimated error is above 20 %.",
            ("setting", "evaluations", "corrected", "not corrected", "ratio", "of medians", "free", "its error"),
            tuple(partial(guidance, setting) for setting in guided),
        ),
        Table(
            "reach",
            f"## A plan's reach\n\nA plan of one prompt ({PLANNED}), used for a run in which one thing differs; a "
            "*ratio* below 1 says that it is better than 'balanced' with as many evaluations. The changes by LoRA are "
            f"random, of rank {RANK}, on all linear weights, through ComfyUI's own patches.",
            ("what differs", "evaluations", "with the plan", "balanced", "ratio", "what the node says"),
            tuple(partial(reach, change) for change in CHANGES),
        ),
        Table(
            "target",
            "## What is forecast\n\nThe defaults with the widget `target`; a *ratio* below 1 says that the block "
            "output is the better one to forecast.",
            ("setting", "evaluations", "block output", "model output", "ratio"),
            tuple(partial(target, setting) for setting in TARGETED if setting.model in here),
        ),
        Table(
            "rates",
            "## Cond and uncond at different rates\n\nA closed form of a recorded full run, with euler and corrected "
            "gaps: what if cond and uncond were not computed at the same evaluations? *error*: of the final latent, "
            "both at the evaluations of `balanced`; *cond, uncond alone*: what the forecasts of one of them would do, "
            "the other one always being computed. Then ratios to *error* with as many evaluations in all: cond has so "
            "many more and uncond so many fewer, each at its own `balanced`; *apart*: uncond in the middle of cond's "
            "gaps. Above 1: not worth having.",
            ("setting", "evaluations of each", "error", "cond, uncond alone", *(f"{k:+d}" for k in RATES), "apart"),
            tuple(partial(rates, setting) for setting in RATED if setting.model in here),
        ),
        Table(
            "real",
            "## Real models\n\nNothing here was sampled: the closed form (`spectrum_core/calibration.py`) on published "
            "sizes of features, one number a step, with euler at shift 3 and corrected gaps. Each cell: drift (root of "
            "the sum of squares over the gaps that end with a computed evaluation) / error of the final latent, in "
            "thousandths of the mean size.\n\n"
            "*growing interval*: the paper's, with a warm-up of 5 and the growth that gives this many evaluations; "
            "it need not compute the last one, and what it forecasts at the end is in the final error only. *even*: in "
            "steps, the first and the last among them. *no shares*: without what `balanced` adds at the start and at "
            "the end.\n\n"
            f"Source: {json.loads(RATIOS.read_text())['source']}. Sizes know nothing of directions, and they are of "
            "the block stack's residual, not of the model's output. Errors of numbers also cancel as those of latents "
            "would not, which makes single final errors small by chance. Steps are taken to lie evenly over the list, "
            "whatever noise levels it was recorded at.",
            ("model", "computed", "growing interval", "even", "balanced", "balanced, no shares", "balanced, warm-up 2"),
            tuple(partial(real, steps) for steps in STEPS),
        ),
    )


def markdown(columns: Cells, rows: Sequence[Cells]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def run(wanted: Sequence[Table], pictures: int, file: Path) -> dict[str, list[Cells]]:
    """Measure tables and write them, each when it is done, below what stands above them in a file. Table -> rows."""
    header = HEADER.format(
        date=datetime.date.today(),
        models=", ".join(present()),
        comfyui=comfyui_version,
        code=OUR_CODE,
        pictures=pictures,
        seed=SEED,
    )
    above = file.read_text().split(GENERATED)[0] if file.exists() else "# Schedules\n\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    sections, found = [GENERATED, header], dict[str, list[Cells]]()
    with tqdm(total=sum(len(table.parts) for table in wanted), disable=None) as bar:
        for table in wanted:
            bar.set_description(table.name)
            rows = found[table.name] = []
            for part in table.parts:
                for cells in part(pictures):
                    rows.append(cells)
                    log.info(" | ".join(cells))
                bar.update()
            sections.append(f"{table.text}\n\n{markdown(table.columns, rows)}")
            file.write_text(above + "\n\n".join(sections) + "\n")
    return found


def main() -> None:
    names = [table.name for table in tables()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} pictures instead of {PICTURES}; not to docs")
    parser.add_argument("--tables", nargs="*", choices=names, default=names, help="only these; not to docs")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    wanted = [table for table in tables() if table.name in options.tables]
    file = OUTPUT if options.quick or len(wanted) < len(names) else DOCS
    run(wanted, QUICK if options.quick else PICTURES, file)
    log.info("Written: %s", file)


if __name__ == "__main__":
    main()
