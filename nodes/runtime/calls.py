"""The calls that one evaluation makes of the model: its conditionings (CALC_COND_BATCH), and each call of the network
(APPLY_MODEL)."""

from typing import Any

import torch
from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException, soft_empty_cache

from ...spectrum_core.messages import Message, Reason, Text, say
from ..models.controlnet import DeferredControl, LazyResiduals, active_controls
from ..models.residence import Residence
from .evaluation import BeginAgain, EvaluationInProgress
from .failures import failure, ours
from .features import FeatureForecaster
from .ranks import RankError, Ranks


class ModelCalls:
    """Two wrappers; where something of ours fails, the call is made as if they were not there.

    Args:
        device: of the model.
        ranks: the processes that work on the same calls, if there are others.

    Attributes:
        evaluation: in progress.
        features: of the run while it forecasts; None while every call is only passed on.
        unseen: whether the model was called outside of any evaluation.
        residence: of the conditionings while the run forecasts.
    """

    def __init__(self, device: Any, ranks: Ranks | None) -> None:
        self._device, self._ranks, self.unseen = device, ranks, False
        self.evaluation: EvaluationInProgress | None = None
        self.features: FeatureForecaster | None = None
        self.residence = Residence()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelCalls":
        """Itself: packs copy model_options in the middle of a run, and with it these wrappers."""
        return self

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: list, x: torch.Tensor, timestep: torch.Tensor, options: dict
    ) -> Any:
        """CALC_COND_BATCH wrapper: an evaluation that turns out to need computing begins again here, below the guider;
        control networks run only where their residuals are used."""
        evaluation = self.evaluation
        self.unseen |= evaluation is None
        if evaluation is None or self.features is None:
            return executor(model, conds, x, timestep, options)
        if "multigpu_clones" not in options:  # where each device gets its own
            conds = self.residence.moved(conds, x.device)
        before, forecast_before = evaluation.occurrences.copy(), evaluation.forecast_calls
        try:
            output = executor(model, _deferred(evaluation, conds, options), x, timestep, options)
            if not evaluation.unfinished:
                return output
        except BeginAgain:
            pass
        except Exception as error:
            if not ours(error):
                raise
            evaluation.failure = failure("a call of the model", error)
        if forecast_before:
            raise BeginAgain
        evaluation.begin_again(before)
        return executor(model, conds, x, timestep, options)

    def apply_model(
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

        evaluation, features = self.evaluation, self.features
        running = evaluation is not None and features is not None and evaluation.failure is None
        agreed = self._ranks is None or self._ranks.agree(running and evaluation is not None and evaluation.forecast)
        if evaluation is None or features is None or not running:
            return full()
        stop = say(Text.RANKS) if not agreed else say(Text.GRADIENTS) if torch.is_grad_enabled() else None
        if stop is None:
            try:
                return features.call(evaluation, executor.class_obj, x, options, full, head)
            except (InterruptProcessingException, BeginAgain, RankError):
                raise
            except Exception as error:
                # The model's own errors are none of ours; but out of memory it may be only because of us.
                if not ours(error) and not isinstance(error, OOM_EXCEPTION):
                    raise
                stop = failure("a call of the model", error)
            features.release()
            if isinstance(self._device, torch.device) and self._device.type != "cpu":
                soft_empty_cache()
        _compute(evaluation, stop)
        return full()


def _compute(evaluation: EvaluationInProgress, why: Message) -> None:
    """Nothing is forecast any more."""
    evaluation.failure = why
    if evaluation.forecast:
        evaluation.compute(Reason.OFF)


def _deferred(evaluation: EvaluationInProgress, conds: list, options: dict) -> list:
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
