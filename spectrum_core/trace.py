"""What happened at each evaluation of a run: for the log, the report and the page."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["computed", "forecast"]


@dataclass
class Evaluation:
    """One network evaluation that the sampler asked for (all conditionings together).

    Attributes:
        position: its number in the run, from 0.
        sigma: its noise level.
        kind: whether the network was computed or its feature forecast.
        reason: why.
        error: relative L2 error that a forecast of the feature would have had (known where computed and forecastable).
        drift: by how much the latent was off when this was computed, relative to itself (known where computed, behind
            forecasts, and corrected).
        seconds: duration.
    """

    position: int
    sigma: float
    kind: Kind
    reason: str
    error: float | None = None
    drift: float | None = None
    seconds: float | None = None


@dataclass
class Trace:
    """One sampling run.

    Attributes:
        total: evaluations that the sampler asks for.
        model: class name of the diffusion model.
        sampler: name of the sampler.
        target: what is forecast ("block output", "model output" or "denoised latent").
        settings: the node's values.
        evaluations: what happened, in order.
        not_accelerated: why the whole run was computed, if it was.
        notes: what the user should know besides (a fallback, say).
        self_test: largest relative difference between a bypassed and a full call with the same features.
        outcome: "done", "interrupted" or "error".
        node: id of the node that sampled, prompt: id of its prompt; both empty outside ComfyUI's executor.
    """

    total: int = 0
    model: str = ""
    sampler: str = ""
    target: str = ""
    settings: dict[str, int | float | str] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    not_accelerated: str | None = None
    notes: list[str] = field(default_factory=list)
    self_test: float | None = None
    outcome: Literal["done", "interrupted", "error"] = "done"
    node: str = ""
    prompt: str = ""

    @property
    def computed(self) -> int:
        """Evaluations on which the network ran."""
        return sum(e.kind == "computed" for e in self.evaluations)

    @property
    def forecast(self) -> int:
        """Evaluations on which it did not."""
        return len(self.evaluations) - self.computed

    @property
    def error(self) -> float | None:
        """What the final latent is estimated to be off by, relative to itself.

        Where gaps are corrected, the root of the sum of the squares of what the latent drifted in each. Else the mean
        over all evaluations of what their outputs are off by: nothing where computed, and inside of a gap as much as
        the square of the distance makes of what was seen at its end.
        """
        drifts = [e.drift for e in self.evaluations if e.drift is not None and math.isfinite(e.drift)]
        if drifts:
            return math.hypot(*drifts)
        total, latest, growth = 0.0, -1, None
        for evaluation in self.evaluations:
            if evaluation.kind == "computed":
                gap = evaluation.position - latest
                if evaluation.error is not None and math.isfinite(evaluation.error):
                    growth = evaluation.error / gap**2
                    total += growth * _squares(gap - 1)
                latest = evaluation.position
        if growth is None:
            return None
        return (total + growth * _squares(len(self.evaluations) - 1 - latest)) / len(self.evaluations)

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def summary(self) -> str:
        """One line, as it stands in the log and on the node."""
        if self.outcome != "done":
            text = f"{self.outcome} after {len(self.evaluations)} of {self.total} evaluations, {self.computed} computed"
        elif self.not_accelerated or not self.forecast:
            text = f"not accelerated: {self.not_accelerated or 'no evaluation could be forecast'}"
        else:
            count = len(self.evaluations)
            text = f"{self.computed} of {count} evaluations computed ({count / max(1, self.computed):.1f}x fewer)"
            if self.error is not None:
                text += f", estimated error {self.error:.2%}"
        return "Spectrum: " + "; ".join([text, *self.notes])

    def timeline(self) -> str:
        """One character per evaluation so far: computed, forecast, or still to come."""
        done = "".join("█" if e.kind == "computed" else "▁" for e in self.evaluations)
        return done + "·" * (self.total - len(done))

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite become null."""
        data = asdict(self) | {"computed": self.computed, "forecast": self.forecast, "error": self.error}
        return json.dumps(_finite(data), allow_nan=False)


def _squares(count: int) -> int:
    """1 + 4 + 9 + ... + count**2."""
    return count * (count + 1) * (2 * count + 1) // 6


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value
