"""One sampling run: begins, decides per evaluation, ends, always cleans up.

`outer_sample` is the only wrapper that a MODEL carries. It gives the run a private copy of the guider's options and
puts the run's own wrappers there: the decision (PREDICT_NOISE: once for all rows of an evaluation) and, innermost, the
call (APPLY_MODEL). When the run ends, they are gone with the copy.
"""

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.model_patcher
import comfy.model_sampling
import torch
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_execution.utils import get_executing_context

from ..spectrum_core.calibration import Calibration, cheapest, improved
from ..spectrum_core.correction import Correction
from ..spectrum_core.forecast import Forecaster
from ..spectrum_core.readback import Readback, Stopwatch
from ..spectrum_core.schedule import FEWEST, LEAST, ErrorControl, Plan, State, balanced
from ..spectrum_core.trace import Evaluation, Trace
from .architectures import DENOISED, MODEL_OUTPUT, Architecture, find
from .bypass import Bypass, Features, TapError
from .control import Deferred, Later, active_controls
from .discovery import Discovery
from .observe import Observer, on_level
from .path import Path, path_of
from .progress import show
from .samplers import Sampler
from .settings import BALANCED, BLOCK_OUTPUT, CONTROLLED, DENOISED_LATENT, RAW_OUTPUT, Settings
from .solver import known_sampler, noise_left, sampler_name
from .streams import Key, Stream, forecast_rows, stream_keys

KEY = "spectrum"
LATEST = Forecaster(degree=1, window=1, ridge=0.0)
"""Weight 1 on the newest feature: what the self-test puts in."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE_HALF = 1e-2
"""Self-test: a compiled head may round differently from an eager one; a wrong one is off by far more."""

BEARABLE = 0.2
"""Estimated error so far from which on the rest of a run is computed, where no number of evaluations was asked for:
with strong guidance and few steps, pictures break there, and computing mends most of it."""

WHOLE = MODEL_OUTPUT, DENOISED
"""Targets of which no part of the network runs."""

FOREIGN = {"easycache": "EasyCache or LazyCache is on the same MODEL; remove one of the two"}
"""transformer_options of other accelerators -> why Spectrum stands down."""


GUIDED = "sampler_post_cfg_function"
"""model_options of functions that see the outputs which guidance joins; a sampler adds one to go by the unguided."""

ARGUMENTS = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback", "disable_pbar", "seed")
"""Of ComfyUI's outer_sample, in order."""

RUNS_KEPT = 16
"""Traces (a few kB each) that a MODEL remembers for the report."""


