"""The node "Spectrum Accelerate"."""

from typing import Any

from comfy_api.latest import io

from ..spectrum_core.calibration import Calibration
from .attach import attach
from .settings import BEFORE, NODE, SETTINGS, Setting, Settings, problems

PLAN = (
    "What Spectrum Plan gave for such a run (same model, sampler, steps and noise levels). 'balanced' then computes as "
    "many evaluations as without it, but the ones that are worth most there (the first and the tail are given); 'error "
    "control' as few as keep the tolerance."
)


def widget(setting: Setting) -> io.Input:
    """The input of a node that holds a setting."""
    common: dict[str, Any] = {
        "default": setting.default,
        "tooltip": setting.tooltip,
        "advanced": setting.advanced,
        "optional": setting.before is not None,
    }
    if setting.options:
        return io.Combo.Input(setting.name, options=list(setting.options), **common)
    if isinstance(setting.default, bool):
        return io.Boolean.Input(setting.name, **common)
    if isinstance(setting.default, int):
        return io.Int.Input(setting.name, min=int(setting.low), max=int(setting.high), **common)
    return io.Float.Input(setting.name, min=setting.low, max=setting.high, step=setting.step, round=0.001, **common)


class SpectrumAccelerate(io.ComfyNode):
    """MODEL in, MODEL out: accelerated when it is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SpectrumAccelerate",
            display_name=NODE,
            category="model/acceleration",
            description=(
                "Samples with a fraction of the network evaluations: on the others, the network's last feature is "
                "forecast from the steps that were computed. Place it between the model loader (and LoRAs) and the "
                "sampler. What cannot be accelerated runs at full quality, and the node says why."
            ),
            search_aliases=["spectrum", "speed", "cache", "faster", "teacache", "easycache", "forecast"],
            inputs=[
                io.Model.Input("model", tooltip="The model to accelerate."),
                *map(widget, SETTINGS),
                io.String.Input("plan", optional=True, force_input=True, tooltip=PLAN),
            ],
            outputs=[io.Model.Output(tooltip="The same model, accelerated when it is sampled.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start_percent: Any, end_percent: Any) -> bool | str:
        """What one widget cannot know; ComfyUI itself checks the range of each of the others."""
        found = problems({"start_percent": start_percent, "end_percent": end_percent})
        return "\n".join(found) if found else True

    @classmethod
    def execute(cls, model: Any, plan: str = "", **values: Any) -> io.NodeOutput:
        calibration = Calibration.from_json(plan) if plan.strip() else None
        node = str(cls.hidden.unique_id or "")
        return io.NodeOutput(attach(model, Settings(**{**BEFORE, **values}), node, calibration))
