"""ControlNets and T2I-Adapters: which act on a conditioning now, and how to run none of them for a forecast."""

from collections.abc import Hashable
from functools import partial
from typing import Any

Later = partial
"""What stands for a control network's residuals until somebody asks for them."""


class Deferred:
    """A conditioning's control whose network runs only if its call is computed after all."""

    def __init__(self, control: Any) -> None:
        self._control = control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    def get_control(self, *args: Any) -> Any:
        """The residuals, later."""
        return Later(self._control.get_control, *args)

    def get_instance_for_device(self, device: Any) -> "Deferred":
        """For another GPU."""
        return Deferred(self._control.get_instance_for_device(device))


def active_controls(control: Any, sigma: float) -> Hashable:
    """Which controls of a chain act at a noise level."""
    active = []
    while control is not None:
        start, end = getattr(control, "timestep_range", None) or (float("inf"), 0.0)
        active.append(end <= sigma <= start)
        control = getattr(control, "previous_controlnet", None)
    return tuple(active)
