"""One call of the network: computed with its features kept, or forecast from them.

It never calls the run: what the run must know stands in the evaluation in progress. Calls of several devices run in
threads, so that nothing is given up here that another call may still read.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_base import ModelType
from comfy.model_management import InterruptProcessingException, get_total_memory
from einops import rearrange

from ...spectrum_core.forecast import Axis, Forecaster
from ...spectrum_core.messages import Message, Reason, Text, say
from ...spectrum_core.readback import Readback
from ..models.architectures import DENOISED, MODEL_OUTPUT, Architecture, find
from ..models.continuity import Continuity
from ..models.discovery import Discovery
from ..models.footprint import feature_bytes, held_bytes
from ..models.memory import Kept, changed, grown, kept_by_network, kept_by_patches, preserved
from ..models.rows import ConditioningHistory, Identity, Key, RowsError, forecast_rows, history_keys
from ..models.taps import Features, TapError, TappedModel
from ..samplers.signal import Signal
from ..settings import AUTO, BLOCK_OUTPUT, DENOISED_LATENT, RAW_OUTPUT
from .conflicts import foreign_forward, replaced_methods
from .evaluation import EvaluationInProgress
from .failures import describe, failure

HOLD_LAST = Forecaster(degree=1, window=1, ridge=0.0)
"""Weight 1 on the newest feature: what the self-test puts in."""

SELF_TEST_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 1e-2}
SELF_TEST_LIMIT_COARSE = 4e-2
"""Relative difference up to which a head-only call passes. A compiled head rounds differently from the same head in the
whole network: in bfloat16 by 1.2 % (Flux, inductor). A wrong one is off by far more."""

WHOLE_MODEL_TARGETS = MODEL_OUTPUT, DENOISED
"""Targets of which no part of the network runs."""

HISTORY_SHARE = 0.05
"""Part of a device's memory that the histories of a run may take with target "auto": 1.2 GiB of 24."""

MOST_MOVED = 3
"""Computed steps in a row whose calls saw other parts of the latent than before, after which nothing is forecast."""

Call = Callable[[], torch.Tensor]


