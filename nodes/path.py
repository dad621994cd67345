"""What of a sampling run is smooth in time: what is forecast, and what forecasts are corrected in.

A deterministic sampler follows one path. The network's features are smooth along it, and so is the derivative
d = (x - denoised) / sigma, in which samplers think. Fresh noise at every step is all in the network's output and in d,
and a forecast knows nothing of it; the denoised latent hardly changes by it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..spectrum_core.correction import ORDER, Correction, gain
from ..spectrum_core.forecast import Forecaster
from .settings import DENOISED_LATENT, Settings
from .solver import LinearError, linear_map

DAMPED = Forecaster(degree=0, window=2, ridge=0.0, blend=0.5)
"""Half the straight line through the latest two, half their mean: what fresh noise at every step leaves of a trend."""


@dataclass(frozen=True)
class Path:
    """How a run is forecast and corrected.

    Attributes:
        forecaster: the fit.
        target: what is forecast, as the widget's options name it.
        denoised: whether the correction works on denoised latents; else on d = (x - denoised) / sigma.
        order: degree of the polynomials that interpolate between computed outputs.
    """

    forecaster: Forecaster
    target: str
    denoised: bool = False
    order: int = ORDER

    def output(self, sigma: torch.Tensor, denoised: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """What the correction works on, in float32 and not shared with anyone.

        Args:
            sigma: noise levels, shape [batch].
            denoised: what the sampler gets, shape [batch, ...].
            latent: what the network was given, of the same shape.
        """
        if self.denoised:
            return denoised.to(torch.float32, copy=True)
        return (latent - denoised).float() / _spread(sigma, latent)

    def told(self, sigma: torch.Tensor, output: torch.Tensor, latent: torch.Tensor | float) -> torch.Tensor:
        """The inverse of `output`: the denoised latent of an output; of a change in it, where `latent` is 0."""
        return output if self.denoised else latent - _spread(sigma, output) * output

    def correction(
        self,
        sampler: Any,
        sampling: Any,
        sigmas: torch.Tensor,
        stages: int,
        guidance: Callable[[], float],
    ) -> Correction | None:
        """What corrects the gaps of a run; None if its sampler is no fixed linear combination of outputs.

        Args:
            sampler: ComfyUI's sampler object.
            sampling: ComfyUI's model sampling.
            sigmas: the run's noise levels, float32 [steps + 1] on the host.
            stages: evaluations of a step.
            guidance: the scale of classifier-free guidance now.
        """
        try:
            coefficients, levels = linear_map(sampler, sampling, sigmas, stages, self.told)
        except LinearError:
            return None
        scales = [float(sampling.noise_scaling(torch.tensor(s), torch.zeros(1), torch.ones(1))) for s in levels]

        def response(evaluation: int) -> float:
            sigma = levels[evaluation]
            # A denoised latent answers to noise, too, but by less than could be measured reliably.
            return 0.0 if self.denoised or not sigma else (1 - gain(sigma, scales[evaluation], guidance())) / sigma

        return Correction(
            coefficients[:, 1:].double().numpy(),
            stages,
            response,
            lambda known, step: self.forecaster.weights(known, step, len(sigmas) - 1),
            self.forecaster.window,
            order=self.order,
        )


def path_of(settings: Settings, noisy: bool) -> Path:
    """The path of a run with a sampler that adds noise or does not.

    Corrected by straight lines where it adds some: a parabola magnifies what noise leaves.
    """
    if noisy:
        return Path(DAMPED, DENOISED_LATENT, denoised=True, order=1)
    return Path(settings.forecaster(), settings.target)


def _spread(sigma: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Noise levels of shape [batch], to go with latents."""
    return sigma.reshape(-1, *[1] * (like.ndim - 1))
