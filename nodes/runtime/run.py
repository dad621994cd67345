"""One sampling run: where its parts meet.

`outer_sample` is the only wrapper that a MODEL carries. It gives the run a private copy of the guider's options and
puts the run's own wrappers there: one evaluation (PREDICT_NOISE), its conditionings (CALC_COND_BATCH), and, innermost,
one call of the network (APPLY_MODEL). When the run ends, they are gone with the copy.

Whatever fails in here, the run goes on as if the node were not there, and says why.
"""

import logging
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import comfy.cli_args
import comfy.model_patcher
import comfy.model_sampling
import torch
from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException, soft_empty_cache
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_execution.utils import get_executing_context

from ...spectrum_core.estimate import ErrorEstimate, gaps
from ...spectrum_core.messages import Message, Reason, Text, say
from ...spectrum_core.readback import Delayed, Readback, Stopwatch
from ...spectrum_core.trace import Evaluation, Trace
from ..models.controlnet import DeferredControl, LazyResiduals, active_controls
from ..models.footprint import feature_bytes, held_bytes, reserved
from ..samplers.layout import Layout, cleaned, on_level
from ..samplers.linear_map import (
    UNGUIDED_OUTPUTS,
    Denoise,
    LinearMap,
    known_sampler,
    noise_left,
    sampler_name,
)
from ..samplers.recognition import SamplerProbe, understand
from ..samplers.signal import signal_for
from ..samplers.table import SamplerInfo
from ..settings import ADAPTIVE, AUTO, BLOCK_OUTPUT, RAW_OUTPUT
from .attachment import KEY, Attachment
from .conflicts import conflict, moves_parts, replaced_methods
from .corrector import LatentCorrector, previewed
from .evaluation import BeginAgain, EvaluationInProgress
from .features import FeatureForecaster, failure, raw_network
from .policy import Policy, Range
from .progress import Progress
from .ranks import RankError, ranks

T = TypeVar("T")

ARGUMENTS = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback", "disable_pbar", "seed")
"""Of ComfyUI's outer_sample, in order."""

PACK = tuple(str(Path(__file__).resolve().parents[2] / folder) for folder in ("nodes", "spectrum_core"))
LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, logging))
"""Code that only does what its caller asked for: an error in it is the caller's."""


MISSED = 1.0
"""Relative error of forecast features, their median, that says that they did not go on as before: no forecast at all
would have been nearer. With strong guidance .6 is usual."""

DRIFTED = 0.05
"""... if the latent was off by that share of itself: where it hardly moves, features of any size do no harm."""


