"""Pictures of a model in training, drawn by ComfyUI's own sampler."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo import inprocess

from .data import BACKGROUNDS, EMOJI

STEPS = 15
CFG = 3.0
SEED = 7


def sample(model: Any, emoji: list[int], backgrounds: list[int], seed: int = SEED, steps: int = STEPS) -> torch.Tensor:
    """Latents [n, 16, 12, 12] as the VAE takes them, with a guidance of 3."""
    import comfy.sample

    noise = torch.randn((len(emoji), 16, 12, 12), generator=torch.Generator().manual_seed(seed))
    positive, negative = inprocess.prompts(emoji, backgrounds), inprocess.prompts([-1] * len(emoji), [-1] * len(emoji))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, CFG, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=seed,
            disable_pbar=True,
        )  # fmt: skip


def write_sheet(model: Any, means: dict[str, torch.Tensor], path: Path) -> float:
    """Draw every emoji once; returned is the share of the pictures that are recognised."""
    emoji = list(range(len(EMOJI)))
    backgrounds = [number % len(BACKGROUNDS) for number in emoji]
    latents = sample(model, emoji, backgrounds)
    with torch.inference_mode():
        pixels = inprocess.embedded_vae().decode(latents).clamp(0, 1).mul(255).byte().numpy()
    rows = [np.concatenate(list(row), 1) for row in pixels.reshape(8, -1, *pixels.shape[1:])]
    Image.fromarray(np.concatenate(rows)).save(path)
    nearest = inprocess.recognise(latents, backgrounds, means)
    return float(np.mean([found == wanted for found, wanted in zip(nearest, emoji, strict=True)]))
