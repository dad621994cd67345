"""Real models by their size: ComfyUI's own classes on torch's meta device, where nothing is allocated or computed.

Sizes are those of the published models. Shapes, bytes and operations are exact; there are no weights.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy.cli_args import args

from demo import inprocess

args.use_pytorch_cross_attention = True  # fused: the others ask for free memory, which the meta device has none of
inprocess.boot()

import comfy.ops  # noqa: E402  (only after boot)
import torch  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402


@dataclass(frozen=True)
class Geometry:
    """A model at a usual size.

    Attributes:
        name: model and size, for tables.
        module, network: ComfyUI's class.
        sizes: its arguments.
        latent: shape of one latent, without the batch.
        context: shape of the text, without the batch.
        cfg: whether two conditionings are usual.
        more_latents: further members of a nested latent (audio, camera).
        extras: arguments of the forward, as shapes without the batch.
        ids: the same, of whole numbers.
        lists: the same, as lists of tensors.
        more: other arguments of the forward.
        built_on: "cpu" for a class that reads values as it is built (nothing writes its weights: they take no memory).
        finish: last touch to the network.
        reads_time: whether the forward reads the value of the time.
        note: for tables, where a forecast evaluation computes more than a little: what.
    """

    name: str
    module: str
    network: str
    sizes: dict[str, Any]
    latent: tuple[int, ...]
    context: tuple[int, ...]
    cfg: bool = True
    more_latents: tuple[tuple[int, ...], ...] = ()
    extras: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lists: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    built_on: str = "meta"
    finish: Callable[[torch.nn.Module], None] | None = None
    reads_time: bool = False
    note: str = ""

    def build(self) -> torch.nn.Module:
        """The network on the meta device, in bfloat16."""
        import importlib

        network = getattr(importlib.import_module(self.module), self.network)
        made: torch.nn.Module = network(
            **self.sizes, device=self.built_on, dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init
        )
        if self.finish is not None:
            self.finish(made)
        return made.to("meta").eval().requires_grad_(False)

    def call(self, network: torch.nn.Module, rows: int, options: Mapping[str, Any] | None = None) -> torch.Tensor:
        """One call for so many rows, with these transformer options."""

        def of(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
            return torch.empty(rows, *shape, dtype=dtype, device="meta")

        latents = [of(shape) for shape in (self.latent, *self.more_latents)]
        times = torch.full((rows,), 500.0, device="cpu" if self.reads_time else "meta")
        arguments = {
            "context": of(self.context),
            "transformer_options": dict(options or {}),
            **{name: of(shape) for name, shape in self.extras.items()},
            **{name: of(shape, torch.long) for name, shape in self.ids.items()},
            **{name: [of(shape) for shape in shapes] for name, shapes in self.lists.items()},
            **self.more,
        }
        with torch.no_grad(), _Readable():
            output: torch.Tensor = network(latents if self.more_latents else latents[0], times, **arguments)
        return output


class _Readable(TorchFunctionMode):
    """Lengths that a forward puts into tensors stay on the CPU, where it can read them."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.as_tensor:
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


WAN = {
    "model_type": "t2v", "patch_size": (1, 2, 2), "text_len": 512, "in_dim": 16, "dim": 5120, "ffn_dim": 13824,
    "freq_dim": 256, "text_dim": 4096, "out_dim": 16, "num_heads": 40, "num_layers": 40,
}  # fmt: skip
_HUNYUAN15 = {
    "image_model": "hunyuan_video", "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "num_heads": 16,
    "hidden_size": 2048, "mlp_ratio": 4.0, "depth": 54, "depth_single_blocks": 0, "context_in_dim": 3584,
    "vec_in_dim": None, "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True, "guidance_embed": False,
    "byt5": False, "meanflow": False, "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": False,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "hidden_size": 3072, "num_heads": 24,
    "mlp_ratio": 4.0, "depth": 19, "depth_single_blocks": 38, "context_in_dim": 4096, "vec_in_dim": 768,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    "yak_mlp": False, "txt_norm": False,
}  # fmt: skip
_SDXL = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_linear_in_transformer": True, "num_head_channels": 64, "use_checkpoint": False,
    "use_temporal_attention": False, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
_QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 60, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 3584, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
_LTXV = {
    "image_model": "ltxv", "in_channels": 128, "num_layers": 48, "attention_head_dim": 128, "num_attention_heads": 32,
    "cross_attention_dim": 4096, "caption_channels": 4096,
}  # fmt: skip
_ZIMAGE = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30,
    "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "multiple_of": 256, "ffn_dim_multiplier": 8 / 3,
    "qk_norm": True, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0,
}  # fmt: skip

GEOMETRIES = (
    Geometry(
        "FLUX.1 dev, 1024 x 1024", "comfy.ldm.flux.model", "Flux", FLUX, (16, 128, 128), (512, 4096), cfg=False,
        extras={"y": (768,), "guidance": ()},
    ),
    Geometry(
        "Qwen-Image, 1328 x 1328", "comfy.ldm.qwen_image.model", "QwenImageTransformer2DModel", _QWEN,
        (16, 1, 166, 166), (256, 3584),
    ),
    Geometry(
        "Z-Image, 1024 x 1024", "comfy.ldm.lumina.model", "NextDiT", _ZIMAGE, (16, 128, 128), (256, 2560),
        more={"num_tokens": 256},
    ),
    Geometry(
        "SDXL, 1024 x 1024", "comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel", _SDXL, (4, 128, 128),
        (77, 2048), extras={"y": (2816,)},
    ),
    Geometry(
        "Wan 2.2 14B, 832 x 480, 81 frames", "comfy.ldm.wan.model", "WanModel", WAN, (16, 21, 60, 104), (512, 4096)
    ),
    Geometry(
        "Wan 2.2 14B, 1280 x 720, 81 frames", "comfy.ldm.wan.model", "WanModel", WAN, (16, 21, 90, 160), (512, 4096)
    ),
    Geometry(
        "HunyuanVideo 1.5, 1280 x 720, 121 frames", "comfy.ldm.hunyuan_video.model", "HunyuanVideo", _HUNYUAN15,
        (65, 31, 45, 80), (512, 3584),
    ),
    Geometry(
        "LTX-2 (video part), 1280 x 704, 121 frames", "comfy.ldm.lightricks.model", "LTXVModel", _LTXV,
        (128, 16, 22, 40), (256, 4096), more={"attention_mask": None},
    ),
)  # fmt: skip


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are alive.

    Attributes:
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, list[int]] = {}
        self._now = self.peak = 0

    def __enter__(self) -> "Live":
        """Attention is fused, as on a GPU: it makes nothing but its result."""
        self._attention = comfy.ops.scaled_dot_product_attention
        comfy.ops.scaled_dot_product_attention = _fused
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        comfy.ops.scaled_dot_product_attention = self._attention
        super().__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for value in tree_leaves(output):
            if isinstance(value, torch.Tensor):
                self._add(value)
        self.peak = max(self.peak, self._now)
        return output

    def _add(self, value: torch.Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        entry = self._held.setdefault(key, [0, 0])
        if entry[0] == 0:
            entry[1] = storage.nbytes()
            self._now += entry[1]
        entry[0] += 1
        weakref.finalize(value, self._drop, key)

    def _drop(self, key: int) -> None:
        entry = self._held[key]
        entry[0] -= 1
        if entry[0] == 0:
            self._now -= entry[1]
            del self._held[key]


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return q.new_empty(*q.shape[:-1], v.shape[-1])
