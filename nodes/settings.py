"""What the widgets of Spectrum Accelerate hold: one table for the node's schema, the checks and the defaults."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..spectrum_core.forecast import INTERCEPTS, Forecaster, Intercept
from ..spectrum_core.schedule import (
    LEAST,
    FixedInterval,
    GrowingInterval,
    Schedule,
    balanced,
    budget,
    controlled,
)

TARGETS = BLOCK_OUTPUT, RAW_OUTPUT = "block output", "model output"
DENOISED_LATENT = "denoised latent"
"""The target of samplers that add noise, whatever was chosen."""
SCHEDULES = BALANCED, GROWING, CONTROLLED = "balanced", "growing interval", "error control"
NODE = "Spectrum Accelerate"


@dataclass(frozen=True)
class Setting:
    """One widget.

    Attributes:
        name: the widget's name.
        default: its value in a new node; its type is the widget's type.
        tooltip: effect, and when to change it.
        low, high: smallest and largest value of a number.
        step: what the arrows of a number add.
        options: the values of a combo.
        advanced: shown under "advanced" only.
        before: what a workflow that was saved before this widget existed runs with; None for the first widgets.
    """

    name: str
    default: int | float | str | bool
    tooltip: str
    low: float = 0
    high: float = 0
    step: float = 1
    options: tuple[str, ...] = ()
    advanced: bool = False
    before: int | float | str | bool | None = None

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value and what would work, or None."""
        if self.options:
            if value in self.options:
                return None
            return f"{self.name} = {value!r}: use one of {', '.join(map(repr, self.options))}"
        if isinstance(self.default, bool):
            return None if isinstance(value, bool) else f"{self.name} = {value!r}: use true or false"
        whole = isinstance(self.default, int)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if number and math.isfinite(value) and self.low <= value <= self.high:
            return None
        kind = "a whole number" if whole else "a number"
        return f"{self.name} = {value!r}: use {kind} from {self.low:g} to {self.high:g}"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "degree",
        2,
        "Highest degree of the Chebyshev polynomial through the computed features. Higher follows faster changes and "
        "amplifies noise more; it drops by itself when there are too few points. The paper uses 4.",
        1,
        8,
    ),
    Setting(
        "window",
        3,
        "How many of the most recent computed features a forecast uses, and so how many are held in memory. degree + 1 "
        "follows them exactly; more smooths. The paper uses all.",
        2,
        64,
    ),
    Setting(
        "skip_interval",
        2.0,
        "With schedule 'growing interval': evaluations from one computed one to the next, at first (after the "
        "warm-up). Higher is faster and less faithful; 1 never forecasts.",
        1,
        16,
        0.5,
    ),
    Setting(
        "growth",
        0.75,
        "With schedule 'growing interval': added to the interval after each computed evaluation, as in the paper; the "
        "run speeds up as it goes. 0 keeps the interval fixed. Lower it when late details suffer.",
        0,
        8,
        0.05,
    ),
    Setting(
        "warmup",
        1,
        "Evaluations computed at the start, where composition is decided. Raise it when the composition drifts. "
        "'balanced' gives it 2 or at most a third of what it computes. The paper uses 5.",
        1,
        100,
    ),
    Setting(
        "tail",
        1,
        "Evaluations computed at the end, where features move fastest and fine detail is decided. Raise it when fine "
        "detail suffers. The paper uses 0.",
        0,
        100,
    ),
    Setting(
        "ridge",
        0.0,
        "Damping of the polynomial fit. 0 follows the computed features exactly; raise it (with a larger window) when "
        "pictures get noisy. The paper uses 0.1.",
        0,
        10,
        0.01,
        advanced=True,
    ),
    Setting(
        "blend",
        0.5,
        "Share of the polynomial forecast; the rest is straight-line extrapolation from the last two computed "
        "features. Raise it when features change smoothly (no CFG), lower it when pictures get noisy. The paper uses "
        "0.5 too.",
        0,
        1,
        0.05,
        advanced=True,
    ),
    Setting(
        "intercept",
        "paper",
        "Whether the ridge also damps the constant term. 'free': no, a constant feature stays exact. 'paper': yes, as "
        "in the official code. No difference while ridge is 0.",
        options=INTERCEPTS,
        advanced=True,
    ),
    Setting(
        "target",
        "block output",
        "What is forecast. 'block output': the last hidden feature, and the model's own head runs on every evaluation "
        "(the paper's). 'model output': the network's raw output; holds far less memory (one latent an entry) and "
        "works on every model. With samplers that add noise (ancestral, SDE) it is always the denoised latent.",
        options=TARGETS,
        advanced=True,
    ),
    Setting(
        "start_percent",
        0.0,
        "Part of the denoising (as in ComfyUI's other percent widgets) before which everything is computed.",
        0,
        1,
        0.01,
        advanced=True,
    ),
    Setting(
        "end_percent",
        1.0,
        "Part of the denoising after which everything is computed.",
        0,
        1,
        0.01,
        advanced=True,
    ),
    Setting(
        "schedule",
        BALANCED,
        "Which evaluations are computed. 'balanced': 1 of `speedup`, placed where features move: gaps grow out of the "
        "warm-up and shrink toward the end. 'error control': as few as keep the estimated error at `tolerance`. "
        "'growing interval': the paper's, from skip_interval and growth.",
        options=SCHEDULES,
        before=GROWING,
    ),
    Setting(
        "speedup",
        3.3,
        "With schedule 'balanced': how many times fewer evaluations are computed, at least; but never fewer than 5, "
        "nor than twice the square root of the steps (8 of 20), and once the estimated error is above 20 %, the rest "
        "is computed. Higher is faster and less faithful; 1 never forecasts. "
        "With 'error control' the least that is asked for, whatever the error; 1 asks for nothing.",
        1,
        16,
        0.1,
        before=3.3,
    ),
    Setting(
        "tolerance",
        0.02,
        "With schedule 'error control': what the final latent may differ from the full run's, relative to itself; 0.02 "
        "is 2 %. Lower computes more. It is estimated while the picture is made, so that it means the same for every "
        "model.",
        0.001,
        1,
        0.005,
        before=0.02,
    ),
    Setting(
        "evaluations",
        0,
        "With schedules 'balanced' and 'error control': how many evaluations are computed at most, instead of what "
        "`speedup` says. 0: by `speedup`.",
        0,
        1000,
        advanced=True,
        before=0,
    ),
    Setting(
        "correct",
        True,
        "Whether the sampler is told, when the next evaluation was computed, what the forecasts before it should have "
        "been. Costs nothing and brings the picture nearer to the full run's; samplers of other packs ignore it. The "
        "paper does without.",
        advanced=True,
        before=False,
    ),
)


def problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with widget values; values that are absent or None (linked inputs) are not judged."""
    found = [
        text
        for setting in SETTINGS
        if values.get(setting.name) is not None and (text := setting.problem(values[setting.name]))
    ]
    start, end = values.get("start_percent"), values.get("end_percent")
    if not found and start is not None and end is not None and start >= end:
        found.append(f"start_percent = {start:g} is not below end_percent = {end:g}: nothing would be forecast")
    if values.get("schedule") == CONTROLLED and values.get("correct") is False:
        found.append(f"schedule = {CONTROLLED!r} needs correct = true: the corrector sees the errors")
    return [f"{NODE}: {text}" for text in found]


@dataclass(frozen=True)
class Settings:
    """The values of one node, checked.

    Raises:
        ValueError: naming widget, value and what would work.
    """

    degree: int
    window: int
    skip_interval: float
    growth: float
    warmup: int
    tail: int
    ridge: float
    blend: float
    intercept: Intercept
    target: str
    start_percent: float
    end_percent: float
    schedule: str
    speedup: float
    correct: bool
    tolerance: float
    evaluations: int

    def __post_init__(self) -> None:
        found = problems(self.to_dict())
        if found:
            raise ValueError("\n".join(found))

    def to_dict(self) -> dict[str, int | float | str]:
        """Widget name to value."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def forecaster(self) -> Forecaster:
        """The forecast that these values describe."""
        return Forecaster(self.degree, self.window, self.ridge, self.blend, self.intercept)

    def pace(self) -> tuple[str, float]:
        """Name and value of the widget that says how much is forecast; 1 is nothing."""
        if self.schedule == GROWING:
            return "skip_interval", self.skip_interval
        if self.schedule == BALANCED and not self.evaluations:
            return "speedup", self.speedup
        return ("evaluations", math.inf) if self.evaluations else ("tolerance", math.inf)

    def scheduled(
        self, times: Sequence[float], most: float = math.inf, stages: int = 1, measured: bool = True
    ) -> Schedule:
        """The schedule that these values describe.

        Args:
            times: see `balanced`.
            most: the highest speed-up that the sampler bears; where that is limited, the schedule is as `balanced`
                with a long warm-up.
            stages: evaluations of a step.
            measured: whether errors are seen during the run; without, error control is as `balanced`.
        """
        total = max(0, len(times) - 1)
        count = budget(total, self.speedup, max(1, self.evaluations // stages) if self.evaluations else 0)
        if most < math.inf:
            count = max(count, min(total, math.ceil(total / most)))
            # Fresh noise decides early which picture it becomes: the warm-up is as long as may be.
            return balanced(times, count, max(self.warmup, count // 3), self.tail)
        if self.schedule == CONTROLLED and measured and total > LEAST:
            return controlled(times, self.tolerance, count, self.warmup, self.tail)
        if self.schedule in (BALANCED, CONTROLLED):
            return balanced(times, count, self.warmup, self.tail)
        if self.growth == 0:
            return FixedInterval(self.warmup, self.tail, self.skip_interval)
        return GrowingInterval(self.warmup, self.tail, self.skip_interval, self.growth)


DEFAULTS: dict[str, int | float | str] = {setting.name: setting.default for setting in SETTINGS}

BEFORE: dict[str, int | float | str] = {s.name: s.before for s in SETTINGS if s.before is not None}
"""What a workflow ran with that was saved before these widgets existed."""
