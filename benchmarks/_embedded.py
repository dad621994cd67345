"""What the benchmarks share: the embedded model, its prompts, a sampling call, and the distance to the full run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from demo import inprocess

inprocess.boot()

import comfy.sample  # noqa: E402  (only after boot)
import torch  # noqa: E402

BATCH = 16
TUNING, REPORTING = 1000, 2000
"""Seeds of the prompts and noises that defaults are chosen on, and of those that are reported. Disjoint."""


@dataclass(frozen=True)
class Setting:
    """One way of sampling the embedded Flux, or, without a shift, the embedded UNet."""

    steps: int
    cfg: float
    shift: float | None

    def __str__(self) -> str:
        guided = f"CFG {self.cfg:g}" if self.cfg != 1 else "no CFG"
        return f"{self.steps} steps, {guided}" + (f", shift {self.shift:g}" if self.shift else "")


class Case:
    """A batch of prompts with their noises in one setting, and its full run."""

    def __init__(self, setting: Setting, seed: int, batch: int = BATCH, sampler: str = "euler") -> None:
        generator = np.random.default_rng(seed)
        names = inprocess.labels()
        emoji = generator.choice(len(names["emoji"]), batch, replace=False).tolist()
        backgrounds = generator.integers(len(names["bg"]), size=batch).tolist()
        self.setting, self.seed = setting, seed
        self.model = inprocess.embedded_model(setting.shift) if setting.shift else inprocess.unet_model()
        self.positive = inprocess.prompts(emoji, backgrounds)
        self.negative = inprocess.prompts([-1] * batch, [-1] * batch)
        self.noise = torch.randn((batch, 16, 12, 12), generator=torch.Generator().manual_seed(seed))
        self.full = self.sample(self.model, sampler=sampler)

    def sample(self, model: Any, steps: int | None = None, sampler: str = "euler") -> torch.Tensor:
        """Final latents [batch, 16, 12, 12]."""
        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                self.noise,
                steps or self.setting.steps,
                self.setting.cfg,
                sampler,
                "simple",
                self.positive,
                self.negative,
                torch.zeros_like(self.noise),
                seed=self.seed,
                disable_pbar=True,
            )

    def errors(self, latents: torch.Tensor) -> np.ndarray:
        """Relative L2 distance of each picture's latent to the full run's: [batch]."""
        distance = (latents - self.full).flatten(1).norm(dim=1) / self.full.flatten(1).norm(dim=1)
        return distance.double().numpy()
