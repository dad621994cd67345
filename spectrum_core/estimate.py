"""The expected error of the final latent, from what was measured while it was made.

Whenever a gap of forecasts ends, the corrector knows by how much the latent had drifted through it. The correction
takes most of that away, the more the larger it was, and the rest of the run magnifies what is left: guidance beyond the
usual does so. `expected` says so in one formula, calibrated on trained models
(docs/estimate.md).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARE, POWER = 0.43, 0.8
"""Error of the final latent for a drift of 1, and how it grows with the drift. The constants were fitted to 256
runs of four trained models on tuning seeds: guidance 1 to 7.5, 6 to 20 of 20 or 30 steps, latents 1 to 7.5 times as
large."""

STRONG = 3.5
"""Guidance scale from which on errors are magnified, in proportion to it."""


def expected(drift: float, guidance: float = 1.0) -> float:
    """The relative L2 error of the final latent that a drift leads to expect.

    Args:
        drift: of the latent through its worst gap, relative to itself.
        guidance: scale of classifier-free guidance.

    >>> round(expected(0.05), 3), round(expected(0.05, guidance=8.0), 3)
    (0.039, 0.089)
    """
    return float(SHARE * drift**POWER * max(1.0, guidance / STRONG))


class ErrorEstimate:
    """The error of a run so far, of the worst picture (and the worst part of it: video, audio).

    >>> estimate = ErrorEstimate()
    >>> estimate.judged(np.array([0.03, 0.01]), forecasts=2)
    >>> estimate.judged(np.array([0.05, 0.01]), forecasts=2)
    >>> round(estimate.worst(), 3), round(estimate.worst(unjudged=[4]), 3)
    (0.039, 0.119)
    """

    def __init__(self) -> None:
        self._drift = self._growth = 0.0
        self._guidance = 1.0
        self._known = False

    def judged(self, drift: Array, forecasts: int, guidance: float = 1.0) -> None:
        """A gap has ended.

        Args:
            drift: of the latent through it, relative to itself, before it was corrected: float64 [pictures].
            forecasts: how many evaluations were forecast in it.
            guidance: scale of classifier-free guidance.
        """
        largest = float(np.nan_to_num(np.asarray(drift, dtype=np.float64), posinf=0.0).max())
        self._known = True
        self._guidance = max(self._guidance, guidance)
        self._drift = max(self._drift, largest)
        self._growth = max(self._growth, largest / max(1, forecasts) ** 2)

    def worst(self, unjudged: "list[int] | tuple[int, ...]" = ()) -> float | None:
        """The expected relative L2 error of the final latent, of the worst picture; None where nothing is known.

        Args:
            unjudged: lengths of gaps whose drift is not known: the last one of a run that stopped, say. A gap drifts
                with the square of its length, so that these are taken to be as the worst of the others.
        """
        if not self._known:
            return None
        drift = max([self._drift, *(self._growth * length**2 for length in unjudged)])
        return expected(drift, self._guidance)


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
