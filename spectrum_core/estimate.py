"""The expected error of the final latent."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ErrorEstimate:
    """Root of the sum of squares of the drifts of each picture."""

    def __init__(self) -> None:
        self._squares: Array | None = None

    def add(self, drift: Array) -> None:
        """By how much the latent had drifted through a gap, relative to itself: float64 [batch]."""
        squares = np.nan_to_num(drift) ** 2
        same = self._squares is not None and self._squares.shape == squares.shape
        self._squares = self._squares + squares if same and self._squares is not None else squares

    def worst(self) -> float | None:
        """Of the worst picture; None where nothing is known."""
        return None if self._squares is None else float(np.sqrt(self._squares.max()))