@dataclass(frozen=True)
class Attachment:
    """What a MODEL carries.

    Attributes:
        settings: the node's values.
        node: id of the node, to which live messages are sent; empty outside a workflow.
        calibration: what a full run of this kind has told, if the node was given a plan.
        runs: traces of the latest runs, oldest first. They hold no tensor.
    """

    settings: Settings
    node: str = ""
    calibration: Calibration | None = None
    runs: deque[Trace] = field(default_factory=lambda: deque(maxlen=RUNS_KEPT), compare=False)


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: the life of a run. `args` begin as `ARGUMENTS`."""
    guider = executor.class_obj
    before = guider.model_options
    given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
    run = Run(before["transformer_options"][KEY], guider, given["sampler"], given["sigmas"])
    if given.get("callback") is not None:
        given["callback"] = run.previewed(given["callback"])
    guider.model_options = comfy.model_patcher.create_model_options_clone(before)
    try:
        run.install(guider.model_options)
        positional = [given.pop(name) for name in ARGUMENTS[: len(args)]]
        return executor(*positional, *args[len(ARGUMENTS) :], **given)
    except BaseException as error:
        # ComfyUI's interrupt is an Exception in 0.18, no longer in 0.24.
        interrupted = isinstance(error, InterruptProcessingException) or not isinstance(error, Exception)
        run.trace.outcome = "interrupted" if interrupted else "error"
        raise
    finally:
        guider.model_options = before
        run.close()


class _ComputeInstead(Exception):
    """Some of an evaluation was forecast when another call of it turned out to need computing."""


@dataclass
class _Evaluation:
    """The evaluation in progress."""

    record: Evaluation
    stopwatch: Stopwatch
    sigma: Readback
    step: int  # of the sampler; the position that forecasts go by
    stage: int  # within the step
    occurrences: Counter[Key] = field(default_factory=Counter)
    replayed: bool = False  # some call of it was forecast
    controls: dict[Key, Key] = field(default_factory=dict)  # conditioning -> the controls that act on it
    errors: list[Readback] = field(default_factory=list)
    drift: Readback | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: int = field(default_factory=threading.get_ident)

    @property
    def forecast(self) -> bool:
        return self.record.kind == "forecast"

    def compute_instead(self, reason: str) -> None:
        """Compute this evaluation, which was to be forecast; from its beginning, if some of it was forecast already.

        Raises:
            _ComputeInstead: in that case; not from a thread of ComfyUI's MultiGPU pool, whose queues would then hold
                results of the abandoned evaluation. There it is raised when all threads are back.
        """
        self.record.kind, self.record.reason = "computed", reason
        if self.replayed and threading.get_ident() == self.thread:
            self.replayed = False
            raise _ComputeInstead


class Run:
    """The state of one run.

    Args:
        attachment: settings, and where the trace goes.
        guider: ComfyUI's guider.
        sampler: ComfyUI's sampler object.
        sigmas: the run's noise levels, shape [steps + 1].
    """

    def __init__(self, attachment: Attachment, guider: Any, sampler: Any, sigmas: torch.Tensor) -> None:
        self._attachment = attachment
        self._settings = attachment.settings
        self._sigmas = sigmas.detach().float().cpu().tolist()
        patcher = guider.model_patcher
        self._device = patcher.load_device
        sampling = patcher.get_model_object("model_sampling")
        start, end = self._settings.start_percent, self._settings.end_percent
        self._start_sigma = float(sampling.percent_to_sigma(start)) if start > 0 else math.inf
        self._end_sigma = float(sampling.percent_to_sigma(end)) if end < 1 else 0.0
        context = get_executing_context()
        name = sampler_name(sampler)
        self._flow = isinstance(sampling, comfy.model_sampling.CONST)
        self._steps = max(0, len(self._sigmas) - 1)
        self._guider = guider
        self._shown: tuple[torch.Tensor, torch.Tensor] | None = None
        self.trace = Trace(
            model=type(raw_network(patcher.model)).__name__,
            sampler=name,
            settings=self._settings.to_dict(),
            node=context.node_id if context else "",
            prompt=context.prompt_id if context else "",
        )
        known = known_sampler(name, sampler)
        self._observer = Observer(self._sigmas) if known is None else None
        self._recognising = known is None
        row = known or Sampler()
        way, correction = path_of(self._settings, row.noisy), None
        if known and not known.obstacle and self._settings.correct:
            levels = torch.tensor(self._sigmas)
            correction = way.correction(sampler, sampling, levels, known.stages, self._guidance)
        self._go_by(row, way, correction)
        if attachment.calibration is not None:
            self._follow(attachment.calibration)
        self._state = State()
        self._drifted, self._hopeless = 0.0, False
        self._guarded = self._settings.schedule == BALANCED and not self._settings.evaluations
        self._computed_last = -1
        self._accelerating = True
        self._evaluation: _Evaluation | None = None
        self._finished: list[_Evaluation] = []
        self._bypasses: dict[int, Bypass] = {}
        self._streams: dict[Key, Stream] = {}
        self._drifting: deque[tuple[int, Readback]] = deque()
        self._guided_by: tuple[frozenset[Key], float] | None = None
        self._checks: list[tuple[Stream, int, Readback]] = []
        self._rooms: dict[int, Features] = {}

    # ------------------------------------------------------------------------------------------------ life

    def _go_by(self, sampler: Sampler, way: Path, correction: Correction | None = None) -> None:
        """Forecast as a sampler bears it."""
        self._sampler, self._path, self._correction = sampler, way, correction
        self._schedule = self._settings.scheduled(
            noise_left(self._sigmas, self._flow), sampler.speedup, sampler.stages, correction is not None
        )
        ends_at_zero = self._steps > 0 and self._sigmas[-1] == 0  # a step down to noise level 0 has one evaluation
        self.trace.total = self._steps * sampler.stages - (sampler.stages - 1) * ends_at_zero
        self.trace.target = way.target
        if self._settings.schedule == CONTROLLED and (sampler.noisy or correction is None):
            self.trace.note("tolerance is not used with this sampler")

    def _guidance(self) -> float:
        """The scale of classifier-free guidance now, if the guider has one."""
        cfg = getattr(self._guider, "cfg", 1.0)
        return float(cfg) if isinstance(cfg, int | float) else 1.0

    def install(self, options: dict[str, Any]) -> None:
        """Put the run's wrappers into the guider's private options, unless it cannot be accelerated."""
        foreign = next((reason for key, reason in FOREIGN.items() if key in options["transformer_options"]), None)
        reason = foreign or self._obstacle()
        if reason is not None:
            self._stand_down(reason)
            return
        for kind, wrapper in (
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self._apply_model),
        ):
            add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)

    def close(self) -> None:
        """Free the features and publish the trace. Called once, whatever happened."""
        self._forget()
        self._bypasses.clear()
        self._evaluation = None
        self._observer = None
        if self._recognising and not self.trace.not_accelerated:
            self.trace.not_accelerated = f"the sampler {self.trace.sampler} is not known, and the run was over too soon"
        for evaluation in self._finished if self.trace.outcome != "error" else ():  # a broken device cannot be read
            record = evaluation.record
            record.seconds = evaluation.stopwatch.wait()
            record.sigma = evaluation.sigma.wait()
            errors = [readback.wait() for readback in evaluation.errors]
            record.error = max(errors) if errors else None
            record.drift = evaluation.drift.wait() if evaluation.drift else None
        self._finished.clear()
        self._attachment.runs.append(self.trace)
        logging.info(self.trace.summary())
        show(self._attachment.node, self.trace.summary())

    def _forget(self) -> None:
        """Free all features, and what the correction holds."""
        self._let_go()
        self._shown = None
        self._drifting.clear()
        if self._correction is not None:
            self._correction.restart()

    def _let_go(self) -> None:
        """Free all features."""
        self._streams.clear()
        self._checks.clear()
        self._rooms.clear()

    def _follow(self, calibration: Calibration) -> None:
        """Compute what the plan of a calibrated run says, if this is such a run; else say why not."""
        reason = calibration.misfit(self.trace.model, self.trace.sampler, self._sampler.stages, self._sigmas)
        schedule = self._schedule
        outside = frozenset(step for step, sigma in enumerate(self._sigmas[:-1]) if self._outside(sigma))
        corrected = self._correction is not None
        if reason is None and isinstance(schedule, ErrorControl):
            plan = self._cheapest(calibration, schedule, outside)
            reason = "no plan was found that keeps the tolerance" if plan is None else None
        elif isinstance(schedule, Plan):
            plan = None if reason else improved(calibration, schedule, self._path.forecaster, outside, corrected)
        else:
            reason = reason or f"it needs the schedule {BALANCED!r} or {CONTROLLED!r}"
        if reason is not None:
            self.trace.note(f"the plan is not used: {reason}")
            return
        self._schedule = plan
        error = calibration.predicted(outside.union(plan.computed), self._path.forecaster, corrected)
        self.trace.note(f"planned, predicted error {error:.2%}")

    def _cheapest(self, calibration: Calibration, schedule: ErrorControl, outside: frozenset[int]) -> Plan | None:
        """The plan with the fewest evaluations that keeps the tolerance."""
        times = noise_left(self._sigmas, self._flow)
        start = partial(balanced, times, warmup=schedule.warmup, tail=schedule.tail)
        counts = range(FEWEST, min(schedule.most, self._steps - 1) + 1)
        sizes = [math.hypot(1 - s if self._flow else 1, s) for s in self._sigmas[:-1]]
        return cheapest(calibration, start, counts, self._path.forecaster, sizes, schedule.tolerance, outside)

    def _obstacle(self) -> str | None:
        """Why nothing of this run can be forecast, or None."""
        if self._sampler.obstacle:
            return f"the sampler {self.trace.sampler} {self._sampler.obstacle}"
        settings = self._settings
        name, value = settings.pace()
        if value <= 1:
            return f"{name} is 1, which never forecasts"
        if len(self._schedule.plan(self._steps)) >= self._steps:
            if isinstance(self._schedule, Plan) and self._steps <= LEAST:
                return f"too few steps: {self._steps}, of which at least {LEAST} are computed; use more steps"
            return (
                f"too few steps: {self._steps}, of which warmup = {settings.warmup} and tail = {settings.tail} are "
                f"computed; use more steps or lower them"
            )
        if self._planned() >= self._steps:
            return (
                f"no step to forecast lies between start_percent = {settings.start_percent:g} and "
                f"end_percent = {settings.end_percent:g}"
            )
        return None

    def _planned(self) -> int:
        """How many steps will be computed if nothing unforeseen happens."""
        state, count = State(), 0
        for step, sigma in enumerate(self._sigmas[:-1]):
            outside = self._outside(sigma)
            if outside or self._schedule.reason(state, step, self._steps):
                state, count = self._schedule.step(state, step, forced=outside is not None), count + 1
        return count

    def _stand_down(self, reason: str) -> None:
        """Compute everything from here on, and free the features."""
        self._accelerating = False
        self._observer = None
        self._forget()
        if self.trace.forecast:
            self.trace.note(f"stopped: {reason}")
        else:
            self.trace.not_accelerated = reason

    # ------------------------------------------------------------------------------------------------ decision

    def _predict_noise(
        self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """PREDICT_NOISE wrapper: one evaluation of the sampler, all conditionings together."""
        evaluation = self._begin(timestep)
        latent = x.detach().clone() if self._observer else x
        try:
            output = executor(x, timestep, *args, **kwargs)
        except _ComputeInstead:  # forecast and computed conditionings do not mix: their errors would not cancel
            evaluation.occurrences.clear()
            output = executor(x, timestep, *args, **kwargs)
        output = self._corrected(evaluation, x, timestep, output)
        self._end(evaluation)
        if self._observer is not None:
            given = args[0] if args else kwargs.get("model_options", {})
            own = [len(options.get(GUIDED, ())) for options in (given, self._guider.model_options)]
            self._observer.see(evaluation.sigma, latent, output, unguided=own[0] > own[1])
            self._recognised(self._observer.verdict())
        return output

    def _corrected(
        self, evaluation: _Evaluation, x: torch.Tensor, timestep: torch.Tensor, denoised: torch.Tensor
    ) -> torch.Tensor:
        """What the sampler is told instead of a denoised latent, to make good what it was told before."""
        self._shown = None
        guided_by = (frozenset(evaluation.occurrences), self._guidance())
        if guided_by != self._guided_by and self._correction is not None:  # the output jumps
            self._correction.restart()
        self._guided_by = guided_by
        index = evaluation.record.position
        if self._correction is None or not self._accelerating or index >= self.trace.total:
            return denoised
        output = self._path.output(timestep, denoised, x)
        if evaluation.forecast:
            change = self._correction.forecast(index, output)
        else:
            change = self._correction.computed(index, output, x)
            evaluation.drift = self._correction.drift()
        if change is None:
            return denoised
        told = denoised + self._path.told(timestep, change, 0.0).to(denoised.dtype)
        if self._sigmas[min(evaluation.step + 1, self._steps)] > 0:
            self._shown = (told, denoised)
        return told

    def previewed(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """A sampler's callback that is shown the denoised latent itself, where the sampler is told another."""

        def shown(step: int, denoised: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            told, plain = self._shown or (None, None)
            return callback(step, plain if denoised is told else denoised, *args, **kwargs)

        return shown

    def _recognised(self, sampler: Sampler | None) -> None:
        """What the unknown sampler has shown of how it calls the model."""
        if sampler is None:
            return
        named = f"the sampler {self.trace.sampler}, which is not known,"
        if sampler.obstacle:
            self._recognising = False
            self._stand_down(f"{named} {sampler.obstacle}")
        elif self._recognising or sampler.noisy:
            self._recognising = False
            self._forget()  # what was forecast while it had not added noise yet
            self._bypasses.clear()
            self._go_by(sampler, path_of(self._settings, sampler.noisy))
            self._state, self._computed_last = State(), -1
            for evaluation in self._finished:
                evaluation.step, evaluation.stage = divmod(evaluation.record.position, sampler.stages)
                if not evaluation.forecast and evaluation.stage == 0:
                    self._state = self._schedule.step(self._state, evaluation.step, forced=True)
            if sampler.noisy:  # there is nothing more to find out
                self._observer = None
                self.trace.note(f"{named} adds noise: its denoised latents are forecast, at most {sampler.speedup:g}x")
            reason = self._obstacle()
            if reason is not None:
                self._stand_down(reason)

    def _calc_cond_batch(
        self, executor: Any, model: Any, conds: list, x: torch.Tensor, timestep: torch.Tensor, options: dict
    ) -> Any:
        """CALC_COND_BATCH wrapper: control networks run only where their residuals are used."""
        evaluation = self._evaluation
        if evaluation is not None and self._accelerating:
            sigma = evaluation.record.sigma  # `timestep` is on the device
            found = [cond for group in conds if group for cond in group if cond.get("control") is not None]
            for cond in found:
                evaluation.controls[cond.get("uuid")] = active_controls(cond["control"], sigma)
            if evaluation.forecast and found and "model_function_wrapper" not in options:
                later = {id(cond["control"]): Deferred(cond["control"]) for cond in found}

                def deferred(cond: dict) -> dict:
                    control = later.get(id(cond.get("control")))
                    return cond if control is None else {**cond, "control": control}

                conds = [group and [deferred(cond) for cond in group] for group in conds]
        output = executor(model, conds, x, timestep, options)
        if evaluation is not None and not evaluation.forecast:  # a thread could not say so by itself
            evaluation.compute_instead(evaluation.record.reason)
        return output

    def _learn(self) -> None:
        """Tell the schedule the errors that have arrived."""
        while self._drifting:
            step, drift = self._drifting[0]
            error = drift.poll()
            if error is None:
                return
            self._drifting.popleft()
            self._state = self._schedule.learn(self._state, step, error)
            if self._guarded and math.isfinite(error):
                self._drifted = math.hypot(self._drifted, error)

    def _begin(self, timestep: torch.Tensor) -> _Evaluation:
        if self._accelerating and not self._recognising and self._off_grid():
            self._stand_down(f"the sampler {self.trace.sampler} left its own noise levels")
        self._learn()
        index = len(self._finished)
        step, stage = divmod(index, self._sampler.stages)
        sigma = self._sigmas[min(step, self._steps)]
        reason = self._reason_to_compute(step, stage, sigma)
        record = Evaluation(index, sigma, "computed" if reason else "forecast", reason or "schedule")
        self._evaluation = _Evaluation(record, Stopwatch(self._device), Readback(timestep.reshape(-1)[0]), step, stage)
        return self._evaluation

    def _off_grid(self) -> bool:
        """Whether a step did not begin at its noise level: then the sampler is not what the table takes it for."""
        latest = self._finished[-1] if self._finished else None
        if latest is None or latest.stage > 0:
            return False
        sigma = latest.sigma.poll()
        return sigma is not None and not on_level(sigma, self._sigmas, min(latest.step, self._steps))

    def _reason_to_compute(self, step: int, stage: int, sigma: float) -> str | None:
        if not self._accelerating:
            return "not accelerated"
        if self._recognising:
            return "watching an unknown sampler"
        if stage > 0:  # as the step began
            first = self._finished[-1].record
            return None if first.kind == "forecast" else first.reason
        if step >= self._steps:
            return "beyond the sampler's steps"
        reason = self._outside(sigma) or self._schedule.reason(self._state, step, self._steps)
        if reason is None and self._drifted > BEARABLE:
            reason = "forecasts missed too much"
            self._hopeless = True
            self._let_go()
            self.trace.note(f"stopped: forecasts missed by more than {BEARABLE:.0%}")
        if reason is None and self._drop_unusable():
            reason = "a computed feature was not finite"
            if self._correction is not None:
                self._correction.restart()
        return reason

    def _outside(self, sigma: float) -> str | None:
        """Why a noise level is outside of what may be forecast, or None."""
        if sigma > self._start_sigma:
            return "before start_percent"
        return "after end_percent" if sigma < self._end_sigma else None

    def _drop_unusable(self) -> bool:
        """Forget features that turned out to hold NaN or inf; whether there was one."""
        found, waiting = False, []
        for stream, position, check in self._checks:
            value = check.poll()
            if value is None:
                waiting.append((stream, position, check))
            elif math.isnan(value):
                stream.discard(position)
                found = True
        self._checks = waiting
        return found

    def _end(self, evaluation: _Evaluation) -> None:
        record = evaluation.record
        evaluation.stopwatch.stop(self._device)
        if not evaluation.forecast and evaluation.stage == 0:
            forced = record.reason not in ("warm-up", "schedule", "tail")
            self._state = self._schedule.step(self._state, evaluation.step, forced)
        if not evaluation.forecast and evaluation.stage == self._sampler.stages - 1:
            self._computed_last = evaluation.step
            if evaluation.drift is not None:
                self._drifting.append((evaluation.step, evaluation.drift))
            # Conditionings that this step did not have could only be forecast across a gap: let them go.
            self._streams = {
                key: stream
                for key, stream in self._streams.items()
                if stream.positions and stream.positions[-1] == evaluation.step
            }
        self._finished.append(evaluation)
        self.trace.evaluations.append(record)
        self._evaluation = None
        show(self._attachment.node, f"Spectrum {self.trace.timeline()} {self.trace.computed}/{len(self._finished)}")

    # ------------------------------------------------------------------------------------------------ call

    def _apply_model(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """APPLY_MODEL wrapper, the innermost: one call of the network, for some or all conditionings."""
        options = transformer_options or {}

        def full() -> torch.Tensor:
            residuals = control() if isinstance(control, Later) else control
            return executor(x, t, c_concat, c_crossattn, residuals, options, **kwargs)

        evaluation = self._evaluation
        idle = not self._accelerating or self._recognising or self._hopeless
        if evaluation is None or idle or torch.is_grad_enabled():
            return full()
        bypass = self._bypass(executor.class_obj)

        def headless() -> torch.Tensor:
            # Residuals of a ControlNet enter between the blocks, which do not run.
            return executor(x, t, c_concat, c_crossattn, None, {**options, **bypass.architecture.options}, **kwargs)

        rows_by_call = bypass.architecture.rows_by_call
        found = stream_keys(executor.class_obj, x, options, evaluation.occurrences, rows_by_call, evaluation.controls)
        keys = [(evaluation.stage, key) for key in found]
        streams = self._decided(evaluation, keys)
        if streams:
            try:
                # The model's output may live on as the sampler's own; only what enters a head can be reused.
                room = None if bypass.architecture in WHOLE else self._rooms.setdefault(id(bypass), {})
                features = forecast_rows(streams, self._path.forecaster, evaluation.step, self._steps, room)
                return bypass.replay(headless, features)
            except Exception as error:
                if isinstance(error, InterruptProcessingException):
                    raise
                self._stand_down(f"a forecast failed ({type(error).__name__}: {error})")
                evaluation.compute_instead("not accelerated")
        if not self._accelerating:
            return full()
        return self._captured(evaluation, executor.class_obj, keys, x, full, headless)

    def _decided(self, evaluation: _Evaluation, keys: list[Key]) -> list[Stream] | None:
        """The streams to forecast a call from, or None where it is computed."""
        with evaluation.lock:  # with several devices, an evaluation's calls run in threads of their own
            if not evaluation.forecast:
                return None
            streams = self._ready(keys)
            if streams:
                evaluation.replayed = True
                return streams
            evaluation.compute_instead("a conditioning without enough history")
            return None

    def _ready(self, keys: list[Key]) -> list[Stream] | None:
        """The streams of a call, if all of them can be forecast: enough points, none left behind by a gap."""
        enough = min(2, self._settings.warmup)
        streams = [self._streams.get(key) for key in keys]
        for stream in streams:
            positions = stream.positions if stream else ()
            if len(positions) < enough or positions[-1] < self._computed_last:
                return None
        return streams  # type: ignore[return-value]

    def _captured(
        self,
        evaluation: _Evaluation,
        base_model: torch.nn.Module,
        keys: list[Key],
        x: torch.Tensor,
        full: Callable[[], torch.Tensor],
        headless: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """A computed call whose features go to their streams. A stream's first call is also the self-test."""
        bypass = self._bypass(base_model)
        position = evaluation.step
        for key in keys:
            if key not in self._streams:
                self._streams[key] = Stream(min(self._path.forecaster.window, self._planned()))
        streams = [self._streams[key] for key in keys]
        for stream in streams:
            stream.discard(position)  # known already where another device's thread began the evaluation again
        untested = not all(stream.labels for stream in streams)

        def receive(label: str, feature: torch.Tensor) -> None:
            if feature.ndim == 0 or feature.shape[0] % len(streams):
                raise TapError(f"the rows of {label} {tuple(feature.shape)} do not divide by conditioning")
            for stream, rows in zip(streams, feature.chunk(len(streams)), strict=True):
                error = stream.error(label, rows, self._path.forecaster, position, self._steps)
                # NaN from either tells that the feature is not finite (half precision could not hold the norm).
                wide = torch.promote_types(rows.dtype, torch.float32)
                check = Readback(torch.linalg.vector_norm(rows.detach(), dtype=wide) * 0.0 if error is None else error)
                self._checks.append((stream, position, check))
                if error is not None:
                    evaluation.errors.append(check)
                stream.push(label, position, rows)

        output, problem = bypass.capture(full, receive)
        if problem is None and untested:
            problem = self._self_test(bypass, streams, evaluation, x, output, headless)
        if problem is not None:
            self._retarget(base_model, problem)
        return output

    def _self_test(
        self,
        bypass: Bypass,
        streams: list[Stream],
        evaluation: _Evaluation,
        x: torch.Tensor,
        output: torch.Tensor,
        headless: Callable[[], torch.Tensor],
    ) -> str | None:
        """The features just captured, put through the bypass, must give the same output. What is wrong, or None."""
        try:
            latest = forecast_rows(streams, LATEST, evaluation.step, self._steps)
            again = bypass.replay(headless, latest)
            # Both are denoised latents; their distance to the input is the network's own share of them.
            share = torch.linalg.vector_norm((output - x).float())
            difference = float(torch.linalg.vector_norm((output - again).float()) / share) if share else 0.0
        except Exception as error:
            if isinstance(error, InterruptProcessingException):
                raise
            return f"the bypassed call failed ({type(error).__name__}: {error})"
        self.trace.self_test = max(difference, self.trace.self_test or 0.0)
        dtype = streams[0].history(streams[0].labels[0]).dtype
        if difference <= TOLERANCE.get(dtype, TOLERANCE_HALF):
            return None
        return f"the bypassed call differs by {difference:.1e}"

    def _bypass(self, base_model: torch.nn.Module) -> Bypass:
        """How to call a base model; decided at its first call."""
        bypass = self._bypasses.get(id(base_model))
        if bypass is None:
            row = self._row(base_model)
            bypass = Discovery(base_model, self.trace.note) if row is None else Bypass(base_model, row)
            self._bypasses[id(base_model)] = bypass
        return bypass

    def _row(self, base_model: torch.nn.Module) -> Architecture | None:
        """The architecture that a base model is called by; None if it is to be discovered."""
        if self._path.target == DENOISED_LATENT:
            return DENOISED
        return find(type(raw_network(base_model))) if self._path.target == BLOCK_OUTPUT else MODEL_OUTPUT

    def _retarget(self, base_model: torch.nn.Module, problem: str) -> None:
        """The architecture's row does not hold for this model: forecast its raw output, or nothing if that failed."""
        if self._bypasses[id(base_model)].architecture in WHOLE:
            self._stand_down(problem)
            return
        self.trace.note(f"self-test: {problem}; the model output is forecast instead")
        self.trace.target = RAW_OUTPUT
        self.trace.self_test = None
        self._forget()
        self._bypasses[id(base_model)] = Bypass(base_model, MODEL_OUTPUT)


def raw_network(base_model: torch.nn.Module) -> torch.nn.Module:
    """The diffusion model of a base model, as it was before torch.compile."""
    network = base_model.diffusion_model
    return getattr(network, "_orig_mod", network)
