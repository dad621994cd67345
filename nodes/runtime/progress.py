"""Live messages for the chart on the node."""

import json
import sys
import time
from typing import Any

from ...spectrum_core.trace import Trace

EVENT = "spectrum_accelerate.run"

INTERVAL = 0.1
"""Seconds between two messages at least."""


class Progress:
    """Sends the whole state of a run to the page; without ComfyUI's server or a node, does nothing.

    Args:
        node: id of our node, with those of the subgraphs around it ("12:7").
        trace: of the run.
    """

    def __init__(self, node: str, trace: Trace) -> None:
        self._node, self._trace = node, trace
        self._sent = 0.0

    def send(self, last: bool = False) -> None:
        """Send the state, at most ten times a second; the last one always."""
        now = time.monotonic()
        module = sys.modules.get("server")  # loaded by ComfyUI; importing it here would start half a server elsewhere
        server = getattr(getattr(module, "PromptServer", None), "instance", None)
        if not self._node or server is None or (now - self._sent < INTERVAL and not last):
            return
        self._sent = now
        data = {"prompt": self._trace.prompt, "node": self._node, "sampler_node": self._trace.node}
        server.send_sync(EVENT, data | {"state": state(self._trace)}, server.client_id)


def state(trace: Trace) -> dict[str, Any]:
    """What the chart shows of a run."""
    plain: dict[str, Any] = json.loads(trace.to_json())
    evaluations = plain.pop("evaluations")
    names = ("total", "kinds", "error", "saved", "outcome", "off", "notes", "sampler", "model")
    return {name: plain[name] for name in names} | {"errors": [e["feature_error"] for e in evaluations]}
