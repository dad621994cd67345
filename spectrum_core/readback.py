"""Numbers on their way from the device to the host, used at a fixed place of a run.

One seed gives one picture: a number never acts when it happens to arrive, but once the next computed evaluation has
been submitted. The device is busy with that one while the host waits, so that waiting costs nothing.
"""

import time
from typing import Any

import torch

SAMPLES = 1 << 14
"""Elements of a sketch: enough to tell two windows of a latent apart; what is linear is so in each of them."""


def sketch(value: torch.Tensor) -> torch.Tensor:
    """Some elements of a tensor, evenly spaced: float32, at most about `SAMPLES`.

    >>> sketch(torch.zeros(3, 2**16)).shape
    torch.Size([16384])
    """
    flat = value.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].float()


class Readback:
    """Start copying a small tensor to the host; `wait` for it later.

    Where the device has events and pinned memory the copy runs beside the computation; elsewhere it is made by `wait`.
    """

    def __init__(self, value: torch.Tensor) -> None:
        value = value.detach()
        self._event = _recorded(value.device)
        if self._event is None:
            self._value = value.clone()
            return
        self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        self._value.copy_(value, non_blocking=True)
        self._event = _recorded(value.device)

    def wait(self) -> torch.Tensor:
        """The tensor on the host; waits for the device if it has to."""
        if self._event is not None:
            self._event.synchronize()
        return self._value.cpu()

    def item(self) -> float:
        """The number of a 0-dim tensor."""
        return float(self.wait())


class Delayed:
    """Measurements that wait for their place."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, bool, Any]] = []

    def put(self, evaluation: int, measured: Any, at_once: bool = False) -> None:
        """Something was measured in an evaluation. With `at_once` it acts on the very next one: the device idles."""
        self._waiting.append((evaluation, at_once, measured))

    def due(self, kinds: str) -> list[Any]:
        """What may act on the decision about the next evaluation: all whose place has come.

        Args:
            kinds: of the evaluations so far, "c" (computed) or "f" (forecast) each.

        >>> delayed = Delayed()
        >>> delayed.put(0, "drift")
        >>> delayed.due("c"), delayed.due("cff"), delayed.due("cffc")
        ([], [], ['drift'])
        """
        found, kept = [], []
        for entry in self._waiting:
            measured_in, at_once, measured = entry
            if at_once or "c" in kinds[measured_in + 1 :]:
                found.append(measured)
            else:
                kept.append(entry)
        self._waiting = kept
        return found

    def rest(self) -> list[Any]:
        """All that still waits."""
        found, self._waiting = [measured for *_, measured in self._waiting], []
        return found


class Stopwatch:
    """Seconds from construction to `stop`: by events on CUDA (which the host runs ahead of), else by the clock."""

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            self._events[0].record(torch.cuda.current_stream(device))
        self._start = time.perf_counter()
        self._stop = self._start

    def stop(self, device: torch.device) -> None:
        """The thing that is timed has been submitted."""
        self._stop = time.perf_counter()
        if self._events is not None:
            self._events[1].record(torch.cuda.current_stream(device))

    def wait(self) -> float:
        """Seconds; waits for the device if it has to."""
        if self._events is None:
            return self._stop - self._start
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1000


def _recorded(device: torch.device) -> Any:
    """An event behind all that was submitted to a device; None where copies cannot run beside the computation."""
    if device.type not in ("cuda", "xpu"):  # MPS and others: no pinned memory
        return None
    event = torch.Event(device)
    if hasattr(torch, "accelerator"):
        event.record(torch.accelerator.current_stream(device))
    else:
        event.record()
    return event
