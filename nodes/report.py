"""The node "Spectrum Report": what the runs of a MODEL did, as text and as a picture."""

from collections import Counter
from typing import Any

from comfy_api.latest import io, ui

from ..spectrum_core.trace import Trace
from .plots import plot
from .runtime import attachment
from .settings import NODE


class SpectrumReport(io.ComfyNode):
    """Reads the traces that a MODEL from Spectrum Accelerate holds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SpectrumReport",
            display_name="Spectrum Report",
            category="model/patch",
            description="Shows what Spectrum Accelerate did: which steps were computed, the estimated error, and why.",
            search_aliases=["spectrum", "speedup", "timeline"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that came out of Spectrum Accelerate."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes this node wait for the sampler."),
            ],
            outputs=[io.String.Output("summary"), io.Image.Output("plot")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """The runs are no input that ComfyUI could compare, so never reuse a result."""
        return float("nan")

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any]) -> io.NodeOutput:
        runs, reason = latest_runs(model)
        texts = [describe(run) for run in runs] or [f"Spectrum: {reason}"]
        summary = "\n".join(texts)
        image = plot(runs, texts)
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        shown |= {"text": (summary,), "spectrum": [run.to_json() for run in runs]}
        return io.NodeOutput(summary, image, ui=shown)


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
    lines = [run.summary(), f"  {run.model}, sampler {run.sampler}, target {run.target}"]
    if run.evaluations:
        lines.append(f"  {run.kinds}")
        reasons = Counter(e.reason.value for e in run.evaluations if e.reason is not None)
        lines.append("  computed: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
        for kind in ("computed", "forecast"):
            seconds = [e.seconds for e in run.evaluations if e.kind == kind and e.seconds is not None]
            if seconds:
                lines.append(f"  {kind}: {sum(seconds):.3f} s, {sum(seconds) / len(seconds):.4f} s each")
        if run.saved:
            lines.append(f"  saved: about {run.saved:.1f} s")
    return "\n".join(lines)
