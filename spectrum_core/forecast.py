"""History positions and a target position to one weight per history entry (Spectrum, section 3).

The forecast is linear in the history, h(t*) = sum_k a_k h_k, and the weights depend on positions only. They are solved
on the host in float64; no feature is ever part of a solve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .basis import Scaling, design, scale

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
        scaling: how positions are mapped before the fit, see `basis.scale`.

    The degree drops to what the distinct positions determine, except where the official formula leaves that to its
    ridge (`paper` with ridge > 0).
    """

    degree: int
    window: int
    ridge: float
    blend: float = 1.0
    intercept: Intercept = "free"
    scaling: Scaling = "run"

    def weights(self, positions: Sequence[float], target: float, total: int) -> NDArray[np.float64]:
        """Weights a [K] with h(target) ~ sum_k a_k h_k.

        Args:
            positions: positions of the history, oldest first, shape [K], K >= 1. They may be uneven and may repeat.
            target: position to forecast, in the same units.
            total: number of evaluations of the run (for `scaling="run"`).

        Raises:
            ValueError: if there is no position.
        """
        if len(positions) == 0:
            raise ValueError("a forecast needs at least one computed evaluation")
        recent = np.asarray(positions[-self.window :], dtype=np.float64)
        weights = np.zeros(len(positions))
        weights[-len(recent) :] = self.blend * self._spectral(recent, target, total) + (1 - self.blend) * newton(
            recent, target
        )
        return weights

    def _spectral(self, positions: NDArray[np.float64], target: float, total: int) -> NDArray[np.float64]:
        # Without a ridge the fit is the same in every scaling; that of the window keeps its digits in long runs.
        x, x_target = scale(positions, target, total, self.scaling if self.ridge > 0 else "window")
        literal = self.intercept == "paper" and self.ridge > 0
        degree = self.degree if literal else min(self.degree, len(np.unique(positions)) - 1)
        penalty = np.full(degree + 1, np.sqrt(self.ridge))
        if self.intercept == "free":
            penalty[0] = 0.0
        # phi* (Phi^T Phi + lambda D)^-1 Phi^T as a least-squares problem: same weights, half the digits lost.
        system = np.vstack([design(x, degree), np.diag(penalty)])
        return design(np.array([x_target]), degree)[0] @ np.linalg.pinv(system)[:, : len(positions)]


def newton(positions: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """Weights of first-order Newton extrapolation through the last two distinct positions (else: hold the last)."""
    weights = np.zeros(len(positions))
    last = positions[-1]
    weights[-1] = 1.0
    earlier = np.flatnonzero(positions != last)
    if earlier.size:
        step = (target - last) / (last - positions[earlier[-1]])
        weights[-1] += step
        weights[earlier[-1]] -= step
    return weights
