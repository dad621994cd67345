"""Where a budget of steps is spent: a plan that follows the noise, with gaps that change little."""

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..messages import Message, Text, say
from .base import Request, Schedule, State

Array = NDArray[np.float64]

LEAST = 5
"""Steps that are computed at least by `skip_interval`, however short the run."""

FEWEST = 3
"""Steps that are computed at least if so few are asked for."""

USUAL_INTERVAL = 3.3
"""The interval for which `least` was measured."""

SMOOTHNESS = 0.3
"""Weight of changes from one gap to the next, in mean gaps, against uneven distances."""

NEIGHBOURS = 2
"""How many steps from where equal distances would have it a computed step is looked for."""

GUIDED = 0.75
"""Share of what guidance asks for that a long interval leaves. With less, pictures of the trained models were farther
from the full run at CFG 3 than those of as many plain steps."""

STRONG = 2.35
"""Guidance scale from which on it magnifies errors. Errors go with the square of the gaps, so that what is computed at
least goes with the root of the scale. Chosen on tuning pictures of the trained Flux with k = 3 and 7.5: 10 of 20 and 12
of 30 steps keep errors below .03 at CFG 3, 13 and 15 near .04 at CFG 5."""

MULTISTEP = 1.3
"""How much more strongly guidance acts with a multistep sampler, on the same pictures: what euler reaches with 14 of 30
steps at CFG 4 takes dpmpp_2m and res_multistep 16."""

LATE = 0.1
"""Share of a plan that goes to the end, where fine detail is decided."""

SPAN = 0.1
"""How far that reaches, as a share of the run."""


