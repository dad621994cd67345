"""The default: a budget that is spent where this model moves, which the run finds out.

Large latents decide their picture at high noise, small ones late: published models change most in their first steps
(Qwen-Image by 212 % in the first of 20), others hardly. One number tells them apart. Where data are k times as large as
noise, the network sees the noise level u = s / ((1 - s) k + s) at level s: that is the model's own time, and it runs k
times as fast as s at the start. The second computed step shows how fast it runs, and the rest of the budget is placed
by `balanced` in the model's own time.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..messages import Message
from .balanced import balanced, budget, measure, smoothed, without_room
from .base import Request, Schedule, State

BASE_RATE = 2.6
"""Relative change of the conditional output per unit of noise at the start of a model with k = 1. Measured on three
trained models; errors of this constant matter little: 2 and 3.6 give the same results."""

MOST_BY_NOISE = 0.8
"""Share of the budget that goes by the model's own time where it starts steeply; half of it where it does not. Chosen
on tuning seeds of three trained models: with half of it, errors were 2.5 times as large at k = 15, 2 times at 7.5."""

STEEPEST = 16.0
"""Largest k that is told apart: beyond, nearly all of the budget lies in the first steps anyway."""


GRID = tuple(STEEPEST ** (i / 16) for i in range(17))
"""What k may be."""


@dataclass(frozen=True)
class Placed(State):
    """Where a run stands.

    Attributes:
        computed: the steps computed so far.
        planned: the steps to compute, those that are over too.
        k: how fast the model's own time runs at the start; 0 while it is not known.
        more: steps beyond the budget.
    """

    computed: tuple[int, ...] = ()
    planned: tuple[int, ...] = ()
    k: float = 0.0
    more: int = 0


@dataclass(frozen=True)
class Adaptive(Schedule):
    """Warm-up, one more step, and then the rest of the budget in the model's own time.

    Attributes:
        times: noise left at the start of each step and after the last one, from 1 to 0: shape [steps + 1].
        count: steps to compute.
        grows: whether what is unforeseen comes on top.
    """

    name: ClassVar[str] = "adaptive"

    times: tuple[float, ...]
    count: int
    grows: bool = True

    @classmethod
    def build(cls, request: Request) -> "Adaptive":
        """See `Schedule`."""
        count = budget(request)
        plan = balanced(request.times, count, request.warmup, request.tail)
        return cls(plan.warmup, plan.tail, request.times, count, grows=not request.evaluations)

    def step(self, state: State, index: int, forced: bool = False, unforeseen: bool = False) -> State:
        """See `Schedule`. What is computed for other reasons is part of the budget; what is unforeseen comes on top."""
        placed = state if isinstance(state, Placed) else Placed()
        more = placed.more + (unforeseen and self.grows)
        return self._place(replace(placed, computed=(*placed.computed, index), more=more), again=forced)

    def learn(self, state: State, index: int, before: int, change: float) -> State:
        """See `Schedule`. The first number counts: later ones see a model that has slowed down."""
        if not isinstance(state, Placed) or state.k:
            return state
        seen = steepness(self.times, before, index, change)
        # The smallest k that plans the same: a picture's neighbours in the batch decide what is computed, so that
        # nothing else may follow from k.
        plan = self._planned(replace(state, k=next(k for k in GRID if k >= seen)))
        k = next(k for k in GRID if self._planned(replace(state, k=k)) == plan)
        return self._place(replace(state, k=k), again=True)

    def curious(self, state: State) -> bool:
        """See `Schedule`."""
        return not (isinstance(state, Placed) and state.k)

    def places(self, state: State) -> tuple[float, ...] | None:
        """See `Schedule`: by steps where the model is calm, by its own time the more the steeper it starts."""
        if not isinstance(state, Placed) or not state.k:
            return None
        own, steps = own_times(self.times, state.k), len(self.times) - 1
        passed = [(own[0] - t) / (own[0] - own[-1]) for t in own]
        share = 1 - 1 / state.k
        return tuple(share * p * steps + (1 - share) * step for step, p in enumerate(passed))

    def unsuitable(self, total: int) -> Message | None:
        """See `Schedule`."""
        return without_room(super().unsuitable(total), total, self.warmup + self.tail)

    def _place(self, placed: Placed, again: bool) -> Placed:
        """The state with the next step to compute."""
        last = placed.computed[-1]
        if again or last not in placed.planned:
            placed = replace(placed, planned=self._planned(placed))
        return replace(placed, due=next((step for step in placed.planned if step > last), sys.maxsize))

    def _planned(self, placed: Placed) -> tuple[int, ...]:
        """The steps to compute after those computed so far."""
        total, last = len(self.times) - 1, placed.computed[-1]
        first, end = last + 1, total - self.tail
        left = self.count + placed.more - len(placed.computed) - self.tail
        tail = tuple(range(max(0, end), total))
        if left <= 0 or first >= end:
            return (last, *tail)
        head = tuple(range(first, min(self.warmup, end)))
        if not head and not placed.k and left < end - first:  # nothing is known yet: the next step shows it
            head = (first,)
        first, left = first + len(head), left - len(head)
        if left >= end - first:
            return (last, *head, *range(first, end), *tail)
        k = placed.k or 1.0
        places = measure(own_times(self.times, k), first, end, min(MOST_BY_NOISE, 1 - 0.5 / k))
        return (last, *head, *smoothed(places, first, end, left), *tail)


def steepness(times: Sequence[float], before: int, index: int, change: float) -> float:
    """How fast a model's own time runs at the start, from 1 to `STEEPEST`.

    Args:
        times: noise left at the start of each step, from 1 to 0.
        before, index: two computed steps.
        change: relative L2 change of the conditional output between them.

    >>> steepness([1.0, 0.9, 0.8], 0, 1, change=1.3)
    5.0
    """
    passed = times[before] - times[index]
    return min(STEEPEST, max(1.0, round(change / passed / BASE_RATE, 6))) if passed > 0 else 1.0


def own_times(times: Sequence[float], k: float) -> tuple[float, ...]:
    """Noise left as a model sees it whose data are k times as large as noise.

    >>> own_times([1.0, 0.5, 0.0], k=3)
    (1.0, 0.25, 0.0)
    """
    return tuple(t / ((1 - t) * k + t) for t in times)
