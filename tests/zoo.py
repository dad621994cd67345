"""Tiny real ComfyUI models: the core's own classes, seeded random weights, float32 on the CPU.

>>> model = MODELS["flux"].build(seed=1)                                 # a ModelPatcher, as a loader node returns it
>>> positive = MODELS["flux"].conditioning(seed=2)                       # CONDITIONING
>>> samples = MODELS["flux"].sample(model, steps=8, cfg=3.0, batch=2)    # the real KSampler

ComfyUI is imported only when a model is built; tests/conftest.py has put it on the path by then.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Rand = Callable[..., torch.Tensor]  # rand(*shape): seeded normal numbers
Config = dict[str, Any]
Extras = Callable[[Rand, int], Config]  # extras(rand, tokens): what CONDITIONING holds beside the text embedding


@dataclass(frozen=True)
class TinyModel:
    """One architecture of ComfyUI, small enough for twenty steps in about a second on one thread."""

    name: str
    family: str  # class of the diffusion model
    config: str  # class in comfy.supported_models
    latent: tuple[int, ...]  # shape of one latent, without the batch dimension
    unet: Config = field(repr=False)  # what model detection would have found
    context: int = 64  # channels of the text embedding
    tokens: int = 8  # tokens of the text embedding
    extras: Extras = field(default=lambda rand, tokens: {}, repr=False)
    weights: Callable[[], Config] = field(default=dict, repr=False)  # what get_model itself takes from a checkpoint
    finish: Callable[[Any], None] | None = field(default=None, repr=False)  # last touch to the diffusion model
    detected: bool = False  # load through the real loader, which must recognise the weights
    more_latents: tuple[tuple[int, ...], ...] = ()  # further members of a nested latent (audio, camera)
    time_scale: float = 1000.0  # range of the time from which the model makes sinusoids
    one_by_one: bool = False  # the model refuses a batch

    def build(self, seed: int = 0) -> ModelPatcher:
        """The model with weights drawn from `seed`, ready to sample."""
        import comfy.model_patcher
        import comfy.sd
        import comfy.supported_models

        config = getattr(comfy.supported_models, self.config)(self.unet)
        config.unet_config |= {key: self.unet[key] for key in config.unet_extra_config if key in self.unet}
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(self.weights(), "")
        if self.finish is not None:
            self.finish(model.diffusion_model)
            model.diffusion_model.eval().requires_grad_(False)
        fill(model, seed, self.time_scale)
        if self.detected:
            return comfy.sd.load_diffusion_model_state_dict(
                model.diffusion_model.state_dict(), metadata={"config": json.dumps({"transformer": self.unet})}
            )
        cpu = torch.device("cpu")
        return comfy.model_patcher.CoreModelPatcher(model, load_device=cpu, offload_device=cpu)

    def conditioning(self, seed: int, tokens: int | None = None) -> list[list[Any]]:
        """A CONDITIONING of random embeddings, `tokens` long."""
        rand, tokens = _rand(seed), tokens or self.tokens
        return [[rand(1, tokens, self.context), self.extras(rand, tokens)]]

    def empty(self, batch: int = 1) -> Any:
        """The zero latent from which sampling starts."""
        from comfy.nested_tensor import NestedTensor

        latents = [torch.zeros(batch, *shape) for shape in (self.latent, *self.more_latents)]
        return NestedTensor(latents) if self.more_latents else latents[0]

    def sample(
        self,
        model: ModelPatcher,
        steps: int = 20,
        cfg: float = 1.0,
        batch: int = 1,
        seed: int = 0,
        sampler: str = "euler",
        scheduler: str = "simple",
        **options: Any,
    ) -> Any:
        """Sample `model` as KSampler does."""
        import comfy.sample

        latent = self.empty(batch)
        noise = comfy.sample.prepare_noise(latent, seed)
        positive, negative = self.conditioning(seed + 1), self.conditioning(seed + 2)
        options = {"denoise": 1.0, "seed": seed, "disable_pbar": True} | options
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, **options
            )


def fill(model: torch.nn.Module, seed: int, time_scale: float = 1000.0) -> None:
    """Give every weight a seeded value.

    comfy.ops creates layers uninitialised, and the zeros with which training starts would hide the blocks.
    """
    rand = _rand(seed)
    parameters = dict(model.named_parameters())
    for name, values in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        if name in parameters or leaf in _EMPTY_BUFFERS:
            value = _value(leaf, model.get_submodule(path), values.shape, rand)
            for pattern, columns in _TIME_LAYERS:
                if leaf == "weight" and pattern.search(path):
                    value[:, :columns] = _calm(value[:, :columns], time_scale)
            values.copy_(value)


# Buffers that the core leaves to the checkpoint.
_EMPTY_BUFFERS = (
    *("pos_embed", "y_embedding", "adaln_t_table", "inv_freq"),
    *("positive_conditioning", "negative_conditioning"),
)

# Layers whose first columns read the sinusoids of time.
_TIME_LAYERS = (
    (re.compile(r"(^|\.)(time\w*|t_embed\w*|tmlp)(\.mlp|\.1)?[._](0|in_layer|linear_1|mlp_in)$"), None),
    (re.compile(r"(^|\.)mapper$"), None),
    (re.compile(r"(^|\.)emb_in\.proj_in$"), None),
    (re.compile(r"(^|\.)distilled_guidance_layer\.in_proj$"), 16),
)


def _value(leaf: str, owner: torch.nn.Module, shape: torch.Size, rand: Rand) -> torch.Tensor:
    """Scales of a trained network: unit gain for layers, near one for norms, visible biases and tables."""
    if leaf == "inv_freq":
        return 10000.0 ** -(torch.arange(shape[0]) / shape[0])
    if isinstance(owner, torch.nn.Embedding):
        return rand(*shape)
    if len(shape) > 1 and leaf == "weight":
        return rand(*shape) / math.sqrt(math.prod(shape[1:]))
    if leaf in ("weight", "weights", "scale", "gamma"):
        return 1 + 0.1 * rand(*shape)
    return 0.3 * rand(*shape)


def _calm(weight: torch.Tensor, time_scale: float) -> torch.Tensor:
    """Keep the sinusoids that turn by less than half a circle: trained networks change slowly with time."""
    half = weight.shape[1] // 2
    slow = time_scale * 10000.0 ** -(torch.arange(half) / half) < math.pi
    return weight * torch.cat((slow, slow)) / slow.float().mean().sqrt()


def _rand(seed: int) -> Rand:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def _pooled(channels: int) -> Extras:
    return lambda rand, tokens: {"pooled_output": rand(1, channels)}


def _masked(rand: Rand, tokens: int) -> Config:
    return {"attention_mask": torch.ones(1, tokens, dtype=torch.long)}


def _image(*shape: int) -> Extras:
    """An image beside the noise (inpainting, image to video)."""
    return lambda rand, tokens: {"concat_latent_image": rand(1, *shape), "concat_mask": torch.ones(1, 1, *shape[1:])}


def _reference(*shape: int) -> Extras:
    """An image among the tokens (editing)."""
    return lambda rand, tokens: {"reference_latents": [rand(1, *shape)]}


def _vision(rand: Rand, channels: int = 1280, tokens: int = 4) -> Any:
    """What CLIPVisionEncode returns."""
    import comfy.clip_vision

    output = comfy.clip_vision.Output()
    output["last_hidden_state"] = rand(1, tokens, channels)
    output["penultimate_hidden_states"] = rand(1, tokens, channels)
    return output


def _with(*parts: Extras, **more: Callable[[Rand], Any]) -> Extras:
    """Several extras in one."""

    def extras(rand: Rand, tokens: int) -> Config:
        config = {key: value for part in parts for key, value in part(rand, tokens).items()}
        return config | {key: make(rand) for key, make in more.items()}

    return extras


def _tokens_with_time(rand: Rand, tokens: int) -> Config:
    """HiDream-O1 reads token numbers; the last two mark the image and the time."""
    return {"text_input_ids": torch.cat([(rand(tokens).abs() * 1000).long(), torch.tensor([151669, 151673])])}


def _t5_tokens(rand: Rand, tokens: int) -> Config:
    return {"t5xxl_ids": (rand(tokens).abs() * 1000).long(), "t5xxl_weights": torch.ones(tokens)}


def _mt5(rand: Rand, tokens: int) -> Config:
    return {
        "attention_mask": torch.ones(1, tokens),
        "conditioning_mt5xl": rand(1, 8, 64),
        "attention_mask_mt5xl": torch.ones(1, 8),
    }


def _seconds(*names: str) -> Config:
    """The duration embedders of a Stable Audio checkpoint."""
    from comfy.ldm.audio.embedders import NumberConditioner

    weights = NumberConditioner(768).state_dict()
    return {f"conditioner.conditioners.seconds_{name}.{key}": w for name in names for key, w in weights.items()}


def _later_frames(rand: Rand) -> torch.Tensor:
    """A mask that leaves the first frame of a video as it is: each frame has a time of its own then."""
    mask = torch.ones(1, 1, 3, 8, 8)
    mask[:, :, 0] = 0
    return mask


def _tiny_adapter(diffusion_model: Any) -> None:
    """Anima's text adapter has 120 million weights and no size in the configuration."""
    import comfy.ops
    from comfy.ldm.anima.model import LLMAdapter

    diffusion_model.llm_adapter = LLMAdapter(64, 64, 64, num_layers=1, num_heads=2, operations=comfy.ops.manual_cast)


