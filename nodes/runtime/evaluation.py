"""The evaluation in progress: what its calls share."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ...spectrum_core.messages import Message, Reason
from ...spectrum_core.readback import Readback, Stopwatch
from ...spectrum_core.trace import Evaluation
from ..models.rows import Key


class BeginAgain(Exception):
    """Some of an evaluation was forecast when another call of it turned out to need computing."""


@dataclass
class EvaluationInProgress:
    """One evaluation of the sampler: all conditionings, all calls of the network.

    Attributes:
        record: its entry in the trace.
        step: of the sampler; the position that forecasts go by.
        stage: within the step.
        stopwatch: of its duration.
        latent: the whole latent, shape [batch, ...].
        curious: whether the schedule wants to know how fast the output changes.
        replaced: methods of the network that were replaced when it began.
        moved: a call saw another part of the latent than before.
        options: transformer_options of its latest call.
        scale: of classifier-free guidance; None where the guider does not say.
        mask: share of its output that reaches the sampler; None for all of it.
        occurrences: calls so far, by what they are.
        controls: conditioning -> the control networks that act on it.
        forecast_calls: how many of its calls were forecast so far.
        feature_errors: of captured features, float32 [pictures] each.
        changes: of the conditional output since it was last computed: that step, and float32 [pictures].
        failure: what went wrong in a call; nothing is forecast from the next evaluation on.
        fallback: why the head cannot run alone; the model output is forecast from the next evaluation on.
        unfinished: a call of another thread needs computing, so that the evaluation must begin again.
        unguided_outputs: functions that the sampler has put there to see the outputs which guidance joins.
    """

    record: Evaluation
    step: int
    stage: int
    stopwatch: Stopwatch
    latent: torch.Tensor
    curious: bool = False
    replaced: frozenset[str] = frozenset()
    moved: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    mask: torch.Tensor | None = None
    occurrences: Counter[Key] = field(default_factory=Counter)
    controls: dict[Key, Key] = field(default_factory=dict)
    forecast_calls: int = 0
    feature_errors: list[Readback] = field(default_factory=list)
    changes: list[tuple[int, Readback]] = field(default_factory=list)
    failure: Message | None = None
    fallback: str | None = None
    unfinished: bool = False
    unguided_outputs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: int = field(default_factory=threading.get_ident)

    @property
    def forecast(self) -> bool:
        """Whether its calls are forecast."""
        return self.record.kind == "forecast"

    def compute(self, reason: Reason) -> None:
        """Compute this evaluation, which was to be forecast.

        Raises:
            BeginAgain: if some of it was forecast already; not in a thread of ComfyUI's MultiGPU pool, whose queues
                would then hold results of the abandoned evaluation. There, `unfinished` says so.
        """
        self.record.kind, self.record.reason = "computed", reason
        if self.forecast_calls:
            if threading.get_ident() == self._thread:
                raise BeginAgain
            self.unfinished = True

    def begin_again(self, occurrences: Counter[Key] | None = None) -> None:
        """Compute it from its beginning, or from where these calls had been made."""
        if self.forecast:
            self.record.kind, self.record.reason = "computed", Reason.OFF
        self.occurrences = Counter() if occurrences is None else occurrences
        self.forecast_calls, self.unfinished = 0, False
        self.feature_errors.clear()
        self.changes.clear()
