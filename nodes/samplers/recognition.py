"""How a sampler calls the model: by the table, by running it on coefficients, or by watching it.

A sampler can be forecast if its evaluations are steps along one smooth path: each step begins at its own noise level,
and leads where the outputs so far lead. Fresh noise leads elsewhere. When in doubt, everything is computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...spectrum_core.readback import Readback, sketch
from .layout import Layout, cleaned, found_layout, mapped_layout
from .linear_map import Denoise, LinearError, LinearMap, known_sampler, linear_map
from .table import REPLACES_NOISE, UNGUIDED, UNKNOWN_NOISY, UNKNOWN_UNCORRECTED, SamplerInfo

STEPS = 4
"""Steps that are watched before anything is forecast; also how far back a multistep method may look."""

CHECK_EVERY = 4
"""After that, noise is looked for at every so manieth step."""

NOISE_TOLERANCE = 0.02
"""Share of a step that the outputs so far do not explain. Of a deterministic sampler, rounding; of others, noise."""


@dataclass(frozen=True)
class Understood:
    """What is known of a sampler before the run.

    Attributes:
        info: how it calls the model.
        layout: which evaluation belongs to which step.
        map: its coefficients, where they could be found.
        problem: why they could not, or empty.
        known: whether that is enough to forecast; else the sampler is watched first.
    """

    info: SamplerInfo
    layout: Layout
    map: LinearMap | None
    problem: str
    known: bool


def understand(
    sampler: Any,
    sampling: Any,
    sigmas: Sequence[float],
    denoise: Callable[[bool], Denoise],
    guider: Mapping[str, Any],
) -> Understood:
    """What a sampler does, as far as can be known before it runs.

    Args:
        sampler: ComfyUI's sampler object.
        sampling: ComfyUI's model sampling.
        sigmas: the run's noise levels as the sampler gets them, shape [steps + 1].
        denoise: whether the sampler adds noise -> what an output is, see `linear_map`.
        guider: plain attributes of the guider.
    """
    row, levels = known_sampler(sampler), cleaned(sigmas)
    info, steps = row or SamplerInfo(), max(0, len(levels) - 1)
    layout = Layout.uniform(steps, info.stages, steps > 0 and levels[-1] == 0)
    found: LinearMap | None = None
    problem = ""
    try:
        found = linear_map(sampler, sampling, torch.tensor(sigmas), denoise(info.noisy), guider)
        if row is None and found.noisy:  # of what such samplers are forecast by
            found = linear_map(sampler, sampling, torch.tensor(sigmas), denoise(True), guider)
    except LinearError as error:
        found, problem = None, str(error)  # not the error: its frames would keep the guider alive
    if row is not None:
        if found is not None and len(found.levels) != layout.total:
            found = None
        return Understood(info, layout, found, problem, known=True)
    mapped = mapped_layout(found.levels, levels) if found is not None else None
    if found is None or mapped is None:
        return Understood(info, layout, None, problem, known=False)
    limit = UNKNOWN_NOISY if found.noisy else info.max_speedup
    obstacle = REPLACES_NOISE if found.replaces_noise else ""
    multistep = mapped.stages == 1 and found.multistep
    own = SamplerInfo(mapped.stages, found.noisy, limit, obstacle, multistep)
    return Understood(own, mapped, found, "", known=True)


def unexplained(latent: np.ndarray, known: Sequence[np.ndarray]) -> float:
    """The share of a step that is no linear combination of what was known.

    Args:
        latent: where the step led, float64 [elements].
        known: the latent it began at, then those of earlier steps and the outputs so far.
    """
    move = latent - known[0]
    columns = [k - known[0] for k in known[1:]] + [known[0]]  # differences: large common parts would cost digits
    basis = np.stack([c / (np.linalg.norm(c) or 1.0) for c in columns], axis=1)
    coefficients = np.linalg.lstsq(basis.T @ basis, basis.T @ move, rcond=None)[0]
    return float(np.linalg.norm(move - basis @ coefficients) / max(np.linalg.norm(move), 1e-12))


class SamplerProbe:
    """Watches a run.

    Args:
        levels: the run's noise levels, shape [steps + 1].
    """

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels = levels
        self._sigmas: list[float] = []
        self._calls: list[tuple[Readback, Readback]] = []  # samples of the latent and the output of each evaluation
        self._unguided = False
        self._noisy = False
        self.layout: Layout | None = None

    def record(self, sigma: float, latent: torch.Tensor, output: torch.Tensor, unguided: bool = False) -> None:
        """One evaluation.

        Args:
            sigma: its noise level.
            latent: what the sampler gave.
            output: what the sampler gets.
            unguided: whether the sampler gets the unguided output besides.
        """
        self._unguided |= unguided
        self._sigmas.append(sigma)
        self._calls.append((Readback(sketch(latent)), Readback(sketch(output))))

    def classify(self) -> tuple[SamplerInfo, Layout | None] | None:
        """How the sampler calls the model, as far as one can know by now; None while it is too early to say."""
        layout = found_layout(self._sigmas, self._levels)
        if layout is None:
            return SamplerInfo(obstacle="goes to noise levels that are not those of its steps"), None
        if self.layout is None:
            if len(layout.starts) < STEPS:
                return None
            self._noisy = any(self._noise(layout, step) for step in range(1, len(layout.starts)))
            self.layout = layout
        elif len(layout.starts) > len(self.layout.starts):
            self.layout = layout
            step = len(layout.starts) - 1
            if step % CHECK_EVERY == 0:
                self._noisy |= self._noise(layout, step)
        self._forget(layout)
        if self._noisy and self._unguided:  # what the output does not explain may be either
            return SamplerInfo(obstacle=UNGUIDED), layout
        limit = UNKNOWN_NOISY if self._noisy else UNKNOWN_UNCORRECTED
        return SamplerInfo(layout.stages, self._noisy, limit), layout

    def _noise(self, layout: Layout, step: int) -> bool:
        """Whether a step led elsewhere than the outputs before it."""
        first, here = layout.starts[max(0, step - STEPS)], layout.starts[step]
        begins = [layout.starts[s] for s in range(step - 1, max(0, step - STEPS) - 1, -1)]
        known = [self._value(e, 0) for e in begins] + [self._value(e, 1) for e in range(first, here)]
        return not unexplained(self._value(here, 0), known) < NOISE_TOLERANCE

    def _value(self, evaluation: int, which: int) -> np.ndarray:
        return self._calls[evaluation][which].wait().double().numpy()

    def _forget(self, layout: Layout) -> None:
        """Samples that no later step is compared with."""
        oldest = layout.starts[max(0, len(layout.starts) - STEPS - 1)]
        empty = Readback(torch.empty(0))
        self._calls[:oldest] = [(empty, empty)] * oldest
