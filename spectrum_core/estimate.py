"""The expected error of the final latent, from what was measured while it was made.

Whenever a gap of forecasts ends, the corrector knows by how much the latent had drifted through it. Drifts of different
gaps add up like independent errors. The correction takes some of that away, and the rest of the run magnifies what is
left: both together are a factor, `REMAINING`, that was measured (docs/estimate.md).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REMAINING = 0.8
"""True error of the final latent against the root of the sum of squared drifts: median over trained models, enlarged
latents, samplers, schedules and guidance scales (`benchmarks/estimate.py`)."""


class ErrorEstimate:
    """The error of a run so far, for each picture (and each part of it: video, audio).

    >>> estimate = ErrorEstimate()
    >>> estimate.judged(np.array([0.03, 0.01]), forecasts=2)
    >>> estimate.judged(np.array([0.04, 0.01]), forecasts=2)
    >>> round(estimate.worst(), 6), round(estimate.worst(unjudged=[4]), 6)
    (0.04, 0.134104)
    """

    def __init__(self) -> None:
        self._squares: Array | None = None
        self._growth: Array | None = None

    def judged(self, drift: Array, forecasts: int) -> None:
        """A gap has ended.

        Args:
            drift: of the latent through it, relative to itself, before it was corrected: float64 [pictures].
            forecasts: how many evaluations were forecast in it.
        """
        drift = np.nan_to_num(np.asarray(drift, dtype=np.float64), posinf=0.0)
        squares, growth = drift**2, drift / max(1, forecasts) ** 2
        if self._squares is None or self._growth is None or self._squares.shape != squares.shape:
            self._squares, self._growth = squares, growth
        else:
            self._squares, self._growth = self._squares + squares, np.maximum(self._growth, growth)

    def worst(self, unjudged: "list[int] | tuple[int, ...]" = ()) -> float | None:
        """The expected relative L2 error of the final latent, of the worst picture; None where nothing is known.

        Args:
            unjudged: lengths of gaps whose drift is not known: the last one of a run that stopped, say. A gap drifts
                with the square of its length, so that these are taken to be as the worst of the others.
        """
        if self._squares is None or self._growth is None:
            return None
        more = sum((self._growth * length**2) ** 2 for length in unjudged)
        return REMAINING * float(np.sqrt(self._squares + more).max())


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
