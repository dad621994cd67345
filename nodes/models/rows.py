"""Which rows of a batch belong to which history.

ComfyUI joins and splits the conditionings of an evaluation differently from call to call (free memory decides), so a
history belongs to one conditioning's rows, whatever batch they come in.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from einops import rearrange

from ...spectrum_core.forecast import Axis, Forecaster
from ...spectrum_core.history import History
from .taps import Features

Key = Hashable

SWITCHES_IGNORED = frozenset({"cond_or_uncond", "uuids", "block", "activations_shape"})
"""Entries of transformer_options that are in the key already, or that a network writes while it runs."""


class RowsError(ValueError):
    """A call does not say whose rows it holds."""


class Identity:
    """An object as part of a key: told apart by identity, and kept alive, so that the identity is not given again."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other._value is self._value


def history_keys(
    base_model: object,
    x: torch.Tensor,
    options: Mapping[str, Any],
    occurrences: Counter[Key],
    rows_by_call: bool = False,
    controls: Mapping[Key, Key] = MappingProxyType({}),
) -> list[Key]:
    """One key per conditioning of a call, in the order of the rows.

    Args:
        base_model: the model that is called (a guider may use several).
        x: its input, shape [conditionings * batch, ...].
        options: the call's transformer_options.
        occurrences: what this evaluation has called so far; counted on here. Nodes that run the same conditioning
            again in one evaluation (perturbed attention, say) get further histories.
        rows_by_call: see `Architecture`; another way of joining conditionings is then another history.
        controls: conditioning -> `active_controls`; where one begins or ends, the feature jumps.

    Raises:
        RowsError: if the call's entries contradict each other.
    """
    uuids = options.get("uuids") or [None]
    conds = options.get("cond_or_uncond") or [0] * len(uuids)
    if len(uuids) != len(conds) or x.shape[0] % len(conds):
        raise RowsError(f"{len(conds)} conditionings, {len(uuids)} identities, {x.shape[0]} rows")
    rows = (x.shape[0] // len(conds), *x.shape[1:])
    common = (
        Identity(base_model),
        rows,
        _window(options),
        frozenset((kind, name) for kind in ("patches", "patches_replace") for name in _names(options.get(kind) or {})),
        _switches(options),
        _hook_strengths(base_model),
        tuple(conds) if rows_by_call else (),
    )
    keys: list[Key] = []
    for uuid, cond in zip(uuids, conds, strict=True):
        key = (*common, uuid, cond, controls.get(uuid))
        keys.append((*key, occurrences[key]))
        occurrences[key] += 1
    return keys


def _names(patches: Mapping[str, Any]) -> Iterable[Key]:
    for name, entry in patches.items():
        yield name, len(entry), *(tuple(entry) if isinstance(entry, dict) else ())


def _switches(options: Mapping[str, Any]) -> Key:
    """Plain values among the options: they may switch parts of a network on and off (`run_vx`, `stg_indexes`)."""
    found: list[Key] = []
    for name, value in options.items():
        if name in SWITCHES_IGNORED:
            continue
        if isinstance(value, bool | str):  # a plain number may count steps
            found.append((name, value))
        elif isinstance(value, list | tuple | set) and all(isinstance(v, int | str) for v in value):
            found.append((name, tuple(sorted(value, key=repr))))
    return frozenset(found)


def _window(options: Mapping[str, Any]) -> Key:
    """The frames of a context window: ComfyUI's own, or those of AnimateDiff-Evolved."""
    window = options.get("context_window")
    moved = (options.get("ad_params") or {}).get("sub_idxs") if isinstance(options.get("ad_params"), dict) else None
    own = None if window is None else tuple(getattr(window, "index_list", None) or (Identity(window),))
    return own, None if moved is None else tuple(moved)


def _hook_strengths(base_model: object) -> Key:
    """Of the LoRA hooks that the call's weights hold: at a keyframe of their schedule, the network itself changes."""
    group = getattr(getattr(base_model, "current_patcher", None), "current_hooks", None)
    return tuple(hook.strength for hook in group.hooks) if group else ()


class ConditioningHistory:
    """The features of one conditioning's rows, a history per tapped feature; all have the same positions.

    Args:
        capacity: positions that are held at most.
        axis: that forecasts are fitted along; evenly if None.
    """

    def __init__(self, capacity: int, axis: Axis | None = None) -> None:
        self._capacity, self._axis = capacity, axis or Axis()
        self._histories: dict[str, History] = {}

    @property
    def positions(self) -> tuple[float, ...]:
        """Positions at which every feature is known, oldest first."""
        histories = list(self._histories.values())
        return tuple(p for p in histories[0].positions if all(p in h.positions for h in histories)) if histories else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The features."""
        return tuple(self._histories)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(history.nbytes for history in self._histories.values())

    def history(self, label: str) -> History:
        """The history of one feature."""
        return self._histories[label]

    def push(self, label: str, position: float, feature: torch.Tensor) -> None:
        """Store a copy of a computed feature."""
        if label not in self._histories:
            self._histories[label] = History(self._capacity)
        self._histories[label].push(position, feature)

    def discard(self, position: float) -> None:
        """Forget what was computed at a position."""
        for history in self._histories.values():
            history.discard(position)

    def clear(self) -> None:
        """Free everything."""
        for history in list(self._histories.values()):
            history.clear()

    def error(
        self, label: str, feature: torch.Tensor, forecaster: Forecaster, target: float, total: int, pictures: int = 1
    ) -> torch.Tensor | None:
        """Relative L2 error that the forecast of a feature would have had, float32 [pictures] on its device, if there
        is one."""
        history = self._histories.get(label)
        if history is None or not history.fits(feature):
            return None
        return history.error(
            self._axis.weights(forecaster, history.positions, target, total).tolist(), feature, pictures
        )

    def forecast(self, label: str, forecaster: Forecaster, target: float, total: int, out: torch.Tensor) -> None:
        """Write the forecast of a feature to `out`."""
        history = self._histories[label]
        history.combine(self._axis.weights(forecaster, history.positions, target, total).tolist(), out)


def forecast_rows(
    histories: Sequence[ConditioningHistory],
    forecaster: Forecaster,
    target: float,
    total: int,
    buffers: Features | None = None,
) -> Features:
    """The features of a whole call: each conditioning's forecast in its own rows.

    Args:
        histories: of the call's conditionings, in the order of its rows.
        forecaster: the fit.
        target: position to forecast.
        total: number of evaluations of the run.
        buffers: where features are kept for reuse from call to call.
    """
    features: Features = {}
    for label in histories[0].labels:
        out = histories[0].history(label).empty(len(histories), None if buffers is None else buffers.get(label))
        if buffers is not None:
            buffers[label] = out
        rows = rearrange(out, "(cond batch) ... -> cond batch ...", cond=len(histories))
        for history, own in zip(histories, rows, strict=True):
            history.forecast(label, forecaster, target, total, own)
        features[label] = out
    return features