@dataclass(frozen=True)
class Plan(Schedule):
    """Steps chosen beforehand. What is computed for other reasons changes nothing about the rest.

    Attributes:
        computed: the steps, ascending.
    """

    name: ClassVar[str] = "plan"

    computed: tuple[int, ...]

    @classmethod
    def build(cls, request: Request) -> "Plan":
        """For a sampler that allows only so high a speed-up. Fresh noise decides early which picture it becomes, so
        that the warm-up is as long as may be: a third of what is computed."""
        count = max(budget(request), min(request.total, math.ceil(request.total / request.max_speedup)))
        return balanced(request.times, count, max(request.warmup, count // 3), request.tail)

    def step(self, state: State, index: int, forced: bool = False, unforeseen: bool = False) -> State:
        """See `Schedule`."""
        later = bisect_right(self.computed, index)
        return State(self.computed[later] if later < len(self.computed) else sys.maxsize)

    def unsuitable(self, total: int) -> Message | None:
        """See `Schedule`."""
        return without_room(super().unsuitable(total), total, self.warmup + self.tail)


def without_room(found: Message | None, total: int, ends: int) -> Message | None:
    """Why a budget leaves nothing to forecast.

    Args:
        found: what a schedule without a budget says.
        total: steps of the run.
        ends: steps of warm-up and tail.
    """
    if found is not None and total <= LEAST:
        return say(Text.TOO_FEW_STEPS, steps=total, least=LEAST)
    return say(Text.ALL_WANTED, steps=total, widget="evaluations") if found is not None and ends < total else found


def least(total: int, interval: float, guidance: float = 1.0) -> int:
    """Steps of a run that are computed at least: 2 sqrt(total), 8 of 20; more with strong guidance, fewer in proportion
    to a longer interval, as far as guidance allows.

    The error goes with the square of the gaps, in the run's time, so that short runs bear a smaller speed-up. A shorter
    interval raises it a little, with its fourth root, so that a user who lowers it gets a nearer picture.

    >>> [least(30, 3.3, guidance) for guidance in (1.0, 3.0, 5.0, 7.0)]
    [10, 12, 15, 18]
    >>> [least(20, interval, guidance=7.0) for interval in (6.6, 3.3, 2.5, 2.0)]
    [11, 15, 16, 17]
    """
    wanted, denser = 2 * math.sqrt(total * max(1.0, guidance / STRONG)), USUAL_INTERVAL / interval
    share = max(min(denser, math.sqrt(math.sqrt(denser))), GUIDED if guidance > STRONG else 0.0)
    return max(LEAST, math.floor(wanted * share))


def budget(request: Request) -> int:
    """How many steps to compute: `evaluations`, or, if that is 0, 1 of `interval`; `least`, and more with guidance.

    More than one step of warm-up or of tail, and what is forced, come on top: the interval is that of the other steps.

    >>> [budget(Request(tuple(range(steps + 1)), interval=3.3)) for steps in (10, 20, 30, 50)]
    [6, 8, 10, 15]
    >>> [budget(Request(tuple(range(steps + 1)), interval=3.3, guidance=5.0)) for steps in (10, 20, 30, 50)]
    [9, 13, 15, 20]
    >>> budget(Request(tuple(range(31)), interval=3.3, guidance=5.0, multistep=True))
    18
    >>> budget(Request(tuple(range(31)), interval=3.3, warmup=9, tail=3))
    16
    """
    if request.interval <= 1 and not request.evaluations:
        return request.total
    if request.evaluations:
        return min(request.total, max(FEWEST, request.evaluations))
    extra = request.forced + max(0, request.warmup - 1) + max(0, request.tail - 1)
    other, guidance = max(0, request.total - extra), request.guidance * (MULTISTEP if request.multistep else 1.0)
    by_interval = math.floor(other / request.interval)
    at_least = other * least(request.total, request.interval, guidance) // max(1, request.total)
    return min(request.total, extra + max(FEWEST, by_interval, at_least))


def balanced(times: Sequence[float], count: int, warmup: int, tail: int) -> Plan:
    """A plan of `count` steps, spent where features move.

    They lie at equal distances of `measure`: half of them are spread evenly over the steps, half evenly over the noise
    that the steps take away, and gaps shrink toward the end. Whole steps cannot lie at equal distances; which of them
    are nearest is decided so that gaps do not go up and down: polynomials through uneven points are worse on both
    sides.

    Args:
        times: noise left at the start of each step and after the last one, from 1 (pure noise) to 0: shape [steps + 1].
        count: steps to compute; see `budget`.
        warmup: steps computed first, if the budget is large enough.
        tail: steps computed last, of what the warm-up leaves.
    """
    total = len(times) - 1
    if count >= total:
        return Plan(warmup, tail, tuple(range(total)))
    first = max(1, min(warmup, count - min(tail, 1) - 1))
    last = min(tail, count - first)
    between, end = count - first - last, total - last
    chosen = smoothed(measure(times, first, end), first, end, between)
    return Plan(first, last, (*range(first), *chosen, *range(end, total)))


def smoothed(measured: Array, first: int, end: int, count: int) -> tuple[int, ...]:
    """`count` steps from `first` to before `end`, at equal distances of what was measured and with gaps that change
    little: the least sum of squares of both, by dynamic programming over the steps near to where equal distances would
    have them."""
    places, gap = measured.tolist(), (end - first + 1) / (count + 1)
    nearest, before = [], first - 1
    for index in range(1, count + 1):
        wanted = int(np.abs(measured - index / (count + 1)).argmin())
        before = min(max(wanted, before + 1), end - 1 - (count - index))
        nearest.append(before)
    # (the last two steps) -> (least cost, the steps)
    paths: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(first - 2, first - 1): (0.0, ())}
    for near in (*nearest, end):
        options = [end] if near == end else range(max(first, near - NEIGHBOURS), min(end, near + NEIGHBOURS + 1))
        longer: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (a, b), (cost, path) in paths.items():
            for c in options:
                if c > b:
                    uneven = (places[c] - places[b]) * (count + 1) - 1
                    change = (c - 2 * b + a) / gap if b > 0 else 0.0  # there is no gap before the first one
                    total = cost + uneven**2 + SMOOTHNESS * change**2
                    if (b, c) not in longer or total < longer[b, c][0]:
                        longer[b, c] = total, (*path, c)
        paths = longer
    return min(paths.values())[1][:-1]


def measure(times: Sequence[float], first: int, end: int, by_noise: float = 0.5) -> Array:
    """How much of what is to be followed has passed before each step: 0 at the warm-up's last one, 1 at `end`.

    Some of it goes by noise, the rest by steps, but for a share at the end, where features change most.

    Args:
        times: see `balanced`.
        first: steps computed first, at least 1.
        end: the step from which on all are computed.
        by_noise: the share that goes by noise.

    Returns:
        float64 [steps + 1], ascending.
    """
    total = len(times) - 1
    steps = np.arange(total + 1) - (first - 1)
    noise = np.concatenate([[0.0], np.abs(np.diff(np.asarray(times, dtype=np.float64))).cumsum()])
    finish = np.exp((steps - steps[end]) / (SPAN * total))
    parts = [
        (share, (part - part[first - 1]) / (part[end] - part[first - 1]))
        for share, part in (
            ((1 - LATE) * (1 - by_noise), steps),
            ((1 - LATE) * by_noise, noise),
            (LATE, finish),
        )
        if part[end] - part[first - 1] > 1e-9
    ]
    whole: Array = np.sum([share * part for share, part in parts], axis=0) / sum(share for share, _ in parts)
    return whole
