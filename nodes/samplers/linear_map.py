"""What a sampler does, found by running it on coefficients instead of latents: no model is called.

A deterministic sampler takes linear combinations of its start and of the model's outputs (every Runge-Kutta and
multistep method does). Run on unit vectors instead of latents, it gives the coefficients of these combinations, the
number of its evaluations, and the noise level of each.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from comfy.samplers import KSAMPLER

from .layout import MOST_STAGES
from .table import CHURNED, SAMPLERS, SamplerInfo

Denoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(sigma, output, latent) -> denoised latent; linear in output and latent."""

UNGUIDED_OUTPUTS = "sampler_post_cfg_function"
"""model_options of functions that see the outputs which guidance joins; a sampler adds one to use the unguided one."""

MOST_EVALUATIONS = 400
"""Of a run whose sampler is run on coefficients; the time goes with the square."""

LARGE = 1024.0, 256.0
"""Units that make noise small beside coefficients; powers of two, so that they cost no digits."""


class LinearError(Exception):
    """A sampler is no fixed linear combination of outputs; the message says why."""


@dataclass(frozen=True)
class LinearMap:
    """A sampler as coefficients.

    Attributes:
        coefficients: of the latent that each evaluation begins with and, last, of the final one, over the first latent
            and the outputs: float64 [evaluations + 1, 1 + evaluations].
        levels: noise level of each evaluation.
        noisy: whether the sampler adds noise besides; what it adds is left out.
    """

    coefficients: torch.Tensor
    levels: tuple[float, ...]
    noisy: bool = False

    @property
    def replaces_noise(self) -> bool:
        """Whether each latent depends on the latest output alone (of a map over denoised latents)."""
        earlier = self.coefficients[1:].tril(0)
        return self.noisy and bool(
            (earlier.abs() < 1e-6 * self.coefficients.abs().max()).all(dim=1).float().mean() > 0.5
        )

    @property
    def multistep(self) -> bool:
        """Whether a latent takes from the past more than the latent before it has of it."""
        limit = 1e-6 * float(self.coefficients.abs().max())
        for e in range(1, len(self.coefficients) - 1):
            before, after = self.coefficients[e, : e + 1], self.coefficients[e + 1, : e + 1]
            share = (before @ after) / (before @ before).clamp_min(1e-30)
            if bool((after - share * before).abs().max() > limit):
                return True
        return False


def sampler_name(sampler: Any) -> str:
    """A sampler object's name, as in the table if it is there."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    name = name.removeprefix("sample_")
    return name if name == "sampler_function" else name.removesuffix("_function")


def known_sampler(sampler: Any) -> SamplerInfo | None:
    """The table's row of a sampler object; None where it is no function of ComfyUI's own, whatever it is called, or
    where the object calls it in a way of its own."""
    function = getattr(sampler, "sampler_function", None)
    if getattr(getattr(sampler, "sample", None), "__func__", None) is not KSAMPLER.sample:
        return None
    if not str(getattr(function, "__module__", "")).startswith("comfy."):
        return None
    if _options(sampler).get("s_churn", 0) > 0:
        return CHURNED
    return SAMPLERS.get(sampler_name(sampler))


def noise_left(sigmas: Sequence[float], flow: bool) -> list[float]:
    """How much noise is left at each noise level, from 1 to 0.

    Of flows the level itself. Where the noise grows beyond the data, its share s / (1 + s) hardly changes while latents
    move most; half of it is therefore asinh(s), by which a latent of size sqrt(1 + s^2) moves relative to itself.

    >>> noise_left([1.0, 0.5, 0.0], flow=True)
    [1.0, 0.5, 0.0]
    """
    if flow:
        return list(sigmas)
    whole = math.asinh(max(sigmas, default=1.0)) or 1.0
    return [(math.asinh(s) / whole + s / (1 + s)) / 2 for s in sigmas]


def linear_map(
    sampler: Any,
    sampling: Any,
    sigmas: torch.Tensor,
    denoise: Denoise | None = None,
    guider: Mapping[str, Any] = MappingProxyType({}),
) -> LinearMap:
    """Run a sampler on coefficients over {latent at first, g_0, g_1, ...}.

    Noise is left out: it is the same whatever the outputs are. ComfyUI's own samplers are run with silent noise. Of
    others, two runs with the same random numbers and other units differ by the coefficients alone. The state of
    torch's random generators is kept.

    Args:
        sampler: ComfyUI's sampler object.
        sampling: ComfyUI's model sampling.
        sigmas: noise levels, float32 [steps + 1] on the host.
        denoise: what an output g is; else the network's own, in its parametrisation.
        guider: plain attributes of the guider, which some samplers look at (its `cfg`).

    Raises:
        LinearError: if the sampler needs more than a model's outputs.
    """
    steps = len(sigmas) - 1
    if steps < 2:
        raise LinearError("too few steps")
    known = known_sampler(sampler)
    denoise = denoise or sampling.calculate_denoised

    def run(seed: int, unit: float) -> LinearMap:
        return _run(sampler, sampling, sigmas, denoise, guider, known is not None and known.noisy, seed, unit)

    first = run(0, 1.0)
    if known is not None:
        return first
    again = run(1, 2.0)  # with other random numbers and units, a linear map is the same
    if first.levels == again.levels and torch.equal(first.coefficients, again.coefficients):
        return first
    ones = [first, run(1, 1.0)]
    found, other = (
        _difference(one, run(seed, unit), unit) for seed, (one, unit) in enumerate(zip(ones, LARGE, strict=True))
    )
    tolerance = 1e-4 * float(found.coefficients.abs().max())
    if found.levels != other.levels or not torch.allclose(found.coefficients, other.coefficients, 0, tolerance):
        raise LinearError(f"the sampler {sampler_name(sampler)} is not linear in the model's outputs")
    return replace(found, noisy=not torch.equal(ones[0].coefficients, ones[1].coefficients))


def _difference(one: LinearMap, large: LinearMap, unit: float) -> LinearMap:
    """What grows with the unit: noise, and a start of the sampler's own, which do not, fall out."""
    if one.levels != large.levels:
        raise LinearError("the sampler's noise levels depend on the model's outputs")
    return LinearMap((large.coefficients * unit - one.coefficients) / (unit - 1), one.levels)


