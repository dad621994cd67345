"""Numbers and durations on their way from the device to the host, without making anyone wait."""

import time

import torch


class Readback:
    """Start copying a 0-dim tensor to the host; `poll` it later.

    On CUDA the copy goes to pinned memory behind an event, so that neither `__init__` nor `poll` stalls the device.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if value.device.type == "cuda":
            self._host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._host.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(value.device))
        else:
            self._host = value.detach().clone()

    def poll(self) -> float | None:
        """The number, or None while it is still on its way."""
        if self._event is not None and not self._event.query():
            return None
        return self._host.item()

    def wait(self) -> float:
        """The number; waits for the device if it has to."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.item()


class Stopwatch:
    """Seconds between construction and `stop`: by events on CUDA (which the host runs ahead of), else by the clock."""

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
        return self._events[0].elapsed_time(self._events[1]) / 1000
