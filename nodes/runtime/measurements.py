"""What a run measures on the device, and what follows from it, at a fixed place of the run each."""

import math
import statistics
from typing import Any

import torch

from ...spectrum_core.estimate import ErrorEstimate, gaps
from ...spectrum_core.messages import Message, Text, say
from ...spectrum_core.readback import Delayed, Readback
from ...spectrum_core.trace import Evaluation, Trace
from .evaluation import EvaluationInProgress
from .policy import Policy

MISSED = 1.0
"""Relative error of forecast features, their median, that says that they did not go on as before: no forecast at all
would have been nearer. With strong guidance .6 is usual."""

DRIFTED = 0.05
"""... if the latent was off by that share of itself: where it hardly moves, features of any size do no harm."""


class Measurements:
    """Numbers on their way from the device, and the error that they lead to expect.

    Args:
        trace: of the run; its records and its error are kept up to date.

    Attributes:
        noisy: whether the sampler adds noise. Features then jump by themselves, and a picture may turn by the noise
            alone, so that no error is given.
    """

    def __init__(self, trace: Trace) -> None:
        self.noisy = False
        self._trace = trace
        self._waiting = Delayed()
        self._estimate = ErrorEstimate()
        self._misses = 0  # computed steps in a row whose features did not go on as forecast

    def put(self, evaluation: EvaluationInProgress, drift: torch.Tensor | None, curious: bool) -> None:
        """Something was measured in an evaluation.

        Args:
            evaluation: that holds the errors of its features, and how much its output changed.
            drift: of the latent through the gap that has ended, float32 [pictures * parts]; None if none has.
            curious: whether the schedule needs the change for its very next step; it is waited for, once in a run.
        """
        measured = Readback(drift) if drift is not None else None
        if evaluation.feature_errors or evaluation.changes or measured is not None:
            record = evaluation.record
            entry = (evaluation.step, record, evaluation.feature_errors, evaluation.changes, measured)
            self._waiting.put(record.position, entry, at_once=bool(evaluation.changes) and curious)

    def learn(self, policy: Policy, over: bool = False) -> Message | None:
        """Use the numbers whose place the next evaluation is; all if the run is over. Why nothing more may be forecast,
        if so."""
        stop = None
        found = self._waiting.rest() if over else self._waiting.due(self._trace.kinds)
        for step, record, errors, changes, drift in found:
            values = [value for error in errors for value in error.wait().tolist()]
            if any(math.isnan(value) for value in values):
                stop = stop or say(Text.NOT_FINITE)
            finite = [value for value in values if math.isfinite(value)]
            record.feature_error = max(finite) if finite else None
            if drift is not None:
                self._judge(record, drift.wait().double().numpy())
                policy.drifted(self._trace.error or 0.0)
            if self._discontinued(record, finite):
                stop = stop or say(Text.DISCONTINUED)
            moved: dict[int, float] = {}  # of the conditioning that changed most; devices answer in any order
            for before, change in changes:
                moved[before] = max(moved.get(before, 0.0), float(change.wait().max()))
            for before, change in sorted(moved.items()):
                policy.moved(step, before, change)
        return stop

    def finish(self) -> None:
        """The run is over: what was forecast and never judged counts, too."""
        judged = {e.position for e in self._trace.evaluations if e.drift is not None}
        if self._trace.error is not None:
            self._trace.error = self._estimate.worst(gaps(self._trace.kinds, judged)[1])
        if self._trace.evaluations:
            self._trace.evaluations[-1].estimate = self._trace.error

    def _judge(self, record: Evaluation, drifts: Any) -> None:
        """A gap has ended: what the final latent is expected to be off by, so far."""
        record.drift = float(drifts.max())
        found, _ = gaps(self._trace.kinds[: record.position] + "c", {record.position})
        self._estimate.judged(drifts, found.get(record.position, 1))
        self._trace.error = None if self.noisy else self._estimate.worst()

    def _discontinued(self, record: Evaluation, errors: list[float]) -> bool:
        """The net below everything: features that do not go on as forecast, twice in a row, whatever the cause."""
        if self.noisy or not errors or not self._trace.kinds[: record.position].endswith("f"):
            return False
        missed = statistics.median(errors) > MISSED and (record.drift is None or record.drift > DRIFTED)
        self._misses = self._misses + 1 if missed else 0
        return self._misses == 2
