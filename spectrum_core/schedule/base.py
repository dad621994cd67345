"""Compute or forecast? What all schedules share; the state of a run is passed explicitly."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..messages import Message, Reason, Text, say


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        due: the next step to compute.
    """

    due: int = 0


@dataclass(frozen=True)
class Request:
    """What a schedule is made from.

    Attributes:
        times: noise left at the start of each step and after the last one, from 1 to 0: shape [steps + 1].
        interval: on average one of so many steps is computed; 1 computes all.
        evaluations: how many steps are computed instead; 0 for "by the interval".
        growth: added to the interval after each computed step, where the schedule is the paper's.
        warmup: steps computed first.
        tail: steps computed last.
        forced: how many steps are computed whatever the schedule says.
        guidance: scale of classifier-free guidance.
        multistep: whether the sampler extrapolates from earlier outputs, and the errors of forecasts with them.
        max_speedup: how many times fewer steps the sampler allows.
    """

    times: tuple[float, ...]
    interval: float
    evaluations: int = 0
    growth: float = 0.0
    warmup: int = 1
    tail: int = 1
    forced: int = 0
    guidance: float = 1.0
    multistep: bool = False
    max_speedup: float = math.inf

    @property
    def total(self) -> int:
        """Steps of the run."""
        return max(0, len(self.times) - 1)


@dataclass(frozen=True)
class Schedule(ABC):
    """A computed warm-up, a computed tail, and something between.

    Attributes:
        warmup: steps computed first.
        tail: steps computed last.
    """

    name: ClassVar[str]

    warmup: int
    tail: int

    @classmethod
    @abstractmethod
    def build(cls, request: Request) -> "Schedule":
        """The schedule that a request describes."""

    @abstractmethod
    def step(self, state: State, index: int, forced: bool = False, unforeseen: bool = False) -> State:
        """The state after step `index` was computed.

        Args:
            state: before it.
            index: of the step.
            forced: whether it was not this schedule's own choice.
            unforeseen: whether something new began there, another prompt for example.
        """

    def learn(self, state: State, index: int, before: int, change: float) -> State:
        """The state when it is known how much the model's output changed between two computed steps. Only schedules
        that adapt care.

        Args:
            state: of the run.
            index: the later step.
            before: the earlier one.
            change: relative L2 change of the conditional output d = (x - denoised) / sigma; the picture and the
                conditioning that changed most.
        """
        return state

    def curious(self, state: State) -> bool:
        """Whether what `learn` is told next decides about the next step."""
        return False

    def places(self, state: State) -> tuple[float, ...] | None:
        """Where the steps lie on the axis that forecasts are fitted along, see `Axis`."""
        return None

    def reason(self, state: State, index: int, total: int) -> Reason | None:
        """Why step `index` of `total` is computed, or None where it is forecast."""
        if index < self.warmup:
            return Reason.WARMUP
        if index >= total - self.tail:
            return Reason.TAIL
        return Reason.SCHEDULE if index >= state.due else None

    def plan(self, total: int) -> list[int]:
        """The steps that a run of `total` computes when nothing unforeseen happens."""
        state, computed = State(), []
        for index in range(total):
            if self.reason(state, index, total):
                computed.append(index)
                state = self.step(state, index)
        return computed

    def unsuitable(self, total: int) -> Message | None:
        """Why a run of `total` steps is computed in full, if it is."""
        if len(self.plan(total)) < total:
            return None
        return say(Text.ALL_COMPUTED, steps=total, warmup=self.warmup, tail=self.tail)
