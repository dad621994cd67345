"""The node "Spectrum Accelerate (Auto)": what is wanted, not how."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..spectrum_core.calibration import Calibration
from .accelerate import widget
from .attach import attach
from .settings import BALANCED, CONTROLLED, DEFAULTS, SETTINGS, Settings

NODE = "Spectrum Accelerate (Auto)"

TOLERANCES = {"balanced": 0.025, "quality": 0.01, "fast": 0.06}
"""Goal -> tolerance of error control."""

_OWN = {setting.name: setting for setting in SETTINGS}
"""The widgets of Spectrum Accelerate."""

WIDGETS = (
    replace(
        _OWN["evaluations"],
        default=15,
        tooltip="How many evaluations of the network are computed at most; they are placed where features move. "
        "Samplers that add noise may compute more.",
        low=3,
        advanced=False,
        before=None,
    ),
    replace(
        _OWN["tolerance"],
        tooltip="What the final latent may differ from the full run's, relative to itself; 0.02 is 2 %. Lower computes "
        "more. It is estimated while the picture is made, so that it means the same for every model.",
        before=None,
    ),
)
"""The goals that take a value, named as the widgets of Spectrum Accelerate that they set."""

GOAL = (
    "What to aim at. 'balanced', 'quality' and 'fast' compute as few evaluations as keep the estimated error of the "
    "final latent at 2.5 %, 1 % and 6 %. 'tolerance': at a value of your own. 'evaluations': as good as so many allow."
)
PLAN = (
    "What Spectrum Plan gave for such a run (same model, sampler, steps and noise levels): the evaluations are then "
    "the ones that are worth most there."
)


def chosen(goal: str, value: int | float | None = None) -> Settings:
    """The settings of Spectrum Accelerate that serve a goal.

    Args:
        goal: one of `TOLERANCES`, or the name of one of `WIDGETS`.
        value: of that widget.

    Raises:
        ValueError: naming widget, value and what would work.
    """
    found = [problem for own in WIDGETS if own.name == goal and (problem := own.problem(value))]
    if found:
        raise ValueError(f"{NODE}: {found[0]}")
    if goal == "evaluations":
        changes: dict[str, Any] = {"schedule": BALANCED, "evaluations": value}
    else:
        changes = {"schedule": CONTROLLED, "speedup": 1.0, "tolerance": TOLERANCES.get(goal, value)}
    return Settings(**{**DEFAULTS, **changes})


class SpectrumAuto(io.ComfyNode):
    """MODEL in, MODEL out: accelerated as far as a goal allows when it is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        options = [io.DynamicCombo.Option(goal, []) for goal in TOLERANCES]
        options += [io.DynamicCombo.Option(setting.name, [widget(setting)]) for setting in WIDGETS]
        return io.Schema(
            node_id="SpectrumAuto",
            display_name=NODE,
            category="model/acceleration",
            description=(
                "Samples with a fraction of the network evaluations, as few as a goal allows: the errors of forecasts "
                "are seen during the run and decide what is computed. Place it between the model loader (and LoRAs) "
                "and the sampler. What cannot be accelerated runs at full quality, and the node says why."
            ),
            search_aliases=["spectrum", "speed", "cache", "faster", "teacache", "easycache", "forecast", "auto"],
            inputs=[
                io.Model.Input("model", tooltip="The model to accelerate."),
                io.DynamicCombo.Input("goal", options=options, tooltip=GOAL),
                # A socket by type: the frontend takes a value of the goal for that of a forced input, and drops it.
                io.String.Input("plan", optional=True, extra_dict={"widgetType": "SOCKET"}, tooltip=PLAN),
            ],
            outputs=[io.Model.Output(tooltip="The same model, accelerated when it is sampled.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, goal: dict[str, Any] | None = None, plan: str = "") -> io.NodeOutput:
        if goal is None:  # ComfyUI drops the input where it does not know the option
            known = (*TOLERANCES, *(setting.name for setting in WIDGETS))
            raise ValueError(f"{NODE}: goal: use one of {', '.join(map(repr, known))}")
        name = goal["goal"]
        calibration = Calibration.from_json(plan) if plan.strip() else None
        return io.NodeOutput(attach(model, chosen(name, goal.get(name)), str(cls.hidden.unique_id or ""), calibration))
