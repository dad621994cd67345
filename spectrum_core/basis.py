"""Abscissae to Chebyshev design matrix (Spectrum, section 3; arXiv 2603.01623)."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Scaling = Literal["run", "window", "paper"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

PAPER_CENTRE = 25.0
"""The official code maps evaluation i to (i - 25) / 25 whatever the number of steps."""


def scale(positions: Sequence[float], target: float, total: int, scaling: Scaling) -> tuple[NDArray[np.float64], float]:
    """Map evaluation positions onto the interval on which Chebyshev polynomials are well conditioned.

    Args:
        positions: evaluation positions of the fit, shape [K], in units of evaluations.
        target: the position to be forecast.
        total: number of evaluations of the run.
        scaling: `run` maps 0 .. total - 1 to [-1, 1]; `window` maps the span of the fit and its target to [-1, 1],
            so that a ridge means the same wherever the window stands; `paper` is the official (i - 25) / 25.

    Returns:
        The scaled positions, float64 [K], and the scaled target.
    """
    points = np.asarray(positions, dtype=np.float64)
    if scaling == "paper":
        centre, half = PAPER_CENTRE, PAPER_CENTRE
    elif scaling == "run":
        centre = half = (total - 1) / 2
    elif scaling == "window":
        low, high = min(points.min(), target), max(points.max(), target)
        centre, half = (low + high) / 2, (high - low) / 2
    else:
        raise ValueError(f"scaling = {scaling!r}: use one of {', '.join(SCALINGS)}")
    half = half or 1.0  # one evaluation in all: every position is the centre
    return (points - centre) / half, (target - centre) / half


def design(x: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Chebyshev polynomials of the first kind T_0 .. T_degree at x [K]: float64 [K, degree + 1]."""
    return chebyshev.chebvander(x, degree)
