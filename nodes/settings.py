"""What the widgets of Spectrum Accelerate hold: one table for the node's schema, the checks and the defaults."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..spectrum_core.forecast import INTERCEPTS, Forecaster, Intercept
from ..spectrum_core.messages import Message, Text, say
from ..spectrum_core.schedule import SCHEDULES, Adaptive, FixedInterval, GrowingInterval, Plan, Request, Schedule

NODE = "Spectrum Accelerate"
TARGETS = AUTO, BLOCK_OUTPUT, RAW_OUTPUT = "auto", "block output", "model output"
DENOISED_LATENT = "denoised latent"
"""The target of samplers that add noise, whatever was chosen."""
ADAPTIVE, PAPER, FIXED = Adaptive.name, GrowingInterval.name, FixedInterval.name


@dataclass(frozen=True)
class Setting:
    """One widget.

    Attributes:
        name: the widget's name.
        default: its value in a new node; its type is the widget's type.
        tooltip: effect, and when to change it; at most 30 words.
        low, high: smallest and largest value of a number.
        step: what the arrows of a number add.
        options: the values of a combo.
        advanced: shown under "advanced" only.
    """

    name: str
    default: int | float | str | bool
    tooltip: str
    low: float = 0
    high: float = 0
    step: float = 1
    options: tuple[str, ...] = ()
    advanced: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value and what would work, or None."""
        if self.options:
            if isinstance(value, str) and value in self.options:
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


SKIP_INTERVAL = Setting(
    "skip_interval",
    3.3,
    "On average, one of this many steps is computed. Higher is faster and less faithful; 1 computes every step. "
    "Short runs and cfg above 2 compute more.",
    1,
    16,
    0.1,
)
DEGREE = Setting(
    "degree",
    2,
    "Highest degree of the Chebyshev polynomials. Higher follows faster changes and amplifies noise. The paper uses 4.",
    1,
    8,
)
WINDOW = Setting(
    "window",
    3,
    "Computed features that a forecast uses; all of them are held in memory. The paper uses all.",
    2,
    64,
)
EVALUATIONS = Setting(
    "evaluations",
    0,
    "Model evaluations to compute, at least 3. Samplers that add noise compute more. 0 uses skip_interval.",
    0,
    1000,
)
WARMUP = Setting(
    "warmup",
    1,
    "Steps computed at the start. Raise it when the composition drifts.",
    1,
    100,
)
GROWTH = Setting(
    "growth",
    0.75,
    "Added to the interval after each computed step. Lower it when late details suffer.",
    0,
    8,
    0.05,
)
RIDGE = Setting("ridge", 0.1, "Damping of the polynomial fit. Raise it when pictures get noisy.", 0, 10, 0.01)
BLEND = Setting(
    "blend",
    0.5,
    "Share of the polynomial forecast; the rest is a straight line through the last two computed features.",
    0,
    1,
    0.05,
)
INTERCEPT = Setting(
    "intercept",
    "paper",
    "Whether the ridge damps the constant term too: as in the official code (paper), or not (free).",
    options=INTERCEPTS,
)
TAIL = Setting(
    "tail",
    1,
    "Steps computed at the end. Raise it when fine detail suffers. The paper uses 0.",
    0,
    100,
    advanced=True,
)
TARGET = Setting(
    "target",
    AUTO,
    "What is forecast. Block output: the last hidden feature. Model output: needs far less memory. Auto: block output "
    "unless it needs much memory.",
    options=TARGETS,
    advanced=True,
)
CORRECT = Setting(
    "correct",
    True,
    "When a step is computed, correct the error of the forecasts before it. Needs no extra evaluation. "
    "Off in the paper.",
    advanced=True,
)
START = Setting(
    "start_percent", 0.0, "Compute every step before this part of the denoising.", 0, 1, 0.01, advanced=True
)
END = Setting("end_percent", 1.0, "Compute every step after this part of the denoising.", 0, 1, 0.01, advanced=True)

COMMON = (SKIP_INTERVAL, DEGREE, WINDOW)
"""The first widgets of the node."""

OWN: dict[str, tuple[Setting, ...]] = {
    ADAPTIVE: (EVALUATIONS, WARMUP),
    PAPER: (GROWTH, Setting("warmup", 5, WARMUP.tooltip, 1, 100), RIDGE, BLEND, INTERCEPT),
    FIXED: (Setting("warmup", 3, WARMUP.tooltip, 1, 100),),
}
"""The widgets that a schedule brings."""

ADVANCED = (TAIL, TARGET, CORRECT, START, END)
"""The last widgets of the node."""

