"""What can be trained: a network as ComfyUI builds it, its first weights, and how it is called and fed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from demo import inprocess


@dataclass(frozen=True)
class Kind:
    """One model to train."""

    name: str
    blank: Callable[[], Any]
    """ComfyUI's model (a comfy.model_base.BaseModel) in float32; its weights may be anything."""
    load: Callable[[dict[str, torch.Tensor]], Any]
    """Weights -> MODEL, as the demo and the benchmarks load it."""
    inputs: Callable[[torch.Tensor], dict[str, Any]]
    """Pooled embeddings [n, 64] -> what the network takes beside latents, times and context."""
    silent: tuple[str, ...]
    """Names of the layers, by their ends, that begin with zeros: the network's answer, and what joins its residual.
    No names: training goes on from the weights that the model came with."""
    rate: float
    batch: int = 16
    clips: bool = False
    """Whether it draws clips rather than pictures."""

    def build(self) -> Any:
        """ComfyUI's model, ready to be trained."""
        model = self.blank()
        for name, module in model.diffusion_model.named_modules():
            if self.silent:
                _initialise(module)
            if self.silent and name.endswith(self.silent):
                for parameter in module.parameters():
                    torch.nn.init.zeros_(parameter)
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_pre_hook(_own_input)
        for name, parameter in model.diffusion_model.named_parameters():
            if self.silent and name.endswith("modulation"):  # Wan's, a parameter of no layer
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        return model


def _initialise(module: torch.nn.Module) -> None:
    """Random weights. ComfyUI's layers are made to be loaded: their own reset_parameters does nothing."""
    for base in (
        torch.nn.Linear,
        torch.nn.Conv2d,
        torch.nn.Conv3d,
        torch.nn.GroupNorm,
        torch.nn.LayerNorm,
        torch.nn.RMSNorm,
    ):
        if isinstance(module, base):
            base.reset_parameters(module)


def _own_input(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """A copy of what is to be normalised: Flux then adds to the original in place, and the norm's backward needs it."""
    return (inputs[0].clone(),)


def _from_config(config: Any) -> Any:
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "")


def _lumina(weights: dict[str, torch.Tensor]) -> Any:
    return inprocess.lumina_model(weights=weights)


def _wan(weights: dict[str, torch.Tensor]) -> Any:
    return inprocess.wan_model(weights=weights)


def _flux(weights: dict[str, torch.Tensor]) -> Any:
    return inprocess.embedded_model(weights=weights)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "unet",
            lambda: _from_config(inprocess.unet_config()),
            inprocess.unet_model,
            lambda pooled: {},
            silent=("out.2", "out_layers.3", "proj_out"),
            rate=6e-4,
        ),
        Kind(
            "vunet",
            lambda: _from_config(inprocess.vunet_config()),
            inprocess.vunet_model,
            lambda pooled: {},
            silent=("out.2", "out_layers.3", "proj_out"),
            rate=1e-3,
        ),
        Kind(
            "lumina",
            lambda: _from_config(inprocess.lumina_config()),
            _lumina,
            lambda pooled: {"num_tokens": 3},
            silent=("adaLN_modulation.0", "adaLN_modulation.1", "final_layer.linear"),
            rate=8e-4,
        ),
        Kind(
            "wan",
            lambda: _from_config(inprocess.wan_config()),
            _wan,
            lambda pooled: {},
            silent=("head.head", "time_projection.1"),
            rate=1.5e-3,
            batch=12,
            clips=True,
        ),
        Kind(
            "flux",
            lambda: inprocess.embedded_model().model,
            _flux,
            lambda pooled: {"y": pooled},
            silent=(),
            rate=6e-4,
            batch=32,
        ),
    )
}
