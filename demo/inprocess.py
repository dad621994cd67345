"""The real ComfyUI in this process, the pack loaded as ComfyUI loads it, and the embedded model.

For tests and benchmarks. `boot` must run before anything imports comfy.
"""

import importlib.util
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo" / "model"
PACK = "spectrum_accelerate"
"""The folder's name need not be a Python name, so the pack gets one; ComfyUI does the same."""


def boot() -> None:
    """Put ComfyUI (environment variable COMFYUI_PATH, or what dev.py installed) and the pack on the import path."""
    if PACK in sys.modules:
        return
    import torch

    torch.set_num_threads(1)  # results are compared: one thread is bit-identical across processes
    sys.path.insert(0, os.environ.setdefault("COMFYUI_PATH", str(ROOT / ".dev" / "comfyui-0.30.0")))
    import comfy.options  # noqa: F401  (argument parsing stays off: this process' arguments are not ComfyUI's)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


def embedded_model(shift: float = 3.0) -> Any:
    """The trained tiny Flux as a MODEL, with flow matching of the given shift."""
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    model = comfy.sd.load_diffusion_model(str(MODEL / "tiny_flux.safetensors"), {"dtype": _float32()})
    return ModelSamplingAuraFlow().patch_aura(model, shift)[0]


def embedded_vae() -> Any:
    """The embedded VAE."""
    import comfy.sd
    import comfy.utils

    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(MODEL / "tiny_vae.safetensors")))


@cache
def labels() -> dict[str, list[str]]:
    """Names of the emoji and of the backgrounds, in table order."""
    return json.loads((MODEL / "labels.json").read_text())


@cache
def _tables() -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: table.float() for name, table in load_file(MODEL / "tiny_cond.safetensors").items()}


def prompts(emoji: list[int], backgrounds: list[int]) -> list:
    """CONDITIONING of a batch of prompts, one picture each; -1 means "nothing" (the negative)."""
    import torch

    table, pairs = _tables(), list(zip(emoji, backgrounds, strict=True))
    context = torch.stack([torch.cat([table["ctx_e"][e], table["ctx_b"][b]]) for e, b in pairs])
    pooled = torch.stack([table["y_e"][e] + table["y_b"][b] for e, b in pairs])
    return [[context, {"pooled_output": pooled}]]


def _float32() -> "torch.dtype":
    import torch

    return torch.float32
