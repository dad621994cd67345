"""Pictures of a model in training, drawn by ComfyUI's own sampler."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from demo import inprocess

from .data import BACKGROUNDS, BLOCK, CLIP_SIDE, EMOJI, FRAMES

STEPS = 15
CFG = 3.0
SEED = 7


def sample(
    model: Any,
    emoji: list[int],
    backgrounds: list[int],
    seed: int = SEED,
    steps: int = STEPS,
    shape: tuple[int, ...] = (16, 12, 12),
) -> torch.Tensor:
    """Latents [n, *shape] as the VAE takes them, with a guidance of 3."""
    import comfy.sample

    noise = torch.randn((len(emoji), *shape), generator=torch.Generator().manual_seed(seed))
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


def write_clips(model: Any, path: Path) -> None:
    """Draw twelve clips, one a row."""
    emoji = list(range(0, 60, 5))
    side = CLIP_SIDE // BLOCK
    latents = sample(model, emoji, [number % len(BACKGROUNDS) for number in emoji], shape=(16, FRAMES, side, side))
    with torch.inference_mode():
        frames = inprocess.embedded_vae().decode(latents.movedim(2, 1).flatten(0, 1)).clamp(0, 1).mul(255).byte()
    rows = [np.concatenate(list(row), 1) for row in frames.numpy().reshape(len(emoji), FRAMES, *frames.shape[1:])]
    Image.fromarray(np.concatenate(rows)).save(path)
