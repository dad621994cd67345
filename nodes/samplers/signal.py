"""Which quantity is forecast, and in which variable the corrector works.

A deterministic sampler follows one path. The network's features are smooth along it, and so is the derivative
d = (x - denoised) / sigma, in which samplers think. Fresh noise at every step is all in the network's output and in d,
and a forecast knows nothing of it; the denoised latent hardly changes by it.
"""

from dataclasses import dataclass

import torch
from einops import rearrange

from ...spectrum_core.corrector import ORDER
from ...spectrum_core.forecast import Forecaster
from ..settings import DENOISED_LATENT, Settings

DAMPED = Forecaster(degree=0, window=2, ridge=0.0, blend=0.5)
"""Half the straight line through the latest two, half their mean: what fresh noise at every step leaves of a trend."""


@dataclass(frozen=True)
class Signal:
    """How a run is forecast and corrected.

    Attributes:
        forecaster: the fit.
        target: what is forecast, as the widget's options name it.
        denoised: whether the corrector works on denoised latents; else on d = (x - denoised) / sigma.
        order: degree of the polynomials that interpolate between computed outputs.
    """

    forecaster: Forecaster
    target: str
    denoised: bool = False
    order: int = ORDER

    def output(self, sigma: torch.Tensor, denoised: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """What the corrector works on, in float32 and not shared with anyone.

        Args:
            sigma: noise levels, shape [batch].
            denoised: what the sampler gets, shape [batch, ...].
            latent: what the network was given, of the same shape.
        """
        if self.denoised:
            return denoised.to(torch.float32, copy=True)
        return (latent - denoised).float() / _like(sigma, latent)

    def latent(self, sigma: torch.Tensor, output: torch.Tensor, latent: torch.Tensor | float) -> torch.Tensor:
        """The inverse of `output`: the denoised latent of an output; of a change in it, where `latent` is 0."""
        return output if self.denoised else latent - _like(sigma, output) * output


def signal_for(settings: Settings, noisy: bool) -> Signal:
    """The signal of a run with a sampler that adds noise or does not.

    Corrected by straight lines where it adds some: a parabola magnifies what noise leaves.
    """
    if noisy:
        return Signal(DAMPED, DENOISED_LATENT, denoised=True, order=1)
    return Signal(settings.forecaster(), settings.target)


def _like(sigma: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Noise levels of shape [batch], to go with latents."""
    return rearrange(sigma, f"batch -> batch {'1 ' * (latent.ndim - 1)}")
