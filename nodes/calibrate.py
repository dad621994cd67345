"""The nodes "Spectrum Calibrate" and "Spectrum Plan": watch full runs, and say what to compute of the next ones.

Calibrate puts one wrapper (OUTER_SAMPLE) on a clone of the MODEL. It only looks: at each evaluation it keeps the
network's output (one latent) and takes its inner products with the earlier ones. How the sampler combines outputs is
found by running the sampler itself on coefficients instead of latents. When the run ends, a matrix of numbers is left.
"""

import logging
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.model_sampling
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

from ..spectrum_core.calibration import LARGEST, Calibration, improved, mean
from ..spectrum_core.schedule import LEAST, balanced, budget
from .progress import show
from .report import COMPUTED, INK, LINE, MARGIN, PALE, WIDTH
from .run import FOREIGN, raw_network
from .run import KEY as ACCELERATED
from .settings import DEFAULTS, NODE, Settings
from .solver import LinearError, known_sampler, linear_map, noise_left, raw_output, sampler_name

KEY = "spectrum_calibrate"
CALIBRATE = "Spectrum Calibrate"
RUNS_KEPT = 16

UNEXPLAINED = 0.01
"""Share of the last latent that the outputs do not explain; of a deterministic sampler, rounding only."""

HEIGHT, TICKS = 320, (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@dataclass
class Recorder:
    """What a calibrated MODEL carries.

    Attributes:
        node: id of the node, to which live messages are sent; empty outside a workflow.
        runs: one calibration per recorded run, oldest first. They hold no tensor of the device.
        reason: why the latest run was not recorded, or empty.
        times: noise left at each level of the latest recorded run (see `balanced`).
    """

    node: str = ""
    runs: deque[Calibration] = field(default_factory=lambda: deque(maxlen=RUNS_KEPT))
    reason: str = "this MODEL was not sampled yet; connect `latent` to the result of a sampler that uses it"
    times: tuple[float, ...] = ()


def calibrated(model: ModelPatcher, node: str = "") -> ModelPatcher:
    """A clone of a MODEL whose runs are recorded. The MODEL given stays as it is."""
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    if KEY in options:
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    options[KEY] = Recorder(node)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return clone


def recorder(model: ModelPatcher) -> Recorder | None:
    """What `calibrated` put on a MODEL, or None."""
    return model.model_options.get("transformer_options", {}).get(KEY)


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: the life of a recording. `args` are (noise, latent_image, sampler, sigmas, mask, ...)."""
    guider = executor.class_obj
    before = guider.model_options
    names = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask")
    given = dict(zip(names, args, strict=False)) | kwargs
    target: Recorder = before["transformer_options"][KEY]
    recording = None
    try:
        recording = Recording(guider, given["sampler"], given["sigmas"], given.get("denoise_mask"))
    except LinearError as error:
        target.reason = str(error)
        logging.info(f"{CALIBRATE}: not recorded: {error}")
    if recording is None:
        show(target.node, f"{CALIBRATE}: not recorded: {target.reason}")
        return executor(*args, **kwargs)
    guider.model_options = comfy.model_patcher.create_model_options_clone(before)
    add_wrapper_with_key(
        WrappersMP.PREDICT_NOISE, KEY, recording.predict_noise, guider.model_options, is_model_options=True
    )
    target.reason = "the latest run did not end"
    try:
        output = executor(*args, **kwargs)
        try:
            target.runs.append(recording.result())
            target.times, target.reason = recording.times, ""
            text = f"recorded {len(target.runs)} run{'s' * (len(target.runs) > 1)}"
        except (LinearError, ValueError) as error:  # a NaN latent, say, is no plan
            target.reason, text = str(error), f"not recorded: {error}"
        logging.info(f"{CALIBRATE}: {text}")
        show(target.node, f"{CALIBRATE}: {text}")
        return output
    finally:
        guider.model_options = before
        recording.close()


class Recording:
    """One run that is watched.

    Args:
        guider: ComfyUI's guider.
        sampler: ComfyUI's sampler object.
        sigmas: the run's noise levels, shape [steps + 1].
        mask: the mask of an inpainting run, or None.

    Raises:
        LinearError: if the run cannot be calibrated.
    """

    def __init__(self, guider: Any, sampler: Any, sigmas: torch.Tensor, mask: Any) -> None:
        options = guider.model_options["transformer_options"]
        if ACCELERATED in options:
            raise LinearError(f"{NODE} is on the same MODEL; calibrate without it")
        for key, reason in FOREIGN.items():
            if key in options:
                raise LinearError(reason)
        if mask is not None:
            raise LinearError("a masked run mixes the given latent in at every step; calibrate without the mask")
        self._name = sampler_name(sampler)
        patcher = guider.model_patcher
        self._sampling = patcher.get_model_object("model_sampling")
        flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        known = known_sampler(self._name, sampler)
        if known is None:
            raise LinearError(f"the sampler {self._name} is not known")
        if known.obstacle or known.noisy:
            why = known.obstacle or "adds fresh noise, which no plan can foresee"
            raise LinearError(f"the sampler {self._name} {why}")
        self._sigmas = sigmas.detach().float().cpu()
        self._stages = known.stages
        self._model = type(raw_network(patcher.model)).__name__
        self._cfg = getattr(guider, "cfg", None)
        self._map, _ = linear_map(sampler, self._sampling, self._sigmas, known.stages)
        self.times = tuple(noise_left(self._sigmas.tolist(), flow))
        self._outputs: list[torch.Tensor] = []
        self._products: list[torch.Tensor] = []
        self._first: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._picture: torch.Tensor | None = None
        self._seen = 0

    def predict_noise(
        self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """PREDICT_NOISE wrapper: one evaluation of the sampler. Nothing that it returns or was given is touched."""
        latent = x.detach().clone()  # a sampler may go on in place
        output = executor(x, timestep, *args, **kwargs)
        self._seen += 1
        if self._seen <= self._map.shape[1] - 1:
            with torch.no_grad():
                self._see(latent, timestep, output.detach())
        return output

    def _see(self, latent: torch.Tensor, timestep: torch.Tensor, denoised: torch.Tensor) -> None:
        raw = raw_output(self._sampling, timestep, latent.float(), denoised.float())
        self._outputs.append(raw)
        self._products.append(torch.stack([_dot(raw, other) for other in self._outputs]))
        self._first = latent if self._first is None else self._first
        self._last, self._picture = latent, denoised.float().clone()

    def result(self) -> Calibration:
        """What the run told. Called once, after it.

        Raises:
            LinearError: if the sampler did not do what its coefficients say.
            ValueError: if the numbers make no calibration.
        """
        count = len(self._outputs)
        if self._seen != self._map.shape[0] - 1 or self._first is None or self._last is None or self._picture is None:
            raise LinearError(
                f"the sampler {self._name} called the model {self._seen} times, not {self._map.shape[0] - 1}"
            )
        explained = self._map[count - 1, 0] * self._first.float()
        for weight, raw in zip(self._map[count - 1, 1:count].tolist(), self._outputs, strict=False):
            explained = explained + weight * raw
        off = torch.linalg.vector_norm(explained - self._last) / torch.linalg.vector_norm(self._last)
        if not float(off) <= UNEXPLAINED:
            raise LinearError(
                f"the sampler {self._name} does more than combine the network's outputs ({float(off):.1%} unexplained)"
            )
        size = _dot(self._picture, self._picture).clamp_min(1e-12).double().cpu().numpy()
        gram = np.zeros((count, count))
        for row, products in enumerate(self._products):
            gram[row, : row + 1] = (products.double().cpu().numpy() / size).mean(axis=1)
        return Calibration(
            gram=gram + np.tril(gram, -1).T,
            map=self._map[:, 1:].numpy().astype(np.float64),
            sigmas=tuple(self._sigmas.tolist()),
            stages=self._stages,
            model=self._model,
            sampler=self._name,
            cfg=float(self._cfg) if isinstance(self._cfg, int | float) and abs(self._cfg) <= LARGEST else None,
        )

    def close(self) -> None:
        """Free the latents. Called once, whatever happened."""
        self._outputs.clear()
        self._products.clear()
        self._first = self._last = self._picture = None


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner products of each picture's latents: [batch]."""
    return (a * b).flatten(1).sum(dim=1)


# ---------------------------------------------------------------------------------------------------- nodes


class SpectrumCalibrate(io.ComfyNode):
    """MODEL in, MODEL out: its runs are recorded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SpectrumCalibrate",
            display_name=CALIBRATE,
            category="model/acceleration",
            description=(
                "Watches full runs of a model; Spectrum Plan then says which evaluations are worth computing. The "
                "picture is the same as without this node. Each run is added; a few prompts are better than one."
            ),
            search_aliases=["spectrum", "plan", "profile"],
            inputs=[io.Model.Input("model", tooltip="The model, without Spectrum Accelerate.")],
            outputs=[io.Model.Output(tooltip="The same model, watched when it is sampled.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(calibrated(model, node=str(cls.hidden.unique_id or "")))


class SpectrumPlan(io.ComfyNode):
    """Gives what the runs of a MODEL from Spectrum Calibrate told.

    Its inputs change whenever a calibrating run is new, so ComfyUI's cache is right: what follows it is not run again.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SpectrumPlan",
            display_name="Spectrum Plan",
            category="model/acceleration",
            description=(
                "The plan of the runs that Spectrum Calibrate has watched: connect it to Spectrum Accelerate, or copy "
                "its text (Preview as Text) into that node's `plan`, where it travels with the workflow."
            ),
            search_aliases=["spectrum", "calibrate", "schedule"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that came out of Spectrum Calibrate."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes this node wait for the sampler."),
            ],
            outputs=[io.String.Output("plan"), io.String.Output("summary"), io.Image.Output("plot")],
        )

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any]) -> io.NodeOutput:
        recorded = recorder(model)
        calibration = latest(recorded)
        if recorded is None or calibration is None:
            reason = recorded.reason if recorded else f"{CALIBRATE} is bypassed, or `model` is not its output"
            summary = f"Spectrum Plan: none: {reason}"
            return io.NodeOutput("", summary, plot([], summary), ui={"text": (summary,)})
        points = curve(calibration, recorded.times)
        summary = describe(calibration, points, recorded.reason)
        return io.NodeOutput(calibration.to_json(), summary, plot(points, summary), ui={"text": (summary,)})