def _tiny_motion_encoder(diffusion_model: Any) -> None:
    """Animate's motion encoder reads faces of 512x512 pixels."""
    encoder = torch.nn.Linear(3, 512)
    encoder.get_motion = lambda faces: encoder(faces.mean((-2, -1)))
    diffusion_model.motion_encoder = encoder


def _tiny_audio_projection(diffusion_model: Any) -> None:
    """HuMo's audio projection has 39 million weights and no size in the configuration."""
    import comfy.ops
    from comfy.ldm.wan.model import AudioProjModel

    diffusion_model.audio_proj = AudioProjModel(8, 5, channels=8, intermediate_dim=32, operations=comfy.ops.manual_cast)


def _tiny_lyric_encoder(diffusion_model: Any) -> None:
    """ACE-Step's lyric encoder has 100 million weights and no size in the configuration."""
    import comfy.ops
    from comfy.ldm.ace.lyric_encoder import ConformerEncoder

    sizes = {"output_size": 64, "attention_heads": 2, "linear_units": 128, "num_blocks": 1, "static_chunk_size": 0}
    diffusion_model.lyric_encoder = ConformerEncoder(64, **sizes, operations=comfy.ops.manual_cast)


def _slow_time(diffusion_model: Any) -> None:
    """PixelDiT's sinusoids all turn many times in a run: to random weights that is noise."""
    diffusion_model.t_embedder.max_period = 10000


