"""The expected error of the final latent, from what was measured while it was made.

Whenever a gap of forecasts ends, the corrector knows by how much the latent had drifted through it. The correction
takes most of that away, the more the larger it was; what gaps leave adds up like independent errors. `expected` says so
in one formula, calibrated on trained models (docs/estimate.md).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARE, POWER = 0.19, 2 / 3
"""Error of the final latent for a drift of 1, and how it grows with the drift: rounded from a fit to four trained
models on tuning seeds (`python dev.py bench estimate --fit`), guidance 1 to 7, 20 or 30 steps, latents 1 to 7.5 times
as large. Guidance is no part of it: drifts grow with it by themselves."""


def expected(drift: float) -> float:
    """The relative L2 error of the final latent that drifts lead to expect.

    Args:
        drift: of the latent through the gaps, relative to itself; the root of the sum of their squares.

    >>> round(expected(0.05), 3)
    0.026
    """
    return float(SHARE * drift**POWER)


class ErrorEstimate:
    """The error of a run so far, of the worst picture (and the worst part of it: video, audio).

    >>> estimate = ErrorEstimate()
    >>> estimate.judged(np.array([0.03, 0.01]), forecasts=2)
    >>> estimate.judged(np.array([0.04, 0.01]), forecasts=2)
    >>> round(estimate.worst(), 3), round(estimate.worst(unjudged=[4]), 3)
    (0.026, 0.058)
    """

    def __init__(self) -> None:
        self._squares: Array = np.zeros(1)
        self._growth = 0.0
        self._known = False

    def judged(self, drift: Array, forecasts: int) -> None:
        """A gap has ended.

        Args:
            drift: of the latent through it, relative to itself, before it was corrected: float64 [pictures].
            forecasts: how many evaluations were forecast in it.
        """
        drift = np.nan_to_num(np.asarray(drift, dtype=np.float64), posinf=0.0)
        before = self._squares if self._squares.shape == drift.shape else self._squares.max()
        self._known = True
        self._squares = before + drift**2
        self._growth = max(self._growth, float(drift.max()) / max(1, forecasts) ** 2)

    def worst(self, unjudged: "list[int] | tuple[int, ...]" = ()) -> float | None:
        """The expected relative L2 error of the final latent, of the worst picture; None where nothing is known.

        Args:
            unjudged: lengths of gaps whose drift is not known: the last one of a run that stopped, say. A gap drifts
                with the square of its length, so that these are taken to be as the worst of the others.
        """
        if not self._known:
            return None
        squares = float(self._squares.max()) + sum((self._growth * length**2) ** 2 for length in unjudged)
        return expected(squares**0.5)


def gaps(kinds: str, judged: "set[int]") -> tuple[dict[int, int], list[int]]:
    """The gaps of a run.

    Args:
        kinds: c for each computed evaluation, f for each forecast one.
        judged: the computed evaluations at which a drift is known.

    Returns:
        Computed evaluation -> evaluations forecast before it, of the judged gaps; and the lengths of the others.

    >>> gaps("cffcfcff", {3})
    ({3: 2}, [1, 2])
    >>> gaps("ccffcc", {5})
    ({5: 2}, [])
    """
    runs: list[tuple[int, int]] = []  # first evaluation of a gap, and the first one behind it
    for evaluation, kind in enumerate(kinds):
        if kind == "f":
            first = runs.pop()[0] if runs and runs[-1][1] == evaluation else evaluation
            runs.append((first, evaluation + 1))
    # The evaluation that ends a step knows the drift; it need not be the first one behind the gap.
    found: dict[int, int] = {}
    for evaluation in sorted(judged):
        before = [run for run in runs if run[1] <= evaluation]
        if before:
            found[evaluation] = before[-1][1] - before[-1][0]
            runs.remove(before[-1])
    return found, [end - first for first, end in runs]