class Phase(Enum):
    """What a run does."""

    PROBING = auto()  # computes, and watches an unknown sampler
    FORECASTING = auto()  # forecasts, keeps features, corrects
    COMPUTE_REST = auto()  # computes, corrects
    OFF = auto()  # computes
    CLOSED = auto()


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: the life of a run. `args` begin as `ARGUMENTS`."""
    guider = executor.class_obj
    before, random_state = guider.model_options, torch.random.get_rng_state()
    run: SamplingRun | None = None
    conds = None
    try:
        conds = _copied(getattr(guider, "conds", None))
        given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        shapes = args[len(ARGUMENTS)] if len(args) > len(ARGUMENTS) else kwargs.get("latent_shapes")
        parts = [math.prod(shape[1:]) for shape in shapes or ()]
        run = SamplingRun(before["transformer_options"][KEY], guider, given["sampler"], given["sigmas"], parts)
        if given.get("callback") is not None:
            given["callback"] = previewed(given["callback"], run.shown)
        guider.model_options = comfy.model_patcher.create_model_options_clone(before)
        run.install(guider.model_options, masked=given.get("denoise_mask") is not None)
        positional = [given.pop(name) for name in ARGUMENTS[: len(args)]]
        with run.environment():
            output = executor(*positional, *args[len(ARGUMENTS) :], **given)
        run.close("done")
        return output
    except BaseException as error:
        if run is None and not _ours(error):
            raise
        again = _ours(error) or (run is not None and run.holds_memory and isinstance(error, OOM_EXCEPTION))
        _close(run, error)
        if not again:
            raise
        logging.warning("Spectrum: %s; the run starts again without it", failure("Spectrum", error))
    finally:
        guider.model_options = before
    del run
    # Nothing of the run is left: as if the node were not there.
    soft_empty_cache()
    if conds is not None:
        guider.conds = conds
    torch.random.set_rng_state(random_state)
    return executor(*args, **kwargs)


class SamplingRun:
    """The state of one run.

    Args:
        attachment: settings, and where the trace goes.
        guider: ComfyUI's guider.
        sampler: ComfyUI's sampler object.
        sigmas: the run's noise levels, shape [steps + 1].
        parts: sizes of the parts of a latent that ComfyUI joins in one (video and audio).
    """

    def __init__(
        self, attachment: Attachment, guider: Any, sampler: Any, sigmas: torch.Tensor, parts: Sequence[int] = ()
    ) -> None:
        self._parts = parts
        patcher, context = guider.model_patcher, get_executing_context()
        self._attachment, self._settings = attachment, attachment.settings
        self._guider: Any = guider
        self._device = patcher.load_device
        self._sampling = patcher.get_model_object("model_sampling")
        given: list[float] = sigmas.detach().float().cpu().tolist()
        self._sigmas = cleaned(given) if known_sampler(sampler) is None else given
        self._span = Range(*self._settings.noise_range(self._sampling.percent_to_sigma))
        self.trace = Trace(
            model=type(raw_network(patcher.model)).__name__,
            sampler=sampler_name(sampler),
            settings=self._settings.to_dict(),
            node=context.node_id if context else "",
            prompt=context.prompt_id if context else "",
        )
        self._progress = Progress(attachment.node, self.trace)
        self._phase = Phase.FORECASTING
        self._evaluation: EvaluationInProgress | None = None
        self._stopwatches: list[Stopwatch] = []
        self._measured = Delayed()
        self._estimate = ErrorEstimate()
        self._shape: tuple[int, ...] | None = None
        self._mask: torch.Tensor | None = None
        self._misses = 0  # in a row, of features by more than half
        self._moves_parts = moves_parts(guider.model_options, KEY)
        self._map: LinearMap | None = None
        self._corrector: LatentCorrector | None = None
        self._probe: SamplerProbe | None = None
        self._ranks = ranks() if attachment.shared else None
        self._known = known_sampler(sampler)
        self._recognise(sampler, given)

    # ------------------------------------------------------------------------------------------------ life

    def __deepcopy__(self, memo: dict[int, Any]) -> "SamplingRun":
        """Itself: packs copy model_options in the middle of a run, and with it these wrappers."""
        return self

    def install(self, options: dict[str, Any], masked: bool = False) -> None:
        """Put the run's wrappers into the guider's private options, unless it cannot be accelerated.

        Args:
            options: model_options.
            masked: whether a mask hides part of the outputs from the sampler.
        """
        found = conflict(options) or self._unsuitable()
        if found is not None:
            self._disable(found)
            return
        for kind, wrapper in (
            (WrappersMP.PREPARE_SAMPLING, self._prepare_sampling),
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self._apply_model),
        ):
            add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)
        options["sampler_pre_cfg_function"] = [*options.get("sampler_pre_cfg_function", ()), self._guided]
        if masked:
            options["denoise_mask_function"] = partial(self._masked, options.get("denoise_mask_function"))

    def _prepare_sampling(
        self, executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """PREPARE_SAMPLING wrapper: what the run will hold is part of the memory that ComfyUI plans with."""
        extra = self._guarded("planning memory", self._held, model, tuple(noise_shape), len(conds or ()))
        if not extra:
            return executor(model, noise_shape, conds, *args, **kwargs)
        with reserved(model.model, extra):
            return executor(model, noise_shape, conds, *args, **kwargs)

    def _held(self, patcher: Any, latent: tuple[int, ...], conditionings: int) -> int:
        """Bytes that the run is going to hold."""
        feature = math.prod(latent) * torch.float32.itemsize
        if self._signal.target in (AUTO, BLOCK_OUTPUT):
            dtype = patcher.model.get_dtype_inference()
            wanted = feature_bytes(raw_network(patcher.model), latent, dtype)
            if self._signal.target == BLOCK_OUTPUT or self._features.affordable(wanted, self._device):
                feature = wanted
        corrected = self._corrector is not None
        return held_bytes(feature, latent, self._features.capacity, max(1, conditionings), corrected)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """ComfyUI's memory compiler, from 0.34 on, records the calls of blocks: not where some skip them."""
        name = "disable_comfy_compiler"
        if self._phase is Phase.OFF or not hasattr(comfy.cli_args.args, name):
            yield
            return
        before = getattr(comfy.cli_args.args, name)
        setattr(comfy.cli_args.args, name, True)
        try:
            yield
        finally:
            setattr(comfy.cli_args.args, name, before)

    def _guided(self, args: dict[str, Any]) -> Any:
        """A pre-CFG function: what the scale of guidance is now. Some guiders change it from step to step."""
        if self._evaluation is not None and isinstance(args.get("cond_scale"), int | float):
            self._evaluation.scale = float(args["cond_scale"])
        return args["conds_out"]

    def _masked(self, function: Callable[..., torch.Tensor] | None, sigma: Any, mask: torch.Tensor, **more: Any) -> Any:
        """A denoise-mask function: what reaches the sampler of the next evaluation."""
        self._mask = mask if function is None else function(sigma, mask, **more)
        return self._mask

    @property
    def holds_memory(self) -> bool:
        """Whether features are held on the device."""
        return self._phase is Phase.FORECASTING and self._features.nbytes > 0

    def shown(self, denoised: torch.Tensor) -> torch.Tensor:
        """What a preview shows, see `LatentCorrector`."""
        return denoised if self._corrector is None else self._corrector.shown(denoised)

    def close(self, outcome: Any) -> None:
        """Free everything and publish the trace. Called once, whatever happened."""
        if self._phase is Phase.PROBING and self.trace.off is None:
            self.trace.off = say(Text.TOO_SHORT, sampler=self.trace.sampler)
        self._enter(Phase.CLOSED)
        if self._ranks is not None:
            self._ranks.close()
        self.trace.outcome = outcome
        if outcome != "error":  # a broken device cannot be read
            self._learn(math.inf)
            judged = {e.position for e in self.trace.evaluations if e.drift is not None}
            if self.trace.error is not None:
                self.trace.error = self._estimate.worst(gaps(self.trace.kinds, judged)[1])
            if self.trace.evaluations:
                self.trace.evaluations[-1].estimate = self.trace.error
            for record, stopwatch in zip(self.trace.evaluations, self._stopwatches, strict=False):
                record.seconds = stopwatch.wait()
        self._evaluation = self._guider = None
        # Some packs call a sampler once per step and tile: what stops all of these runs is said once.
        again = any(run.off == self.trace.off and run.prompt == self.trace.prompt for run in self._attachment.runs)
        level = logging.DEBUG if again and self.trace.off and self.trace.prompt else logging.INFO
        self._attachment.runs.append(self.trace)
        logging.log(level, self.trace.summary())
        self._progress.send(last=True)

    def _enter(self, phase: Phase) -> None:
        """Begin a phase, and release what it does not hold."""
        self._phase = phase
        if phase is not Phase.FORECASTING:
            self._features.release()
        if phase is not Phase.PROBING:
            self._probe = None
        if phase in (Phase.OFF, Phase.CLOSED):
            self._corrector = None

    def _disable(self, message: Message) -> None:
        """Compute everything from here on."""
        if self._phase in (Phase.OFF, Phase.CLOSED):
            return
        self._enter(Phase.OFF)
        if self.trace.forecast or (self._evaluation is not None and self._evaluation.forecast):
            self.trace.note(say(Text.STOPPED, reason=message))
        else:
            self.trace.off = message

    def _guarded(self, what: str, function: Callable[..., T], *args: Any) -> T | None:
        """A part of ours; if it fails, the run goes on without us."""
        try:
            return function(*args)
        except InterruptProcessingException:
            raise
        except Exception as error:
            logging.debug("Spectrum: %s", what, exc_info=True)
            self._disable(failure(what, error))
            return None

    # ------------------------------------------------------------------------------------------------ sampler

    def _recognise(self, sampler: Any, sigmas: list[float]) -> None:
        """What the sampler is: by the table, by running it on coefficients, or by watching it."""

        def denoise(noisy: bool) -> Denoise:
            return signal_for(self._settings, noisy).latent

        found = understand(sampler, self._sampling, sigmas, denoise, _plain_attributes(self._guider))
        wanted = self._settings.correct and not found.info.obstacle and len(self._sigmas) > 2
        if found.problem and found.known and wanted:
            self.trace.note(say(Text.UNCORRECTED, problem=found.problem))
        self._configure(found.info, found.layout, found.map)
        if not found.known:
            self._phase, self._probe = Phase.PROBING, SamplerProbe(self._sigmas)

    def _configure(self, info: SamplerInfo, layout: Layout, found: LinearMap | None = None) -> None:
        """Forecast as a sampler allows."""
        self._info, self._layout, self._map = info, layout, found
        self._signal = signal_for(self._settings, info.noisy)
        flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        times = noise_left(self._sigmas, flow)
        irregular = layout.irregular
        schedule = self._settings.schedule_for(times, info.max_speedup, layout.mean_stages(), len(irregular))
        guarded = self._settings.schedule == ADAPTIVE and not self._settings.evaluations
        self._policy = Policy(schedule, self._sigmas, self._span, guarded, irregular)
        capacity = min(self._signal.forecaster.window, max(1, len(self._policy.planned())))
        self._features = FeatureForecaster(
            self._signal,
            self._policy.axis,
            self._policy.steps,
            capacity,
            min(2, self._settings.warmup),
            self.trace.note,
            flow,
            replaced_methods(raw_network(self._guider.model_patcher.model)),
            self._moves_parts,
        )
        if self._settings.correct and found is not None:
            self._corrector = LatentCorrector(
                self._signal, self._policy.axis, found, layout, self._sampling, self._parts
            )
        target = self._signal.target
        self.trace.total, self.trace.target = layout.total, BLOCK_OUTPUT if target == AUTO else target

    def _unsuitable(self) -> Message | None:
        """Why nothing of this run can be forecast, or None."""
        if self._info.obstacle:
            text = Text.SAMPLER if self._known else Text.UNKNOWN_SAMPLER
            return say(text, sampler=self.trace.sampler, obstacle=self._info.obstacle)
        return self._settings.never() or self._policy.unsuitable()

    def _classified(self, evaluation: EvaluationInProgress, latent: torch.Tensor, output: torch.Tensor) -> None:
        """Watch an unknown sampler, and forecast once it is understood."""
        assert self._probe is not None
        given = self._guider.model_options
        self._probe.record(evaluation.record.sigma, latent, output, evaluation.unguided_outputs > _unguided(given))
        classified = self._probe.classify()
        if classified is None:
            return
        info, layout = classified
        if info.obstacle or layout is None:
            self._info = info
            self._disable(say(Text.UNKNOWN_SAMPLER, sampler=self.trace.sampler, obstacle=info.obstacle))
        elif self._phase is Phase.PROBING or info.noisy != self._info.noisy:
            self._features.release()
            rest = Layout.uniform(self._policy.steps, layout.gap, self._sigmas[-1] == 0)
            self._configure(info, layout.continued(rest))
            for record in self.trace.evaluations:
                step, stage = self._layout.place(record.position)
                if record.kind == "computed" and stage == 0:
                    self._policy.computed(step, Reason.PROBING)
            self._phase = Phase.FORECASTING
            if info.noisy:  # there is nothing more to find out
                self._probe = None
                self.trace.note(say(Text.NOISY, sampler=self.trace.sampler, speedup=info.max_speedup))
            unsuitable = self._unsuitable()
            if unsuitable is not None:
                self._disable(unsuitable)

    # ------------------------------------------------------------------------------------------------ evaluation

    def _predict_noise(
        self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """PREDICT_NOISE wrapper: one evaluation of the sampler, all conditionings together."""
        attributes = _plain_attributes(self._guider)
        latent = x.detach().clone() if self._probe is not None else x
        evaluation = self._guarded("beginning a step", self._begin, x, timestep)
        if evaluation is not None:
            given = args[0] if args else kwargs.get("model_options", {})
            evaluation.unguided_outputs = _unguided(given)
        try:
            output = executor(x, timestep, *args, **kwargs)
        except BeginAgain:  # forecast and computed conditionings do not mix: their errors would not cancel
            self._restart(evaluation, attributes)
            output = executor(x, timestep, *args, **kwargs)
        except Exception as error:
            if not _ours(error):
                raise
            self._disable(failure("a step", error))
            self._restart(evaluation, attributes)
            output = executor(x, timestep, *args, **kwargs)
        if evaluation is None:
            self._evaluation = None
            return output
        corrected = self._guarded("correcting a step", self._corrected, evaluation, x, timestep, output)
        output = output if corrected is None else corrected
        self._guarded("ending a step", self._end, evaluation)
        self._evaluation = None
        if self._probe is not None:
            self._guarded("watching the sampler", self._classified, evaluation, latent, output)
        return output

    def _restart(self, evaluation: EvaluationInProgress | None, attributes: dict[str, Any]) -> None:
        """The guider is asked for the same evaluation again: it counts it once."""
        vars(self._guider).update(attributes)
        if evaluation is not None:
            evaluation.begin_again()

    def _begin(self, x: torch.Tensor, timestep: torch.Tensor) -> EvaluationInProgress:
        index = len(self.trace.evaluations)
        if torch.is_grad_enabled():
            self._disable(say(Text.GRADIENTS))
        elif self._shape not in (None, tuple(x.shape)):
            self._disable(say(Text.RESIZED))
        self._shape = tuple(x.shape)
        self._learn(index)
        step, stage = self._layout.place(index)
        levels = self._sigmas if self._map is None else self._map.levels
        sigma = (
            self._sigmas[min(step, self._policy.steps)] if self._map is None or index >= len(levels) else levels[index]
        )
        if self._phase is Phase.PROBING:
            sigma = float(timestep.reshape(-1)[0])
        reason = self._reason_to_compute(step, stage)
        if reason is None and self._known is None and self._left_levels(float(timestep.reshape(-1)[0]), sigma, stage):
            self._disable(say(Text.OFF_LEVELS, sampler=self.trace.sampler))
            reason = Reason.OFF
        record = Evaluation(index, sigma, "computed" if reason else "forecast", reason)
        self._evaluation = EvaluationInProgress(
            record, step, stage, Stopwatch(self._device), x, self._policy.curious, mask=self._mask
        )
        return self._evaluation

    def _left_levels(self, sigma: float, expected: float, stage: int) -> bool:
        """Whether an unknown sampler goes elsewhere than it was understood to."""
        if self._map is None and stage > 0:
            return False
        return not on_level(sigma, [expected], 0)

    def _reason_to_compute(self, step: int, stage: int) -> Reason | None:
        if self._phase is Phase.PROBING:
            return Reason.PROBING
        if self._phase is Phase.COMPUTE_REST:
            return Reason.ERROR_LIMIT
        if self._phase is not Phase.FORECASTING:
            return Reason.OFF
        if stage > 0:  # as the step began
            return self.trace.evaluations[-1].reason
        reason = self._policy.decide(step)
        if reason is Reason.ERROR_LIMIT:
            self._enter(Phase.COMPUTE_REST)
            self.trace.note(say(Text.ERROR_LIMIT, limit="20 %"))
        return reason

    def _learn(self, evaluation: float) -> None:
        """Use the numbers whose place this evaluation is."""
        for step, record, errors, drift, changes in self._measured.due(evaluation):
            found = [value for error in errors for value in error.wait().tolist()]
            if any(math.isnan(value) for value in found):
                self._disable(say(Text.NOT_FINITE))
            finite = [value for value in found if math.isfinite(value)]
            record.feature_error = max(finite) if finite else None
            if drift is not None:
                self._judge(record, drift.wait().double().numpy())
            self._check_continuing(record, finite)
            for before, change in changes:
                self._policy.moved(step, before, float(change.wait().max()))

    def _check_continuing(self, record: Evaluation, errors: list[float]) -> None:
        """The net below everything: features that do not go on as forecast, whatever the cause."""
        if self._info.noisy or not errors or not self.trace.kinds[: record.position].endswith("f"):
            return  # fresh noise makes features jump by itself
        missed = statistics.median(errors) > MISSED and (record.drift is None or record.drift > DRIFTED)
        self._misses = self._misses + 1 if missed else 0
        if self._misses == 2:
            self._disable(say(Text.DISCONTINUED))

    def _judge(self, record: Evaluation, drifts: Any) -> None:
        """A gap has ended: what the final latent is expected to be off by, so far."""
        record.drift = float(drifts.max())
        found, _ = gaps(self.trace.kinds[: record.position] + "c", {record.position})
        self._estimate.judged(drifts, found.get(record.position, 1))
        error = self._estimate.worst()
        # Of samplers that add noise, the true error is up to six times as large (docs/estimate.md).
        self.trace.error = None if self._info.noisy else error
        self._policy.drifted(error or 0.0)

    def _corrected(
        self, evaluation: EvaluationInProgress, x: torch.Tensor, timestep: torch.Tensor, denoised: torch.Tensor
    ) -> torch.Tensor:
        """What the sampler gets instead of a denoised latent."""
        drift = None
        if self._corrector is not None and self._phase in (Phase.FORECASTING, Phase.COMPUTE_REST):
            scale = _scale(self._guider) if evaluation.scale is None else evaluation.scale
            guidance = (frozenset(evaluation.occurrences), scale)
            index, forecast = evaluation.record.position, evaluation.forecast
            denoised, drift = self._corrector.apply(
                index, forecast, guidance, timestep, x, denoised, _like(evaluation.mask, x)
            )
        measured = Readback(drift) if drift is not None else None
        if evaluation.feature_errors or evaluation.changes or measured is not None:
            entry = (evaluation.step, evaluation.record, evaluation.feature_errors, measured, evaluation.changes)
            # How fast the model moves decides about the very next step; that is waited for, once in a run.
            lag = 1 if evaluation.changes and self._policy.curious else None
            self._measured.put(evaluation.record.position, entry, lag)
        return denoised

    def _end(self, evaluation: EvaluationInProgress) -> None:
        record = evaluation.record
        evaluation.stopwatch.stop(self._device)
        self._stopwatches.append(evaluation.stopwatch)
        record.estimate = self.trace.error
        self.trace.evaluations.append(record)
        if self._phase is Phase.FORECASTING and evaluation.failure is None:
            self.trace.self_test = self._features.self_test
            if self._features.fallback:
                self.trace.target = RAW_OUTPUT
            if record.reason is not None and evaluation.stage == 0:
                self._policy.computed(evaluation.step, record.reason)
            if self._layout.ends(record.position) and self._features.end(evaluation):
                self.trace.target = RAW_OUTPUT
        if evaluation.failure is not None:
            self._disable(evaluation.failure)
        self._progress.send()

    # ------------------------------------------------------------------------------------------------ calls

    def _calc_cond_batch(
        self, executor: Any, model: Any, conds: list, x: torch.Tensor, timestep: torch.Tensor, options: dict
    ) -> Any:
        """CALC_COND_BATCH wrapper: an evaluation that turns out to need computing begins again here, below the guider;
        control networks run only where their residuals are used."""
        evaluation = self._evaluation
        if evaluation is None or self._phase is not Phase.FORECASTING:
            if evaluation is None and self._phase is not Phase.OFF:
                self._disable(say(Text.UNSEEN))
            return executor(model, conds, x, timestep, options)
        before, forecast_before = evaluation.occurrences.copy(), evaluation.forecast_calls
        try:
            output = executor(model, self._deferred(evaluation, conds, options), x, timestep, options)
            if not evaluation.unfinished:
                return output
        except BeginAgain:
            pass
        except Exception as error:
            if not _ours(error):
                raise
            evaluation.failure = failure("a call of the model", error)
        if forecast_before:
            raise BeginAgain
        evaluation.begin_again(before)
        return executor(model, conds, x, timestep, options)

    def _deferred(self, evaluation: EvaluationInProgress, conds: list, options: dict) -> list:
        """The conditionings, with control networks that run only when their residuals are used."""
        sigma = evaluation.record.sigma  # the timestep is on the device
        found = [cond for group in conds if group for cond in group if cond.get("control") is not None]
        for cond in found:
            evaluation.controls[cond.get("uuid")] = active_controls(cond["control"], sigma)
        if not evaluation.forecast or not found or "model_function_wrapper" in options:
            return conds
        later = {id(cond["control"]): DeferredControl(cond["control"]) for cond in found}

        def deferred(cond: dict) -> dict:
            control = later.get(id(cond.get("control")))
            return cond if control is None else {**cond, "control": control}

        return [group and [deferred(cond) for cond in group] for group in conds]

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
            residuals = control.computed() if isinstance(control, LazyResiduals) else control
            output: torch.Tensor = executor(x, t, c_concat, c_crossattn, residuals, options, **kwargs)
            return output

        def head(extra: dict[str, Any]) -> torch.Tensor:
            # Residuals of a ControlNet enter between the blocks, which do not run.
            output: torch.Tensor = executor(x, t, c_concat, c_crossattn, None, {**options, **extra}, **kwargs)
            return output

        evaluation = self._evaluation
        running = evaluation is not None and self._phase is Phase.FORECASTING and evaluation.failure is None
        if self._ranks is not None:
            wanted = running and evaluation is not None and evaluation.forecast
            if not self._ranks.agree(wanted) and running and evaluation is not None:
                evaluation.failure = say(Text.RANKS)
                if evaluation.forecast:
                    evaluation.compute(Reason.OFF)
                return full()
        if evaluation is None or not running:
            return full()
        if torch.is_grad_enabled():
            evaluation.failure = say(Text.GRADIENTS)
            if evaluation.forecast:
                evaluation.compute(Reason.OFF)
            return full()
        try:
            return self._features.call(evaluation, executor.class_obj, x, options, full, head)
        except (InterruptProcessingException, BeginAgain, RankError):
            raise
        except Exception as error:
            # The model's own errors are none of ours; but out of memory it may be only because of us.
            if not _ours(error) and not isinstance(error, OOM_EXCEPTION):
                raise
            evaluation.failure = failure("a call of the model", error)
        self._features.release()
        if isinstance(self._device, torch.device) and self._device.type != "cpu":
            soft_empty_cache()
        if evaluation.forecast:
            evaluation.compute(Reason.OFF)
        return full()


def _close(run: SamplingRun | None, error: BaseException) -> None:
    """Close a run that an error ended; what else fails then is said in the log only."""
    if run is None:
        return
    # ComfyUI's interrupt is an Exception in 0.18, no longer in 0.24.
    interrupted = isinstance(error, InterruptProcessingException) or not isinstance(error, Exception)
    try:
        run.close("interrupted" if interrupted else "error")
    except Exception:
        logging.exception("Spectrum: the run could not be closed")


def _ours(error: BaseException) -> bool:
    """Whether an error began in our code, rather than in what it calls."""
    if isinstance(error, InterruptProcessingException | RankError) or not isinstance(error, Exception):
        return False
    files = []
    trace = error.__traceback__
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    innermost = next((file for file in reversed(files) if not file.startswith(LIBRARIES)), "")
    return innermost.startswith(PACK)


def _copied(conds: Any) -> Any:
    """A guider's conditionings, which sampling changes."""
    if not isinstance(conds, dict):
        return None
    return {name: [dict(cond) for cond in group] for name, group in conds.items()}


def _plain_attributes(guider: Any) -> dict[str, Any]:
    """Plain values on a guider: some count their calls."""
    return {name: v for name, v in vars(guider).items() if v is None or isinstance(v, bool | int | float | str)}


def _unguided(options: dict[str, Any]) -> int:
    return len(options.get(UNGUIDED_OUTPUTS, ()))


def _like(mask: torch.Tensor | None, latent: torch.Tensor) -> torch.Tensor | None:
    """A mask in the shape of a latent, if it is one of this latent."""
    if mask is None or mask.ndim != latent.ndim or mask.shape[-1] != latent.shape[-1]:
        return None
    return mask.to(latent).expand_as(latent)


def _scale(guider: Any) -> float:
    """The scale of classifier-free guidance now, if the guider has one."""
    cfg = getattr(guider, "cfg", 1.0)
    return float(cfg) if isinstance(cfg, int | float) else 1.0