# fmt: off
_FLUX: Config = dict(
    image_model="flux", in_channels=16, out_channels=16, patch_size=2, hidden_size=128, num_heads=1, mlp_ratio=4.0,
    depth=2, depth_single_blocks=2, context_in_dim=64, vec_in_dim=32, axes_dim=[16, 56, 56], theta=10000,
    qkv_bias=True, guidance_embed=True, txt_ids_dims=[], yak_mlp=False, txt_norm=False,
)
_FLUX2 = _FLUX | dict(  # short: ComfyUI pads the text to 512 tokens
    image_model="flux2", in_channels=128, out_channels=128, patch_size=1, depth=1, depth_single_blocks=1,
    mlp_ratio=3.0, axes_dim=[32] * 4, theta=2000, vec_in_dim=None, qkv_bias=False, ops_bias=False,
    global_modulation=True, mlp_silu_act=True, default_ref_method="index", ref_index_scale=10.0, txt_ids_dims=[3],
)
_LONGCAT = _FLUX | dict(context_in_dim=3584, vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2])
_CHROMA: Config = dict(
    image_model="chroma", in_channels=64, out_channels=64, patch_size=2, hidden_size=64, num_heads=2, mlp_ratio=4.0,
    depth=2, depth_single_blocks=2, context_in_dim=64, vec_in_dim=None, axes_dim=[8, 12, 12], theta=10000,
    qkv_bias=True, txt_ids_dims=[], in_dim=64, out_dim=64, hidden_dim=64, n_layers=2,
)
_RADIANCE = _CHROMA | dict(
    image_model="chroma_radiance", in_channels=3, out_channels=3, patch_size=8, nerf_hidden_size=8, nerf_mlp_ratio=2,
    nerf_depth=2, nerf_max_freqs=4, nerf_tile_size=0, nerf_final_head_type="conv", nerf_embedder_dtype=torch.float32,
    use_x0=False, use_sequential_txt_ids=False,
)
_HUNYUAN: Config = dict(
    image_model="hunyuan_video", in_channels=16, out_channels=16, patch_size=[1, 2, 2], hidden_size=128, num_heads=1,
    mlp_ratio=4.0, depth=2, depth_single_blocks=2, context_in_dim=64, vec_in_dim=768, axes_dim=[16, 56, 56], theta=256,
    qkv_bias=True, guidance_embed=True, byt5=False, meanflow=False, use_cond_type_embedding=False, vision_in_dim=None,
    meanflow_sum=False,
)
_HUNYUAN15 = _HUNYUAN | dict(
    in_channels=65, out_channels=32, patch_size=[1, 1, 1], vec_in_dim=None, guidance_embed=False, byt5=True,
    use_cond_type_embedding=True, vision_in_dim=1152, meanflow_sum=True,
)
_HUNYUAN15_SR = _HUNYUAN15 | dict(in_channels=98, meanflow=True)  # distilled: it also reads the next noise level
_HUNYUAN_IMAGE = _HUNYUAN | dict(
    in_channels=64, out_channels=64, patch_size=[1, 1], vec_in_dim=None, axes_dim=[64, 64], guidance_embed=False,
    byt5=True,
)
_HUNYUAN_REFINER = _HUNYUAN | dict(
    in_channels=128, out_channels=64, patch_size=[1, 1, 1], vec_in_dim=None, guidance_embed=False, meanflow=True,
)
_HUNYUAN3D: Config = dict(
    image_model="hunyuan3d2", in_channels=64, context_in_dim=64, hidden_size=64, mlp_ratio=4.0, num_heads=16, depth=2,
    depth_single_blocks=2, qkv_bias=True, guidance_embed=True,
)
_LENS: Config = dict(
    image_model="lens", in_channels=128, out_channels=32, num_layers=2, num_attention_heads=1, enc_hidden_dim=16,
    multi_layer_encoder_feature=True, selected_layer_index=(0, 1, 2, 3),
)

_SD3: Config = dict(
    in_channels=16, out_channels=16, patch_size=2, depth=2, input_size=None, adm_in_channels=64, num_patches=64,
    pos_embed_max_size=8, pos_embed_scaling_factor=None, qk_norm="rms", x_block_self_attn_layers=[0],
    context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
)
_AURA: Config = dict(
    in_channels=4, out_channels=4, dim=64, n_layers=3, n_double_layers=1, n_heads=2, global_conddim=64,
    cond_seq_dim=64, max_seq=64,
)
_QWEN: Config = dict(
    image_model="qwen_image", in_channels=64, out_channels=16, num_layers=2, attention_head_dim=32,
    num_attention_heads=2, joint_attention_dim=64, axes_dims_rope=(8, 12, 12),
)
_MAGE: Config = dict(
    image_model="mage_flow", in_channels=128, num_layers=2, attention_head_dim=32, num_attention_heads=2,
    joint_attention_dim=64, axes_dims_rope=(8, 12, 12),
)
_JOY: Config = dict(
    image_model="joyimage", in_channels=16, hidden_size=128, patch_size=[1, 2, 2], num_layers=2, num_attention_heads=1,
    text_dim=4096,
)
_HIDREAM: Config = dict(
    image_model="hidream", patch_size=2, in_channels=16, out_channels=16, num_layers=2, num_single_layers=2,
    attention_head_dim=32, num_attention_heads=2, caption_channels=[64, 64], text_emb_dim=64, num_routed_experts=2,
    num_activated_experts=1, axes_dims_rope=[16, 8, 8], max_resolution=[128, 128], llama_layers=[0, 1, 1, 1],
)
_HIDREAM_O1: Config = dict(
    image_model="hidream_o1",
    text_config_overrides=dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, rope_dims=[6, 5, 5],
    ),
    vision_config_overrides=dict(
        hidden_size=32, num_heads=2, intermediate_size=64, depth=1, num_position_embeddings=16,
    ),
)
_MOCHI: Config = dict(
    image_model="mochi_preview", in_channels=12, patch_size=2, hidden_size_x=64, hidden_size_y=32, depth=2,
    num_heads=2, mlp_ratio_x=12288 / 64, mlp_ratio_y=4.0, learn_sigma=False, use_t5=True, t5_feat_dim=64,
    t5_token_length=8, timestep_scale=1000.0, posenc_preserve_area=True, qk_norm=True, qkv_bias=False, out_bias=True,
)
_COGVIDEO: Config = dict(
    image_model="cogvideox", num_attention_heads=1, attention_head_dim=64, in_channels=16, out_channels=16,
    time_embed_dim=32, text_embed_dim=64, num_layers=2, use_rotary_positional_embeddings=True,
)

