"""Live messages for the chart on the node, and the latest state of each node's runs for a page that comes later."""

import logging
import math
import sys
import time
from collections import OrderedDict
from typing import Any

from ...spectrum_core.messages import Message
from ...spectrum_core.trace import Trace
from .failures import failure

EVENT = "spectrum_accelerate.run"

INTERVAL = 0.1
"""Seconds between two messages at least."""

KEPT = 64
"""Runs whose last message is kept: a reloaded page, or one that shows another workflow during the run, asks for it."""

_kept: "OrderedDict[tuple[str, str, int], dict[str, Any]]" = OrderedDict()


def kept(workflow: str) -> list[dict[str, Any]]:
    """The last message of each kept run of a workflow, oldest first. Runs whose client sent no workflow belong to none.

    Args:
        workflow: the id that the page gave to it.
    """
    return [data for data in list(_kept.values()) if workflow and data["workflow"] == workflow]


class Progress:
    """Sends the whole state of a run to the page; without ComfyUI's server or a node, does nothing.

    Args:
        node: id of our node, with those of the subgraphs around it ("12:7").
        trace: of the run.
    """

    def __init__(self, node: str, trace: Trace) -> None:
        self._node, self._trace = node, trace
        self._began = time.time_ns() // 1000
        self._sent = 0.0
        self._workflow: str | None = None

    def send(self, last: bool = False) -> None:
        """Send the state, at most ten times a second; the last one always. If that fails, nothing more is sent."""
        try:
            self._send(last)
        except Exception as error:
            self._node = ""
            logging.warning("Spectrum: %s", failure("the chart on the node", error))

    def _send(self, last: bool) -> None:
        trace = self._trace
        now = time.monotonic()
        module = sys.modules.get("server")  # loaded by ComfyUI; importing it here would start half a server elsewhere
        server = getattr(getattr(module, "PromptServer", None), "instance", None)
        if not self._node or server is None or (now - self._sent < INTERVAL and not last):
            return
        self._sent = now
        if self._workflow is None:
            self._workflow = workflow_of(server, trace.prompt)
        data = {
            "prompt": trace.prompt,
            "workflow": self._workflow,
            "node": self._node,
            "sampler_node": trace.node,
            "run": self._began,
            "state": state(trace),
        }
        _kept[self._workflow, self._node, self._began] = data
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        server.send_sync(EVENT, data, server.client_id)


def workflow_of(server: Any, prompt: str) -> str:
    """The id of the workflow that a running prompt was made from; empty if the client did not send the workflow."""
    for entry in getattr(getattr(server, "prompt_queue", None), "currently_running", {}).values():
        if len(entry) > 3 and entry[1] == prompt and isinstance(entry[3], dict):
            found: Any = entry[3]
            for name in ("extra_pnginfo", "workflow", "id"):  # a client may send anything
                found = found.get(name) if isinstance(found, dict) else None
            return found if isinstance(found, str) else ""
    return ""


def state(trace: Trace) -> dict[str, Any]:
    """What the chart shows of a run."""
    return {
        "total": trace.total,
        "kinds": trace.kinds,
        "errors": [_rounded(evaluation.estimate) for evaluation in trace.evaluations],
        "error": _rounded(trace.error),
        "saved": _rounded(trace.saved),
        "outcome": trace.outcome,
        "off": described(trace.full) if trace.full else None,
        "notes": [described(note) for note in trace.notes],
        "sampler": trace.sampler,
        "model": trace.model,
        "settings": trace.settings,
    }


def described(message: Message) -> dict[str, Any]:
    """A message for the page: the key that it translates, the values that it fills in, and the English sentence."""
    values = {name: described(value) if isinstance(value, Message) else value for name, value in message.values}
    return {"key": message.text.name, "values": values, "plain": str(message)}


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