class FeatureForecaster:
    """The features of a run.

    Args:
        signal: what is forecast.
        axis: that forecasts are fitted along.
        total: steps of the run.
        capacity: how many computed steps a history holds at most.
        enough: how many computed steps a forecast needs.
        paths: how many histories the run keeps, of conditionings and stages.
        note: gets what the user should know.
        flow: whether latents go from noise to data in straight lines; else noise is added to data.
        moves_parts: whether another pack may choose what a call sees, see `conflicts`.
    """

    def __init__(
        self,
        signal: Signal,
        axis: Axis,
        total: int,
        capacity: int,
        enough: int,
        paths: int,
        note: Callable[[Message], None],
        flow: bool = True,
        moves_parts: bool = False,
    ) -> None:
        self._signal, self._axis, self._total = signal, axis, total
        self.capacity, self._enough, self._note = capacity, enough, note
        self._paths = paths
        self._flow, self._moves_parts = flow, moves_parts
        self._continuity = Continuity()
        self._moved = 0  # computed steps in a row with calls that saw other parts than before
        self._kept: list[Kept] = []  # after each of the first computed evaluations
        self._tapped: dict[Identity, TappedModel] = {}
        self._histories: dict[Key, ConditioningHistory] = {}
        self._tested: set[Key] = set()
        self._buffers: dict[int, Features] = {}
        self._outputs: dict[Key, tuple[int, torch.Tensor]] = {}
        self._computed_last = -1
        self._lock = threading.Lock()
        self.self_test: float | None = None
        self.fallback = False  # to the model output, since the first call

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(history.nbytes for history in list(self._histories.values()))

    def affordable(self, feature: int, device: torch.device) -> bool:
        """Whether features of so many bytes for each conditioning may be held: by a share of the device's memory, the
        same on every run. Which conditionings ComfyUI joins in a call depends on what is free."""
        return self._held(feature) <= HISTORY_SHARE * get_total_memory(device)

    def _held(self, feature: int) -> int:
        """Bytes of all histories, if features of one conditioning have so many."""
        return feature * self._paths * self.capacity

    def planned(self, patcher: Any, latent: tuple[int, ...], corrected: bool) -> int:
        """Bytes that the run is going to hold, the corrector's included."""
        feature = math.prod(latent) * torch.float32.itemsize
        target = self._signal.target
        if target == BLOCK_OUTPUT or (target == AUTO and not _output_is_better(patcher.model)):
            wanted = feature_bytes(raw_network(patcher.model), latent, patcher.model.get_dtype_inference())
            if target == BLOCK_OUTPUT or self.affordable(wanted, patcher.load_device):
                feature = wanted
        return held_bytes(feature, latent, self.capacity, self._paths, corrected)

    def call(
        self,
        evaluation: EvaluationInProgress,
        base_model: Any,
        x: torch.Tensor,
        options: dict[str, Any],
        full: Call,
        head: Callable[[dict[str, Any]], torch.Tensor],
    ) -> torch.Tensor:
        """The output of a call: forecast, or computed with its features kept.

        Args:
            evaluation: that the call belongs to.
            base_model: that is called.
            x: its input, shape [conditionings * batch, ...].
            options: the call's transformer_options.
            full: calls the model.
            head: calls the model without what only its blocks need, with these transformer_options besides.

        Raises:
            BeginAgain: if the evaluation must be computed from its beginning.
        """
        switched = replaced_methods(raw_network(base_model)) - evaluation.replaced
        if switched:  # a cache: it decides what is computed, and what it keeps must not come from a forecast
            evaluation.failure = say(Text.SWITCHED, method=min(switched))
            if evaluation.forecast:
                evaluation.compute(Reason.OFF)
            return full()
        evaluation.options = options
        try:
            tapped = self._tapped_model(base_model, options)
            row = tapped.architecture
            found = history_keys(base_model, x, options, evaluation.occurrences, row.rows_by_call, evaluation.controls)
        except RowsError:
            evaluation.failure = say(Text.ROWS)
            if evaluation.forecast:
                evaluation.compute(Reason.OFF)
            return full()
        keys: list[Key] = [(evaluation.stage, key) for key in found]

        def head_only() -> torch.Tensor:
            return head(dict(tapped.architecture.options))

        partial = self._moves_parts or (x.shape[0] // len(keys), *x.shape[1:]) != tuple(evaluation.latent.shape)
        if partial:
            self._drop_broken(evaluation, keys, x)
        histories = self._to_forecast_from(evaluation, keys)
        if histories:
            try:
                return self._forecast(tapped, histories, evaluation, head_only)
            except InterruptProcessingException:
                raise
            except Exception as error:
                evaluation.failure = failure("a forecast", error)
                evaluation.compute(Reason.OFF)
        if evaluation.failure is not None:
            return full()
        if partial:
            self._continuity.saw(keys, x, evaluation.latent)
        conds = options.get("cond_or_uncond") or [0] * len(keys)
        return self._captured(evaluation, tapped, keys, conds, x, full, head_only)

    def end(self, evaluation: EvaluationInProgress) -> bool:
        """A computed step has ended: conditionings that it did not have could only be forecast across a gap, so that
        they are let go. Whether the target changed to the model output."""
        if evaluation.fallback is not None:
            self._note(say(Text.FALLBACK, problem=evaluation.fallback))
            self.release()
            self._tapped = {key: _whole(tapped) for key, tapped in self._tapped.items()}
            self._tested.clear()
            self.self_test = None
            return True
        if not evaluation.forecast:
            self._computed_last = evaluation.step
            self._watch_memory(evaluation)
            self._moved = self._moved + 1 if evaluation.moved else 0
            if self._moved == MOST_MOVED:
                evaluation.failure = say(Text.MOVING)
            elif not evaluation.occurrences:
                evaluation.failure = say(Text.ANSWERED)
            kept = {
                key: history
                for key, history in self._histories.items()
                if history.positions and history.positions[-1] == evaluation.step
            }
            self._histories = kept
        return False

    def release(self) -> None:
        """Free all features."""
        for history in list(self._histories.values()):
            history.clear()
        self._histories, self._buffers, self._outputs = {}, {}, {}
        self._continuity.clear()

    def _drop_broken(self, evaluation: EvaluationInProgress, keys: list[Key], x: torch.Tensor) -> None:
        """Let go of histories of another part of the latent than the call sees."""
        for key, broken in zip(keys, self._continuity.broken(keys, x, evaluation.latent), strict=True):
            if broken and key in self._histories:
                evaluation.moved = True
                with self._lock:
                    del self._histories[key]

    def _watch_memory(self, evaluation: EvaluationInProgress) -> None:
        """A patch or a network that stores something at each step needs each step computed."""
        if len(self._kept) == 2 or not self._tapped:
            return
        networks = [raw_network(tapped.base_model) for tapped in self._tapped.values()]
        found: dict[str, tuple[int, ...]] = dict(kept_by_patches(evaluation.options))
        for number, network in enumerate(networks):
            found.update({f"{number} {where}": kept for where, kept in kept_by_network(network).items()})
        self._kept.append(found)
        if len(self._kept) == 2 and grown(*self._kept) is not None:
            evaluation.failure = say(Text.BANK, bank="another pack")

    def _to_forecast_from(self, evaluation: EvaluationInProgress, keys: list[Key]) -> list[ConditioningHistory] | None:
        """The histories to forecast a call from; None where it is computed."""
        with evaluation.lock:  # with several devices, an evaluation's calls run in threads of their own
            if not evaluation.forecast:
                return None
            histories = [self._histories.get(key) for key in keys]
            ready = [h for h in histories if h is not None and self._ready(h)]
            if len(ready) == len(keys):
                evaluation.forecast_calls += 1
                return ready
            evaluation.compute(Reason.MOVED if evaluation.moved else Reason.NO_HISTORY)
            return None

    def _ready(self, history: ConditioningHistory) -> bool:
        """Whether a history can be forecast from: enough points, not left behind by a gap."""
        positions = history.positions
        return len(positions) >= self._enough and positions[-1] >= self._computed_last

    def _forecast(
        self,
        tapped: TappedModel,
        histories: list[ConditioningHistory],
        evaluation: EvaluationInProgress,
        head_only: Call,
    ) -> torch.Tensor:
        whole = tapped.architecture in WHOLE_MODEL_TARGETS
        # The model's output may live on as the sampler's own; only what enters a head can be reused.
        buffers = None if whole else self._buffers.setdefault(id(tapped), {})
        features = forecast_rows(histories, self._signal.forecaster, evaluation.step, self._total, buffers)
        output = tapped.run_head(head_only, features)
        if not whole and any(_shares_memory(output, feature) for feature in features.values()):
            output = output.clone()  # a head that passes its input on
        return output

    def _captured(
        self,
        evaluation: EvaluationInProgress,
        tapped: TappedModel,
        keys: list[Key],
        conds: list[int],
        x: torch.Tensor,
        full: Call,
        head_only: Call,
    ) -> torch.Tensor:
        """A computed call whose features go to their histories. The first call of a kind is also the self-test."""
        position = evaluation.step
        with self._lock:
            histories = [
                self._histories.setdefault(key, ConditioningHistory(self.capacity, self._axis)) for key in keys
            ]
        for history in histories:
            history.discard(position)  # known already where the evaluation began again

        def receive(label: str, feature: torch.Tensor) -> None:
            if feature.ndim == 0 or feature.shape[0] % len(histories):
                raise TapError(f"the rows of {label} {tuple(feature.shape)} do not divide by conditioning")
            bounded = self._signal.target == AUTO and tapped.architecture not in WHOLE_MODEL_TARGETS
            own_bytes = feature.nbytes // len(histories)
            if bounded and not self.affordable(own_bytes, feature.device):
                raise TapError(f"the block output would need {self._held(own_bytes) / 2**30:.1f} GiB")
            batch = x.shape[0] // len(histories)
            rows = rearrange(feature, "(cond batch) ... -> cond batch ...", cond=len(histories))
            for history, own in zip(histories, rows, strict=True):
                pictures = batch if own.shape[0] % batch == 0 else 1
                error = history.error(label, own, self._signal.forecaster, position, self._total, pictures)
                evaluation.feature_errors.append(Readback(_unknown(own) if error is None else error))
                history.push(label, position, own)

        output, problem = tapped.run_full(full, receive)
        self._compare(evaluation, keys, conds, x, output)
        kind = (Identity(tapped), *x.shape[1:])
        if problem is None and kind not in self._tested:
            problem = self._self_test(tapped, histories, evaluation, x, output, head_only)
            self._tested.add(kind)
        if isinstance(problem, Exception):
            if tapped.architecture in WHOLE_MODEL_TARGETS:
                evaluation.failure = failure("keeping the model output", problem)
            else:
                evaluation.fallback = describe(problem)
        return output

    def _compare(
        self, evaluation: EvaluationInProgress, keys: list[Key], conds: list[int], x: torch.Tensor, output: torch.Tensor
    ) -> None:
        """By how much the conditional velocity changed since it was last computed."""
        if evaluation.stage > 0:
            return
        if not evaluation.curious:
            self._outputs.clear()
            return
        sigma = max(evaluation.record.sigma, 1e-6)
        # The velocity, noise minus data. Of models that predict noise, latents are (1 + sigma) times those of a flow.
        larger = 1.0 if self._flow else 1.0 + sigma
        change = (x - larger * output).detach().float() / sigma
        rows = rearrange(change, "(cond batch) ... -> cond batch ...", cond=len(keys))
        for key, cond, own in zip(keys, conds, rows, strict=True):
            if cond != 0:
                continue
            step, before = self._outputs.get(key, (evaluation.step, None))
            if before is not None and step < evaluation.step:
                moved = torch.linalg.vector_norm((own - before).flatten(1), dim=1)
                moved = moved / torch.linalg.vector_norm(before.flatten(1), dim=1).clamp_min(1e-12)
                evaluation.changes.append((step, Readback(moved)))
            self._outputs[key] = evaluation.step, own

    def _self_test(
        self,
        tapped: TappedModel,
        histories: list[ConditioningHistory],
        evaluation: EvaluationInProgress,
        x: torch.Tensor,
        output: torch.Tensor,
        head_only: Call,
    ) -> Exception | None:
        """The features just captured, put before the head alone, must give the same output. What is wrong, or None."""
        try:
            latest = forecast_rows(histories, HOLD_LAST, evaluation.step, self._total)
            again = _head_alone(tapped, head_only, latest)
            # Both are denoised latents; their distance to the input is the network's own share of them.
            norms = [torch.linalg.vector_norm((output - other).float()) for other in (again, x)]
            off, share = torch.stack(norms).tolist()  # the one time that the device is waited for here
            difference = off / share if share else 0.0
        except InterruptProcessingException:
            raise
        except Exception as error:
            return error
        with self._lock:
            self.self_test = max(difference, self.self_test or 0.0)
        dtype = histories[0].history(histories[0].labels[0]).dtype
        if difference <= SELF_TEST_LIMIT.get(dtype, SELF_TEST_LIMIT_COARSE):
            return None
        return TapError(f"difference {difference:.1e}")

    def _tapped_model(self, base_model: Any, options: dict[str, Any]) -> TappedModel:
        """How to call a base model; decided at its first call."""
        key = Identity(base_model)
        with self._lock:
            tapped = self._tapped.get(key)
            if tapped is None:
                row = self._row(base_model)
                foreign = None if row in WHOLE_MODEL_TARGETS else foreign_forward(raw_network(base_model), options)
                if foreign is not None:
                    row = MODEL_OUTPUT
                    self.fallback = True
                    self._note(say(Text.FALLBACK, problem=foreign))
                tapped = Discovery(base_model, self._note) if row is None else TappedModel(base_model, row)
                self._tapped[key] = tapped
        return tapped

    def _row(self, base_model: Any) -> Architecture | None:
        """The architecture that a base model is called by; None if it is to be discovered."""
        if self._signal.target == DENOISED_LATENT:
            return DENOISED
        if self._signal.target == AUTO and _output_is_better(base_model):
            self.fallback = True
            return MODEL_OUTPUT
        return MODEL_OUTPUT if self._signal.target == RAW_OUTPUT else find(type(raw_network(base_model)))


def _output_is_better(base_model: Any) -> bool:
    """Whether target "auto" is the output of this model, whatever its features need."""
    row = find(type(raw_network(base_model)))
    # The last hidden features of a model that predicts velocities turn far more than what it says.
    return base_model.model_type == ModelType.V_PREDICTION or (row is not None and row.heavy_head)


def raw_network(base_model: Any) -> torch.nn.Module:
    """The diffusion model of a base model, as it was before torch.compile."""
    network: torch.nn.Module = base_model.diffusion_model
    original: torch.nn.Module = getattr(network, "_orig_mod", network)
    return original


def _head_alone(tapped: TappedModel, head_only: Call, features: Features) -> torch.Tensor:
    """The head, called for the first time. A network without a row must not keep anything of that.

    Raises:
        TapError: if it would: it has a cache of its own, which a call without blocks would spoil.
    """
    if not isinstance(tapped, Discovery):
        return tapped.run_head(head_only, features)
    network = raw_network(tapped.base_model)
    before = kept_by_network(network)
    with preserved(network):
        output = tapped.run_head(head_only, features)
        place = changed(before, kept_by_network(network))
    if place is not None:
        raise TapError(f"the model keeps values from call to call in {place}")
    return output


def _whole(tapped: TappedModel) -> TappedModel:
    return TappedModel(tapped.base_model, MODEL_OUTPUT)


def _shares_memory(output: torch.Tensor, feature: torch.Tensor) -> bool:
    return output.untyped_storage().data_ptr() == feature.untyped_storage().data_ptr()


def _unknown(rows: torch.Tensor) -> torch.Tensor:
    """The error of a feature that nothing was forecast for: float32 [1], infinite, or NaN where some value is not
    finite (half precision could not hold the norm)."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return (torch.linalg.vector_norm(rows.detach(), dtype=wide) * 0.0 + math.inf).reshape(1).float()
