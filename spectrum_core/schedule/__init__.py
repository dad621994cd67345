"""Compute or forecast? One class a file; `SCHEDULES` is what a user can choose."""

from .adaptive import Adaptive
from .balanced import Plan
from .base import Request, Schedule, State
from .intervals import FixedInterval, GrowingInterval

__all__ = ["SCHEDULES", "Adaptive", "FixedInterval", "GrowingInterval", "Plan", "Request", "Schedule", "State"]

SCHEDULES: dict[str, type[Schedule]] = {cls.name: cls for cls in (Adaptive, GrowingInterval, FixedInterval)}
