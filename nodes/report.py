"""The node "Spectrum Report": what the runs of a MODEL did, as text and as a picture."""

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

from ..spectrum_core.trace import Trace
from .runtime import attachment
from .settings import NODE

WIDTH, ROW, MARGIN = 960, 220, 16
INK, PALE, COMPUTED, FORECAST, LINE = "#1c2430", "#8892a0", "#2f6fde", "#c9d8f4", "#d4572a"


class SpectrumReport(io.ComfyNode):
    """Reads the traces that a MODEL from Spectrum Accelerate holds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SpectrumReport",
            display_name="Spectrum Report",
            category="model/acceleration",
            description="Shows what Spectrum Accelerate did: evaluations computed and forecast, errors, and why.",
            search_aliases=["spectrum", "speedup", "timeline"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that came out of Spectrum Accelerate."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes this node wait for the sampler."),
            ],
            outputs=[io.String.Output("summary"), io.Image.Output("plot")],
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """The runs are no input that ComfyUI could compare, so never reuse a result."""
        return float("nan")

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any]) -> io.NodeOutput:
        runs, reason = latest_runs(model)
        summary = "\n".join(describe(run) for run in runs) or f"Spectrum: {reason}"
        ui = {"text": (summary,), "spectrum": [run.to_json() for run in runs]}
        return io.NodeOutput(summary, plot(runs, summary), ui=ui)


def latest_runs(model: Any) -> tuple[list[Trace], str]:
    """The runs of the latest prompt that sampled this MODEL, oldest first; if there is none, why.

    A workflow whose Spectrum Accelerate is bypassed, to compare, must not fail because of its report.
    """
    attached = attachment(model)
    if attached is None:
        return [], f"not on this MODEL: {NODE} is bypassed, or `model` is not connected to its output"
    if not attached.runs:
        return [], "this MODEL was not sampled yet; connect `latent` to the result of a sampler that uses it"
    runs = list(attached.runs)
    return [run for run in runs if run.prompt == runs[-1].prompt], ""


def describe(run: Trace) -> str:
    """A run in a few lines of text."""
    lines = [run.summary(), f"  {run.model}, sampler {run.sampler}, forecasting the {run.target}"]
    if run.evaluations:
        lines.append(f"  {run.kinds}")
        reasons: dict[str, int] = {}
        for evaluation in run.evaluations:
            if evaluation.kind == "computed":
                name = evaluation.reason.value if evaluation.reason else "?"
                reasons[name] = reasons.get(name, 0) + 1
        lines.append("  computed: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
        for kind in ("computed", "forecast"):
            seconds = [e.seconds for e in run.evaluations if e.kind == kind and e.seconds is not None]
            if seconds:
                lines.append(f"  {kind}: {sum(seconds):.3f} s, {sum(seconds) / len(seconds):.4f} s each")
    return "\n".join(lines)


def plot(runs: list[Trace], text: str) -> torch.Tensor:
    """A row per run: a bar per evaluation, its estimated error as a line; without a run, the text.

    Returns:
        IMAGE [1, height, width, 3], in [0, 1].
    """
    image = Image.new("RGB", (WIDTH, ROW * max(1, len(runs))), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=15)
    for row, run in enumerate(runs):
        _draw_run(draw, font, run, row * ROW)
    if not runs:
        _draw_line(draw, font, text, MARGIN)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _draw_line(draw: ImageDraw.ImageDraw, font: Any, text: str, top: int) -> None:
    while draw.textlength(text, font) > WIDTH - 2 * MARGIN:
        text = text[:-2].rstrip("…") + "…"
    draw.text((MARGIN, top), text, INK, font)


def _draw_run(draw: ImageDraw.ImageDraw, font: Any, run: Trace, top: int) -> None:
    _draw_line(draw, font, run.summary(), top + MARGIN)
    left, right, base, height = MARGIN, WIDTH - MARGIN, top + ROW - 44, 96
    step = (right - left) / max(1, run.total)
    for evaluation in run.evaluations:
        x = left + evaluation.position * step
        computed = evaluation.kind == "computed"
        draw.rectangle(
            (x + step * 0.1, base - (height if computed else height // 3), x + step * 0.9, base),
            COMPUTED if computed else FORECAST,
        )
    known = [
        (e.position, e.feature_error)
        for e in run.evaluations
        if e.feature_error is not None and np.isfinite(e.feature_error)
    ]
    if len(known) > 1 and (largest := max(error for _, error in known)) > 0:
        points = [(left + (p + 0.5) * step, base - height * error / largest) for p, error in known]
        draw.line(points, LINE, 2)
        draw.text((right, top + 40), f"error at the end of a gap, largest {largest:.2%}", LINE, font, anchor="ra")
    draw.text((left, base + 8), f"evaluation 0, sigma {_sigma(run, 0)}", PALE, font)
    draw.text((right, base + 8), f"{run.total - 1}, sigma {_sigma(run, -1)}", PALE, font, anchor="ra")
    draw.rectangle((left, top + 44, left + 12, top + 56), COMPUTED)
    draw.text((left + 18, top + 40), "computed", INK, font)
    draw.rectangle((left + 110, top + 44, left + 122, top + 56), FORECAST)
    draw.text((left + 128, top + 40), "forecast", INK, font)


def _sigma(run: Trace, index: int) -> str:
    return f"{run.evaluations[index].sigma:.3g}" if run.evaluations else "?"
