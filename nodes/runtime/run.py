"""One sampling run: where its parts meet.

Its phases, what the sampler is, and one evaluation after the other. Whatever fails in here, the run goes on as if the
node were not there, and says why.
"""

import logging
import math
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, TypeVar

import comfy.model_sampling
import torch
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider
from comfy_execution.utils import get_executing_context

from ...spectrum_core.messages import Message, Reason, Text, say
from ...spectrum_core.readback import Delayed, Readback, Stopwatch
from ...spectrum_core.trace import Evaluation, Trace
from ..models.footprint import reserved
from ..models.residence import expected_bytes
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
from .calls import ModelCalls
from .conflicts import conflict, moves_parts, replaced_methods
from .corrector import LatentCorrector
from .evaluation import BeginAgain, EvaluationInProgress
from .failures import failure, ours
from .features import FeatureForecaster, raw_network
from .measurements import Measurements
from .policy import MAX_ESTIMATED_ERROR, Policy, Range
from .progress import Progress
from .ranks import ranks

T = TypeVar("T")


class Phase(Enum):
    """What a run does."""

    PROBING = auto()  # computes, and watches an unknown sampler
    FORECASTING = auto()  # forecasts, keeps features, corrects
    COMPUTE_REST = auto()  # computes, corrects
    OFF = auto()  # computes
    CLOSED = auto()


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
        self._stopwatches: list[Stopwatch] = []
        self._measurements = Measurements(self.trace)
        self._levels = Delayed()
        self._shape: tuple[int, ...] | None = None
        self._mask: torch.Tensor | None = None
        self._moves_parts = moves_parts(guider.model_options, KEY)
        self._map: LinearMap | None = None
        self._corrector: LatentCorrector | None = None
        self._probe: SamplerProbe | None = None
        self._ranks = ranks() if attachment.shared else None
        self._calls = ModelCalls(self._device, self._ranks)
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
            (WrappersMP.PREDICT_NOISE, self.predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calls.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self._calls.apply_model),
        ):
            add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)
        options["sampler_pre_cfg_function"] = [*options.get("sampler_pre_cfg_function", ()), self._guided]
        if masked:
            options["denoise_mask_function"] = partial(self._masked, options.get("denoise_mask_function"))

    def _prepare_sampling(
        self, executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """PREPARE_SAMPLING wrapper: what the run will hold is part of the memory that ComfyUI plans with."""
        extra = self._guarded("planning memory", self._planned, model, tuple(noise_shape), conds or {})
        if not extra:
            return executor(model, noise_shape, conds, *args, **kwargs)
        with reserved(model.model, extra):
            return executor(model, noise_shape, conds, *args, **kwargs)

    def _planned(self, model: Any, latent: tuple[int, ...], conds: Any) -> int:
        """Bytes that the run is going to hold."""
        wanted = _wanted(self._guider, conds)
        held = self._features.planned(model, latent, self._corrector is not None)
        return held + expected_bytes(wanted, self._device)

    def _guided(self, args: dict[str, Any]) -> Any:
        """A pre-CFG function: what the scale of guidance is now. Some guiders change it from step to step."""
        evaluation = self._calls.evaluation
        if evaluation is not None and isinstance(args.get("cond_scale"), int | float):
            evaluation.scale = float(args["cond_scale"])
        return args["conds_out"]

    def _masked(self, function: Callable[..., torch.Tensor] | None, sigma: Any, mask: torch.Tensor, **more: Any) -> Any:
        """A denoise-mask function: what reaches the sampler of the next evaluation."""
        self._mask = mask if function is None else function(sigma, mask, **more)
        return self._mask

    @property
    def active(self) -> bool:
        """Whether its wrappers are in place."""
        return self._phase not in (Phase.OFF, Phase.CLOSED)

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
        if self._calls.unseen:
            self._disable(say(Text.UNSEEN))
        self._enter(Phase.CLOSED)
        self.trace.outcome = outcome
        if self._ranks is not None:
            self._guarded("leaving the other workers", self._ranks.close)
        if outcome != "error":  # a broken device cannot be read
            self._guarded("reading what was measured", self._settle)
        self._calls.evaluation = self._guider = None
        # Some packs call a sampler once per step and tile: what stops all of these runs is said once.
        again = any(run.off == self.trace.off and run.prompt == self.trace.prompt for run in self._attachment.runs)
        level = logging.DEBUG if again and self.trace.off and self.trace.prompt else logging.INFO
        self._attachment.runs.append(self.trace)
        logging.log(level, self.trace.summary())
        self._progress.send(last=True)

    def _settle(self) -> None:
        """Use the numbers that are left."""
        self._learn(over=True)
        self._measurements.finish()
        for record, stopwatch in zip(self.trace.evaluations, self._stopwatches, strict=False):
            record.seconds = stopwatch.wait()

    def _enter(self, phase: Phase) -> None:
        """Begin a phase, and release what it does not hold."""
        self._phase = phase
        self._calls.features = self._features if phase is Phase.FORECASTING else None
        if phase is not Phase.FORECASTING:
            self._features.release()
            self._calls.residence.clear()
        if phase is not Phase.PROBING:
            self._probe = None
        if phase in (Phase.OFF, Phase.CLOSED):
            self._corrector = None

    def _disable(self, message: Message) -> None:
        """Compute everything from here on."""
        if self._phase in (Phase.OFF, Phase.CLOSED):
            return
        self._enter(Phase.OFF)
        evaluation = self._calls.evaluation
        if self.trace.forecast or (evaluation is not None and evaluation.forecast):
            self.trace.note(say(Text.STOPPED, reason=message))
        else:
            self.trace.off = message

    def _learn(self, over: bool = False) -> None:
        """Use the numbers whose place the next evaluation is; all if the run is over."""
        stop = self._measurements.learn(self._policy, over)
        if stop is not None:
            self._disable(stop)

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
            self._probe = SamplerProbe(self._sigmas)
        self._enter(Phase.FORECASTING if found.known else Phase.PROBING)

    def _configure(self, info: SamplerInfo, layout: Layout, found: LinearMap | None = None) -> None:
        """Forecast as a sampler allows."""
        self._info, self._layout, self._map = info, layout, found
        self._measurements.noisy = info.noisy
        self._signal = signal_for(self._settings, info.noisy)
        flow = isinstance(self._sampling, comfy.model_sampling.CONST)
        times = noise_left(self._sigmas, flow)
        irregular = layout.irregular
        stages, guidance = layout.mean_stages(), _scale(self._guider)
        ends = self._span.ends(self._sigmas)
        schedule = self._settings.schedule_for(
            times, info.max_speedup, stages, len(irregular), guidance, ends, info.multistep
        )
        guarded = self._settings.schedule == ADAPTIVE and not self._settings.evaluations
        self._policy = Policy(schedule, self._sigmas, self._span, guarded, irregular)
        capacity = min(self._signal.forecaster.window, max(1, len(self._policy.planned())))
        self._features = FeatureForecaster(
            self._signal,
            self._policy.axis,
            self._policy.steps,
            capacity,
            2 if guarded else min(2, self._settings.warmup),
            _histories(self._guider, layout.stages),
            self.trace.note,
            flow,
            self._moves_parts,
        )
        if self._settings.correct and found is not None:
            self._corrector = LatentCorrector(
                self._signal, self._policy.axis, found, layout, self._sampling, self._parts, self._sigmas[-1] == 0
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
            probe = self._probe
            self._enter(Phase.FORECASTING)
            if not info.noisy:
                self._probe = probe
            else:  # there is nothing more to find out
                self.trace.note(say(Text.NOISY, sampler=self.trace.sampler, speedup=info.max_speedup))
            unsuitable = self._unsuitable()
            if unsuitable is not None:
                self._disable(unsuitable)

    # ------------------------------------------------------------------------------------------------ evaluation

    def predict_noise(
        self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """PREDICT_NOISE wrapper: one evaluation of the sampler, all conditionings together."""
        if self._calls.evaluation is not None:  # that is the same one
            return executor(x, timestep, *args, **kwargs)
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
            if not ours(error):
                raise
            self._disable(failure("a step", error))
            self._restart(evaluation, attributes)
            output = executor(x, timestep, *args, **kwargs)
        if evaluation is None:
            self._calls.evaluation = None
            return output
        corrected = self._guarded("correcting a step", self._corrected, evaluation, x, timestep, output)
        output = output if corrected is None else corrected
        self._guarded("ending a step", self._end, evaluation)
        self._calls.evaluation = None
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
        if self._calls.unseen:
            self._disable(say(Text.UNSEEN))
        elif torch.is_grad_enabled():
            self._disable(say(Text.GRADIENTS))
        elif self._shape not in (None, tuple(x.shape)):
            self._disable(say(Text.RESIZED))
        self._shape = tuple(x.shape)
        self._learn()
        step, stage = self._layout.place(index)
        levels = self._sigmas if self._map is None else self._map.levels
        sigma = (
            self._sigmas[min(step, self._policy.steps)] if self._map is None or index >= len(levels) else levels[index]
        )
        if self._phase is Phase.PROBING:
            sigma = float(timestep.reshape(-1)[0])
        reason = self._reason_to_compute(step, stage)
        after = levels[index + 1] if self._map is not None and index + 1 < len(levels) else sigma
        if self._phase is Phase.FORECASTING and self._left_levels(index, timestep, (sigma, after), stage):
            self._disable(say(Text.OFF_LEVELS, sampler=self.trace.sampler))
            reason = Reason.OFF
        record = Evaluation(index, sigma, "computed" if reason else "forecast", reason)
        replaced = replaced_methods(raw_network(self._guider.model_patcher.model))
        self._calls.evaluation = evaluation = EvaluationInProgress(
            record, step, stage, Stopwatch(self._device), x, self._policy.curious, replaced, mask=self._mask
        )
        return evaluation

    def _left_levels(self, index: int, timestep: torch.Tensor, expected: Sequence[float], stage: int) -> bool:
        """Whether an unknown sampler goes elsewhere than it was understood to. Its first two levels are read at once,
        when the device has little to do yet, later ones with the other numbers."""
        if self._known is not None or (self._map is None and stage > 0):
            return False
        self._levels.put(index, (Readback(timestep.reshape(-1)[:1]), expected))
        found = self._levels.rest() if index < 2 else self._levels.due(self.trace.kinds)
        return any(not on_level(float(told.wait()), own, 0) for told, own in found)

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
            self.trace.note(say(Text.ERROR_LIMIT, limit=f"{MAX_ESTIMATED_ERROR:.0%}".replace("%", " %")))
        return reason

    def _corrected(
        self, evaluation: EvaluationInProgress, x: torch.Tensor, timestep: torch.Tensor, denoised: torch.Tensor
    ) -> torch.Tensor:
        """What the sampler gets instead of a denoised latent."""
        drift = None
        if evaluation.scale is None:
            evaluation.scale = _scale(self._guider)
        if self._corrector is not None and self._phase in (Phase.FORECASTING, Phase.COMPUTE_REST):
            guidance = (frozenset(evaluation.occurrences), evaluation.scale)
            index, forecast = evaluation.record.position, evaluation.forecast
            denoised, drift = self._corrector.apply(
                index, forecast, guidance, timestep, x, denoised, _like(evaluation.mask, x)
            )
        self._measurements.put(evaluation, drift, self._policy.curious)
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


def _plain_attributes(guider: Any) -> dict[str, Any]:
    """Plain values on a guider: some count their calls."""
    return {name: v for name, v in vars(guider).items() if v is None or isinstance(v, bool | int | float | str)}


def _wanted(guider: Any, conds: dict[str, Any]) -> dict[str, Any]:
    """The conditionings that a guider will ask for: without guidance, ComfyUI's own leaves out the negative one."""
    plain = getattr(type(guider), "predict_noise", None) is CFGGuider.predict_noise
    if plain and math.isclose(guider.cfg, 1.0) and not guider.model_options.get("disable_cfg1_optimization"):
        return {name: given for name, given in conds.items() if name != "negative"}
    return conds


def _histories(guider: Any, stages: int) -> int:
    """How many paths of features a run keeps: of each conditioning, regional ones too, one for each stage of a step."""
    wanted = _wanted(guider, getattr(guider, "conds", None) or {})
    return max(1, sum(len(group or ()) for group in wanted.values())) * max(1, stages)


def _unguided(options: dict[str, Any]) -> int:
    return len(options.get(UNGUIDED_OUTPUTS, ()))


def _like(mask: torch.Tensor | None, latent: torch.Tensor) -> torch.Tensor | None:
    """A mask in the shape of a latent, if it is one of this latent."""
    if mask is None or mask.ndim != latent.ndim or mask.shape[-1] != latent.shape[-1]:
        return None
    return mask.to(latent).expand_as(latent)


def _scale(guider: Any) -> float:
    """The scale of classifier-free guidance now, the larger one of a guider with two; 1 if it has none. PerpNeg guides
    away from its negative prompt besides."""
    names = ("cfg", "cfg1", "cfg2", "neg_scale")
    cfg, first, second, away = (v if isinstance(v := getattr(guider, name, 0), int | float) else 0 for name in names)
    return max(1.0, float(cfg), float(first), float(second)) * (1.0 + max(0.0, float(away)))