_LUMINA: Config = dict(
    image_model="lumina2", patch_size=2, in_channels=16, dim=64, cap_feat_dim=64, n_layers=2, n_refiner_layers=1,
    n_heads=2, n_kv_heads=1, multiple_of=32, ffn_dim_multiplier=4.0, qk_norm=True, axes_dims=[8, 12, 12],
    axes_lens=[300, 512, 512], rope_theta=10000.0,
)
_ZIMAGE = _LUMINA | dict(
    dim=256, n_kv_heads=2, axes_dims=[32, 48, 48], rope_theta=256.0, ffn_dim_multiplier=8 / 3, z_image_modulation=True,
    time_scale=1000.0, pad_tokens_multiple=32,
)
_ZIMAGE_PIXEL = _ZIMAGE | dict(
    image_model="zimage_pixel", in_channels=3, patch_size=4, decoder_in_channels=48, decoder_hidden_size=64,
    decoder_num_res_blocks=2, decoder_max_freqs=4,
)
_OMNIGEN: Config = dict(
    image_model="omnigen2", in_channels=16, hidden_size=64, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
    num_kv_heads=1, multiple_of=32, axes_dim_rope=(8, 12, 12), axes_lens=(300, 512, 512), text_feat_dim=64,
    timestep_scale=1000.0,
)
_BOOGU: Config = dict(
    image_model="boogu", hidden_size=64, num_layers=2, num_double_stream_layers=1, num_refiner_layers=1,
    num_attention_heads=2, num_kv_heads=1, multiple_of=32, axes_dim_rope=(8, 12, 12), axes_lens=(300, 512, 512),
    instruction_feat_dim=64,
)
_ERNIE: Config = dict(
    image_model="ernie", hidden_size=64, num_attention_heads=2, num_layers=2, ffn_hidden_size=128, text_in_dim=48,
    rope_axes_dim=(8, 12, 12),
)
_IDEOGRAM: Config = dict(
    image_model="ideogram4", in_channels=128, num_layers=2, num_attention_heads=2, attention_head_dim=32,
    intermediate_size=128, adaln_dim=32, llm_features_dim=64, mrope_section=(6, 5, 5),
)
_KREA: Config = dict(
    image_model="krea2", features=64, tdim=32, txtdim=16, heads=2, kvheads=1, multiplier=4, layers=2, patch=2,
    channels=16, txtlayers=4, txtheads=1, txtkvheads=1,
)
_PIXART: Config = dict(
    image_model="pixart_alpha", in_channels=4, patch_size=8, hidden_size=96, depth=2, num_heads=2, caption_channels=64,
    model_max_length=8, micro_condition=True, pe_interpolation=1,
)
_COSMOS: Config = dict(
    image_model="cosmos", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, concat_padding_mask=True, model_channels=64, num_blocks=2, num_heads=2,
    crossattn_emb_channels=64, block_x_format="THWBD", pos_emb_cls="rope3d", affline_emb_norm=True, use_adaln_lora=True,
    adaln_lora_dim=16, extra_per_block_abs_pos_emb=True, extra_per_block_abs_pos_emb_type="learnable",
)
_COSMOS2: Config = dict(
    image_model="cosmos_predict2", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, concat_padding_mask=True, model_channels=64, num_blocks=2, num_heads=2,
    crossattn_emb_channels=64, pos_emb_cls="rope3d", pos_emb_learnable=True, use_adaln_lora=True, adaln_lora_dim=16,
    rope_enable_fps_modulation=False,
)
_HYDIT: Config = dict(
    image_model="hydit", hidden_size=64, depth=4, num_heads=2, text_states_dim=64, text_states_dim_t5=64, text_len=8,
    text_len_t5=8, size_cond=True, use_style_cond=True, input_size=None,
)
_HUNYUAN3D21: Config = dict(
    image_model="hunyuan3d2_1", in_channels=64, context_dim=64, hidden_size=64, num_heads=2, depth=4, qkv_bias=False,
    guidance_cond_proj_dim=None, num_moe_layers=1, num_experts=2, moe_top_k=1,
)

_UNET: Config = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
    transformer_depth=[1, 1], transformer_depth_middle=1, transformer_depth_output=[1, 1, 1, 1], context_dim=64,
    adm_in_channels=None, use_linear_in_transformer=False, use_temporal_attention=False, use_checkpoint=False,
    use_spatial_transformer=True, legacy=False,
)
_SD2 = _UNET | dict(use_linear_in_transformer=True, num_head_channels=32)
_SDXL = _SD2 | dict(
    adm_in_channels=64 + 6 * 256, num_classes="sequential", transformer_depth=[0, 1],
    transformer_depth_output=[0, 0, 1, 1],
)
_KOALA = _SDXL | dict(transformer_depth_middle=-2)  # no middle block
_LOTUS = _SD2 | dict(adm_in_channels=4, num_classes="sequential")
_UPSCALER = _SD2 | dict(in_channels=7, num_classes=1000, disable_self_attentions=[True, False])
_SVD = _SD2 | dict(
    in_channels=8, adm_in_channels=768, num_classes="sequential", use_temporal_attention=True,
    use_temporal_resblock=True, video_kernel_size=[3, 1, 1], extra_ff_mix_layer=True, use_spatial_context=True,
    merge_strategy="learned_with_images", merge_factor=0.0,
)
_CASCADE_C: Config = dict(
    stable_cascade_stage="c", c_cond=64, c_hidden=[64, 64], nhead=[2, 2], blocks=[[1, 1], [1, 1]], c_clip_text=64,
    c_clip_text_pooled=64,
)
_CASCADE_B: Config = dict(
    stable_cascade_stage="b", c_cond=64, c_hidden=[32, 64], nhead=[-1, 2], blocks=[[1, 1], [1, 1]], c_clip=64,
    block_repeat=[[1, 1], [2, 1]], level_config=["CT", "CTA"], dropout=[0, 0],
)

