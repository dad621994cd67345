"""Positions of a history and a target position -> one weight per history entry (Spectrum, section 3; arXiv 2603.01623).

The forecast is linear in the history, h(t*) = sum_k a_k h_k, and the weights depend on positions only. They are solved
on the host in float64; no feature is ever part of a solve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Array = NDArray[np.float64]

Intercept = Literal["free", "paper"]
INTERCEPTS: tuple[Intercept, ...] = get_args(Intercept)


@dataclass(frozen=True)
class Forecaster:
    """Chebyshev ridge regression blended with first-order Newton extrapolation.

    Attributes:
        degree: highest Chebyshev degree M.
        window: number of most recent positions that the fit uses.
        ridge: penalty lambda on the coefficients.
        blend: share w of the Chebyshev fit; 1 - w is the Newton extrapolation through the last two positions.
        intercept: `paper` penalises the constant term too (the official formula, literally: its weights do not sum
            to 1); `free` does not (weights sum to 1, a constant feature is forecast exactly).

    The degree drops to what the distinct positions determine, except where the official formula leaves that to its
    ridge (`paper` with ridge > 0).

    >>> Forecaster(degree=1, window=2, ridge=0.0).weights([0, 2], 3, total=10).round(6).tolist()
    [-0.5, 1.5]
    """

    degree: int
    window: int
    ridge: float
    blend: float = 1.0
    intercept: Intercept = "free"

    def weights(self, positions: Sequence[float], target: float, total: int) -> Array:
        """Weights a [K] with h(target) ~ sum_k a_k h_k; float64, read-only.

        Args:
            positions: positions of the history, oldest first, shape [K], K >= 1. They may be uneven and may repeat.
            target: position to forecast, in the same units.
            total: number of evaluations of the run.

        Raises:
            ValueError: if there is no position.
        """
        return _weights(self, tuple(map(float, positions)), float(target), total)

    def _spectral(self, positions: Array, target: float, total: int) -> Array:
        # Without a ridge the fit is the same on every interval; the fit's own keeps its digits in long runs. With one,
        # the interval of the whole run decides what the ridge means.
        low, high = (0.0, total - 1.0) if self.ridge > 0 else (min(*positions, target), max(*positions, target))
        x, x_target = (on_unit_interval(value, low, high) for value in (positions, np.array([target])))
        literal = self.intercept == "paper" and self.ridge > 0
        degree = self.degree if literal else min(self.degree, len(np.unique(positions)) - 1)
        penalty = np.full(degree + 1, np.sqrt(self.ridge))
        if self.intercept == "free":
            penalty[0] = 0.0
        # phi* (Phi^T Phi + lambda D)^-1 Phi^T as a least-squares problem: same weights, half the digits lost.
        system = np.vstack([chebyshev.chebvander(x, degree), np.diag(penalty)])
        solution: Array = chebyshev.chebvander(x_target, degree)[0] @ np.linalg.pinv(system)[:, : len(positions)]
        return solution


class Axis:
    """Where the steps of a run lie on the axis that forecasts are fitted along.

    Evenly, as in the paper, until a schedule knows better: a model that moves most at the start follows a much lower
    polynomial in its own time than in steps.

    Attributes:
        places: of each step, ascending from 0 to the number of steps; None for evenly.

    >>> axis = Axis()
    >>> axis.weights(Forecaster(degree=1, window=2, ridge=0.0), [0, 1], 2, total=4).round(6).tolist()
    [-1.0, 2.0]
    >>> axis.places = (0.0, 2.0, 3.0, 3.5, 4.0)
    >>> axis.weights(Forecaster(degree=1, window=2, ridge=0.0), [0, 1], 2, total=4).round(6).tolist()
    [-0.5, 1.5]
    """

    def __init__(self) -> None:
        self.places: tuple[float, ...] | None = None

    def weights(self, forecaster: Forecaster, positions: Sequence[float], target: float, total: int) -> Array:
        """`Forecaster.weights` for steps."""
        if self.places is None:
            return forecaster.weights(positions, target, total)
        return forecaster.weights([self._place(p) for p in positions], self._place(target), total)

    def _place(self, step: float) -> float:
        assert self.places is not None
        index = int(step)
        return self.places[index] if index < len(self.places) else self.places[-1] + step - len(self.places) + 1


@lru_cache(maxsize=4096)
def _weights(forecaster: Forecaster, positions: tuple[float, ...], target: float, total: int) -> Array:
    """Solved once per set of positions: all conditionings of a run share them, and the corrector asks again."""
    if not positions:
        raise ValueError("a forecast needs at least one computed evaluation")
    recent = np.asarray(positions[-forecaster.window :])
    weights = np.zeros(len(positions))
    weights[-len(recent) :] = forecaster.blend * forecaster._spectral(recent, target, total)
    weights[-len(recent) :] += (1 - forecaster.blend) * newton(recent, target)
    weights.flags.writeable = False
    return weights


def on_unit_interval(points: Array, low: float, high: float) -> Array:
    """Map [low, high] to [-1, 1], where Chebyshev polynomials are well conditioned; a single point to 0."""
    half = (high - low) / 2 or 1.0
    return (points - (low + high) / 2) / half


def newton(positions: Array, target: float) -> Array:
    """Weights of first-order Newton extrapolation through the last two distinct positions (else: hold the last).

    >>> newton(np.array([0.0, 1.0, 3.0]), 4.0).tolist()
    [0.0, -0.5, 1.5]
    """
    weights = np.zeros(len(positions))
    last = positions[-1]
    weights[-1] = 1.0
    earlier = np.flatnonzero(positions != last)
    if earlier.size:
        step = (target - last) / (last - positions[earlier[-1]])
        weights[-1] += step
        weights[earlier[-1]] -= step
    return weights
