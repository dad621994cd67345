"""Which rows of a batch belong to which history.

ComfyUI joins and splits the conditionings of an evaluation differently from call to call (free memory decides), so a
history belongs to one conditioning's rows, whatever batch they come in.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from ..spectrum_core.forecast import Forecaster
from ..spectrum_core.history import History
from .bypass import Features

Key = Hashable


def stream_keys(
    base_model: object,
    x: torch.Tensor,
    options: dict[str, Any],
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
            again in one evaluation (perturbed attention, say) get further streams.
        rows_by_call: see `Architecture`; another way of joining conditionings is then another stream.
        controls: conditioning -> `active_controls`; where one begins or ends, the feature jumps.
    """
    uuids = options.get("uuids") or [None]
    conds = options.get("cond_or_uncond") or [0] * len(uuids)
    window = options.get("context_window")
    rows = (x.shape[0] // len(conds), *x.shape[1:])
    patched = frozenset(
        (kind, name) for kind in ("patches", "patches_replace") for name in _names(options.get(kind) or {})
    )
    hooked = _hook_strengths(base_model)
    keys: list[Key] = []
    for uuid, cond in zip(uuids, conds, strict=True):
        key = (id(base_model), uuid, cond, _window_key(window), rows, patched, hooked, controls.get(uuid))
        key += tuple(conds) if rows_by_call else ()
        keys.append((*key, occurrences[key]))
        occurrences[key] += 1
    return keys


def _names(patches: dict[str, Any]) -> Iterable[Key]:
    for name, entry in patches.items():
        yield name, len(entry), *(tuple(entry) if isinstance(entry, dict) else ())


def _window_key(window: Any) -> Key:
    return None if window is None else tuple(getattr(window, "index_list", None) or (id(window),))


def _hook_strengths(base_model: object) -> Key:
    """Of the LoRA hooks that the call's weights hold: at a keyframe of their schedule, the network itself changes."""
    group = getattr(getattr(base_model, "current_patcher", None), "current_hooks", None)
    return tuple(hook.strength for hook in group.hooks) if group else ()


class Stream:
    """The histories of one conditioning's rows, one per tapped feature; all have the same positions."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
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

    def error(
        self, label: str, feature: torch.Tensor, forecaster: Forecaster, target: float, total: int
    ) -> torch.Tensor | None:
        """Relative L2 error that the forecast of a feature would have had (0-dim, on its device), if there is one."""
        history = self._histories.get(label)
        if history is None or not history.fits(feature):
            return None
        return history.error(forecaster.weights(history.positions, target, total), feature)

    def forecast(self, label: str, forecaster: Forecaster, target: float, total: int, out: torch.Tensor) -> None:
        """Write the forecast of a feature to `out`."""
        history = self._histories[label]
        history.combine(forecaster.weights(history.positions, target, total), out)


def forecast_rows(
    streams: Sequence[Stream], forecaster: Forecaster, target: float, total: int, room: Features | None = None
) -> Features:
    """The features of a whole call: each stream's forecast in its own rows.

    Args:
        streams: the call's streams, in the order of its rows.
        forecaster: the fit.
        target: position to forecast.
        total: number of evaluations of the run.
        room: where features on the host are kept for reuse from call to call. Fresh memory costs page faults there,
            more than the sum itself; a device's allocator keeps its own.
    """
    features: Features = {}
    for label in streams[0].labels:
        history = streams[0].history(label)
        out = history.empty(len(streams), None if room is None else room.get(label))
        if room is not None and out.device.type == "cpu":
            room[label] = out
        for stream, rows in zip(streams, out.chunk(len(streams)), strict=True):
            stream.forecast(label, forecaster, target, total, rows)
        features[label] = out
    return features
