"""What tests of samplers and of the corrector share: ComfyUI's samplers by the table's names, and kinds of models."""

import comfy.model_sampling
import comfy.samplers
from spectrum_accelerate.nodes.samplers.table import SAMPLERS, WIDGET

DETERMINISTIC = sorted(name for name, info in SAMPLERS.items() if not info.obstacle and not info.noisy)


def sampler_object(name):
    """ComfyUI's sampler object of a row of the table."""
    return comfy.samplers.sampler_object(WIDGET.get(name, name))


def sampling(kind):
    """A model sampling of ComfyUI with a discrete schedule."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, kind):
        pass

    return Sampling()


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """Flow matching."""


SAMPLINGS = {
    "flow": Flow(),
    "noise": sampling(comfy.model_sampling.EPS),
    "velocity": sampling(comfy.model_sampling.V_PREDICTION),
}
