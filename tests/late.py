"""Devices that answer late: numbers reach the host once others have been asked for, or when they are needed."""

import sys

from spectrum_accelerate.spectrum_core import readback


class Late(readback.Readback):
    """A number that leaves the device only when somebody waits for it: a device that is as late as can be."""

    def __init__(self, value):
        self._value, self._event, self.waits = value.detach(), None, 0


class After(readback.Readback):
    """A number that is on the host once so many further ones have been asked for; `wait` works before that, too."""

    def __init__(self, value, delay):
        self._event, self._device_value, self._delay = None, value.detach(), delay
        self._value = None if delay else value.detach().clone()
        Queue.waiting.append(self)

    def arrive(self):
        self._delay -= 1
        if self._delay == 0:
            self._value = self._device_value.clone()

    def wait(self):
        return (self._device_value if self._value is None else self._value).cpu()


class Queue:
    """The numbers that are on their way."""

    waiting: list = []  # noqa: RUF012 (one device)


def patched(monkeypatch, make):
    """Have every module of the pack make its numbers so."""
    for name, module in list(sys.modules.items()):
        if name.startswith("spectrum_accelerate.") and getattr(module, "Readback", None) is not None:
            monkeypatch.setattr(module, "Readback", make)


def late_by(monkeypatch, delay):
    """Numbers arrive once so many further ones have been asked for."""
    Queue.waiting.clear()

    def make(value):
        for number in Queue.waiting:
            number.arrive()
        return After(value, delay)

    patched(monkeypatch, make)
