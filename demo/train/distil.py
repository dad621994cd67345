"""Distil the Flux to a few steps: a LoRA, as such models come, trained on the paths that the model itself samples.

A student's step goes where the teacher, guided, arrives in `EACH` of its own (progressive distillation, Salimans & Ho
2022, in one stage). So it needs neither guidance nor many steps. Run `python -m demo.train.distil`.
"""

import argparse
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from demo import inprocess

inprocess.boot()

import comfy.model_management  # noqa: E402  (only after boot)
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402

from .kinds import KINDS  # noqa: E402

STEPS, EACH = 8, 6
CFG = 3.0
RANK = 4
TARGETS = (
    "linear1",
    "linear2",
    "modulation.lin",
    "img_attn.qkv",
    "img_attn.proj",
    "img_mlp.0",
    "img_mlp.2",
    "img_mod.lin",
)
"""Layers that get a LoRA, by the ends of their names."""
RATE, WARMUP, BATCH = 2e-3, 50, 32

log = logging.getLogger(__name__)


def levels(sampling: Any) -> torch.Tensor:
    """Noise levels of the teacher, [STEPS * EACH + 1]: every `EACH`th is one of the student's."""
    coarse = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    part = torch.arange(EACH) / EACH
    fine = coarse[:-1, None] + (coarse[1:] - coarse[:-1])[:, None] * part
    return torch.cat([fine.flatten(), coarse[-1:]])


def path(model: Any, sigmas: torch.Tensor, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """What the teacher passes at the student's levels: latents [STEPS + 1, BATCH, 16, 12, 12]; emoji; backgrounds."""
    random = np.random.default_rng(seed)
    names = inprocess.labels()
    emoji, backgrounds = (random.integers(len(names[key]), size=BATCH) for key in ("emoji", "bg"))
    noise = torch.randn((BATCH, 16, 12, 12), generator=torch.Generator().manual_seed(seed))
    passed: list[torch.Tensor] = []

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        if step % EACH == 0:
            passed.append(x.clone())

    nothing = inprocess.prompts([-1] * BATCH, [-1] * BATCH)
    prompts = inprocess.prompts(emoji.tolist(), backgrounds.tolist())
    end = comfy.sample.sample_custom(
        model, noise, CFG, comfy.samplers.ksampler("euler"), sigmas, prompts, nothing,
        torch.zeros_like(noise), callback=callback, disable_pbar=True, seed=seed,
    )  # fmt: skip
    return torch.stack([*passed, model.model.process_latent_in(end)]), emoji, backgrounds


class Adapter(torch.nn.Module):
    """What a LoRA adds to a layer."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.down = torch.nn.Linear(layer.in_features, RANK, bias=False)
        self.up = torch.nn.Linear(RANK, layer.out_features, bias=False)
        torch.nn.init.zeros_(self.up.weight)
        layer.register_forward_hook(lambda _, inputs, output: output + self.up(self.down(inputs[0])))


def adapters(network: torch.nn.Module) -> Iterator[tuple[str, Adapter]]:
    """(name, adapter) of each layer that gets one."""
    for name, module in network.named_modules():
        if name.endswith(TARGETS) and isinstance(module, torch.nn.Linear):
            yield name, Adapter(module)


def main() -> None:
    """Sample the teacher's paths, then train; write .dev/train/distil/tiny_flux_8_steps.safetensors."""
    parser = argparse.ArgumentParser(prog="python -m demo.train.distil", description=__doc__)
    parser.add_argument("--paths", type=int, default=16, help=f"batches of {BATCH} pictures")
    parser.add_argument("--minutes", type=float, default=10, help="CPU time of the training")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.manual_seed(0)
    teacher = inprocess.embedded_model()
    sigmas = levels(teacher.get_model_object("model_sampling"))
    paths = []
    with torch.inference_mode():
        for seed in range(arguments.paths):
            paths.append(path(teacher, sigmas, 10_000 + seed))
            log.info("path %d of %d", seed + 1, arguments.paths)
    passed = torch.cat([latents for latents, _, _ in paths], dim=1).clone()
    emoji, backgrounds = (np.concatenate([p[i] for p in paths]) for i in (1, 2))

    comfy.model_management.in_training = True  # no fused operations without a backward
    kind = KINDS["flux"]
    model = kind.build()
    model.model_sampling = teacher.get_model_object("model_sampling")
    model.diffusion_model.requires_grad_(False)
    lora = dict(adapters(model.diffusion_model))
    parameters = [p for adapter in lora.values() for p in adapter.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.99))
    coarse = sigmas[::EACH]
    start, step, mean = time.process_time(), 0, 0.0
    while (spent := (time.process_time() - start) / 60) < arguments.minutes:
        random = np.random.default_rng(step)
        pictures, at = random.integers(len(emoji), size=BATCH), torch.from_numpy(random.integers(STEPS, size=BATCH))
        x, after = passed[at, pictures], passed[at + 1, pictures]
        now, then = coarse[at], coarse[at + 1]
        velocity = (x - after) / (now - then).view(-1, 1, 1, 1)
        ((context, extra),) = inprocess.prompts(emoji[pictures].tolist(), backgrounds[pictures].tolist())
        denoised = model.apply_model(x, now, c_crossattn=context, **kind.inputs(extra["pooled_output"]))
        loss = ((x - denoised) / now.view(-1, 1, 1, 1) - velocity).square().mean()
        loss.backward()
        decay = 0.01 + 0.99 * (0.5 + 0.5 * np.cos(np.pi * min(1.0, spent / arguments.minutes)))
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * decay
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        mean = loss.item() if step == 1 else 0.97 * mean + 0.03 * loss.item()
        if step % 50 == 0:
            log.info("%4.1f min  step %5d  loss %.4f", spent, step, mean)
    folder = inprocess.ROOT / ".dev" / "train" / "distil"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, adapter in lora.items():
        tensors[f"diffusion_model.{name}.lora_A.weight"] = adapter.down.weight.detach().half().contiguous()
        tensors[f"diffusion_model.{name}.lora_B.weight"] = adapter.up.weight.detach().half().contiguous()
    save_file(tensors, folder / "tiny_flux_8_steps.safetensors")
    log.info("saved %d bytes", (folder / "tiny_flux_8_steps.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
