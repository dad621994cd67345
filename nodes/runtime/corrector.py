"""The corrector of a run: between ComfyUI's denoised latents and the variable that the core's corrector works in."""

import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ...spectrum_core.corrector import Corrector, denoiser_gain, polynomial
from ...spectrum_core.forecast import Axis
from ..samplers.layout import Layout
from ..samplers.linear_map import LinearMap
from ..samplers.signal import Signal

JUMP = 1.0
"""Change of the guidance scale from one evaluation to the next that the corrector does not follow."""


class LatentCorrector:
    """Corrects what the sampler gets.

    Args:
        signal: of the run.
        axis: that forecasts are fitted along.
        found: the sampler's linear map, in outputs of the signal.
        layout: of its evaluations.
        sampling: ComfyUI's model sampling.
        parts: sizes of the parts of a latent that ComfyUI joins in one.
        finished: whether the run ends without noise, so that what its last evaluation gives is the result.
    """

    def __init__(
        self,
        signal: Signal,
        axis: Axis,
        found: LinearMap,
        layout: Layout,
        sampling: Any,
        parts: Sequence[int] = (),
        finished: bool = True,
    ) -> None:
        self._finished = finished
        self._signal, self._layout = signal, layout
        self._scale = 1.0  # of classifier-free guidance
        self._seen: Hashable = None
        self._mask: torch.Tensor | None = None
        self._change: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None  # what was given, less the guider's
        levels, steps = found.levels, len(layout.starts)
        data = [float(sampling.noise_scaling(torch.tensor(s), torch.zeros(1), torch.ones(1))) for s in levels]

        between = polynomial(signal.order)

        def response(evaluation: int) -> float:
            sigma = levels[evaluation]
            # A denoised latent answers to noise, too, but by less than could be measured reliably.
            return (
                0.0
                if signal.denoised or not sigma
                else (1 - denoiser_gain(sigma, data[evaluation], self._scale)) / sigma
            )

        self._corrector = Corrector(
            found.coefficients[:, 1:].numpy(),
            layout.starts,
            response,
            lambda known, step: axis.weights(signal.forecaster, known, step, steps),
            lambda known, step: axis.weights(between, known, step, steps),
            order=signal.order,
            parts=parts,
        )

    def apply(
        self,
        evaluation: int,
        forecast: bool,
        guidance: tuple[Hashable, float],
        sigma: torch.Tensor,
        latent: torch.Tensor,
        denoised: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the sampler gets instead of a denoised latent, to make good for the forecasts before.

        Args:
            evaluation: its number in the run.
            forecast: whether it was forecast.
            guidance: the conditionings of the evaluation, and the guidance scale. Where the conditionings change, or
                the scale by more than `JUMP`, the output jumps.
            sigma: noise levels, shape [batch].
            latent: what the network was given, shape [batch, ...].
            denoised: the guider's result, of the same shape.
            mask: share of the result that reaches the sampler, of the same shape; None for all of it.

        Returns:
            The denoised latent for the sampler; and, where a gap ended, by how much the latent had drifted through it,
            relative to itself: float32 [batch * parts] on the device.
        """
        self._change = None
        conditionings, scale = guidance
        if conditionings != self._seen or abs(scale - self._scale) > JUMP:
            self._corrector.restart()
        self._seen, self._scale, self._mask = conditionings, scale, mask
        if evaluation >= self._layout.total:
            return denoised, None
        output = self._signal.output(sigma, denoised, latent)
        if forecast:
            change, drift = self._corrector.forecast(evaluation, output, mask), None
        else:
            change = self._corrector.computed(evaluation, output, latent, mask)
            drift = self._corrector.drift()
        if change is None:
            return denoised, drift
        change = self._signal.latent(sigma, change, 0.0).to(denoised.dtype)
        corrected = denoised + change
        if evaluation + 1 < self._layout.total or not self._finished:
            self._change = weakref.ref(corrected), change
        return corrected, drift

    def shown(self, denoised: torch.Tensor) -> torch.Tensor:
        """What a preview shows where the sampler would show the latent it was given: the guider's own result."""
        if self._change is None:
            return denoised
        given, change = self._change
        if self._mask is not None and denoised.shape == change.shape:  # the sampler's own was made of ours by it
            return denoised - self._mask * change
        return denoised - change if denoised is given() else denoised