_WAN: Config = dict(
    image_model="wan2.1", model_type="t2v", in_dim=16, out_dim=16, dim=128, ffn_dim=256, num_heads=1, num_layers=2,
    patch_size=(1, 2, 2), freq_dim=256, text_dim=64, window_size=(-1, -1), qk_norm=True, cross_attn_norm=True, eps=1e-6,
)
_DANCER = _WAN | dict(
    model_type="wandancer", in_dim=36, audio_inject_layers=[0, 1], music_dim=32, music_heads=2, music_latent_dim=32,
)
_LTXV: Config = dict(
    image_model="ltxv", in_channels=128, num_layers=2, attention_head_dim=32, num_attention_heads=2,
    cross_attention_dim=64, caption_channels=64,
)
_LTXAV = _LTXV | dict(
    image_model="ltxav", audio_cross_attention_dim=64, audio_attention_head_dim=32, audio_num_attention_heads=2,
    connector_attention_head_dim=16, connector_num_attention_heads=2, connector_num_layers=1,
)
_SEEDVR: Config = dict(
    image_model="seedvr2", num_layers=2, mm_layers=1, vid_dim=64, txt_in_dim=48, heads=2, head_dim=32, rope_dim=32,
    norm_eps=1e-5, mlp_type="swiglu", vid_out_norm=True,
)
_SEEDVR_7B = _SEEDVR | dict(mm_layers=2, rope_type="rope3d", mlp_type="normal", vid_out_norm=None)
_MINIMAX: Config = dict(
    image_model="minimax_h3", hidden_size=64, num_layers=2, token_refiner_num_layers=1, num_attention_heads=2,
    attention_head_dim=32, ffn_hidden_size=128, text_dim=48, time_embed_hidden_size=64, time_embed_dim=64,
    timestep_input_dim=64, rope_inv_freq_len=4,
)
_KANDINSKY: Config = dict(
    image_model="kandinsky5", model_dim=64, time_dim=64, ff_dim=128, visual_embed_dim=132, in_text_dim=64,
    in_text_dim2=64, num_text_blocks=1, num_visual_blocks=2, axes_dims=(8, 12, 12),
)

_ACE: Config = dict(
    audio_model="ace", num_layers=2, attention_head_dim=32, num_attention_heads=2, mlp_ratio=2.5, text_embedding_dim=64,
    ssl_encoder_depths=[1], ssl_names=["mert"], ssl_latent_dims=[64], lyric_encoder_vocab_size=100,
    lyric_hidden_size=64,
)
_ACE15: Config = dict(
    audio_model="ace1.5", hidden_size=64, text_hidden_dim=64, num_dit_layers=2, num_lyric_layers=1, num_timbre_layers=1,
    num_tokenizer_layers=1, num_heads=2, num_kv_heads=1, head_dim=32, intermediate_size=128, fsq_dim=64,
    encoder_hidden_size=64, encoder_intermediate_size=128, encoder_num_heads=2,
)
_AUDIO: Config = dict(audio_model="dit1.0", embed_dim=64, num_heads=1, depth=2, project_cond_tokens=True)
_AUDIO3 = _AUDIO | dict(
    io_channels=16, global_cond_dim=768, global_cond_shared_embed=True, global_cond_type="adaLN", num_memory_tokens=4,
    timestep_features_type="learned", local_add_cond_dim=17,
)
_PIXELDIT: Config = dict(
    image_model="pixeldit_t2i", num_groups=2, hidden_size=64, pixel_hidden_size=8, pixel_attn_hidden_size=32,
    pixel_num_groups=2, patch_depth=2, pixel_depth=1, patch_size=4, txt_embed_dim=64, txt_max_length=32,
)
_PID = _PIXELDIT | dict(image_model="pid", lq_hidden_dim=16, lq_num_res_blocks=1, pit_lq_inject=True)
_TRIPOSPLAT: Config = dict(
    image_model="triposplat", q_token_length=32, model_channels=64, cond_channels=64, num_blocks=2,
    num_refiner_blocks=1, num_head_channels=32,
)

_VIDEO = (16, 3, 8, 8)

