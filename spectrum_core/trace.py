"""What happened at each evaluation of a run: for the log, the report and the page."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .messages import Message, Reason, Text, say

Kind = Literal["computed", "forecast"]


@dataclass
class Evaluation:
    """One model evaluation that the sampler asked for (all conditionings together).

    Attributes:
        position: its number in the run, from 0.
        sigma: its noise level.
        kind: whether the model was computed or its feature forecast.
        reason: why it was computed; None where it was forecast.
        feature_error: relative L2 error that a forecast of the feature would have had; the worst picture and
            conditioning. Known where the feature was computed and could have been forecast.
        drift: relative L2 distance that the latent had drifted through the gap before this evaluation, before it was
            corrected; the worst picture. Known where a corrected gap ended.
        estimate: estimated relative L2 error of the final latent, as far as it was known after this evaluation.
        seconds: duration.
    """

    position: int
    sigma: float
    kind: Kind
    reason: Reason | None = None
    feature_error: float | None = None
    drift: float | None = None
    estimate: float | None = None
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
        off: why the whole run was computed, if it was.
        notes: what the user should know besides (a fallback, say).
        error: expected relative L2 error of the final latent, worst picture; None where it is not known.
        self_test: largest relative difference between a head-only and a full call with the same features.
        outcome: "running", "done", "interrupted" or "error".
        node: id of the node that sampled; empty outside of ComfyUI's executor.
        prompt: id of its prompt; likewise.
    """

    total: int = 0
    model: str = ""
    sampler: str = ""
    target: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    off: Message | None = None
    notes: list[Message] = field(default_factory=list)
    error: float | None = None
    self_test: float | None = None
    outcome: Literal["running", "done", "interrupted", "error"] = "running"
    node: str = ""
    prompt: str = ""

    @property
    def computed(self) -> int:
        """Evaluations on which the model ran."""
        return sum(e.kind == "computed" for e in self.evaluations)

    @property
    def forecast(self) -> int:
        """Evaluations on which it did not."""
        return len(self.evaluations) - self.computed

    @property
    def kinds(self) -> str:
        """c for each computed evaluation, f for each forecast one."""
        return "".join(e.kind[0] for e in self.evaluations)

    @property
    def saved(self) -> float | None:
        """Seconds that forecasting saved: what the forecast evaluations would have taken, less what they took."""
        computed = [e.seconds for e in self.evaluations if e.kind == "computed" and e.seconds is not None]
        forecast = [e.seconds for e in self.evaluations if e.kind == "forecast" and e.seconds is not None]
        if not computed or not forecast:
            return None
        usual = sorted(computed)[len(computed) // 2]  # the first call of a model loads and compiles
        return max(0.0, usual * len(forecast) - sum(forecast))

    @property
    def full(self) -> Message | None:
        """Why nothing was forecast; None if something was."""
        return None if self.forecast else self.off or say(Text.NOTHING)

    def note(self, message: Message) -> None:
        """Add a note once."""
        if message not in self.notes:
            self.notes.append(message)

    def summary(self) -> str:
        """One line, as it stands in the log."""
        count = len(self.evaluations)
        if self.outcome in ("interrupted", "error"):
            text = f"{self.outcome} after {count} of {self.total} evaluations, {self.computed} computed"
        elif self.full:
            text = f"not accelerated: {self.full}"
        else:
            text = f"{self.computed} of {count} evaluations computed ({count / max(1, self.computed):.1f}x fewer)"
            text += f", estimated error {self.error:.1%}" if self.error is not None else ", error not known"
        return "Spectrum: " + "; ".join([text, *map(str, self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None."""
        data = asdict(self) | {
            "computed": self.computed,
            "forecast": self.forecast,
            "kinds": self.kinds,
            "saved": self.saved,
            "summary": self.summary(),
            "off": str(self.full) if self.full else None,
            "notes": [str(note) for note in self.notes],
            "evaluations": [asdict(e) | {"reason": e.reason and e.reason.value} for e in self.evaluations],
        }
        plain: dict[str, Any] = _finite(data)
        return plain

    def to_json(self) -> str:
        """Strict JSON of `to_dict`."""
        return json.dumps(self.to_dict(), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value
