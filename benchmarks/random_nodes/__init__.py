"""A node for a server that `bench gpu` starts: a model of any size with random weights, without a file.

Not loaded for users: only that benchmark puts this folder beside the pack.
"""

from __future__ import annotations

import json
import math
from typing import Any

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_api.latest import ComfyExtension, io

GAIN = 0.4
"""Small: features then change slowly with time, as those of trained models do."""


def _layout(config: Any) -> dict[str, torch.Tensor]:
    """Names, shapes and dtypes of a model's weights. Where ComfyUI loads weights as they are needed, a model has none
    before it gets its file."""
    enabled = comfy.memory_management.aimdo_enabled
    comfy.memory_management.aimdo_enabled = False
    try:
        return dict(config.get_model({}, "", device="meta").diffusion_model.named_parameters())
    finally:
        comfy.memory_management.aimdo_enabled = enabled


class SpectrumRandomModel(io.ComfyNode):
    """A MODEL as a loader makes it, its weights on the CPU; and a text for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sizes as JSON: what ComfyUI detects in a file."""
        return io.Schema(
            node_id="SpectrumRandomModel",
            display_name="Random Model (benchmark)",
            category="spectrum/benchmark",
            inputs=[
                io.String.Input("config", default="Flux"),
                io.String.Input("sizes", default="{}"),
                io.Int.Input("tokens", default=512),
                io.Int.Input("width", default=4096),
                io.Int.Input("pooled", default=768),
            ],
            outputs=[io.Model.Output(), io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, config: str, sizes: str, tokens: int, width: int, pooled: int) -> io.NodeOutput:
        """The weights are drawn on the device: of billions, a CPU would need minutes."""
        device = comfy.model_management.get_torch_device()
        found = getattr(comfy.supported_models, config)(json.loads(sizes))
        found.set_inference_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16, None)
        generator = torch.Generator(device).manual_seed(7)
        weights = {}
        for name, weight in _layout(found).items():
            if weight.ndim > 1:
                drawn = torch.empty(weight.shape, dtype=weight.dtype, device=device)
                weights[name] = drawn.normal_(std=GAIN / math.sqrt(math.prod(weight.shape[1:])), generator=generator)
            else:
                weights[name] = torch.full(weight.shape, 0.0 if name.endswith("bias") else 1.0, dtype=weight.dtype)
            weights[name] = weights[name].cpu()
        model = found.get_model({}, "", device="cpu")
        offload = comfy.model_management.unet_offload_device()
        patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=offload)
        model.load_model_weights(weights, "", assign=patcher.is_dynamic())
        model.diffusion_model.eval().requires_grad_(False)
        words = torch.Generator().manual_seed(7)
        extras = {"pooled_output": torch.randn(1, pooled, generator=words)} if pooled else {}
        return io.NodeOutput(patcher, [[torch.randn(1, tokens, width, generator=words), extras]])


class SpectrumRandomExtension(ComfyExtension):
    """The benchmark's one node."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """What ComfyUI asks for."""
        return [SpectrumRandomModel]


async def comfy_entrypoint() -> SpectrumRandomExtension:
    """What ComfyUI calls when it loads this folder."""
    return SpectrumRandomExtension()
