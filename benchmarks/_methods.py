"""The table of methods of the quality bench: how each spends a number of network evaluations.

Forecasts of others go through one wrapper around the sampler's model: what is forecast is the guided raw output of the
network, (x - denoised) / sigma, and all of them are weights of the computed outputs. Spectrum, official and ours, goes
through this repository's node.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from _cases import SAMPLERS, Case
from _foreign import WARMUP, Weights, evenly, hicache, taylor
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.samplers.linear_map import noise_left
from spectrum_accelerate.nodes.samplers.table import SAMPLERS as TABLE
from spectrum_accelerate.nodes.settings import PAPER, Settings
from spectrum_accelerate.spectrum_core.forecast import Forecaster
from spectrum_accelerate.spectrum_core.schedule.balanced import FEWEST, balanced
from spectrum_accelerate.spectrum_core.schedule.intervals import GrowingInterval

Result = tuple[torch.Tensor, float]
PAPER_FIT = {"degree": 4, "window": 64, "ridge": 0.1, "blend": 0.5, "intercept": "paper", "correct": False}
PAPER_GROWTH = 0.75
OFFICIAL_TOTAL = 51
"""The official code maps evaluation i to (i - 25) / 25 whatever the number of steps: as if there were 51."""


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        kind: control (an honest plain run), ComfyUI, forecast (of others), official (Spectrum) or ours.
        run: case, computed steps -> latents and evaluations; None where the method cannot do with so few.
        tunes: whether `run` also takes a threshold, which is to be found.
        node: whether its results depend on the code of this repository's node.
    """

    name: str
    kind: str
    run: Callable[..., Result | None]
    tunes: bool = False
    node: bool = False


# ------------------------------------------------------------------------------------------------- plain runs


def fewer(sampler: str, case: Case, count: int) -> Result:
    """As many evaluations, spent on fewer steps of a solver."""
    evaluations = SAMPLERS[case.setting.sampler].evaluations(count)
    name = case.setting.sampler if sampler == "same" else sampler
    return case.sample(steps=SAMPLERS[name].steps(evaluations), sampler=SAMPLERS[name])


def fewer_of_its_own(case: Case, count: int) -> Result | None:
    """Fewer steps of the setting's own sampler, where that is none of the other controls."""
    return None if case.setting.sampler in CONTROLS else fewer("same", case, count)


# ------------------------------------------------------------------------------------------------- ComfyUI's nodes


def easy_cache(node: Any, case: Case, count: int, threshold: float) -> Result:
    """ComfyUI's own cache at a threshold, its other widgets at their defaults."""
    model = case.model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "quality", _with_a_copy)
    (model,) = node.execute(model, threshold, start_percent=0.15, end_percent=0.95, verbose=False).args
    return case.sample(model)