def latest(recorded: Recorder | None) -> Calibration | None:
    """The mean of all recorded runs that are like the latest one."""
    if recorded is None or not recorded.runs:
        return None
    last = recorded.runs[-1]
    alike = [c for c in recorded.runs if c.misfit(last.model, last.sampler, last.stages, last.sigmas) is None]
    return mean([c for c in alike if c.cfg == last.cfg])


@dataclass(frozen=True)
class Point:
    """Predicted errors of the final latent with so many computed steps.

    Attributes:
        computed: how many.
        balanced: error of the balanced schedule.
        planned: error of the plan, and its steps.
    """

    computed: int
    balanced: float
    planned: float
    steps: tuple[int, ...]


def curve(calibration: Calibration, times: tuple[float, ...]) -> list[Point]:
    """Predicted error against the number of computed steps, with the node's defaults, most expensive first."""
    settings = Settings(**dict[str, Any](DEFAULTS))
    forecaster = settings.forecaster()
    points: list[Point] = []
    for speedup in (1.5, 2.0, 2.5, 3.3, 4.0, 5.0, 7.0):
        count = budget(calibration.steps, speedup)
        start = balanced(times, count, settings.warmup, settings.tail)
        if count < calibration.steps and (not points or count < points[-1].computed):
            plan = improved(calibration, start, forecaster, corrected=settings.correct)
            points.append(
                Point(
                    count,
                    calibration.predicted(start.computed, forecaster, settings.correct),
                    calibration.predicted(plan.computed, forecaster, settings.correct),
                    plan.computed,
                )
            )
    return points


