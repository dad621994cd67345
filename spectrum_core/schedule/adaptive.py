"""The default schedule."""

from typing import ClassVar

from .balanced import Plan


class Adaptive(Plan):
    """A budget spent where features move."""

    name: ClassVar[str] = "adaptive"
