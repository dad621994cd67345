"""Compute or forecast? One class per schedule; the state of a run is passed explicitly.

The paper's schedules are intervals: after each computed evaluation they say which is computed next. A `Plan` has chosen
before the run begins; `balanced` makes one that spends a budget of evaluations where features move.
`warmup` evaluations at the start and `tail` evaluations at the end of the run are always computed.
"""

import math
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    def step(self, state: State, index: int, forced: bool = False) -> State:
        """The state after evaluation `index` was computed; `forced` when not by this schedule's own choice."""

    def reason(self, state: State, index: int, total: int) -> str | None:
        """Why evaluation `index` of `total` is computed, or None where it is forecast."""
        if index < self.warmup:
            return "warm-up"
        if index >= total - self.tail:
            return "tail"
        return "schedule" if index >= state.due else None

    def plan(self, total: int) -> list[int]:
        """The evaluations that a run of `total` computes when nothing unforeseen happens."""
        state, computed = State(), []
        for index in range(total):
            if self.reason(state, index, total):
                computed.append(index)
                state = self.step(state, index)
        return computed


@dataclass(frozen=True)
class Intervals(Schedule):
    """Schedules by distance.

    Attributes:
        interval: first distance N between computed evaluations; 1 never forecasts.
    """

    interval: float

    @abstractmethod
    def distance(self, steps: int) -> int:
        """Evaluations from a computed one to the next, after `steps` such distances since the warm-up."""

    def step(self, state: State, index: int, forced: bool = False) -> State:
        """See `Schedule`: a forced evaluation is followed by a second one and does not count as a step."""
        if forced or index < self.warmup - 1:
            return State(index + 1, state.steps)
        return State(index + max(1, self.distance(state.steps)), state.steps + 1)


@dataclass(frozen=True)
class GrowingInterval(Intervals):
    """The paper's schedule (section 3): distances floor(interval), floor(interval + growth), ...

    Attributes:
        growth: alpha, added to the interval after each computed evaluation.
    """

    growth: float

    def distance(self, steps: int) -> int:
        # Rounded as in the official code: 2 + 25 * 2.28 is 59, but not in binary.
        return 1 if self.interval <= 1 else math.floor(round(self.interval + steps * self.growth, 3))


@dataclass(frozen=True)
class FixedInterval(Intervals):
    """Computed evaluations at a fixed distance; a fractional interval alternates (2.5: 2, 3, 2, 3, ...)."""

    def distance(self, steps: int) -> int:
        return math.floor((steps + 1) * self.interval) - math.floor(steps * self.interval)


@dataclass(frozen=True)
class Plan(Schedule):
    """Evaluations chosen beforehand. What is computed for other reasons changes nothing about the rest.

    Attributes:
        computed: the evaluations, ascending.
    """

    computed: tuple[int, ...]

    def step(self, state: State, index: int, forced: bool = False) -> State:
        """See `Schedule`."""
        later = bisect_right(self.computed, index)
        return State(self.computed[later] if later < len(self.computed) else sys.maxsize, state.steps + 1)


LEAST = 5
"""Evaluations that a plan computes at least, however short the run."""

EARLY, SPAN = 0.1, 0.1
"""Share of a balanced plan that goes to the start, and how far the start reaches, as a share of the run."""


def least(total: int) -> int:
    """Evaluations of a run that `balanced` computes at least: 2 sqrt(total), 8 of 20.

    The error goes with the square of the gaps, in the run's time, so that short runs bear a smaller speed-up.
    """
    return max(LEAST, math.floor(2 * math.sqrt(total)))


def balanced(times: Sequence[float], speedup: float, warmup: int, tail: int) -> Plan:
    """A plan of at most 1 / `speedup` of the evaluations (but `least`), spent where features move.

    Half of them are spread evenly over the steps, half evenly over the noise that the steps take away (most of it goes
    late, where published features of real models change most), and a share follows the warm-up, so that gaps grow
    smoothly out of it: a polynomial through points close together does not reach far.

    Args:
        times: noise left at the start of each evaluation and after the last one, from 1 (pure noise) to 0:
            shape [evaluations + 1].
        speedup: evaluations of the run for each computed one.
        warmup: evaluations computed first; at most 2 or a third of what is computed.
        tail: evaluations computed last, of what the warm-up leaves.
    """
    total = len(times) - 1
    count = min(total, max(least(total), math.floor(total / speedup)))
    if count >= total:
        return Plan(warmup, tail, tuple(range(total)))
    first = max(1, min(warmup, max(2, count // 3)))
    last = min(tail, count - first)
    chosen = [*range(first)]
    between, end = count - first - last, total - last
    steps = np.arange(total + 1) - (first - 1)
    noise = np.concatenate([[0.0], np.abs(np.diff(np.asarray(times, dtype=np.float64))).cumsum()])
    start = -np.expm1(-steps / (SPAN * total))
    measure = sum(
        share * (part - part[first - 1]) / max(part[end] - part[first - 1], 1e-12)
        for share, part in (((1 - EARLY) / 2, steps), ((1 - EARLY) / 2, noise), (EARLY, start))
    )
    for place in range(1, between + 1):
        nearest = int(np.abs(measure - measure[end] * place / (between + 1)).argmin())
        chosen.append(min(max(nearest, chosen[-1] + 1), end - 1 - (between - place)))
    return Plan(first, last, (*chosen, *range(end, total)))


def alternating(total: int, speedup: float, warmup: int, tail: int) -> Plan:
    """A plan that never forecasts twice in a row, for paths that fresh noise makes rough at every step.

    Every second evaluation after the warm-up is forecast, until 1 - 1 / `speedup` of them are: early ones rather than
    late ones, which decide fine detail.

    Args:
        total: evaluations of the run.
        speedup: evaluations of the run for each computed one, at most 2.
        warmup: evaluations computed first.
        tail: evaluations computed last.
    """
    most = total - min(total, max(LEAST, math.ceil(total / speedup)))
    forecast = range(max(1, warmup), total - max(1, tail), 2)[:most]
    return Plan(warmup, tail, tuple(i for i in range(total) if i not in forecast))
