"""What a MODEL carries: one wrapper and an immutable configuration in a clone's transformer_options, nothing else."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...spectrum_core.trace import Trace
from ..settings import NODE, Settings

KEY = "spectrum"
"""Of everything of ours in transformer_options."""

RUNS_KEPT = 16
"""Traces (a few kB each) that a MODEL remembers for the report."""


@dataclass(frozen=True)
class Attachment:
    """What a MODEL carries.

    Attributes:
        settings: the node's values.
        node: id of the node, to which live messages are sent; empty outside a workflow.
        shared: whether other processes work on the same calls, see `ranks`.
        runs: traces of the latest runs, oldest first. They hold no tensor.
    """

    settings: Settings
    node: str = ""
    shared: bool = False
    runs: deque[Trace] = field(default_factory=lambda: deque(maxlen=RUNS_KEPT), compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        """Itself: packs copy model_options in the middle of a run, and the copy must report to the same node."""
        return self


def attach(
    model: ModelPatcher, settings: Settings, wrapper: Callable[..., Any], node: str = "", shared: bool = False
) -> ModelPatcher:
    """A clone of a MODEL that carries settings, and a wrapper of the whole run. The MODEL given stays as it is.

    If Spectrum was on it already, these settings replace the earlier ones.
    """
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    if KEY in options:
        logging.info(f"{NODE}: two nodes on one MODEL; the settings of the later one are used.")
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    options[KEY] = Attachment(settings, node, shared)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper)
    return clone


def attachment(model: ModelPatcher) -> Attachment | None:
    """What `attach` put on a MODEL, or None."""
    found: Attachment | None = model.model_options.get("transformer_options", {}).get(KEY)
    return found
