"""One sampling run."""

from typing import Any

from ..settings import Settings
from . import attachment as _attachment
from .attachment import attachment
from .outer import outer_sample

__all__ = ["accelerate", "attachment"]


def accelerate(model: Any, settings: Settings, node: str = "", shared: bool = False) -> Any:
    """A clone of a MODEL that is accelerated when it is sampled. The MODEL given stays as it is."""
    return _attachment.attach(model, settings, outer_sample, node, shared)