def _with_a_copy(executor: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """EasyCache adds to the network's input in place. In half precision that is a copy; in float32 it is the sampler's
    own latent, which nobody meant to change."""
    return executor(x.clone(), *args, **kwargs)


def tuned(method: Method, case: Case, count: int, rounds: int = 6) -> float:
    """The threshold whose number of evaluations is nearest to what `count` computed steps cost, by bisection."""
    wanted = SAMPLERS[case.setting.sampler].evaluations(count)
    low, high = 1e-2, 3.0
    tried: list[tuple[float, float]] = []
    for _ in range(rounds):
        threshold = math.sqrt(low * high)
        result = method.run(case, count, threshold)
        assert result is not None
        evaluations = result[1]
        tried.append((abs(evaluations - wanted), threshold))
        if evaluations == wanted:
            break
        low, high = (threshold, high) if evaluations > wanted else (low, threshold)
    return min(tried)[1]


# ------------------------------------------------------------------------------------------------- forecasts of others


class Extrapolation:
    """PREDICT_NOISE wrapper of one run: computes the steps of a schedule and forecasts the others.

    Args:
        computed: the steps to compute.
        weights: of the forecast.
        stages: evaluations of a step; each is a path with a history of its own.
    """

    def __init__(self, computed: Sequence[int], weights: Weights, stages: int = 1) -> None:
        self._computed, self._weights, self._stages = frozenset(computed), weights, stages
        self._history: dict[int, list[tuple[int, torch.Tensor]]] = {stage: [] for stage in range(stages)}
        self._calls = 0

    def __call__(self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        step, stage = divmod(self._calls, self._stages)
        self._calls += 1
        history = self._history[stage]
        sigma = timestep.reshape(-1, *[1] * (x.ndim - 1))
        if step in self._computed:
            denoised = executor(x, timestep, *args, **kwargs)
            history.append((step, (x - denoised) / sigma))
            return denoised
        weights = self._weights([position for position, _ in history], step)
        raw = sum(float(w) * output for w, (_, output) in zip(weights, history, strict=True) if w)
        return x - sigma * raw


def extrapolate(case: Case, computed: Sequence[int], weights: Weights) -> Result:
    """One run in which only these steps are computed."""
    model = case.model.clone()
    wrapper = Extrapolation(computed, weights, SAMPLERS[case.setting.sampler].stages)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "quality", wrapper)
    return case.sample(model)


def as_published(weights: Weights, warmup: int, case: Case, count: int) -> Result:
    """A forecast at its authors' schedule: a warm-up, then a fixed distance."""
    return extrapolate(case, evenly(case.setting.steps, count, warmup), weights)


def at_our_schedule(weights: Weights, case: Case, count: int) -> Result | None:
    """A forecast of others on the evaluations that our defaults would compute."""
    planned = our_plan(case, count)
    return planned and extrapolate(case, planned, weights)


# ------------------------------------------------------------------------------------------------- Spectrum


def official(total: int, count: int, warmup: int = 5) -> dict[str, Any] | None:
    """The paper's schedule with `count` computed: its interval 2 and the growth nearest to its own, 0.75; a longer
    interval only where no growth allows so few. None if nothing does."""
    for interval in (2, *range(3, 17)):
        for growth in sorted((k / 20 for k in range(161)), key=lambda g: abs(g - PAPER_GROWTH)):
            if len(GrowingInterval(warmup, 0, interval, growth).plan(total)) == count:
                return {
                    "schedule": PAPER,
                    "warmup": warmup,
                    "tail": 0,
                    "skip_interval": float(interval),
                    "growth": growth,
                }
    return None


def our_settings(case: Case, count: int) -> Settings | None:
    """The node's defaults with `count` computed steps; None if it cannot."""
    stages = TABLE[SAMPLERS[case.setting.sampler].function].stages
    return Settings.of(evaluations=count * stages) if count >= FEWEST else None


def our_plan(case: Case, count: int) -> list[int] | None:
    """Steps that are placed where noise goes, as the default does on a calm model."""
    if count < FEWEST:
        return None
    levels = case.sigmas(case.setting.steps).double().numpy()
    flow = isinstance(case.model.get_model_object("model_sampling"), CONST)
    return list(balanced(noise_left(levels.tolist(), flow), count, 1, 1).computed)


def ours(case: Case, count: int) -> Result | None:
    """The node's defaults."""
    settings = our_settings(case, count)
    return settings and case.sample(accelerate(case.model, settings))


def uncorrected(case: Case, count: int) -> Result | None:
    """Our defaults without correction."""
    settings = our_settings(case, count)
    return settings and case.sample(accelerate(case.model, replace(settings, correct=False)))


def spectrum(changes: dict[str, Any], warmup: int, case: Case, count: int) -> Result | None:
    """The node at the paper's schedule; no limit for stochastic samplers, as in the paper."""
    schedule = official(case.setting.steps, count, warmup)
    if schedule is None:
        return None
    settings = Settings.of(**{"ridge": 0.0, **changes, **schedule})
    name = SAMPLERS[case.setting.sampler].function
    unlimited = replace(TABLE[name], obstacle="", max_speedup=math.inf)
    with patch.dict(TABLE, {name: unlimited}):
        return case.sample(accelerate(case.model, settings))


def paper_weights(blend: float = 0.5) -> Weights:
    """The official forecast as weights."""
    forecaster = Forecaster(4, 64, 0.1, blend, "paper")
    return lambda positions, target: forecaster.weights(positions, target, OFFICIAL_TOTAL)


def spectrum_on_output(case: Case, count: int) -> Result | None:
    """The official method, but what is forecast is the guided output, as for the forecasts of others. Compared once."""
    total = case.setting.steps
    schedule = official(total, count)
    if schedule is None or total < 50:
        return None
    plan = GrowingInterval(5, 0, schedule["skip_interval"], schedule["growth"]).plan(total)
    return extrapolate(case, plan, paper_weights())


# ------------------------------------------------------------------------------------------------- the table

CONTROLS = ("euler", "dpmpp_2m", "AB2", "ipndm")

METHODS: tuple[Method, ...] = (
    *(Method(f"fewer steps, {name}", "control", partial(fewer, name)) for name in CONTROLS),
    Method("fewer steps, same sampler", "control", fewer_of_its_own),
    Method("EasyCache", "ComfyUI", partial(easy_cache, EasyCacheNode), tunes=True),
    Method("LazyCache", "ComfyUI", partial(easy_cache, LazyCacheNode), tunes=True),
    Method("reuse", "forecast", partial(as_published, taylor(0), 1)),
    Method("TaylorSeer 1", "forecast", partial(as_published, taylor(1), WARMUP)),
    Method("TaylorSeer 2", "forecast", partial(as_published, taylor(2), WARMUP)),
    Method("HiCache", "forecast", partial(as_published, hicache(2), WARMUP)),
    Method("TaylorSeer 2, our schedule", "forecast", partial(at_our_schedule, taylor(2)), node=True),
    Method("Spectrum, w 0.5", "official", partial(spectrum, PAPER_FIT, 5), node=True),
    Method("Spectrum, w 1", "official", partial(spectrum, {**PAPER_FIT, "blend": 1.0}, 5), node=True),
    Method("Spectrum, w 0.5, warm-up 3", "official", partial(spectrum, PAPER_FIT, 3), node=True),
    Method("Spectrum, w 0.5, on the model output", "official", spectrum_on_output, node=True),
    Method("Accelerate, paper's schedule", "ours", partial(spectrum, {}, 5), node=True),
    Method("Accelerate", "ours", ours, node=True),
    Method("Accelerate, not corrected", "ours", uncorrected, node=True),
)
