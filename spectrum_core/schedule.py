"""Compute or forecast? One class per schedule; the state of a run is passed explicitly.

The paper's schedules are intervals: after each computed evaluation they say which is computed next. A `Plan` has chosen
before the run begins; `balanced` makes one that spends a budget of evaluations where features move. `ErrorControl`
chooses as it goes, by the errors that it sees.
`warmup` evaluations at the start and `tail` evaluations at the end of the run are always computed.
"""

import math
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


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

    def learn(self, state: State, index: int, error: float) -> State:
        """The state when it is known by how much the latent was off at the computed evaluation `index`, relative to
        itself. It may come late. Only schedules that adapt care."""
        return state

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


@dataclass(frozen=True)
class Controlled(State):
    """What `ErrorControl` remembers.

    Attributes:
        latest: the evaluation computed last; -1 for none.
        before: the one before it.
        gap: evaluations from one to the next, when the schedule chose last; 0 for never.
        interval: what the next gap may be, in units of `measure`.
        ratio: error to allowed error of the latest gap that is known.
    """

    latest: int = -1
    before: int = -1
    gap: int = 0
    interval: float = 0.0
    ratio: float = 1.0


@dataclass(frozen=True)
class ErrorControl(Schedule):
    """Gaps as long as a tolerance allows, as ODE solvers choose their steps.

    The latent drifts while evaluations are forecast; when the next one is computed, the drift is known. Drifts add up
    like independent errors, so a gap that covers the share s of the run (by `measure`) may drift by tolerance sqrt(s),
    and the root of their sum of squares, which estimates what the final latent is off by (docs/schedules.md compares),
    is the tolerance. The next gap follows by a proportional-integral controller (Gustafsson 1991;
    Hairer, Norsett & Wanner, II.4, IV.2), but changes little from one to the next, as in `balanced`; it shrinks at
    least to half after an error far above what was allowed.

    Attributes:
        tolerance: of the relative error of the final latent.
        places: see `measure`.
        most: evaluations to compute at most; at the end, gaps are as long as that demands.
    """

    tolerance: float
    places: tuple[float, ...]
    most: int

    def step(self, state: State, index: int, forced: bool = False) -> State:
        """See `Schedule`. Until the gap's own error is known, the next one is as long as was last thought right."""
        known = state if isinstance(state, Controlled) else Controlled()
        if index < self.warmup or not known.interval:
            interval = self.places[min(index + FIRST_GAP, len(self.places) - 1)] - self.places[index]
        elif index == known.latest + 1 and not forced:  # nothing was forecast: there is no error to learn from
            interval = RECOVER * known.interval
        else:
            interval = known.interval
        gap = known.gap if forced or known.latest < 0 else index - known.latest
        after = Controlled(0, known.steps + (not forced), index, known.latest, gap, interval, known.ratio)
        return replace(after, due=self._next(after))

    def learn(self, state: State, index: int, error: float) -> State:
        """See `Schedule`. Errors of gaps before the latest come too late."""
        if not isinstance(state, Controlled) or index != state.latest or state.before < 0 or not math.isfinite(error):
            return state
        gap = self.places[index] - self.places[state.before]
        ratio = min(max(error / (self.tolerance * math.sqrt(max(gap, 1e-9))), 1e-6), 1e6)
        factor = SAFETY * ratio**-INTEGRAL * (state.ratio / ratio) ** PROPORTIONAL
        if ratio > REJECTED:
            factor = min(factor, 0.5)
        after = replace(state, interval=gap * min(max(factor, SHRINK), GROW), ratio=ratio)
        return replace(after, due=self._next(after))

    def _next(self, state: Controlled) -> int:
        """The evaluation to compute after the latest."""
        end = len(self.places) - 1 - self.tail
        left = self.most - state.steps - self.tail
        if left <= 0 or state.latest >= end - 1:
            return end
        here = self.places[state.latest]
        demanded = (1 - here) / (left + 1) if left < end - 1 - state.latest else 0.0
        wanted = here + max(self._gently(state), demanded)
        # The nearest one, but neither the latest again nor a step into the tail that its neighbour could do without.
        nearest = bisect_right(self.places, wanted, lo=state.latest + 1)
        if nearest > state.latest + 1 and wanted - self.places[nearest - 1] < self.places[min(nearest, end)] - wanted:
            nearest -= 1
        return min(nearest, end)

    def _gently(self, state: Controlled) -> float:
        """The wanted interval, but so that gaps change little: see `balanced`. After an error far above what was
        allowed they shrink as far as they must."""
        if not state.gap:
            return state.interval
        change = max(1, state.gap // GENTLE)
        shortest, longest = (
            self.places[min(state.latest + length, len(self.places) - 1)] - self.places[state.latest]
            for length in (max(1, state.gap - change), state.gap + change)
        )
        return min(longest, state.interval if state.ratio > REJECTED else max(shortest, state.interval))


FIRST_GAP = 2
"""The first gap of a run whose errors are not known yet."""

SAFETY, INTEGRAL, PROPORTIONAL = 0.8, 0.3, 0.1
"""Of the controller: a gap's drift goes about with the 2.5th to 3rd power of its length."""

SHRINK, GROW, REJECTED = 0.3, 1.5, 3.0
"""Limits of a gap's change, and the ratio to the allowed error from which on it is halved at least."""

GENTLE = 4
"""A gap differs from the one before by at most one evaluation, or 1 / GENTLE of it if that is more."""

RECOVER = 1.25
"""Growth of the wanted gap for each evaluation computed right after another: those show no error to go by."""

LEAST, FEWEST = 5, 3
"""Evaluations that a plan computes at least, however short the run; and if so few are asked for."""

SMOOTH, NEAR = 0.3, 2
"""Of a balanced plan: the weight of changes from one gap to the next, in mean gaps, against uneven distances; and how
many evaluations from where equal distances would have it an evaluation is looked for."""

EARLY, LATE, SPAN = 0.1, 0.05, 0.1
"""Shares of a balanced plan that go to the start and to the end, and how far these reach, as a share of the run."""


def least(total: int) -> int:
    """Evaluations of a run that `balanced` computes at least: 2 sqrt(total), 8 of 20.

    The error goes with the square of the gaps, in the run's time, so that short runs bear a smaller speed-up.
    """
    return max(LEAST, math.floor(2 * math.sqrt(total)))


def budget(total: int, speedup: float, evaluations: int = 0) -> int:
    """How many of `total` evaluations to compute: `evaluations`, or, if that is 0, 1 / `speedup` but `least`."""
    return min(total, max(FEWEST, evaluations) if evaluations else max(least(total), math.floor(total / speedup)))


def balanced(times: Sequence[float], count: int, warmup: int, tail: int) -> Plan:
    """A plan of `count` evaluations, spent where features move.

    They lie at equal distances of `measure`: half of them are spread evenly over the steps, half evenly over the noise
    that the steps take away, and gaps grow smoothly out of the warm-up (a polynomial through points close together does
    not reach far) and shrink toward the end. Whole steps cannot lie at equal distances; which of them are nearest is
    decided so that gaps do not go up and down: polynomials through uneven points are worse on both sides.

    Args:
        times: noise left at the start of each evaluation and after the last one, from 1 (pure noise) to 0:
            shape [evaluations + 1].
        count: evaluations to compute; see `budget`.
        warmup: evaluations computed first; at most 2 or a third of what is computed.
        tail: evaluations computed last, of what the warm-up leaves.
    """
    total = len(times) - 1
    if count >= total:
        return Plan(warmup, tail, tuple(range(total)))
    first = max(1, min(warmup, max(2, count // 3)))
    last = min(tail, count - first)
    between, end = count - first - last, total - last
    chosen = _smoothed(measure(times, first, end), first, end, between)
    return Plan(first, last, (*range(first), *chosen, *range(end, total)))


def _smoothed(measured: NDArray[np.float64], first: int, end: int, count: int) -> tuple[int, ...]:
    """`count` evaluations from `first` to before `end`, at equal distances of what was measured and with gaps that
    change little: the least sum of squares of both, by dynamic programming over the evaluations near to where equal
    distances would have them."""
    places, gap = measured.tolist(), (end - first + 1) / (count + 1)
    nearest, before = [], first - 1
    for index in range(1, count + 1):
        wanted = int(np.abs(measured - index / (count + 1)).argmin())
        before = min(max(wanted, before + 1), end - 1 - (count - index))
        nearest.append(before)
    # (the last two evaluations) -> (least cost, the evaluations)
    paths: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(first - 2, first - 1): (0.0, ())}
    for near in (*nearest, end):
        options = [end] if near == end else range(max(first, near - NEAR), min(end, near + NEAR + 1))
        longer: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (a, b), (cost, path) in paths.items():
            for c in options:
                if c > b:
                    uneven = (places[c] - places[b]) * (count + 1) - 1
                    change = (c - 2 * b + a) / gap if b > 0 else 0.0  # there is no gap before the first one
                    total = cost + uneven**2 + SMOOTH * change**2
                    if (b, c) not in longer or total < longer[b, c][0]:
                        longer[b, c] = total, (*path, c)
        paths = longer
    return min(paths.values())[1][:-1]


def measure(times: Sequence[float], first: int, end: int) -> NDArray[np.float64]:
    """How much of what is to be followed has passed before each evaluation: 0 at the warm-up's last one, 1 at `end`.

    Half of it goes by steps, half by noise, but for a share at the start and one at the end, where the published
    features of real models change most.

    Args:
        times: see `balanced`.
        first: evaluations computed first, at least 1.
        end: the evaluation from which on all are computed.

    Returns:
        float64 [evaluations + 1], ascending.
    """
    total = len(times) - 1
    steps = np.arange(total + 1) - (first - 1)
    noise = np.concatenate([[0.0], np.abs(np.diff(np.asarray(times, dtype=np.float64))).cumsum()])
    start = -np.expm1(-steps / (SPAN * total))
    finish = np.exp((steps - steps[end]) / (SPAN * total))
    even = (1 - EARLY - LATE) / 2
    parts = [
        (share, (part - part[first - 1]) / (part[end] - part[first - 1]))
        for share, part in ((even, steps), (even, noise), (EARLY, start), (LATE, finish))
        if part[end] - part[first - 1] > 1e-9
    ]
    return np.sum([share * part for share, part in parts], axis=0) / sum(share for share, _ in parts)


def controlled(times: Sequence[float], tolerance: float, most: int, warmup: int, tail: int) -> ErrorControl:
    """Error control for a run.

    Args:
        times: see `balanced`.
        tolerance, most: see `ErrorControl`; for `most`, see `budget` too.
        warmup: evaluations computed first; at most a third of what may be computed.
        tail: evaluations computed last.
    """
    total = len(times) - 1
    first = max(1, min(warmup, max(2, most // 3)))
    last = min(tail, max(0, most - first))
    return ErrorControl(first, last, tolerance, tuple(measure(times, first, total - last)), most)
