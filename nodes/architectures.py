"""The table: diffusion class -> what a call without blocks leaves out, and where its head begins.

Data; the only logic is the look-up.

A row is found by class name along the MRO, so that a subclass inherits its parent's. Every row is proven in two ways:
by tests on ComfyUI's own class, and at run time by the self-test on the first computed evaluation.
"""

from dataclasses import dataclass


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
        blocks: dotted paths of the block containers in order of execution: a list becomes empty, a single module
            becomes None (the model's own forward checks for that). A path that a variant lacks is passed over.
        feeders: like `blocks`, for modules whose results only the blocks read.
    """

    taps: tuple[Tap, ...]
    blocks: tuple[str, ...] = ()
    feeders: tuple[str, ...] = ()


MODEL_OUTPUT = Architecture(taps=(Tap("", argument=None),))
"""The target "model output": nothing is left out but the whole call."""

UNET = ("input_blocks", "middle_block", "output_blocks")

ARCHITECTURES: dict[str, Architecture] = {
    # Flux family
    "Flux": Architecture((Tap("final_layer"),), ("double_blocks", "single_blocks")),
    "Chroma": Architecture((Tap("final_layer"),), ("double_blocks", "single_blocks")),
    "HunyuanVideo": Architecture(
        (Tap("final_layer"),), ("double_blocks", "single_blocks"), ("txt_in.individual_token_refiner.blocks",)
    ),
    # Joint image models
    "OpenAISignatureMMDITWrapper": Architecture((Tap("final_layer"),), ("joint_blocks",)),
    "QwenImageTransformer2DModel": Architecture((Tap("norm_out"),), ("transformer_blocks",)),
    "HiDreamImageTransformer2DModel": Architecture(
        (Tap("final_layer"),), ("double_stream_blocks", "single_stream_blocks")
    ),
    # Single stream
    "NextDiT": Architecture((Tap("final_layer"),), ("layers",), ("noise_refiner", "context_refiner", "siglip_refiner")),
    "MiniTrainDIT": Architecture((Tap("final_layer"),), ("blocks",)),
    # UNets
    "UNetModel": Architecture((Tap("out"),), UNET),
    # Video
    "WanModel": Architecture((Tap("head"),), ("blocks",)),
    "LTXVModel": Architecture((Tap("norm_out"),), ("transformer_blocks",)),
}


def find(network_class: type) -> Architecture | None:
    """The row of a diffusion class or of its nearest ancestor."""
    return next((ARCHITECTURES[c.__name__] for c in network_class.__mro__ if c.__name__ in ARCHITECTURES), None)
