"""More published models by their size: every architecture of the table, for what a forecast evaluation still computes.

The sizes are those of ComfyUI's detection and the defaults of its classes; where it reads them from the weights, those
of the published weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from _geometry import FLUX, WAN, Geometry

import torch  # isort: skip
import torch.fx.experimental._config  # isort: skip

# A mask selects every token. HiDream's experts read by masks: two that read all do the work of two of four.
torch.fx.experimental._config.meta_nonzero_assume_all_nonzero = True


def _routed(network: torch.nn.Module) -> None:
    """Which experts read a token depends on values. How many do does not."""
    block: Any
    for block in network.modules():
        if hasattr(block, "moe_infer"):
            block.moe_infer = partial(_read_by, block.experts[: block.moe_top_k])


def _read_by(experts: Sequence[torch.nn.Module], tokens: torch.Tensor, **_: Any) -> torch.Tensor:
    return torch.stack([expert(tokens) for expert in experts]).sum(0)


def _one_timbre(network: torch.nn.Module) -> None:
    """How many recordings belong to a song depends on values. Here it is one."""
    encoder: Any = network.get_submodule("encoder.timbre_encoder")
    encoder.unpack_timbre_embeddings = lambda packed, _: (packed[:, None], packed.new_ones(len(packed), 1).long())


# fmt: off
_FLUX2 = FLUX | {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "hidden_size": 6144,
    "num_heads": 48, "mlp_ratio": 3.0, "depth": 8, "depth_single_blocks": 48, "context_in_dim": 15360,
    "vec_in_dim": None, "axes_dim": [32] * 4, "theta": 2000, "qkv_bias": False, "ops_bias": False,
    "global_modulation": True, "mlp_silu_act": True, "txt_ids_dims": [3],
}
_CHROMA = {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "patch_size": 2, "hidden_size": 3072,
    "num_heads": 24, "mlp_ratio": 4.0, "depth": 19, "depth_single_blocks": 38, "context_in_dim": 4096,
    "vec_in_dim": None, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "txt_ids_dims": [], "in_dim": 64,
    "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5,
}
_RADIANCE = _CHROMA | {
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4, "nerf_depth": 4, "nerf_max_freqs": 8, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": False, "use_sequential_txt_ids": False,
}
_HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
    "hidden_size": 3072, "num_heads": 24, "mlp_ratio": 4.0, "depth": 20, "depth_single_blocks": 40,
    "context_in_dim": 4096, "vec_in_dim": 768, "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True,
    "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}
_HUNYUAN_IMAGE = _HUNYUAN_VIDEO | {
    "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "hidden_size": 3584, "num_heads": 28,
    "context_in_dim": 3584, "vec_in_dim": None, "axes_dim": [64, 64], "guidance_embed": False, "byt5": True,
}
_SD35_LARGE = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 38, "input_size": None, "adm_in_channels": 2048,
    "num_patches": 192 * 192, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None, "qk_norm": "rms",
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432},
    },
}
_JOYIMAGE = {"image_model": "joyimage", "hidden_size": 4096, "num_layers": 40, "num_attention_heads": 32}
_HIDREAM = {
    "image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 16,
    "num_single_layers": 32, "attention_head_dim": 128, "num_attention_heads": 20, "caption_channels": [4096, 4096],
    "text_emb_dim": 2048, "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": [64, 32, 32],
    "max_resolution": [128, 128], "llama_layers": [*range(32), *[31] * 16],
}
_MOCHI = {
    "image_model": "mochi_preview", "in_channels": 12, "patch_size": 2, "hidden_size_x": 3072, "hidden_size_y": 1536,
    "depth": 48, "num_heads": 24, "mlp_ratio_x": 4.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "use_t5": True,
    "t5_feat_dim": 4096, "t5_token_length": 256, "timestep_scale": 1000.0, "posenc_preserve_area": True,
    "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "rope_theta": 10000.0,
}
_HUNYUAN_DIT = {
    "image_model": "hydit", "hidden_size": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 4.3637, "input_size": None,
}
_HUNYUAN3D21 = {
    "image_model": "hunyuan3d2_1", "in_channels": 64, "context_dim": 1024, "hidden_size": 2048, "depth": 21,
    "mlp_ratio": 4.0, "num_heads": 16, "qkv_bias": False, "guidance_cond_proj_dim": None,
}
_LUMINA2 = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 2304, "cap_feat_dim": 2304, "n_layers": 26,
    "n_refiner_layers": 2, "n_heads": 24, "n_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": 4.0,
    "qk_norm": True, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "rope_theta": 10000.0,
}
_ZIMAGE_PIXEL = {
    "image_model": "zimage_pixel", "patch_size": 32, "in_channels": 3, "dim": 3840, "cap_feat_dim": 2560,
    "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "multiple_of": 256,
    "ffn_dim_multiplier": 8 / 3, "qk_norm": True, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0, "decoder_in_channels": 3072,
}
_OMNIGEN2 = {
    "image_model": "omnigen2", "patch_size": 2, "in_channels": 16, "hidden_size": 2520, "num_layers": 32,
    "num_refiner_layers": 2, "num_attention_heads": 21, "num_kv_heads": 7, "multiple_of": 256,
    "axes_dim_rope": (40, 40, 40), "axes_lens": (1024, 1664, 1664), "text_feat_dim": 2048, "timestep_scale": 1000.0,
}
_PIXART = {
    "image_model": "pixart_sigma", "in_channels": 4, "patch_size": 2, "hidden_size": 1152, "depth": 28,
    "num_heads": 16, "caption_channels": 4096, "model_max_length": 300, "micro_condition": False, "input_size": 128,
    "pe_interpolation": 2,
}
_COSMOS = {
    "image_model": "cosmos", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 4096,
    "num_blocks": 28, "num_heads": 32, "crossattn_emb_channels": 1024, "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD", "pos_emb_cls": "rope3d", "affline_emb_norm": True, "use_adaln_lora": True,
    "adaln_lora_dim": 256, "rope_t_extrapolation_ratio": 2.0, "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_COSMOS2 = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 2048,
    "num_blocks": 28, "num_heads": 16, "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 256, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_enable_fps_modulation": False,
}
_SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768, "num_heads": 8,
    "adm_in_channels": None, "use_linear_in_transformer": False, "use_checkpoint": False,
    "use_temporal_attention": False, "use_spatial_transformer": True, "legacy": False,
}
_COGVIDEO = {
    "image_model": "cogvideox", "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 16,
    "out_channels": 16, "time_embed_dim": 512, "text_embed_dim": 4096, "num_layers": 42,
    "use_rotary_positional_embeddings": True,
}
_SEEDVR2 = {
    "image_model": "seedvr2", "vid_dim": 2560, "heads": 20, "num_layers": 32, "norm_eps": 1e-5, "mlp_type": "swiglu",
    "vid_out_norm": True,
}
_KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": 1792, "time_dim": 512, "ff_dim": 7168, "visual_embed_dim": 132,
    "num_text_blocks": 2, "num_visual_blocks": 32, "axes_dims": (16, 24, 24),
}
_ACE = {
    "audio_model": "ace", "attention_head_dim": 128, "in_channels": 8, "inner_dim": 2560, "max_height": 16,
    "max_position": 32768, "max_width": 32768, "mlp_ratio": 2.5, "num_attention_heads": 20, "num_layers": 24,
    "out_channels": 8, "patch_size": [16, 1], "rope_theta": 1000000.0, "speaker_embedding_dim": 512,
    "text_embedding_dim": 768, "ssl_encoder_depths": [8, 8], "ssl_latent_dims": [1024, 768],
    "ssl_names": ["mert", "m-hubert"], "lyric_encoder_vocab_size": 6693, "lyric_hidden_size": 1024,
}
_AUDIO = {
    "audio_model": "dit1.0", "embed_dim": 1536, "num_heads": 24, "depth": 24, "project_cond_tokens": False,
    "global_cond_dim": 1536, "timestep_features_type": "learned",
}

_VIDEO = (16, 21, 60, 104)  # 832 x 480, 81 frames

MORE_GEOMETRIES = (
    # Flux family
    Geometry(
        "FLUX.2 dev, 1024 x 1024", "comfy.ldm.flux.model", "Flux", _FLUX2, (128, 64, 64), (512, 15360), cfg=False,
        extras={"guidance": ()},
    ),
    Geometry(
        "Chroma1, 1024 x 1024", "comfy.ldm.chroma.model", "Chroma", _CHROMA, (16, 128, 128), (512, 4096),
        extras={"guidance": ()},
    ),
    Geometry(
        "Chroma1 Radiance, 1024 x 1024", "comfy.ldm.chroma_radiance.model", "ChromaRadiance", _RADIANCE,
        (3, 1024, 1024), (512, 4096), extras={"guidance": ()},
        note="A small network, which the feature sets up, draws the pixels of each patch.",
    ),
    Geometry(
        "HunyuanVideo, 1280 x 720, 129 frames", "comfy.ldm.hunyuan_video.model", "HunyuanVideo", _HUNYUAN_VIDEO,
        (16, 33, 90, 160), (256, 4096), cfg=False, extras={"y": (768,), "guidance": ()},
    ),
    Geometry(
        "HunyuanImage 2.1, 2048 x 2048", "comfy.ldm.hunyuan_video.model", "HunyuanVideo", _HUNYUAN_IMAGE,
        (64, 64, 64), (512, 3584), extras={"txt_byt5": (128, 1472)},
    ),
    Geometry(
        "Hunyuan3D 2.0, 3072 points", "comfy.ldm.hunyuan3d.model", "Hunyuan3Dv2", {}, (64, 3072), (1370, 1536),
    ),
    Geometry(
        "Lens, 1024 x 1024", "comfy.ldm.lens.model", "LensTransformer2DModel", {}, (128, 64, 64), (256, 4 * 2880)
    ),
    # Joint image models
    Geometry(
        "Stable Diffusion 3.5 Large, 1024 x 1024", "comfy.ldm.modules.diffusionmodules.mmdit",
        "OpenAISignatureMMDITWrapper", _SD35_LARGE, (16, 128, 128), (154, 4096), extras={"y": (2048,)},
    ),
    Geometry(
        "AuraFlow 0.3, 1024 x 1024", "comfy.ldm.aura.mmdit", "MMDiT", {"max_seq": 96 * 96}, (4, 128, 128), (256, 2048)
    ),
    Geometry(
        "Mage-Flow, 1024 x 1024", "comfy.ldm.mage_flow.model", "MageFlowTransformer2DModel", {}, (128, 64, 64),
        (256, 2560),
    ),
    Geometry(
        "JoyAI-Image, 1024 x 1024", "comfy.ldm.joyimage.model", "JoyImageTransformer3DModel", _JOYIMAGE,
        (16, 1, 128, 128), (256, 4096),
    ),
    Geometry(
        "HiDream-I1, 1024 x 1024", "comfy.ldm.hidream.model", "HiDreamImageTransformer2DModel", _HIDREAM,
        (16, 128, 128), (128, 4096), extras={"y": (2048,), "encoder_hidden_states_llama3": (32, 128, 4096)},
    ),
    Geometry(  # computes the prompt in every call: its cache compares values
        "HiDream-O1, 2048 x 2048", "comfy.ldm.hidream_o1.model", "HiDreamO1Transformer", {}, (3, 2048, 2048),
        (128, 4096), ids={"input_ids": (128,), "position_ids": (3, 128 + 64 * 64)}, more={"ar_len": 127},
    ),
    Geometry(
        "Mochi 1, 848 x 480, 163 frames", "comfy.ldm.genmo.joint_model.asymm_models_joint", "AsymmDiTJoint", _MOCHI,
        (12, 28, 60, 106), (256, 4096), ids={"attention_mask": (256,)}, more={"num_tokens": 256},
    ),
    Geometry(
        "HunyuanDiT 1.2, 1024 x 1024", "comfy.ldm.hydit.models", "HunYuanDiT", _HUNYUAN_DIT, (4, 128, 128),
        (77, 1024), extras={
            "text_embedding_mask": (77,), "encoder_hidden_states_t5": (256, 2048), "text_embedding_mask_t5": (256,),
            "image_meta_size": (6,),
        },
    ),
    Geometry(
        "Hunyuan3D 2.1, 4096 points", "comfy.ldm.hunyuan3dv2_1.hunyuandit", "HunYuanDiTPlain", _HUNYUAN3D21,
        (64, 4096), (1370, 1024), finish=_routed,
    ),
    # Single stream
    Geometry(
        "Lumina-Image 2.0, 1024 x 1024", "comfy.ldm.lumina.model", "NextDiT", _LUMINA2, (16, 128, 128), (256, 2304),
        more={"num_tokens": 256},
    ),
    Geometry(
        "Zeta-Chroma, 1024 x 1024", "comfy.ldm.lumina.model", "NextDiTPixelSpace", _ZIMAGE_PIXEL, (3, 1024, 1024),
        (256, 2560), more={"num_tokens": 256},
    ),
    Geometry(
        "OmniGen2, 1024 x 1024", "comfy.ldm.omnigen.omnigen2", "OmniGen2Transformer2DModel", _OMNIGEN2,
        (16, 128, 128), (256, 2048), more={"num_tokens": 256},
    ),
    Geometry(
        "Boogu-Image, 1024 x 1024", "comfy.ldm.boogu.model", "BooguTransformer2DModel", {}, (16, 128, 128),
        (256, 4096), more={"num_tokens": 256},
    ),
    Geometry(
        "ERNIE-Image, 1024 x 1024", "comfy.ldm.ernie.model", "ErnieImageModel", {}, (128, 64, 64), (256, 3072)
    ),
    Geometry(
        "Ideogram 4, 1024 x 1024", "comfy.ldm.ideogram4.model", "Ideogram4Transformer2DModel", {}, (128, 64, 64),
        (256, 53248),
    ),
    Geometry(
        "Krea 2, 1024 x 1024", "comfy.ldm.krea2.model", "SingleStreamDiT", {}, (16, 1, 128, 128), (256, 12 * 2560)
    ),
    Geometry(
        "PixArt-Sigma, 1024 x 1024", "comfy.ldm.pixart.pixartms", "PixArtMS", _PIXART, (4, 128, 128), (300, 4096)
    ),
    Geometry(
        "Cosmos Predict2 2B, 1024 x 1024", "comfy.ldm.cosmos.predict2", "MiniTrainDIT", _COSMOS2, (16, 1, 128, 128),
        (512, 1024),
    ),
    Geometry(
        "PixelDiT, 1024 x 1024", "comfy.ldm.pixeldit.model", "PixDiT_T2I", {}, (3, 1024, 1024), (300, 2304),
        note="Two layers that work on pixels follow the blocks. They are part of the head.",
    ),
    Geometry(
        "PiD, 2048 x 2048", "comfy.ldm.pixeldit.pid", "PidNet", {}, (3, 2048, 2048), (300, 2304), cfg=False,
        extras={"lq_latent": (16, 64, 64), "degrade_sigma": ()},
        note="The same two layers run, and those that read the small picture.",
    ),
    # UNets
    Geometry(
        "Stable Diffusion 1.5, 512 x 512", "comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel", _SD15,
        (4, 64, 64), (77, 768),
    ),
    Geometry(
        "Stable Cascade (stage C), 1024 x 1024", "comfy.ldm.cascade.stage_c", "StageC", {}, (16, 24, 24), (),
        extras={
            "clip_text": (77, 1280), "clip_text_pooled": (1, 1280), "clip_img": (1, 768), "sca": (), "crp": (),
        },
    ),
    Geometry(
        "Stable Cascade (stage B), 1024 x 1024", "comfy.ldm.cascade.stage_b", "StageB", {}, (4, 256, 256), (),
        cfg=False, extras={"clip": (1, 1280), "effnet": (16, 24, 24), "sca": ()},
    ),
    # Video
    Geometry(
        "Wan 2.2 Animate 14B, 832 x 480, 81 frames", "comfy.ldm.wan.model_animate", "AnimateWanModel",
        WAN | {"in_dim": 36}, (36, *_VIDEO[1:]), (512, 4096), extras={
            "clip_fea": (257, 1280), "face_pixel_values": (3, 77, 512, 512), "pose_latents": (16, 20, 60, 104),
        },
    ),
    Geometry(
        "Wan 2.1 VACE 14B, 832 x 480, 81 frames", "comfy.ldm.wan.model", "VaceWanModel",
        WAN | {"vace_layers": 8, "vace_in_dim": 96}, _VIDEO, (512, 4096),
        extras={"vace_context": (1, 96, *_VIDEO[1:])}, more={"vace_strength": [1.0]},
    ),
    Geometry(
        "Wan 2.2 S2V 14B, 832 x 480, 81 frames", "comfy.ldm.wan.model", "WanModel_S2V", WAN, _VIDEO, (512, 4096),
        extras={
            "reference_latent": (16, 1, 60, 104), "audio_embed": (25, 1024, 84), "control_video": _VIDEO,
        },
    ),
    Geometry(
        "HuMo 17B, 832 x 480, 97 frames", "comfy.ldm.wan.model", "HumoWanModel", WAN, (16, 25, 60, 104),
        (512, 4096), extras={"reference_latent": (16, 1, 60, 104), "audio_embed": (25, 8, 5, 1280)},
    ),
    Geometry(
        "WanDancer 14B, 832 x 480, 81 frames", "comfy.ldm.wan.model_wandancer", "WanDancerModel",
        WAN | {"in_dim": 36}, (36, *_VIDEO[1:]), (512, 4096), extras={
            "clip_fea": (257, 1280), "clip_fea_ref": (257, 1280), "audio_embed": (81, 35),
        },
    ),
    Geometry(
        "LTX-2, 1280 x 704, 121 frames", "comfy.ldm.lightricks.av_model", "LTXAVModel", {"image_model": "ltxav"},
        (128, 16, 22, 40), (1024, 2 * 3840), more_latents=((8, 126, 16),), more={"attention_mask": None},
    ),
    Geometry(
        "CogVideoX 5B, 720 x 480, 49 frames", "comfy.ldm.cogvideo.model", "CogVideoXTransformer3DModel", _COGVIDEO,
        (16, 13, 60, 90), (226, 4096),
    ),
    Geometry(
        "Cosmos 1 7B, 1280 x 704, 121 frames", "comfy.ldm.cosmos.model", "GeneralDIT", _COSMOS, (16, 16, 88, 160),
        (512, 1024),
    ),
    Geometry(
        "SeedVR2 3B, 1280 x 720, 21 frames", "comfy.ldm.seedvr.model", "NaDiT", _SEEDVR2, (16, 6, 90, 160),
        (58, 5120), extras={"condition": (17, 6, 90, 160)},
    ),
    Geometry(
        "MiniMax H3, 1280 x 704, 121 frames", "comfy.ldm.minimax.model", "MiniMaxH3Model", {}, (24, 16, 44, 80),
        (256, 5376), cfg=False, more_latents=((32, 2, 126),), reads_time=True,
    ),
    Geometry(
        "Kandinsky 5.0 Lite, 768 x 512, 121 frames", "comfy.ldm.kandinsky5.model", "Kandinsky5", _KANDINSKY,
        (33, 31, 64, 96), (256, 3584), extras={"y": (768,)},
    ),
    # Audio, 3D
    Geometry(
        "ACE-Step 1.0, 60 s", "comfy.ldm.ace.model", "ACEStepTransformer2DModel", _ACE, (8, 16, 646), (64, 768),
        extras={"speaker_embeds": (512,)}, ids={"lyric_token_idx": (512,)},
    ),
    Geometry(
        "ACE-Step 1.5, 60 s", "comfy.ldm.ace.ace_step15", "AceStepConditionGenerationModel", {}, (64, 1500),
        (64, 1024), extras={"lyric_embed": (512, 1024), "refer_audio": (64, 1500)}, built_on="cpu",
        finish=_one_timbre, more={"is_covers": False},
    ),
    Geometry(
        "Stable Audio Open 1.0, 47 s", "comfy.ldm.audio.dit", "AudioDiffusionTransformer", _AUDIO, (64, 1024),
        (130, 768), extras={"global_embed": (1536,)},
    ),
    Geometry(
        "TripoSplat, 8192 points", "comfy.ldm.triposplat.model", "LatentSeqMMFlowModel", {}, (8192, 16),
        (4101, 1280), more_latents=((1, 5),), lists={"ref_latents": ((128, 64, 64),)},
    ),
)
# fmt: on
