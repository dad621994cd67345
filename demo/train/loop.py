"""The training loop: a budget of CPU time, checkpoints to go on from."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from demo import inprocess, weights

from .data import Composites
from .kinds import Kind
from .sheet import write_clips, write_sheet

DROPPED = 0.12  # of the labels, for classifier-free guidance
WARMUP = 200  # steps
SNR_LIMIT = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"
AVERAGE = 0.999
MINUTE = 60.0
RESCALE = 50  # steps after which the scales of quantised weights are chosen anew

log = logging.getLogger(__name__)


class Training:
    """A network on its way: weights, their moving average, the optimiser, steps and seconds so far."""

    def __init__(
        self, kind: Kind, folder: Path, minutes: float, data: Composites, quantise: bool = False, half: bool = True
    ) -> None:
        import comfy.model_management

        comfy.model_management.in_training = True  # no fused operations without a backward
        torch.manual_seed(0)
        self.kind, self.folder, self.budget = kind, folder, minutes * MINUTE
        self.quantise, self.half = quantise, half
        self.model = kind.build()
        self.network = self.model.diffusion_model.requires_grad_(True)
        self.weights = dict(self.network.named_parameters())
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=kind.rate, betas=(0.9, 0.99), fused=True)
        self.scales: dict[str, torch.Tensor] = {}
        self.data, self.means = data, Composites().means()
        self.step, self.spent, self.loss = 0, 0.0, float("nan")
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train until the budget is used; progress and a checkpoint every minute, pictures every thirtieth."""
        count = sum(weight.numel() for weight in self.weights.values())
        log.info("%s: %.2f M parameters, to %.0f minutes", self.kind.name, count / 1e6, self.budget / MINUTE)
        clock, before = time.process_time, self.spent
        start = clock()
        minute = self.spent // MINUTE
        while self.spent < self.budget:
            self.advance()
            self.spent = before + clock() - start
            if self.spent // MINUTE > minute:
                minute = self.spent // MINUTE
                log.info("%4.0f min  step %6d  loss %.4f  rate %.1e", minute, self.step, self.loss, self.rate)
                self.save()
                if minute % 30 == 0:
                    self.draw()
        self.save()
        self.draw()

    @property
    def rate(self) -> float:
        """Learning rate: linear warm-up by steps, cosine decay by time."""
        return self.kind.rate * min(1.0, (self.step + 1) / WARMUP) * self._decay()

    def _decay(self) -> float:
        return 0.01 + 0.99 * (0.5 + 0.5 * np.cos(np.pi * min(1.0, self.spent / self.budget)))

    def advance(self) -> None:
        """One step; its data depend on its number only."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        random, generator = np.random.default_rng(self.step), torch.Generator().manual_seed(self.step)
        exact = self._quantised() if self.quantise else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = self._loss(random, generator)
        loss.backward()
        for name, value in exact.items():
            self.weights[name].data = value
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        decay = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - decay)
        self.loss = loss.item() if self.step == 1 else 0.99 * self.loss + 0.01 * loss.item()

    def _quantised(self) -> dict[str, torch.Tensor]:
        """Put the weights as they will be stored in place of the exact ones, which are returned.

        The gradient is taken there, and moves the exact ones (straight-through estimator, Bengio et al. 2013).
        """
        exact: dict[str, torch.Tensor] = {}
        for name, weight in self.weights.items():
            if weights.quantisable(weight):
                if self.step % RESCALE == 0 or name not in self.scales:
                    self.scales[name] = weights.best_scales(weight)
                exact[name] = weight.data
                weight.data = weights.rounded(weight, self.scales[name])
        return exact

    def _loss(self, random: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        """The error of the predicted noise (EPS) or velocity (flow).

        It is taken from the denoised latent that ComfyUI's model returns, which is off by sigma times that error:
        so the network is trained through the very call that sampling makes. Errors of predicted noise count less where
        there is little noise (min-SNR), and more where there is much: there they decide about the colours.
        """
        latents, emoji, backgrounds = self.data.batch(self.kind.batch, random)
        dropped = random.random(len(latents)) < DROPPED
        ((context, extra),) = inprocess.prompts(
            np.where(dropped, -1, emoji).tolist(), np.where(dropped, -1, backgrounds).tolist()
        )
        sigma = self._sigmas(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = self.model.model_sampling.noise_scaling(sigma, noise, latents)
        inputs = self.kind.inputs(extra["pooled_output"])
        denoised = self.model.apply_model(noisy, sigma, c_crossattn=context, **inputs)
        error = ((denoised - latents) / sigma.view(-1, *[1] * (latents.ndim - 1))).square().flatten(1).mean(1)
        if self._predicts_velocity:
            error = error * (sigma.square() + 1)  # the error of the velocity itself
        elif self._discrete:
            error = error * (SNR_LIMIT * sigma.square()).clamp(max=1.0) * sigma.clamp(min=1.0)
        return error.mean()

    @property
    def _discrete(self) -> bool:
        """Whether noise is added as in DDPM, with a table of a thousand sigmas."""
        import comfy.model_base

        return self.model.model_type in (comfy.model_base.ModelType.EPS, comfy.model_base.ModelType.V_PREDICTION)

    @property
    def _predicts_velocity(self) -> bool:
        import comfy.model_base

        return self.model.model_type == comfy.model_base.ModelType.V_PREDICTION

    def _sigmas(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """DDPM: any step of the table. Flow: logit-normal times, a quarter of them uniform."""
        if self._discrete:
            table = self.model.model_sampling.sigmas
            return table[torch.randint(len(table), (count,), generator=generator)]
        normal = torch.randn(count, generator=generator).sigmoid()
        uniform, choice = torch.rand(2, count, generator=generator)
        return torch.where(choice < 0.25, uniform, normal).clamp(0.002, 1.0)

    # --- files ---------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to go on."""
        return self.folder / "checkpoint.safetensors"

    @property
    def result(self) -> Path:
        """The averaged weights in 4 bits: what goes to demo/model."""
        return self.folder / f"tiny_{self.kind.name}.safetensors"

    def save(self) -> None:
        """Write the checkpoint and the result."""
        tensors = {}
        for name, weight in self.weights.items():
            state = self.optimiser.state[weight]
            tensors |= {f"weights/{name}": weight.detach(), f"average/{name}": self.average[name]}
            tensors |= {f"{key}/{name}": state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
        progress = json.dumps({"step": self.step, "spent": self.spent, "loss": self.loss})
        temporary = self.checkpoint.with_suffix(".tmp")
        save_file(tensors, temporary, {"progress": progress})
        temporary.replace(self.checkpoint)
        weights.save(self.average, self.result)
        save_file({name: value.half() for name, value in self.means.items()}, self.folder / "emoji_means.safetensors")

    def draw(self) -> None:
        """Write a sheet of pictures."""
        sheet = self.folder / f"sheet-{self.step:06d}.png"
        if self.kind.clips:
            write_clips(self.kind.load(weights.load(self.result)), sheet)
            return
        known = write_sheet(self.kind.load(weights.load(self.result)), self.means, sheet)
        log.info("saved %s; %.0f %% of its pictures are recognised", sheet.name, 100 * known)

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a file, or with the averaged ones of a checkpoint."""
        stored = weights.load(path)
        averaged = {name.removeprefix("average/"): value for name, value in stored.items() if "average/" in name}
        stored = averaged or stored
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(stored[name])
                self.average[name].copy_(stored[name])

    def resume(self) -> None:
        """Go on from the checkpoint."""
        with safe_open(self.checkpoint, "pt") as file, torch.no_grad():
            progress: dict[str, Any] = json.loads(file.metadata()["progress"])
            for name, weight in self.weights.items():
                weight.copy_(file.get_tensor(f"weights/{name}"))
                self.average[name].copy_(file.get_tensor(f"average/{name}"))
                self.optimiser.state[weight] = {
                    key: file.get_tensor(f"{key}/{name}") for key in ("exp_avg", "exp_avg_sq", "step")
                }
        self.step, self.spent, self.loss = progress["step"], progress["spent"], progress["loss"]