_ALL = (
    # The Flux family: double blocks, then single blocks
    TinyModel("flux", "Flux", "Flux", (16, 8, 8), _FLUX, extras=_pooled(32), detected=True),
    TinyModel(
        "flux_schnell", "Flux", "FluxSchnell", (16, 8, 8), _FLUX | dict(guidance_embed=False),
        extras=_pooled(32), detected=True,
    ),
    TinyModel(
        "flux_kontext", "Flux", "Flux", (16, 8, 8), _FLUX,
        extras=_with(_pooled(32), _reference(16, 8, 8)), detected=True,
    ),
    TinyModel(
        "flux_fill", "Flux", "FluxInpaint", (16, 8, 8), _FLUX | dict(in_channels=96),
        extras=_with(_pooled(32), _image(16, 8, 8)), detected=True,
    ),
    TinyModel("longcat_image", "Flux", "LongCatImage", (16, 8, 8), _LONGCAT, context=3584, detected=True),
    TinyModel("flux2", "Flux", "Flux2", (128, 4, 4), _FLUX2, tokens=128, detected=True),
    TinyModel(
        "flux2_klein", "Flux", "Flux2", (128, 4, 4), _FLUX2 | dict(guidance_embed=False), tokens=128, detected=True,
    ),
    TinyModel("chroma", "Chroma", "Chroma", (16, 8, 8), _CHROMA),
    TinyModel("chroma_radiance", "ChromaRadiance", "ChromaRadiance", (3, 32, 32), _RADIANCE),
    TinyModel("hunyuan_video", "HunyuanVideo", "HunyuanVideo", _VIDEO, _HUNYUAN, extras=_pooled(768), detected=True),
    TinyModel(
        "hunyuan_video_i2v", "HunyuanVideo", "HunyuanVideoI2V", _VIDEO, _HUNYUAN | dict(in_channels=33),
        extras=_with(_pooled(768), _image(*_VIDEO)), detected=True,
    ),
    TinyModel(
        "skyreels_i2v", "HunyuanVideo", "HunyuanVideoSkyreelsI2V", _VIDEO, _HUNYUAN | dict(in_channels=32),
        extras=_with(_pooled(768), _image(*_VIDEO)), detected=True,
    ),
    TinyModel(
        "hunyuan_video15", "HunyuanVideo", "HunyuanVideo15", (32, 3, 4, 4), _HUNYUAN15, detected=True,
        extras=_with(
            pooled_output=lambda rand: None, conditioning_byt5small=lambda rand: rand(1, 4, 1472),
            clip_vision_output=lambda rand: _vision(rand, 1152),
        ),
    ),
    TinyModel(
        "hunyuan_video15_sr", "HunyuanVideo", "HunyuanVideo15_SR_Distilled", (32, 3, 4, 4), _HUNYUAN15_SR,
        detected=True, extras=_with(
            pooled_output=lambda rand: None, conditioning_byt5small=lambda rand: rand(1, 4, 1472),
            clip_vision_output=lambda rand: _vision(rand, 1152), concat_latent_image=lambda rand: rand(1, 66, 3, 4, 4),
        ),
    ),
    TinyModel(
        "hunyuan_image", "HunyuanVideo", "HunyuanImage21", (64, 4, 4), _HUNYUAN_IMAGE,
        extras=_with(conditioning_byt5small=lambda rand: rand(1, 4, 1472)), detected=True,
    ),
    TinyModel(
        "hunyuan_image_refiner", "HunyuanVideo", "HunyuanImage21Refiner", (64, 1, 4, 4), _HUNYUAN_REFINER,
        extras=_image(32, 1, 4, 4), detected=True,
    ),
    TinyModel("hunyuan3d", "Hunyuan3Dv2", "Hunyuan3Dv2", (64, 32), _HUNYUAN3D, detected=True, time_scale=1e4),
    TinyModel("lens", "LensTransformer2DModel", "Lens", (128, 4, 4), _LENS, detected=True),

    # Image and text in one attention, each with its own weights
    TinyModel(
        "sd35", "OpenAISignatureMMDITWrapper", "SD3", (16, 8, 8), _SD3, extras=_pooled(64), detected=True,
    ),
    TinyModel("aura_flow", "MMDiT", "AuraFlow", (4, 8, 8), _AURA),
    TinyModel("qwen_image", "QwenImageTransformer2DModel", "QwenImage", (16, 1, 8, 8), _QWEN),
    TinyModel(
        "qwen_image_edit", "QwenImageTransformer2DModel", "QwenImage", (16, 1, 8, 8), _QWEN,
        extras=_reference(16, 1, 8, 8),
    ),
    TinyModel("mage_flow", "MageFlowTransformer2DModel", "MageFlow", (128, 4, 4), _MAGE),
    TinyModel(
        "joy_image", "JoyImageTransformer3DModel", "JoyImage", (16, 1, 8, 8), _JOY, context=4096, detected=True,
    ),
    TinyModel(
        "hidream", "HiDreamImageTransformer2DModel", "HiDream", (16, 8, 8), _HIDREAM,
        extras=lambda rand, tokens: dict(pooled_output=rand(1, 64), conditioning_llama3=rand(1, 2, tokens, 64)),
    ),
    TinyModel("hidream_o1", "HiDreamO1Transformer", "HiDreamO1", (3, 64, 64), _HIDREAM_O1, extras=_tokens_with_time),
    TinyModel("mochi", "AsymmDiTJoint", "GenmoMochi", (12, 3, 8, 8), _MOCHI, extras=_masked),
    TinyModel("cogvideox", "CogVideoXTransformer3DModel", "CogVideoX_T2V", _VIDEO, _COGVIDEO, detected=True),

    # A single stream
    TinyModel("lumina2", "NextDiT", "Lumina2", (16, 8, 8), _LUMINA, time_scale=1.0),
    TinyModel("z_image", "NextDiT", "ZImage", (16, 8, 8), _ZIMAGE),
    TinyModel("z_image_pixel", "NextDiTPixelSpace", "ZImagePixelSpace", (3, 16, 16), _ZIMAGE_PIXEL),
    TinyModel("omnigen2", "OmniGen2Transformer2DModel", "Omnigen2", (16, 8, 8), _OMNIGEN, extras=_masked),
    TinyModel("boogu", "BooguTransformer2DModel", "Boogu", (16, 8, 8), _BOOGU, extras=_masked),
    TinyModel("ernie", "ErnieImageModel", "ErnieImage", (128, 4, 4), _ERNIE, context=48),
    TinyModel("ideogram4", "Ideogram4Transformer2DModel", "Ideogram4", (128, 4, 4), _IDEOGRAM, time_scale=1e4),
    TinyModel("krea2", "SingleStreamDiT", "Krea2", (16, 1, 8, 8), _KREA),
    TinyModel(
        "pixart_alpha", "PixArtMS", "PixArtAlpha", (4, 64, 64), _PIXART,
        extras=lambda rand, tokens: dict(width=512, height=512),
    ),
    TinyModel(
        "pixart_sigma", "PixArtMS", "PixArtSigma", (4, 64, 64),
        _PIXART | dict(image_model="pixart_sigma", micro_condition=False),
    ),
    TinyModel("cosmos_video", "GeneralDIT", "CosmosT2V", _VIDEO, _COSMOS, time_scale=1.0),
    TinyModel("cosmos_predict2", "MiniTrainDIT", "CosmosT2IPredict2", (16, 1, 8, 8), _COSMOS2, time_scale=1.0),
    TinyModel(
        "cosmos_predict2_i2v", "MiniTrainDIT", "CosmosI2VPredict2", _VIDEO, _COSMOS2 | dict(in_channels=17),
        extras=_with(concat_mask=_later_frames), time_scale=1.0,
    ),
    TinyModel(
        "anima", "Anima", "Anima", (16, 1, 8, 8), _COSMOS2 | dict(image_model="anima"), tokens=128,
        extras=_t5_tokens, finish=_tiny_adapter, time_scale=1.0,
    ),
    TinyModel("hunyuan_dit", "HunYuanDiT", "HunyuanDiT", (4, 8, 8), _HYDIT, extras=_mt5),
    TinyModel("hunyuan3d_21", "HunYuanDiTPlain", "Hunyuan3Dv2_1", (64, 32), _HUNYUAN3D21, time_scale=1.0),

    # UNets
    TinyModel("sd15", "UNetModel", "SD15", (4, 8, 8), _UNET),
    TinyModel("sd15_inpaint", "UNetModel", "SD15", (4, 8, 8), _UNET | dict(in_channels=9), extras=_image(4, 8, 8)),
    TinyModel(
        "sd15_ip2p", "UNetModel", "SD15_instructpix2pix", (4, 8, 8), _UNET | dict(in_channels=8),
        extras=_image(4, 8, 8),
    ),
    TinyModel("sd2", "UNetModel", "SD20", (4, 8, 8), _SD2),
    TinyModel("sdxl", "UNetModel", "SDXL", (4, 8, 8), _SDXL, extras=_pooled(64)),
    TinyModel("koala_700m", "UNetModel", "KOALA_700M", (4, 8, 8), _KOALA, extras=_pooled(64)),
    TinyModel("lotus_d", "UNetModel", "LotusD", (4, 8, 8), _LOTUS),
    TinyModel(
        "sd_x4_upscaler", "UNetModel", "SD_X4Upscaler", (4, 8, 8), _UPSCALER,
        extras=_with(concat_image=lambda rand: rand(1, 3, 8, 8), noise_augmentation=lambda rand: 0.3),
    ),
    TinyModel("svd", "UNetModel", "SVD_img2vid", (4, 8, 8), _SVD, tokens=1, extras=_image(4, 8, 8)),  # batch = video
    TinyModel(
        "cascade_c", "StageC", "Stable_Cascade_C", (16, 8, 8), _CASCADE_C, extras=_pooled(64), time_scale=1e4,
    ),
    TinyModel(
        "cascade_b", "StageB", "Stable_Cascade_B", (4, 16, 16), _CASCADE_B, time_scale=1e4,
        extras=lambda rand, tokens: dict(pooled_output=rand(1, 1, 64), stable_cascade_prior=rand(1, 16, 4, 4)),
    ),

    # Video
    TinyModel("wan21_t2v", "WanModel", "WAN21_T2V", _VIDEO, _WAN, detected=True),
    TinyModel(
        "wan21_i2v", "WanModel", "WAN21_I2V", _VIDEO, _WAN | dict(model_type="i2v", in_dim=36),
        extras=_with(_image(*_VIDEO), clip_vision_output=_vision), detected=True,
    ),
    TinyModel(
        "wan22_5b", "WanModel", "WAN22_T2V", (48, 3, 4, 4), _WAN | dict(in_dim=48, out_dim=48), detected=True,
    ),
    TinyModel(
        "wan22_i2v", "WanModel", "WAN21_T2V", _VIDEO, _WAN | dict(in_dim=36), extras=_image(*_VIDEO), detected=True,
    ),
    TinyModel(
        "wan21_causal_ar", "CausalWanModel", "WAN21_CausalAR_T2V", _VIDEO, _WAN | dict(causal_ar=True), detected=True,
    ),
    TinyModel(
        "wan21_vace", "VaceWanModel", "WAN21_Vace", _VIDEO,
        _WAN | dict(model_type="vace", vace_layers=1, vace_in_dim=96), detected=True,
        extras=_with(
            vace_frames=lambda rand: [rand(1, 32, 3, 8, 8)], vace_mask=lambda rand: [torch.ones(1, 64, 3, 8, 8)],
            vace_strength=lambda rand: [1.0],
        ),
    ),
    TinyModel(
        "wan21_camera", "CameraWanModel", "WAN21_Camera", _VIDEO, _WAN | dict(model_type="camera", in_dim=32),
        detected=True,
        extras=_with(
            _image(*_VIDEO), clip_vision_output=_vision, camera_conditions=lambda rand: rand(1, 24, 3, 64, 64),
        ),
    ),
    TinyModel(
        "wan21_humo", "HumoWanModel", "WAN21_HuMo", _VIDEO, _WAN | dict(model_type="humo"),
        extras=_with(_reference(16, 1, 8, 8), audio_embed=lambda rand: rand(1, 3, 8, 5, 8)),
        finish=_tiny_audio_projection,
    ),
    TinyModel(
        "wan21_scail", "SCAILWanModel", "WAN21_SCAIL", _VIDEO, _WAN | dict(model_type="scail", in_dim=20),
        detected=True,
        extras=_with(
            _reference(16, 1, 8, 8), clip_vision_output=_vision, pose_video_latent=lambda rand: rand(1, 16, 3, 4, 4),
        ),
    ),
    TinyModel(
        "wan21_scail2", "SCAIL2WanModel", "WAN21_SCAIL2", _VIDEO, _WAN | dict(model_type="scail2", in_dim=20),
        detected=True,
        extras=_with(
            _reference(16, 1, 8, 8), clip_vision_output=_vision, pose_video_latent=lambda rand: rand(1, 16, 3, 4, 4),
            driving_mask_28ch=lambda rand: (rand(1, 3, 28, 4, 4) > 0).float(),
            ref_mask_28ch=lambda rand: (rand(1, 4, 28, 8, 8) > 0).float(), ref_mask_flag=lambda rand: False,
        ),
    ),
    TinyModel("wan21_flow_rvs", "WanModel", "WAN21_FlowRVS", _VIDEO, _WAN | dict(model_type="flow_rvs")),
    TinyModel(
        "wan22_s2v", "WanModel_S2V", "WAN22_S2V", _VIDEO,
        _WAN | dict(model_type="s2v", audio_dim=64, audio_inject_layers=[0, 1]), detected=True,
        extras=_with(
            _reference(16, 1, 8, 8), audio_embed=lambda rand: rand(1, 25, 64, 12),
            control_video=lambda rand: rand(1, *_VIDEO),
        ),
    ),
    TinyModel(
        "wan22_animate", "AnimateWanModel", "WAN22_Animate", _VIDEO,
        _WAN | dict(model_type="animate", in_dim=36, num_layers=5), finish=_tiny_motion_encoder,
        extras=_with(
            _image(*_VIDEO), clip_vision_output=_vision, face_video_pixels=lambda rand: rand(1, 3, 8, 16, 16),
            pose_video_latent=lambda rand: rand(1, 16, 2, 8, 8),
        ),
    ),
    *(
        TinyModel(
            name, "WanDancerModel", "WAN22_WanDancer", _VIDEO, _DANCER, detected=True,
            extras=_with(
                _image(*_VIDEO), clip_vision_output=_vision, clip_vision_output_ref=_vision,
                audio_embed=lambda rand: rand(1, 24, 35), fps=lambda rand, fps=fps: fps,
            ),
        )
        for name, fps in (("wan22_dancer", 30), ("wan22_dancer_global", 7))  # each has its own head
    ),
    TinyModel("ltxv", "LTXVModel", "LTXV", (128, 3, 4, 4), _LTXV, extras=_masked, detected=True),
    TinyModel(
        "ltxav", "LTXAVModel", "LTXAV", (128, 3, 4, 4), _LTXAV, context=128, extras=_masked, detected=True,
        more_latents=((8, 6, 16),),
    ),
    *(
        TinyModel(
            name, "NaDiT", "SeedVR2", _VIDEO, unet, context=48,
            extras=lambda rand, tokens: dict(condition=_rand(0)(1, 17, 3, 8, 8)),  # one video for both prompts
        )
        for name, unet in (("seedvr2", _SEEDVR), ("seedvr2_7b", _SEEDVR_7B))  # only one of them has a last norm
    ),
    TinyModel(
        "minimax_h3", "MiniMaxH3Model", "MiniMaxH3", (24, 2, 4, 4), _MINIMAX, context=48, detected=True,
        more_latents=((32, 2, 6),), time_scale=1.0, one_by_one=True,
    ),
    TinyModel("kandinsky5", "Kandinsky5", "Kandinsky5", _VIDEO, _KANDINSKY, extras=_pooled(64)),
    TinyModel(
        "kandinsky5_image", "Kandinsky5", "Kandinsky5Image", (16, 8, 8), _KANDINSKY | dict(visual_embed_dim=64),
        extras=_pooled(64),
    ),

    # Audio, pixels, 3D
    TinyModel(
        "ace_step", "ACEStepTransformer2DModel", "ACEStep", (8, 16, 32), _ACE, finish=_tiny_lyric_encoder,
        extras=_with(conditioning_lyrics=lambda rand: (rand(1, 6).abs() * 30).long()),
    ),
    TinyModel(
        "ace_step15", "AceStepConditionGenerationModel", "ACEStep15", (64, 40), _ACE15,
        extras=_with(conditioning_lyrics=lambda rand: rand(1, 6, 64)),
    ),
    TinyModel(
        "stable_audio", "AudioDiffusionTransformer", "StableAudio", (64, 24), _AUDIO, context=768,
        weights=lambda: _seconds("start", "total"),
    ),
    TinyModel(
        "stable_audio3", "AudioDiffusionTransformer", "StableAudio3", (16, 24), _AUDIO3, context=768,
        weights=lambda: _seconds("total"),
    ),
    TinyModel("pixeldit", "PixDiT_T2I", "PixelDiTT2I", (3, 16, 16), _PIXELDIT, finish=_slow_time),
    TinyModel(
        "pid", "PidNet", "PiD", (3, 16, 16), _PID, finish=_slow_time,
        extras=_with(lq_latent=lambda rand: rand(1, 16, 2, 2), degrade_sigma=lambda rand: torch.zeros(1)),
    ),
    TinyModel(
        "triposplat", "LatentSeqMMFlowModel", "TripoSplat", (32, 16), _TRIPOSPLAT, extras=_reference(128, 2, 2),
        more_latents=((1, 5),),
    ),
)
# fmt: on

MODELS = {model.name: model for model in _ALL}
