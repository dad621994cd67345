"""Schedules by distance: after each computed step they say which one is computed next."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from .base import Request, Schedule, State


@dataclass(frozen=True)
class Counted(State):
    """Where a run stands.

    Attributes:
        intervals: so many since the warm-up.
    """

    intervals: int = 0


@dataclass(frozen=True)
class Intervals(Schedule):
    """What both share.

    Attributes:
        interval: first distance N between computed steps; 1 never forecasts.
    """

    interval: float

    @abstractmethod
    def distance(self, intervals: int) -> int:
        """Steps from a computed one to the next, after so many intervals since the warm-up."""

    def step(self, state: State, index: int, forced: bool = False, unforeseen: bool = False) -> State:
        """See `Schedule`: a forced step is followed by a second computed one and does not count as an interval."""
        intervals = state.intervals if isinstance(state, Counted) else 0
        if forced or index < self.warmup - 1:
            return Counted(index + 1, intervals)
        return Counted(index + max(1, self.distance(intervals)), intervals + 1)


@dataclass(frozen=True)
class GrowingInterval(Intervals):
    """The paper's schedule (section 3): distances floor(interval), floor(interval + growth), ...

    Attributes:
        growth: alpha, added to the interval after each computed step.

    >>> GrowingInterval(warmup=5, tail=0, interval=2, growth=0.75).plan(20)
    [0, 1, 2, 3, 4, 6, 8, 11, 15]
    """

    name: ClassVar[str] = "paper"

    growth: float

    @classmethod
    def build(cls, request: Request) -> "GrowingInterval":
        """See `Schedule`."""
        return cls(request.warmup, request.tail, request.interval, request.growth)

    def distance(self, intervals: int) -> int:
        """See `Intervals`."""
        # Rounded as in the official code: 2 + 25 * 2.28 is 59, but not in binary.
        return 1 if self.interval <= 1 else math.floor(round(self.interval + intervals * self.growth, 3))


@dataclass(frozen=True)
class FixedInterval(Intervals):
    """Computed steps at a fixed distance; a fractional interval alternates.

    >>> FixedInterval(warmup=1, tail=1, interval=2.5).plan(11)
    [0, 2, 5, 7, 10]
    """

    name: ClassVar[str] = "fixed interval"

    @classmethod
    def build(cls, request: Request) -> "FixedInterval":
        """See `Schedule`."""
        return cls(request.warmup, request.tail, request.interval)

    def distance(self, intervals: int) -> int:
        """See `Intervals`."""
        return math.floor((intervals + 1) * self.interval) - math.floor(intervals * self.interval)
