"""The table: diffusion class -> what a call without blocks leaves out, and where its head begins.

Data; the only logic is the look-up.

A row is found by class name along the MRO, so that a subclass inherits its parent's. Every row is proven in two ways:
by tests on ComfyUI's own class, and at run time by the self-test on the first computed evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tap:
    """Where the feature passes by.

    Attributes:
        module: dotted path below the diffusion model ("" = the model itself).
        argument: position of the feature among the call's arguments; None = the call's result is the feature.
        method: the method that is called.
    """

    module: str
    argument: int | None = 0
    method: str = "forward"


@dataclass(frozen=True)
class Architecture:
    """What to leave out and where to continue.

    Attributes:
        taps: the head's entrance; several where the model has several outputs (each that fires is used).
        blocks: dotted paths of the block containers in order of execution (`*`: each child). A list becomes empty, a
            single module None, for which a forward that has one checks. A path that a variant lacks is passed over.
        feeders: like `blocks`, for modules whose results only the blocks read or that cannot do without them.
        heavy_head: what a call without blocks still does is more than 1 % of a full call (docs/memory.md), so that
            target "auto" is the model output.
        rows_by_call: the feature's rows follow the input's only as long as conditionings are joined the same way.
        options: entries of transformer_options for a call without blocks.
    """

    taps: tuple[Tap, ...]
    blocks: tuple[str, ...] = ()
    feeders: tuple[str, ...] = ()
    heavy_head: bool = False
    rows_by_call: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


MODEL_OUTPUT = Architecture(taps=(Tap("", argument=None),))
"""The target "model output": nothing is left out but the whole call."""

DENOISED = Architecture(taps=())
"""The target "denoised latent": what the call ends with. Nothing of it runs."""

STREAMS = ("double_blocks", "single_blocks")
REFINERS = ("noise_refiner", "context_refiner")

ARCHITECTURES: dict[str, Architecture] = {
    # Flux family
    "Flux": Architecture((Tap("final_layer"),), STREAMS),
    "Chroma": Architecture((Tap("final_layer"),), STREAMS),
    "ChromaRadiance": Architecture((Tap("", 1, "forward_nerf"),), STREAMS, heavy_head=True),
    "HunyuanVideo": Architecture((Tap("final_layer"),), STREAMS, ("txt_in.individual_token_refiner.blocks",)),
    "Hunyuan3Dv2": Architecture((Tap("final_layer"),), STREAMS),
    "LensTransformer2DModel": Architecture((Tap("norm_out"),), ("transformer_blocks",)),
    # Joint image models
    "OpenAISignatureMMDITWrapper": Architecture((Tap("final_layer"),), ("joint_blocks",)),  # SD3, SD3.5
    "MMDiT": Architecture((Tap("final_linear"),), ("double_layers", "single_layers")),  # AuraFlow
    "QwenImageTransformer2DModel": Architecture((Tap("norm_out"),), ("transformer_blocks",)),
    "MageFlowTransformer2DModel": Architecture((Tap("norm_out"),), ("transformer_blocks",)),
    "JoyImageTransformer3DModel": Architecture((Tap("norm_out"),), ("double_blocks",)),
    "HiDreamImageTransformer2DModel": Architecture(
        (Tap("final_layer"),), ("double_stream_blocks", "single_stream_blocks")
    ),
    "HiDreamO1Transformer": Architecture(
        (Tap("final_layer2"),),
        ("language_model.layers",),
        # Any replacing patch turns the prompt's KV cache off, which would otherwise remember a call without blocks.
        options={"patches_replace": {"dit": {"": None}}},
    ),
    "AsymmDiTJoint": Architecture((Tap("final_layer"),), ("blocks",)),  # Mochi
    "HunYuanDiT": Architecture((Tap("final_layer"),), ("blocks",)),
    "HunYuanDiTPlain": Architecture((Tap("final_layer"),), ("blocks",), rows_by_call=True),  # Hunyuan3D 2.1
    # Single stream
    "NextDiT": Architecture((Tap("final_layer"),), ("layers",), (*REFINERS, "siglip_refiner")),  # Lumina2, Z-Image
    "NextDiTPixelSpace": Architecture(
        (Tap("dec_net.final_layer"),), ("layers", "dec_net.res_blocks"), (*REFINERS, "siglip_refiner")
    ),
    "OmniGen2Transformer2DModel": Architecture((Tap("norm_out"),), ("layers",), (*REFINERS, "ref_image_refiner")),
    "BooguTransformer2DModel": Architecture(
        (Tap("norm_out"),), ("double_stream_layers", "single_stream_layers"), (*REFINERS, "ref_image_refiner")
    ),
    "ErnieImageModel": Architecture((Tap("final_norm"),), ("layers",)),
    "Ideogram4Transformer2DModel": Architecture((Tap("final_layer"),), ("layers",)),
    "SingleStreamDiT": Architecture(  # Krea2
        (Tap("last"),), ("blocks",), ("txtfusion.layerwise_blocks", "txtfusion.refiner_blocks")
    ),
    "PixArtMS": Architecture((Tap("final_layer"),), ("blocks",)),
    "MiniTrainDIT": Architecture((Tap("final_layer"),), ("blocks",)),  # Cosmos Predict2, Anima
    "PixDiT_T2I": Architecture(  # PixelDiT, PiD
        (Tap("", 0, "_pre_pixel_blocks"),), ("patch_blocks",), heavy_head=True
    ),
    # UNets
    "UNetModel": Architecture((Tap("out"),), ("input_blocks", "middle_block", "output_blocks")),
    "StageC": Architecture((Tap("clf"),), ("down_blocks.*", "up_blocks.*")),
    "StageB": Architecture(
        (Tap("clf"),), ("down_blocks.*", "up_blocks.*"), ("down_repeat_mappers.*", "up_repeat_mappers.*")
    ),
    # Video
    "WanModel": Architecture((Tap("head"),), ("blocks",), ("vace_blocks",)),
    "WanDancerModel": Architecture((Tap("head"), Tap("head_global")), ("blocks",)),
    "LTXVModel": Architecture((Tap("norm_out"),), ("transformer_blocks",)),
    "LTXAVModel": Architecture((Tap("norm_out"), Tap("audio_norm_out")), ("transformer_blocks",)),
    "CogVideoXTransformer3DModel": Architecture((Tap("norm_final"),), ("blocks",)),
    "GeneralDIT": Architecture((Tap("final_layer"),), ("blocks.*.blocks",)),  # Cosmos 1
    # SeedVR2 swaps joined conditionings; 3B's last norm goes with the blocks, as its modulation reads their cache.
    "NaDiT": Architecture((Tap("vid_out"),), ("blocks",), ("vid_out_norm",), rows_by_call=True),
    "MiniMaxH3Model": Architecture((Tap("final_layer"),), ("blocks",), ("token_refiner.blocks",)),
    "Kandinsky5": Architecture((Tap("out_layer"),), ("visual_transformer_blocks",), ("text_transformer_blocks",)),
    # Audio, 3D
    "ACEStepTransformer2DModel": Architecture(
        (Tap("final_layer"),), ("transformer_blocks",), ("lyric_encoder.encoders",)
    ),
    "AceStepConditionGenerationModel": Architecture(
        (Tap("decoder.norm_out"),),
        ("decoder.layers",),
        (
            "encoder.lyric_encoder.layers",
            "encoder.timbre_encoder.layers",
            "tokenizer.attention_pooler.layers",
            "detokenizer.layers",
        ),
    ),
    "AudioDiffusionTransformer": Architecture((Tap("transformer.project_out"),), ("transformer.layers",)),
    "LatentSeqMMFlowModel": Architecture((Tap("out_layer"), Tap("cam_out_layer")), ("blocks",), REFINERS),  # TripoSplat
}


def find(network_class: type) -> Architecture | None:
    """The row of a diffusion class or of its nearest ancestor."""
    return next((ARCHITECTURES[c.__name__] for c in network_class.__mro__ if c.__name__ in ARCHITECTURES), None)
