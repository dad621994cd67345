"""The node "Spectrum Accelerate"."""

from typing import Any

from comfy_api.latest import io

from .runtime import accelerate
from .settings import ADVANCED, COMMON, NODE, OWN, SCHEDULE, Setting, Settings, defaults, problems


def widget(setting: Setting) -> io.Input:
    """The input of a node that holds a setting."""
    common: dict[str, Any] = {
        "default": setting.default,
        "tooltip": setting.tooltip,
        "advanced": setting.advanced,
    }
    if setting.options:
        return io.Combo.Input(setting.name, options=list(setting.options), **common)
    if isinstance(setting.default, bool):
        return io.Boolean.Input(setting.name, **common)
    if isinstance(setting.default, int):
        return io.Int.Input(setting.name, min=int(setting.low), max=int(setting.high), **common)
    return io.Float.Input(setting.name, min=setting.low, max=setting.high, step=setting.step, round=0.001, **common)


def chosen_settings(node: str, schedule: dict[str, Any] | None, values: dict[str, Any]) -> Settings:
    """The settings that the inputs of a node stand for.

    Raises:
        ValueError: naming the node, the widget and what would work.
    """
    if schedule is None:  # ComfyUI drops the input where it does not know the option
        known = ", ".join(map(repr, SCHEDULE.options))
        raise ValueError(f"{node}: schedule: use one of {known}")
    chosen, own = schedule[SCHEDULE.name], {k: v for k, v in schedule.items() if k != SCHEDULE.name}
    return Settings(**{**defaults(chosen), **own, **values})


class SpectrumAccelerate(io.ComfyNode):
    """MODEL in, MODEL out: accelerated when it is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schedules = [
            io.DynamicCombo.Option(name, [widget(own) for own in OWN.get(name, ())]) for name in SCHEDULE.options
        ]
        return io.Schema(
            node_id="SpectrumAccelerate",
            display_name=NODE,
            category="model/patch",
            description=(
                "Samples with a fraction of the model evaluations: on the other steps, the model's last feature is "
                "forecast from the steps that were computed. Place it between the model loader (and LoRAs) and the "
                "sampler. What cannot be accelerated runs normally, and the node says why."
            ),
            search_aliases=[
                *("spectrum", "speed", "faster", "accelerate", "cache", "skip steps", "forecast"),
                *("teacache", "easycache", "magcache", "cache-dit", "wavespeed", "first block cache"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to accelerate."),
                *map(widget, COMMON),
                io.DynamicCombo.Input(SCHEDULE.name, options=schedules, tooltip=SCHEDULE.tooltip),
                *map(widget, ADVANCED),
            ],
            outputs=[io.Model.Output(tooltip="The same model, accelerated when it is sampled.")],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # two nodes with equal values are two nodes: each shows its own runs
        )

    @classmethod
    def validate_inputs(cls, start_percent: Any, end_percent: Any, schedule: Any = None) -> bool | str:
        """What one widget cannot know; ComfyUI itself checks the range of each of the others."""
        chosen = schedule.get(SCHEDULE.name) if isinstance(schedule, dict) else schedule
        values = {"start_percent": start_percent, "end_percent": end_percent, SCHEDULE.name: chosen}
        found = problems(values)
        return "\n".join(found) if found else True

    @classmethod
    def execute(cls, model: Any, schedule: dict[str, Any] | None = None, **values: Any) -> io.NodeOutput:
        settings = chosen_settings(NODE, schedule, values)
        return io.NodeOutput(accelerate(model, settings, str(cls.hidden.unique_id or "")))
