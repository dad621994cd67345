"""Compute or forecast? Numbers in, decision out: no model, no device, no clock."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...spectrum_core.forecast import Axis
from ...spectrum_core.messages import Message, Reason, Text, say
from ...spectrum_core.schedule import Schedule, State

MAX_ESTIMATED_ERROR = 0.08
"""Estimated error so far from which on the rest of a run is computed, where no number of evaluations was asked for:
with strong guidance and few steps, pictures break there, and computing mends most of it."""


@dataclass(frozen=True)
class Range:
    """Which noise levels may be forecast.

    Attributes:
        start: the highest one, from start_percent.
        end: the lowest one, from end_percent.
    """

    start: float = math.inf
    end: float = 0.0

    def outside(self, sigma: float) -> Reason | None:
        """Why a noise level may not be forecast, or None."""
        if sigma > self.start:
            return Reason.BEFORE_START
        return Reason.AFTER_END if sigma < self.end else None

    def ends(self, sigmas: Sequence[float]) -> tuple[int, int]:
        """How many steps at the start and at the end of a run lie outside.

        >>> Range(start=0.9, end=0.3).ends([1.0, 0.8, 0.5, 0.2, 0.0])
        (1, 1)
        """
        outside = [self.outside(sigma) is not None for sigma in sigmas[:-1]]
        inside = [step for step, out in enumerate(outside) if not out]
        return (inside[0], len(outside) - 1 - inside[-1]) if inside else (len(outside), 0)


class Policy:
    """Which steps of a run are computed.

    Args:
        schedule: chooses them.
        sigmas: noise levels, shape [steps + 1].
        span: noise levels that may be forecast.
        guarded: whether the rest is computed once the estimated error is too high.
        irregular: steps with other evaluations than the rest.

    Attributes:
        axis: that forecasts are fitted along.
    """

    def __init__(
        self,
        schedule: Schedule,
        sigmas: Sequence[float],
        span: Range,
        guarded: bool,
        irregular: Collection[int] = (),
    ) -> None:
        self._schedule, self._sigmas, self._span, self._guarded = schedule, sigmas, span, guarded
        self._irregular = irregular
        self._state = State()
        self.axis = Axis()
        self._error = 0.0

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return max(0, len(self._sigmas) - 1)

    def decide(self, step: int) -> Reason | None:
        """Why a step is computed, or None where it is forecast."""
        if step >= self.steps:
            return Reason.BEYOND
        reason = self._forced(step) or self._schedule.reason(self._state, step, self.steps)
        if reason is None and self._guarded and self._error > MAX_ESTIMATED_ERROR:
            return Reason.ERROR_LIMIT
        return reason

    def computed(self, step: int, reason: Reason) -> None:
        """A step was computed."""
        self._state = self._schedule.step(self._state, step, not reason.scheduled, reason.unforeseen)

    def moved(self, step: int, before: int, change: float) -> None:
        """The model's output changed so much between two computed steps, see `Schedule.learn`."""
        if math.isfinite(change):
            self._state = self._schedule.learn(self._state, step, before, change)
            self.axis.places = self._schedule.places(self._state)

    @property
    def curious(self) -> bool:
        """Whether the schedule waits for a number of `moved`."""
        return self._schedule.curious(self._state)

    def drifted(self, error: float) -> None:
        """The estimated error of the final latent so far, worst picture."""
        if math.isfinite(error):
            self._error = error

    def planned(self) -> list[int]:
        """The steps that will be computed if nothing unforeseen happens."""
        state, computed = State(), []
        for step in range(self.steps):
            forced = self._forced(step)
            if forced or self._schedule.reason(state, step, self.steps):
                state = self._schedule.step(state, step, forced=forced is not None)
                computed.append(step)
        return computed

    def _forced(self, step: int) -> Reason | None:
        """Why a step is computed whatever the schedule says, or None."""
        return self._span.outside(self._sigmas[step]) or (Reason.IRREGULAR if step in self._irregular else None)

    def unsuitable(self) -> Message | None:
        """Why nothing of the run can be forecast, if so."""
        found = self._schedule.unsuitable(self.steps)
        if found is None and len(self.planned()) >= self.steps:
            return say(Text.OUTSIDE)
        narrowed = self._span.ends(self._sigmas) != (0, 0)  # a longer warm-up and tail to the schedule
        return say(Text.OUTSIDE) if found and found.text is Text.ALL_COMPUTED and narrowed else found