SCHEDULE = Setting(
    "schedule",
    ADAPTIVE,
    "Which steps are computed. Adaptive: where this model changes most. Paper: intervals that grow. Fixed interval: "
    "evenly spaced.",
    options=tuple(SCHEDULES),
)

UNUSED: dict[str, int | float | str] = {
    "evaluations": 0,
    "growth": 0.0,
    "ridge": 0.0,
    "blend": 0.5,
    "intercept": "paper",
}
"""Values of the widgets that a schedule does not bring."""


def all_settings(schedule: str) -> tuple[Setting, ...]:
    """The widgets that the node shows with a schedule."""
    return (*COMMON, SCHEDULE, *OWN.get(schedule, ()), *ADVANCED)


def defaults(schedule: str = ADAPTIVE) -> dict[str, int | float | str | bool]:
    """Widget name to value of a new node with a schedule; with those that it does not show."""
    shown = {setting.name: setting.default for setting in all_settings(schedule)}
    return {**UNUSED, "warmup": 1, **shown, "schedule": schedule}


def problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with widget values; values that are absent or None (linked inputs) are not judged."""
    schedule = values.get("schedule")
    known = all_settings(schedule if isinstance(schedule, str) else ADAPTIVE)
    found = [
        text
        for setting in known
        if values.get(setting.name) is not None and (text := setting.problem(values[setting.name]))
    ]
    start, end = values.get("start_percent"), values.get("end_percent")
    if not found and start is not None and end is not None and start >= end:
        found.append(f"start_percent = {start:g} is not below end_percent = {end:g}: nothing would be forecast")
    return [f"{NODE}: {text}" for text in found]


@dataclass(frozen=True)
class Settings:
    """The values of one node, checked.

    Raises:
        ValueError: naming widget, value and what would work.
    """

    skip_interval: float
    degree: int
    window: int
    schedule: str
    evaluations: int
    growth: float
    warmup: int
    ridge: float
    blend: float
    intercept: Intercept
    tail: int
    target: str
    correct: bool
    start_percent: float
    end_percent: float

    def __post_init__(self) -> None:
        found = problems(self.to_dict())
        if found:
            raise ValueError("\n".join(found))

    @classmethod
    def of(cls, schedule: str = ADAPTIVE, **values: Any) -> "Settings":
        """The defaults of a schedule, some of them changed."""
        return cls(**{**defaults(schedule), **values})

    def to_dict(self) -> dict[str, Any]:
        """Widget name to value."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def never(self) -> Message | None:
        """Why nothing is ever forecast with these values, if so."""
        if self.skip_interval > 1 or self.evaluations:
            return None
        return say(Text.NEVER, widget=SKIP_INTERVAL.name)

    def forecaster(self) -> Forecaster:
        """The forecast that these values describe."""
        return Forecaster(self.degree, self.window, self.ridge, self.blend, self.intercept)

    def noise_range(self, percent_to_sigma: Callable[[float], Any]) -> tuple[float, float]:
        """The highest and the lowest noise level that may be forecast.

        Args:
            percent_to_sigma: of ComfyUI's model sampling.
        """
        start = float(percent_to_sigma(self.start_percent)) if self.start_percent > 0 else math.inf
        end = float(percent_to_sigma(self.end_percent)) if self.end_percent < 1 else 0.0
        return start, end

    def schedule_for(
        self,
        times: Sequence[float],
        max_speedup: float = math.inf,
        stages: float = 1.0,
        forced: int = 0,
        guidance: float = 1.0,
        ends: tuple[int, int] = (0, 0),
        multistep: bool = False,
    ) -> Schedule:
        """The schedule that these values describe.

        Args:
            times: noise left at the start of each step and after the last one, from 1 to 0: shape [steps + 1].
            max_speedup: of the sampler; where that is limited, the schedule is a plan with a long warm-up.
            stages: evaluations of a step on average.
            forced: how many steps are computed whatever the schedule says.
            guidance: scale of classifier-free guidance.
            ends: how many steps at the start and at the end may not be forecast: a longer warm-up and a longer tail.
            multistep: whether the sampler extrapolates from outputs of earlier steps.
        """
        evaluations = max(1, int(self.evaluations / stages)) if self.evaluations else 0
        warmup, tail = max(self.warmup, ends[0]), max(self.tail, ends[1])
        request = Request(
            tuple(times), self.skip_interval, evaluations, self.growth, warmup, tail, forced, guidance, multistep,
            max_speedup,
        )  # fmt: skip
        kind = Plan if max_speedup < math.inf else SCHEDULES[self.schedule]
        return kind.build(request)
