"""How many bytes a run is going to hold, before anything has run.

ComfyUI plans with what a model needs; without this, what we hold would come on top. The width of the last hidden
feature stands in an attribute of every network of the table, under one of a few names.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .taps import overridden

WIDTHS = ("hidden_size", "inner_dim", "dim", "hidden_dim", "d_model", "model_channels", "embed_dim")
"""Attributes of networks that hold the width of their features, in order of preference."""

CORRECTOR_LATENTS = 16
"""Latents that the corrector holds, at most."""


def feature_bytes(network: nn.Module, latent: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of the last hidden feature of one conditioning: width x positions; of a latent where no width is known.

    Args:
        network: the diffusion model.
        latent: shape [batch, channels, ...].
        dtype: that the network computes in.
    """
    positions = math.prod(latent) // max(1, latent[1] if len(latent) > 1 else 1)
    width = next((w for name in WIDTHS if isinstance(w := getattr(network, name, None), int) and w > 0), 0)
    if not width:
        return math.prod(latent) * torch.float32.itemsize
    patch = getattr(network, "patch_size", 1)
    if isinstance(patch, int):
        per_token = patch ** min(2, max(1, len(latent) - 2))
    else:
        per_token = math.prod(patch) if isinstance(patch, tuple | list) else 1
    return width * max(1, positions // max(1, per_token)) * dtype.itemsize


def held_bytes(feature: int, latent: tuple[int, ...], capacity: int, paths: int, corrected: bool) -> int:
    """Bytes that a run holds: histories, the joined feature that enters the head, and the corrector's latents.

    Args:
        feature: bytes of the feature of one conditioning.
        latent: shape [batch, ...].
        capacity: features of a history.
        paths: histories.
        corrected: whether gaps are corrected.
    """
    latents = CORRECTOR_LATENTS * math.prod(latent) * torch.float32.itemsize if corrected else 0
    return feature * paths * (capacity + 1) + latents


@contextmanager
def reserved(base_model: Any, extra: int) -> Iterator[None]:
    """ComfyUI plans with so many bytes more for this model, for the time being."""
    planned: Callable[..., float] = base_model.memory_required

    def memory_required(*args: Any, **kwargs: Any) -> float:
        return planned(*args, **kwargs) + extra

    with overridden(base_model, "memory_required", memory_required):
        yield
