"""Forecasts and schedules of others, as published. All are linear: one weight per computed output.

* reuse: the latest output again (FORA and most caches).
* TaylorSeer (ICCV 2025, arXiv 2503.06923): differences of differences in place of derivatives, each divided by the
  latest gap only, so that on uneven gaps, and above order 1 on even ones, it is no interpolation.
* HiCache (ICLR 2026, arXiv 2508.16984): the same differences times scaled Hermite polynomials, factor 0.5.

The official Spectrum is not here: its formula is `Forecaster` with the paper's settings (tests/test_quality_bench.py).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.polynomial import hermite
from numpy.typing import NDArray

Weights = Callable[[Sequence[int], int], NDArray[np.float64]]
"""(positions of the computed outputs, oldest first; position to forecast) -> one weight for each of them."""

WARMUP = 3
"""Evaluations that TaylorSeer and HiCache compute first (`first_enhance` of their code)."""
SCALE = 0.5
"""HiCache's contraction factor."""


def differences(positions: Sequence[int], order: int) -> list[NDArray[np.float64]]:
    """TaylorSeer's factors 0 .. `order` as weights of the outputs at `positions`; fewer while there are too few."""
    factors: list[NDArray[np.float64]] = []
    for index, position in enumerate(positions):
        updated = [np.eye(len(positions))[index]]
        for previous in factors[:order]:
            if position <= WARMUP - 2:
                break
            updated.append((updated[-1] - previous) / (position - positions[index - 1]))
        factors = updated
    return factors


def taylor(order: int) -> Weights:
    """TaylorSeer of an order; order 0 is reuse."""

    def weights(positions: Sequence[int], target: int) -> NDArray[np.float64]:
        distance = target - positions[-1]
        terms = differences(positions, order)
        return sum(factor * distance**k / math.factorial(k) for k, factor in enumerate(terms))  # type: ignore[return-value]

    return weights


def hicache(order: int, scale: float = SCALE) -> Weights:
    """HiCache: H_k(scale d) scale^k / k! in place of d^k / k!, with physicists' Hermite polynomials H_k."""

    def weights(positions: Sequence[int], target: int) -> NDArray[np.float64]:
        first, *rest = differences(positions, order)
        argument = scale * (target - positions[-1])
        for k, factor in enumerate(rest, start=1):
            first = first + factor * hermite.hermval(argument, np.eye(k + 1)[k]) * scale**k / math.factorial(k)
        return first

    return weights


def evenly(total: int, count: int, warmup: int) -> list[int]:
    """Their schedule: `warmup` evaluations, then a fixed distance; a fractional one, so that `count` are computed."""
    rest = count - warmup
    distance = (total - warmup + 1) / (rest + 1)
    return [*range(warmup), *(math.floor(warmup - 1 + distance * k) for k in range(1, rest + 1))]
