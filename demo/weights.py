"""The weights of the tiny models: 4 bits each, so that the repository is light.

A matrix is cut into groups of `GROUP` along its input. Each has a scale in float16, chosen so that the squared error is
least, and whole numbers from -8 to 7. Two numbers make a byte, and all bytes of a matrix are compressed (zlib). Vectors
and small matrices are float16. A file is a safetensors file: `NAME` for plain tensors; `NAME.codes`, uint8, and
`NAME.scales`, float16 [rows, groups], for the others, whose shapes are in the metadata. The VAE is not quantised, only
compressed: `NAME.bytes`, uint8.

The quantised model is the model: nothing else is shipped, and training ends with quantised weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

GROUP = 128
TOP = 7
"""Largest number; the smallest is -TOP - 1."""

SMALL = 4096
"""Tensors with fewer elements are kept as they are."""

CANDIDATES = torch.linspace(0.55, 1.0, 10)
"""Scales that are tried, relative to the one that the largest element asks for."""


def quantisable(weight: torch.Tensor) -> bool:
    """Whether a tensor is stored in 4 bits."""
    return weight.ndim > 1 and weight.numel() >= SMALL


def best_scales(weight: torch.Tensor) -> torch.Tensor:
    """Scales of a matrix, float16 [rows, groups]."""
    groups = _groups(weight)
    largest = groups.abs().amax(-1)
    best, least = largest / TOP, torch.full_like(largest, torch.inf)
    for share in CANDIDATES:
        scale = (largest * share / TOP).half().float().clamp_min(1e-7)
        error = (_codes(groups, scale) * scale[..., None] - groups).square().sum(-1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.half()


def rounded(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A matrix as it will be when it is loaded: float32, of the same shape."""
    wide = scales.float().clamp_min(1e-7)
    return _ungrouped(_codes(_groups(weight), wide) * wide[..., None], weight.shape)


def save(weights: dict[str, torch.Tensor], path: Path, quantise: bool = True) -> None:
    """Write weights to a file, in 4 bits or, without `quantise`, in float16."""
    tensors, shapes = {}, {}
    for name, weight in weights.items():
        if not quantisable(weight):
            tensors[name] = weight.half().contiguous()
            continue
        shapes[name] = list(weight.shape)
        if not quantise:
            packed = zlib.compress(weight.half().contiguous().numpy().tobytes(), 9)
            tensors[f"{name}.bytes"] = torch.from_numpy(np.frombuffer(packed, np.uint8).copy())
            continue
        scales = best_scales(weight)
        codes = (_codes(_groups(weight), scales.float().clamp_min(1e-7)) + TOP + 1).to(torch.uint8).numpy().reshape(-1)
        packed = zlib.compress((codes[0::2] | codes[1::2] << 4).tobytes(), 9)
        tensors[f"{name}.codes"] = torch.from_numpy(np.frombuffer(packed, np.uint8).copy())
        tensors[f"{name}.scales"] = scales
    save_file(tensors, path, {"shapes": json.dumps(shapes)})


def load(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of `save`, or a plain safetensors file: tensors as they were, float16 values in 4-bit steps."""
    with safe_open(path, "pt") as file:
        shapes = json.loads((file.metadata() or {}).get("shapes", "{}"))
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    weights = {name: stored[name] for name in stored if name.rpartition(".")[0] not in shapes}
    for name, shape in shapes.items():
        if f"{name}.bytes" in stored:
            plain = np.frombuffer(zlib.decompress(stored[f"{name}.bytes"].numpy().tobytes()), np.float16)
            weights[name] = torch.from_numpy(plain.copy()).view(shape)
            continue
        scales = stored[f"{name}.scales"].float().clamp_min(1e-7)
        packed = np.frombuffer(zlib.decompress(stored[f"{name}.codes"].numpy().tobytes()), np.uint8)
        codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1).astype(np.float32) - (TOP + 1)
        groups = torch.from_numpy(codes).view(*scales.shape, GROUP) * scales[..., None]
        weights[name] = _ungrouped(groups, torch.Size(shape)).half()
    return weights


def expand(path: Path, target: Path) -> None:
    """Write a file as ComfyUI's own loaders read it: float16."""
    temporary = target.with_suffix(".tmp")
    save_file({name: weight.contiguous() for name, weight in load(path).items()}, temporary)
    temporary.replace(target)


def _groups(weight: torch.Tensor) -> torch.Tensor:
    """[rows, groups, GROUP] of a matrix, padded with zeros."""
    flat = weight.detach().float().flatten(1)
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % GROUP))
    return padded.view(len(flat), -1, GROUP)


def _ungrouped(groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return groups.flatten(1)[:, : shape[1:].numel()].reshape(shape).contiguous()


def _codes(groups: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (groups / scales[..., None]).round().clamp(-TOP - 1, TOP)
