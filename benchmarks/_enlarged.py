"""Trained tiny models that move like large ones.

Large latents decide their picture at high noise, the tiny ones of this repository late. With latents k times as large,
x = (1 - s) k x0 + s e, the same network moves at the start: exactly, and without training. With near = (1 - s) k + s it
sees x / near at level s / near, and the denoised latent is k (x / near - s / near out). Of models that predict noise,
x = k x0 + s e is k times what the network sees at level s / k.
"""

from typing import Any

import comfy.model_sampling
import torch


def enlarged(model: Any, k: float) -> Any:
    """A clone of a MODEL whose latents are k times as large.

    Args:
        model: a MODEL of the repository.
        k: 1 changes nothing; 7.5 at shift 3 moves at the start as published profiles do.
    """
    if k == 1:
        return model
    own = model.get_model_object("model_sampling")
    clone = model.clone()
    clone.add_object_patch(
        "model_sampling", _flow(own, k) if isinstance(own, comfy.model_sampling.CONST) else _noise(own, k)
    )
    return clone


def _flow(own: Any, k: float) -> Any:
    class Enlarged(type(own)):  # type: ignore[misc]  # ComfyUI composes the classes of model samplings at run time
        def _near(self, sigma: torch.Tensor) -> torch.Tensor:
            return (1 - sigma) * k + sigma

        def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
            return own.timestep(sigma / self._near(sigma))

        def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return noise / self._near(_like(sigma, noise))

        def calculate_denoised(self, sigma: torch.Tensor, output: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
            sigma = _like(sigma, latent)
            near = self._near(sigma)
            return k * (latent / near - sigma / near * output)

    return _as(own, Enlarged)


def _noise(own: Any, k: float) -> Any:
    class Enlarged(type(own)):  # type: ignore[misc]
        def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
            return own.timestep(sigma / k)

        def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return own.calculate_input(sigma / k, noise / k)

        def calculate_denoised(self, sigma: torch.Tensor, output: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
            return k * own.calculate_denoised(sigma / k, output, latent / k)

    return _as(own, Enlarged)


def _as(own: Any, kind: type) -> Any:
    """A model sampling of another class with the buffers and values of `own`."""
    made = kind.__new__(kind)
    made.__dict__.update(own.__dict__)
    return made


def _like(sigma: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    return sigma.reshape(-1, *[1] * (latent.ndim - 1))
