"""The node "Spectrum Compare": how far two pictures or latents are apart, as figures and as a map."""

import math
from typing import Any

import torch
from comfy_api.latest import io, ui

from .plots import comparison

NODE = "Spectrum Compare"

AMPLIFIED = 4.0
"""The map shows differences this many times as large."""

WINDOW = 11
"""Side of SSIM's Gaussian window (Wang et al. 2004)."""


class SpectrumCompare(io.ComfyNode):
    """Two IMAGEs or LATENTs in, a difference map and figures out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        kinds = [io.Image, io.Latent]
        return io.Schema(
            node_id="SpectrumCompare",
            display_name=NODE,
            category="image",
            description="Compares the result of a plain run with an accelerated one: a map of the differences, "
            "relative L2, PSNR and SSIM.",
            search_aliases=["spectrum", "difference", "psnr", "ssim", "a/b"],
            inputs=[
                io.MultiType.Input("plain", types=kinds, tooltip="The result without Spectrum Accelerate."),
                io.MultiType.Input("accelerated", types=kinds, tooltip="The result with it, with the same seed."),
            ],
            outputs=[io.Image.Output("difference"), io.String.Output("text")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, plain: Any, accelerated: Any) -> io.NodeOutput:
        image, text = compared(plain, accelerated)
        pictures = {} if isinstance(plain, dict) else {"plain": plain, "accelerated": accelerated}
        shown = ui.PreviewImage(comparison({**pictures, "difference": image}, text), cls=cls).as_dict()
        return io.NodeOutput(image, text, ui=shown | {"text": (text,)})


def compared(plain: Any, accelerated: Any) -> tuple[torch.Tensor, str]:
    """The map and the figures of two results.

    Args:
        plain, accelerated: IMAGEs [batch, height, width, channels] in [0, 1], or LATENTs.

    Returns:
        The map, IMAGE [batch or frames, height, width, 3], and the text.

    Raises:
        ValueError: if the two are of another kind or size, saying how.
    """
    latents = [isinstance(value, dict) for value in (plain, accelerated)]
    if latents[0] != latents[1]:
        raise ValueError(f"{NODE}: connect two images or two latents, not one of each")
    a, b = (_tensor(value) for value in (plain, accelerated))
    if a.shape != b.shape:
        raise ValueError(
            f"{NODE}: plain is {tuple(a.shape)}, accelerated is {tuple(b.shape)}: compare results of the same size"
        )
    distance = float((a - b).norm() / a.norm().clamp_min(1e-12))
    lines = [f"relative L2: {distance:.4f}"]
    if not latents[0]:
        error = float((a - b).square().mean())
        lines.append("PSNR: identical" if error == 0 else f"PSNR: {-10 * math.log10(error):.1f} dB")
        if min(a.shape[1:3]) >= WINDOW:
            lines.append(f"SSIM: {_ssim(a, b):.4f}")
        difference = (a - b).abs().mean(dim=-1)
    else:
        spread = a.std().clamp_min(1e-12)
        frames = a if a.ndim == 4 else a.movedim(2, 1).flatten(0, 1) if a.ndim == 5 else a.reshape(1, 1, 1, -1)
        other = b if b.ndim == 4 else b.movedim(2, 1).flatten(0, 1) if b.ndim == 5 else b.reshape(1, 1, 1, -1)
        difference = (frames - other).abs().mean(dim=1) / spread
    lines.append(f"map: differences {AMPLIFIED:g} times as large")
    return (difference * AMPLIFIED).clamp(0, 1)[..., None].expand(-1, -1, -1, 3).contiguous(), "\n".join(lines)


def _tensor(value: Any) -> torch.Tensor:
    """An IMAGE or the samples of a LATENT as one float tensor on the host."""
    samples = value["samples"] if isinstance(value, dict) else value
    if getattr(samples, "is_nested", False):
        samples = samples.unbind()[0]  # the picture or video; what else there is comes after it
    result: torch.Tensor = samples.detach().float().cpu()
    return result


def _ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    from kornia.metrics import ssim  # one of ComfyUI's own requirements; slow to import

    planes = [value.movedim(-1, 1) for value in (a, b)]
    return float(ssim(planes[0], planes[1], WINDOW, padding="valid").mean())