def describe(calibration: Calibration, points: list[Point], reason: str) -> str:
    """A calibration in a few lines of text."""
    guided = f", CFG {calibration.cfg:g}" if calibration.cfg not in (None, 1) else ""
    lines = [
        f"Spectrum Plan: {calibration.model}, sampler {calibration.sampler}, {calibration.steps} steps{guided}, "
        f"noise levels {calibration.sigmas[0]:.4g} to {calibration.sigmas[-1]:.4g}; "
        f"from {calibration.runs} run{'s' * (calibration.runs > 1)}",
        *([f"  the latest run is not in it: {reason}"] if reason else []),
        "  steps computed: predicted error of the plan (of the balanced schedule)",
        *(
            f"  {p.computed}: {p.planned:.2%} ({p.balanced:.2%}), computing {' '.join(map(str, p.steps))}"
            for p in points
        ),
    ]
    if not points:
        lines.append(f"  none: {calibration.steps} steps are too few; {LEAST} are computed at least")
    return "\n".join(lines)


def plot(points: list[Point], text: str) -> torch.Tensor:
    """Predicted error (logarithmic) against computed steps; without points, the text.

    Returns:
        IMAGE [1, height, width, 3], in [0, 1].
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=15)
    if len(points) < 2:
        draw.multiline_text((MARGIN, MARGIN), _wrapped(draw, font, text), INK, font)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]
    left, right, top, base = 4 * MARGIN, WIDTH - MARGIN, 3 * MARGIN, HEIGHT - 3 * MARGIN
    errors = [max(e, 1e-6) for p in points for e in (p.balanced, p.planned)]
    high, low = math.log(max(errors) * 1.2), math.log(min(errors) / 1.2)
    most, fewest = points[0].computed, points[-1].computed

    def place(computed: int, error: float) -> tuple[float, float]:
        across = (computed - fewest) / max(1, most - fewest)
        return left + across * (right - left - MARGIN), base - (math.log(max(error, 1e-6)) - low) / (high - low) * (
            base - top
        )

    for tick in TICKS:
        if low < math.log(tick) < high:
            y = place(fewest, tick)[1]
            draw.line((left, y, right, y), PALE, 1)
            draw.text((left - 6, y), f"{tick:g}", PALE, font, anchor="rm")
    for point in points:
        draw.text((place(point.computed, 1)[0], base + 8), str(point.computed), PALE, font, anchor="ma")
    for colour, name in ((LINE, "balanced"), (COMPUTED, "planned")):
        line = [place(p.computed, getattr(p, name)) for p in points]
        draw.line(line, colour, 2)
        for x, y in line:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
    draw.text((left, MARGIN), "predicted error of the final latent", INK, font)
    draw.text((right - 160, MARGIN), "planned", COMPUTED, font, anchor="ra")
    draw.text((right - 60, MARGIN), "balanced", LINE, font, anchor="ra")
    draw.text((right, base + 26), "steps computed", PALE, font, anchor="ra")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _wrapped(draw: ImageDraw.ImageDraw, font: Any, text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        lines.append("")
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}".lstrip() if lines[-1] else word
            if draw.textlength(longer, font) > WIDTH - 2 * MARGIN and lines[-1]:
                lines.append(word)
            else:
                lines[-1] = longer
    return "\n".join(lines)