def _run(
    sampler: Any,
    sampling: Any,
    sigmas: torch.Tensor,
    denoise: Denoise,
    guider: Mapping[str, Any],
    silent: bool,
    seed: int,
    unit: float,
) -> LinearMap:
    name, steps = sampler_name(sampler), len(sigmas) - 1
    room = min(MOST_EVALUATIONS, steps * MOST_STAGES + 2)
    seen: list[torch.Tensor] = []
    levels: list[float] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, model_options: Any = None, **_: Any) -> torch.Tensor:
        if (model_options or {}).get(UNGUIDED_OUTPUTS):
            raise LinearError(f"the sampler {name} uses the unguided output")
        if len(seen) == room:
            raise LinearError(f"the sampler {name} calls the model more than {room} times")
        if x.shape != start.shape:
            raise LinearError(f"the sampler {name} changes the size of the latent")
        seen.append(x.detach().clone())
        levels.append(float(sigma.reshape(-1)[0]))
        output = torch.zeros_like(x)
        output[:, len(seen)] = unit
        return denoise(sigma, output, x)

    start = torch.zeros(1, 1 + room, 1, 1)
    start[:, 0] = unit
    options = copy.copy(_options(sampler))
    if silent:
        options["noise_sampler"] = lambda *_: torch.zeros_like(start)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would change those of all devices
            end = sampler.sampler_function(
                _as_samplers_see_it(model, sampling, sigmas, guider),
                start,
                sigmas.clone(),  # unipc writes into them
                extra_args={"model_options": {"transformer_options": {}}, "seed": seed},
                callback=None,
                disable=True,
                **options,
            )
    except LinearError:
        raise
    except Exception as error:
        raise LinearError(f"the sampler {name} needs more than outputs ({type(error).__name__}: {error})") from None
    if not seen:
        raise LinearError(f"the sampler {name} does not call the model")
    found = torch.cat([*seen, end.detach()]).double() / unit
    if not found.isfinite().all():
        raise LinearError(f"the sampler {name} has no finite coefficients with this model")
    return LinearMap(found.flatten(1)[:, : 1 + len(seen)], tuple(levels))


def _options(sampler: Any) -> dict[str, Any]:
    options = getattr(sampler, "extra_options", None)
    return options if isinstance(options, dict) else {}


def _as_samplers_see_it(
    model: Callable[..., torch.Tensor],
    sampling: Any,
    sigmas: torch.Tensor,
    guider: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """A function in the clothes of comfy.samplers.KSamplerX0Inpaint: some samplers ask it for the model sampling."""

    class Model:
        def __init__(self) -> None:
            self.sigmas = sigmas
            own = {
                "inner_model": SimpleNamespace(model_sampling=sampling),
                "model_patcher": SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__),
            }
            self.inner_model = SimpleNamespace(**{**guider, **own})

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return model(x, sigma, **kwargs)

    return Model()
