"""Spectrum on a MODEL: an immutable configuration and one wrapper in a clone's transformer_options, nothing else."""

import logging

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..spectrum_core.calibration import Calibration
from .run import KEY, Attachment, outer_sample
from .settings import NODE, Settings


def attach(
    model: ModelPatcher, settings: Settings, node: str = "", calibration: Calibration | None = None
) -> ModelPatcher:
    """A clone of a MODEL that is accelerated when it is sampled. The MODEL given stays as it is.

    If Spectrum was on it already, these settings replace the earlier ones.
    """
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    if KEY in options:
        logging.info(f"{NODE}: applied twice to one MODEL; the later node's settings are used.")
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    options[KEY] = Attachment(settings, node, calibration)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return clone


def attachment(model: ModelPatcher) -> Attachment | None:
    """What `attach` put on a MODEL, or None."""
    return model.model_options.get("transformer_options", {}).get(KEY)
