"""The default: a budget that is spent where this model moves, which the run finds out."""

import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..messages import Message, Text, say
from .balanced import LEAST, balanced, budget, measure, smoothed
from .base import Request, Schedule, State

SECOND = 2
BASE_RATE = 2.6
LARGEST = 16.0


@dataclass(frozen=True)
class Placed(State):
    computed: tuple[int, ...] = ()
    planned: tuple[int, ...] = ()
    steepness: float = 0.0


@dataclass(frozen=True)
class Adaptive(Schedule):
    name: ClassVar[str] = "adaptive"

    times: tuple[float, ...]
    count: int

    @classmethod
    def build(cls, request: Request) -> "Schedule":
        count = budget(request)
        plan = balanced(request.times, count, request.warmup, request.tail)
        return cls(plan.warmup, plan.tail, request.times, count)

    def step(self, state: State, index: int, forced: bool = False) -> State:
        placed = state if isinstance(state, Placed) else Placed()
        computed = (*placed.computed, index)
        placed = replace(placed, computed=computed, steps=placed.steps + 1)
        if index + 1 < self.warmup:
            return replace(placed, due=index + 1)
        if not placed.planned or forced:
            placed = self._place(placed)
        later = [s for s in placed.planned if s > index]
        return replace(placed, due=later[0] if later else sys.maxsize)

    def _place(self, placed: Placed) -> Placed:
        total = len(self.times) - 1
        last, end = placed.computed[-1], total - self.tail
        left = self.count - len(placed.computed) - self.tail
        tail = tuple(range(end, total))
        if left <= 0 or last >= end - 1:
            return replace(placed, planned=tail)
        first = last + 1
        if left >= end - first:
            return replace(placed, planned=(*range(first, end), *tail))
        times = relabelled(self.times, max(1.0, placed.steepness))
        measured = measure(times, first, end)
        second = not placed.steepness and SECOND and len(placed.computed) == self.warmup
        if second:
            b = last + SECOND
            if left > 1:
                rest = smoothed(measure(times, b + 1, end), b + 1, end, left - 1)
                return replace(placed, planned=(b, *rest, *tail))
        return replace(placed, planned=(*smoothed(measured, first, end, left), *tail))

    def learn(self, state: State, index: int, before: int, change: float) -> State:
        if not isinstance(state, Placed) or state.steepness:
            return state
        passed = self.times[before] - self.times[index]
        if passed <= 0:
            return state
        k = min(LARGEST, max(1.0, change / passed / BASE_RATE))
        placed = self._place(replace(state, steepness=k))
        later = [s for s in placed.planned if s > placed.computed[-1]]
        return replace(placed, due=later[0] if later else sys.maxsize)

    def unsuitable(self, total: int) -> Message | None:
        if self.count >= total and total <= LEAST:
            return say(Text.TOO_FEW_STEPS, steps=total, least=LEAST)
        return super().unsuitable(total)


def relabelled(times: tuple[float, ...], k: float) -> tuple[float, ...]:
    t = np.asarray(times)
    return tuple((t / ((1 - t) * k + t)).tolist())
