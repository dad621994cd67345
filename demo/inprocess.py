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


def embedded_model(shift: float = 3.0, weights: "dict[str, torch.Tensor] | None" = None) -> Any:
    """The trained tiny Flux (or such a one with other weights) as a MODEL, with flow matching of the given shift."""
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    options = {"dtype": _float32()}
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights or _weights("tiny_flux")), options)
    return ModelSamplingAuraFlow().patch_aura(model, shift)[0]


def few_step_model(shift: float = 3.0) -> Any:
    """The tiny Flux with the LoRA that makes 8 steps without guidance enough, as a MODEL."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(embedded_model(shift), None, _weights("tiny_flux_8_steps"), 1.0, 0.0)[0]


UNET = {
    "image_size": 32,
    "in_channels": 16,
    "out_channels": 16,
    "model_channels": 64,
    "channel_mult": [1, 3],
    "num_res_blocks": [2, 1],
    "transformer_depth": [0, 0, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1],
    "context_dim": 64,
    "adm_in_channels": None,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "legacy": False,
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 256,
    "cap_feat_dim": 64,
    "n_layers": 7,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 4,
    "multiple_of": 32,
    "ffn_dim_multiplier": 8 / 3,
    "qk_norm": True,
    "axes_dims": [16, 24, 24],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "in_dim": 16,
    "out_dim": 16,
    "dim": 128,
    "ffn_dim": 384,
    "num_heads": 2,
    "num_layers": 8,
    "patch_size": (1, 2, 2),
    "freq_dim": 128,
    "text_dim": 64,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
"""What ComfyUI's detection would have to find: it knows these families by the widths of the large models."""


def unet_config(sizes: "dict[str, Any] | None" = None) -> Any:
    """ComfyUI's configuration of Stable Diffusion 1.5, but with the latents of the embedded VAE."""
    import comfy.latent_formats
    import comfy.supported_models

    class TinySD15(comfy.supported_models.SD15):
        latent_format = comfy.latent_formats.Flux

        def inpaint_model(self) -> bool:
            return False  # it is not for masks that there are more than four channels

    return TinySD15(sizes or UNET)


def vunet_config() -> Any:
    """The same, half as wide, and it predicts velocities (v-prediction, Salimans & Ho 2022) instead of noise."""
    import comfy.model_base

    config = unet_config(UNET | {"model_channels": 32})
    config.model_type = lambda *_, **__: comfy.model_base.ModelType.V_PREDICTION
    return config


def lumina_config() -> Any:
    """ComfyUI's configuration of Z-Image."""
    import comfy.supported_models

    return comfy.supported_models.ZImage(LUMINA)


def wan_config() -> Any:
    """ComfyUI's configuration of Wan 2.1, but each frame is a latent of the embedded VAE."""
    import comfy.latent_formats
    import comfy.supported_models

    class Frames(comfy.latent_formats.Flux):
        latent_dimensions = 3

    class TinyWan(comfy.supported_models.WAN21_T2V):
        latent_format = Frames

    return TinyWan(WAN)


def unet_model(weights: "dict[str, torch.Tensor] | None" = None) -> Any:
    """The trained tiny UNet (or such a one with other weights) as a MODEL: noise prediction, the times of SD 1.5."""
    return _load(unet_config(), weights or _weights("tiny_unet"))


def vunet_model(weights: "dict[str, torch.Tensor] | None" = None) -> Any:
    """The trained tiny UNet that predicts velocities (or such a one with other weights) as a MODEL."""
    return _load(vunet_config(), weights or _weights("tiny_vunet"))


def lumina_model(shift: float = 3.0, weights: "dict[str, torch.Tensor] | None" = None) -> Any:
    """The trained tiny Z-Image (or such a one with other weights) as a MODEL, with flow matching of the given shift."""
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    return ModelSamplingAuraFlow().patch_aura(_load(lumina_config(), weights or _weights("tiny_lumina")), shift)[0]


def wan_model(shift: float = 5.0, weights: "dict[str, torch.Tensor] | None" = None) -> Any:
    """The trained tiny Wan (or such a one with other weights) as a MODEL, with flow matching of the given shift."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(_load(wan_config(), weights or _weights("tiny_wan")), shift)[0]


def _load(config: Any, weights: "dict[str, torch.Tensor]") -> Any:
    """What comfy.sd.load_diffusion_model does once it knows the configuration."""
    import comfy.model_management
    import comfy.model_patcher

    load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    config.set_inference_dtype(_float32(), None, device=load)
    model = config.get_model(weights, "")
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=load, offload_device=offload)
    model.to(offload).load_model_weights(dict(weights), "", assign=patcher.is_dynamic())
    return patcher


def _weights(name: str) -> "dict[str, torch.Tensor]":
    return {key: value.clone() for key, value in _stored(name).items()}


@cache
def _stored(name: str) -> "dict[str, torch.Tensor]":
    from . import weights

    return weights.load(MODEL / f"{name}.safetensors")


def latent_shape(model: Any) -> tuple[int, ...]:
    """Of one picture of a trained MODEL, or of one clip: frames come after channels."""
    return (16, 9, 6, 6) if model.model.latent_format.latent_dimensions == 3 else (16, 12, 12)


def embedded_vae() -> Any:
    """The embedded VAE."""
    import comfy.sd

    return comfy.sd.VAE(sd=_weights("tiny_vae"))


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


def recognise(
    latents: "torch.Tensor", backgrounds: list[int], means: "dict[str, torch.Tensor] | None" = None
) -> list[int]:
    """Which emoji each sampled latent [n, 16, 12, 12] is nearest to, its background being known.

    Nearest is the highest correlation of what the latent has beyond the mean of its background with what the mean of an
    emoji's composites has beyond the mean of all, wherever that lies: moved by up to a latent position each way.
    """
    import torch
    from comfy.latent_formats import Flux
    from safetensors.torch import load_file

    means = means or load_file(MODEL / "emoji_means.safetensors")
    emoji, background = means["emoji"].float(), means["bg"].float()
    patterns = torch.nn.functional.normalize((emoji - emoji.mean(0)).flatten(1)).view_as(emoji)
    moved = torch.stack([patterns.roll((y, x), (2, 3)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    rest = Flux().process_in(latents.float()) - background[backgrounds]
    return torch.einsum("nchw,mechw->nme", rest, moved).amax(1).argmax(1).tolist()


def _float32() -> "torch.dtype":
    import torch

    return torch.float32
