"""What a sampler object is: its row, and how it combines the outputs of the network.

The latter is found by running the sampler itself, on coefficients instead of latents.
"""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from ..spectrum_core.calibration import MOST_EVALUATIONS
from .samplers import CHURNED, SAMPLERS, Sampler

Denoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(sigma, output, latent) -> denoised latent; linear in output and latent."""


class LinearError(Exception):
    """A sampler or a run that is no fixed linear combination of outputs; the message says why."""


def sampler_name(sampler: Any) -> str:
    """A sampler object's name as in `SAMPLERS`, whether it is there or not."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    return name.removeprefix("sample_").removesuffix("_function")


def known_sampler(name: str, sampler: Any) -> Sampler | None:
    """How a sampler object calls a model; None if no table knows it."""
    if getattr(sampler, "extra_options", {}).get("s_churn", 0) > 0:
        return CHURNED
    return SAMPLERS.get(name)


def noise_left(sigmas: Sequence[float], flow: bool) -> list[float]:
    """How much noise is left at each noise level, from 1 to 0.

    Of flows the level itself. Where the noise grows beyond the data, its share s / (1 + s) hardly changes while latents
    move most; half of it is therefore asinh(s), by which a latent of size sqrt(1 + s^2) moves relative to itself.
    """
    if flow:
        return list(sigmas)
    whole = math.asinh(max(sigmas, default=1.0)) or 1.0
    return [(math.asinh(s) / whole + s / (1 + s)) / 2 for s in sigmas]


def raw_output(sampling: Any, sigma: torch.Tensor, latent: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """What the network gave, from what the sampler gets: every parametrisation is linear, d = a x + b g.

    Args:
        sampling: ComfyUI's model sampling.
        sigma: noise levels, shape [batch].
        latent: the input x, shape [batch, ...].
        denoised: the result d, of the same shape.
    """
    scale = sampling.calculate_denoised(sigma, torch.ones_like(latent), torch.zeros_like(latent))
    return (denoised - sampling.calculate_denoised(sigma, torch.zeros_like(latent), latent)) / scale


def linear_map(
    sampler: Any, sampling: Any, sigmas: torch.Tensor, stages: int, denoise: Denoise | None = None
) -> tuple[torch.Tensor, tuple[float, ...]]:
    """How a sampler combines outputs: the sampler itself, run on coefficients over {latent at first, g_0, g_1, ...}.

    What a sampler adds as noise is none of it: it is the same whatever the outputs are.

    Args:
        sampler: ComfyUI's sampler object.
        sampling: ComfyUI's model sampling.
        sigmas: noise levels, float32 [steps + 1] on the host.
        stages: evaluations of a step; a last step down to noise level 0 has only one.
        denoise: what an output g is; else the network's own, in its parametrisation.

    Returns:
        Coefficients of the latent that each evaluation begins with and, last, of the final one:
        float32 [evaluations + 1, 1 + evaluations]; and the noise level of each evaluation.

    Raises:
        LinearError: if the sampler needs more than a model's outputs, or another number of them.
    """
    name = sampler_name(sampler)
    steps = len(sigmas) - 1
    count = steps * stages - (stages - 1) * (steps > 0 and float(sigmas[-1]) == 0)
    if steps < 2:
        raise LinearError("too few steps")
    if count > MOST_EVALUATIONS:
        raise LinearError(f"{count} evaluations; at most {MOST_EVALUATIONS} are possible")
    denoise = denoise or sampling.calculate_denoised
    seen: list[torch.Tensor] = []
    levels: list[float] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        if len(seen) == count:
            raise LinearError(f"the sampler {name} calls the model more than {count} times")
        seen.append(x.detach().clone())
        levels.append(float(sigma.reshape(-1)[0]))
        output = torch.zeros_like(x)
        output[:, len(seen)] = 1.0
        return denoise(sigma, output, x)

    start = torch.zeros(1, 1 + count, 1, 1)
    start[:, 0] = 1.0
    known = SAMPLERS.get(name)
    silent = {"noise_sampler": lambda *_: torch.zeros_like(start)} if known and known.noisy else {}
    try:
        with torch.no_grad():
            end = sampler.sampler_function(
                _as_samplers_see_it(model, sampling, sigmas),
                start,
                sigmas.clone(),  # unipc writes into them
                extra_args={"model_options": {"transformer_options": {}}, "seed": 0},
                callback=None,
                disable=True,
                **sampler.extra_options | silent,
            )
    except LinearError:
        raise
    except Exception as error:
        raise LinearError(f"the sampler {name} needs more than outputs ({type(error).__name__}: {error})") from None
    if len(seen) != count:
        raise LinearError(f"the sampler {name} calls the model {len(seen)} times, not {count}")
    found = torch.cat([*seen, end.detach()])
    if not found.isfinite().all():
        raise LinearError(f"the sampler {name} has no finite coefficients with this model")
    return found.reshape(count + 1, count + 1), tuple(levels)


def _as_samplers_see_it(model: Callable[..., torch.Tensor], sampling: Any, sigmas: torch.Tensor) -> Any:
    """A function in the clothes of comfy.samplers.KSamplerX0Inpaint: some samplers ask it for the model sampling."""

    class Model:
        def __init__(self) -> None:
            self.sigmas = sigmas
            self.inner_model = SimpleNamespace(
                inner_model=SimpleNamespace(model_sampling=sampling),
                model_patcher=SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__),
            )

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return model(x, sigma, **kwargs)

    return Model()
