"""Compute or forecast? One class per schedule; the state of a run is passed explicitly.

A schedule is a step-size controller: after each computed evaluation it says which evaluation is computed next.
`warmup` evaluations at the start and `tail` evaluations at the end of the run are always computed.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """Where a run stands: the next evaluation to compute and what the schedule remembers of its steps."""

    due: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules share: a computed warm-up and a computed tail.

    Attributes:
        warmup: evaluations computed first.
        tail: evaluations computed last.
    """

    warmup: int
    tail: int

    @abstractmethod
    def distance(self, steps: int, error: float | None) -> int:
        """Evaluations from a computed one to the next, after `steps` such distances since the warm-up.

        `error` is the relative error that a forecast of the evaluation just computed would have had, if known.
        """

    def reason(self, state: State, index: int, total: int) -> str | None:
        """Why evaluation `index` of `total` is computed, or None where it is forecast."""
        if index < self.warmup:
            return "warm-up"
        if index >= total - self.tail:
            return "tail"
        return "schedule" if index >= state.due else None

    def step(self, state: State, index: int, forced: bool = False, error: float | None = None) -> State:
        """The state after evaluation `index` was computed; `forced` when not by this schedule's own choice."""
        if forced or index < self.warmup - 1:
            return State(index + 1, state.steps)
        return State(index + max(1, self.distance(state.steps, error)), state.steps + 1)

    def plan(self, total: int) -> list[int]:
        """The evaluations that a run of `total` computes when no error is known."""
        state, computed = State(), []
        for index in range(total):
            if self.reason(state, index, total):
                computed.append(index)
                state = self.step(state, index)
        return computed


@dataclass(frozen=True)
class GrowingInterval(Schedule):
    """The paper's schedule (section 3): distances floor(interval), floor(interval + growth), ...

    Attributes:
        interval: first distance N between computed evaluations; 1 never forecasts.
        growth: alpha, added to the interval after each computed evaluation.
    """

    interval: float
    growth: float

    def distance(self, steps: int, error: float | None) -> int:
        # Rounded as in the official code: 2 + 25 * 2.28 is 59, but not in binary.
        return 1 if self.interval <= 1 else math.floor(round(self.interval + steps * self.growth, 3))


@dataclass(frozen=True)
class FixedInterval(Schedule):
    """Computed evaluations at a fixed distance; a fractional interval alternates (2.5: 2, 3, 2, 3, ...)."""

    interval: float

    def distance(self, steps: int, error: float | None) -> int:
        return math.floor((steps + 1) * self.interval) - math.floor(steps * self.interval)
