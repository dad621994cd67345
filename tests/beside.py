"""What the tests of other packs share: the same sampling with and without our node, beside an emulation of the pack.

The emulations say in a few lines what a pack does to a run; no pack's code is in here.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from sampling import distance, runs
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.settings import Settings
from spectrum_accelerate.spectrum_core.trace import Trace

from demo import inprocess

EMOJI, BACKGROUNDS = [3, 11, 7], [0, 1, 2]
STEPS = 24


def some(cases: list[Any], *chosen: Any) -> list[Any]:
    """Cases of a test, those that are not chosen only with --all."""
    assert set(chosen) <= set(cases)
    return [pytest.param(*_tuple(case), marks=() if case in chosen else pytest.mark.all) for case in cases]


def _tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def prompts() -> tuple[Any, Any]:
    """Positive and negative conditioning."""
    nothing = [-1] * len(EMOJI)
    return inprocess.prompts(EMOJI, BACKGROUNDS), inprocess.prompts(nothing, nothing)


def latents(model: Any, sampler: Any, *, cfg: float = 1.0, steps: int = STEPS, seed: int = 5, **more: Any) -> Any:
    """Pictures by SamplerCustom; `sigmas`, `image` and `noise_mask` may be given."""
    sampling = model.get_model_object("model_sampling")
    sigmas = more.pop("sigmas", None)
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    image = more.pop("image", torch.zeros(len(EMOJI), 16, 12, 12))
    positive, negative = prompts()
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, comfy.sample.prepare_noise(image, seed), cfg, sampler, sigmas, positive, negative, image,
            disable_pbar=True, seed=seed, **more,
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """An accelerated run beside the plain one."""

    trace: Trace
    result: torch.Tensor
    plain: torch.Tensor
    sample: Callable[..., torch.Tensor]

    @property
    def error(self) -> float:
        """Relative L2 distance to the plain run."""
        return distance(self.result, self.plain)

    @property
    def errors(self) -> list[float]:
        """The same of each picture."""
        return [distance(a, b) for a, b in zip(self.result, self.plain, strict=True)]

    @property
    def median(self) -> float:
        """The median of the pictures: with guidance, one in some flips to another picture."""
        return statistics.median(self.errors)

    def fewer(self, steps: int | None = None) -> float:
        """Error of the same without our node in as many steps as were computed."""
        return distance(self.sample(steps=steps or self.trace.computed), self.plain)

    @property
    def in_full(self) -> bool:
        """Whether all was computed, with the plain run's result."""
        return self.trace.forecast == 0 and torch.equal(self.result, self.plain)


def beside(
    sampler: Callable[[], Any],
    patched: Callable[[Any], Any] = lambda model: model,
    load: Callable[[], Any] = inprocess.embedded_model,
    sample: Callable[..., Any] = latents,
    target: str = "auto",
    correct: bool = True,
    **more: Any,
) -> Outcome:
    """A run with the defaults beside a pack, and the same without our node.

    Args:
        sampler: makes the sampler, new for each run.
        patched: what the pack does to a MODEL.
        load: makes the MODEL.
        sample: samples it.
        target: what is forecast.
        correct: whether gaps are corrected.
    """

    def alone(**changes: Any) -> torch.Tensor:
        result: torch.Tensor = sample(patched(load()), sampler(), **{**more, **changes})
        return result

    plain = alone()
    fast = accelerate(patched(load()), Settings.of(target=target, correct=correct))
    result = sample(fast, sampler(), **more)
    return Outcome(runs(fast)[-1], result, plain, alone)


def own(name: str) -> Any:
    """ComfyUI's sampler object."""
    return comfy.samplers.sampler_object(name)


def renamed(name: str) -> Any:
    """ComfyUI's sampler as a pack brings it: another function, of another name."""
    inner = own(name)

    def of_a_pack(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = inner.sampler_function(model, x, sigmas, **kwargs, **inner.extra_options)
        return result

    return comfy.samplers.KSAMPLER(of_a_pack)
