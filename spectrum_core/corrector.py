"""A predictor-corrector around forecasts (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, III.1).

A deterministic sampler is a linear map of the model's outputs: the latent before evaluation e is
x_e = x_0 + sum_j M_ej d_j, where d_j = (x_j - denoised_j) / sigma_j is the output of evaluation j, and M depends on the
sampler and the noise levels only. Forecasts miss, d_j + r_j, and leave x_e off by sum_j M_ej r_j.

Once the next evaluation is computed, the gap before it can be interpolated: a polynomial through computed outputs on
both sides is several times nearer to the truth than one that ends before the gap. From then on the interpolated value
is the estimate of d_j; the residual, estimate minus what the sampler was given, is injected through the current output,
so that the next latent is the one that the sampler would have reached with the estimates. This needs no further
evaluation. docs/corrector.md says what each part is worth.

The computed output itself was taken at a latent that was off by some delta, and responds to that. Without delta it
would have been d - (1 - kappa) / sigma * delta, where kappa is the gain of the denoiser, the change of its result with
its input, see `denoiser_gain`. Forecasts go on from outputs as they would have been, too.

Samplers that add noise are linear maps, too, but their derivative has all of the noise. There, d is the denoised latent
itself, which fresh noise changes little, and gaps are interpolated by straight lines.

Everything is done for each picture by itself. Nothing here waits for the device.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from .forecast import Forecaster
from .realization import Carried, Realization

Array = NDArray[np.float64]
Weights = Callable[[Sequence[int], int], Array]
"""(positions of the history, oldest first; position to forecast) -> one weight per history entry."""

ORDER = 2


def polynomial(order: int) -> Forecaster:
    """The polynomial through the computed points nearest to a gap."""
    return Forecaster(degree=order, window=order + 1, ridge=0.0)


DATA_STD = 0.1
"""Standard deviation of the data in `denoiser_gain`. Latents have about 1, but errors mostly take directions in which
data hardly vary. Chosen on tuning prompts of the trained models, as `CFG_COEFFICIENT` was."""

ROOM = 6
"""Outputs of computed steps that are kept at most: of as many steps as fit, with all of their stages."""

MIN_PIVOT = 0.2
"""Smallest pivot, in absolute terms, of the system for the outputs without their latents' errors; below, they are
taken as they are."""

CFG_COEFFICIENT = 0.375
"""How much the square of the guidance beyond 1 takes from the gain where there is but noise: the conditioned result
turns back what the unconditioned one follows, and their difference is magnified. In proportion to the guidance it was
too little at scales of 5 and 7, on the tuning prompts of the trained models."""


def denoiser_gain(sigma: float, scale: float, guidance: float = 1.0) -> float:
    """Change of the denoised latent with its input x = scale * data + sigma * noise.

    That of normally distributed data, and less with guidance, in proportion to the share of noise (`CFG_COEFFICIENT`).

    Args:
        sigma: noise level.
        scale: of the data: 1 - sigma in flows, 1 in models that predict noise.
        guidance: scale of classifier-free guidance.
    """
    variance = (scale * DATA_STD) ** 2 + sigma**2
    plain = scale * DATA_STD**2 / variance if variance else 1.0
    return plain - CFG_COEFFICIENT * max(0.0, guidance - 1.0) ** 2 * sigma / max(scale + sigma, 1e-12)


class _Gap:
    """The forecasts since the latest computed step: what they carry into the latents to come.

    Stages that some steps lack are apart, since the first or the last step cannot be interpolated for them.
    """

    def __init__(self, realization: Realization, common: int) -> None:
        self._common = common
        self.parts = Carried(realization), Carried(realization)
        self.evaluations: tuple[list[int], list[int]] = [], []
        self.least: torch.Tensor | None = None  # of the masks while it lasted

    def add(
        self, evaluation: int, stage: int, column: Array, estimate: torch.Tensor, mask: torch.Tensor | None
    ) -> None:
        """A forecast."""
        for part in self.parts:
            part.to(evaluation + 1)
        which = int(stage >= self._common)
        self.parts[which].add(column, estimate)
        self.evaluations[which].append(evaluation)
        if mask is not None:
            self.least = mask if self.least is None else torch.minimum(self.least, mask)


class Corrector:
    """What a sampler was given in one run, and what is known better by now.

    It holds few latents, whatever the length of gaps and of the run: the outputs of the latest computed steps, what the
    gap carries into the latents to come, and what the sampler is still owed.

    Args:
        map: coefficient of each output in the latent that each evaluation begins with, and, last, in the final latent:
            float64 [evaluations + 1, evaluations].
        starts: the first evaluation of each step, ascending from 0. Steps that are forecast have the same number of
            evaluations, or fewer at the end.
        response: evaluation -> change of an output with its latent, (1 - kappa) / sigma, as it is now.
        weights: of the run's forecasts; positions are steps.
        between: of the interpolation between computed steps, see `polynomial`.
        order: of the polynomials that gaps are interpolated by.
        parts: sizes of the parts of a latent that are joined in one (video and audio); drifts are of each part.
    """

    def __init__(
        self,
        map: Array,
        starts: Sequence[int],
        response: Callable[[int], float],
        weights: Weights,
        between: Weights,
        order: int = ORDER,
        parts: Sequence[int] = (),
    ) -> None:
        self._parts = tuple(parts)
        self._map, self._starts, self._response = map, tuple(starts), response
        self._weights, self._between = weights, between
        stages = [b - a for a, b in pairwise((*self._starts, map.shape[1]))]
        fit = max(1, ROOM // max(stages))
        self._order, self._held = min(order, fit), min(order + 1, fit)
        self._responds = fit > 1  # else there is no room for what outputs would have been beside what they were
        self._realization = Realization(map)
        self._common = min(stages)
        self._gap = _Gap(self._realization, self._common)
        self._known: dict[int, list[torch.Tensor]] = {}  # computed step -> what its outputs would have been, by stage
        self._revisions: dict[int, list[torch.Tensor | None]] = {}  # ... and by how much that differs from what it was
        self._owed = Carried(self._realization)  # what the estimates carry, less what the sampler was given
        self._outputs: list[torch.Tensor] = []  # of the step in progress, as the sampler was given them
        self._drift: torch.Tensor | None = None

    def restart(self) -> None:
        """Forget everything: what comes next is another path."""
        self._known.clear()
        self._revisions.clear()
        self._gap = _Gap(self._realization, self._common)
        self._owed.clear()
        self._outputs = []
        self._drift = None

    def drift(self) -> torch.Tensor | None:
        """By how much the latent was off when the latest evaluation was computed, relative to itself; None if nothing
        was forecast before it. float32 [batch * parts] on the device."""
        drift, self._drift = self._drift, None
        return drift

    def forecast(self, evaluation: int, output: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor | None:
        """What to add to a forecast output before the sampler gets it; None for nothing.

        Args:
            evaluation: its number in the run.
            output: the output d, shape [batch, ...].
            mask: share of the output that reaches the sampler, from 0 to 1, like `output`; None for all of it.
        """
        step, stage = self._place(evaluation)
        known = [k for k in self._revisions if len(self._revisions[k]) > stage]
        if not known:
            return None
        weights = self._weights(known, step)
        revisions = [self._revisions[k][stage] for k in known]
        revision = _sum((float(w), r.nan_to_num()) for w, r in zip(weights, revisions, strict=True) if r is not None)
        estimate = output if revision is None else output + revision
        self._gap.add(evaluation, stage, self._realization.column(evaluation, evaluation + 1), estimate, mask)
        return _total_change(revision, self._repaid(evaluation) if self._ends(evaluation) else None)

    def computed(
        self, evaluation: int, output: torch.Tensor, latent: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """What to add to a computed output before the sampler gets it; None for nothing.

        Args:
            evaluation: its number in the run.
            output: the output d, shape [batch, ...].
            latent: x, of the same shape.
            mask: share of the output that reaches the sampler, from 0 to 1, like `output`; None for all of it.
        """
        step, stage = self._place(evaluation)
        self._outputs = [*(self._outputs if stage else ()), output]
        if not self._ends(evaluation):
            return None
        outputs, self._outputs = self._outputs, []
        first = evaluation - stage
        if len(outputs) <= stage:  # the step did not begin here
            return None
        found = self._corrected(step, outputs, latent, mask)
        self._store(step, outputs, found)
        own = None if found is outputs else found[-1] - output
        self._owed.to(evaluation + 1)
        for e, (new, old) in enumerate(zip(found[:-1], outputs[:-1], strict=True), first):
            if new is not old:
                self._owed.add(self._realization.column(e, evaluation + 1), new - old)
        return _total_change(own, self._repaid(evaluation))

    # ------------------------------------------------------------------------------------------------ parts

    def _ends(self, evaluation: int) -> bool:
        """Whether an evaluation is the last one of its step."""
        return evaluation + 1 in self._starts or evaluation == self._map.shape[1] - 1

    def _place(self, evaluation: int) -> tuple[int, int]:
        """Step of an evaluation, and its stage within the step."""
        step = bisect_right(self._starts, evaluation) - 1
        return step, evaluation - self._starts[step]

    def _corrected(
        self, step: int, outputs: list[torch.Tensor], latent: torch.Tensor, mask: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Interpolate the gap before a computed step. Returns what its outputs would have been without it."""
        first, count = self._starts[step], len(outputs)
        before = sorted(self._known)
        points = [*before, step]
        fewest = min((len(self._known[k]) for k in before), default=0)
        live = [
            (part, some)
            for part, some in zip(self._gap.parts, self._gap.evaluations, strict=True)
            if some and min(count, fewest) > max(self._place(j)[1] for j in some)
        ]
        if not live:
            return outputs
        for part, _ in live:
            part.to(first)
        weights = {j: self._between(points, self._place(j)[0]) for _, some in live for j in some}
        opened, kept = _opened(self._gap.least, mask)
        off = self._off(first, outputs, [part for part, _ in live], weights)
        found, finite = self._undisturbed(first, outputs, off, weights, opened)
        drift = off[0]
        for j, weight in weights.items():
            drift = drift - float(self._map[first, j] * weight[-1]) * found[self._place(j)[1]]
        if opened is not None:
            drift = drift * opened
        self._drift = _norms(drift, self._parts) / _norms(latent, self._parts).clamp_min(1e-12)
        self._owed.to(first)
        values = [*(self._known[k] for k in before), found]
        for part, some in live:
            # Each output of the gap becomes a mixture of computed ones; their shares in the latents to come add up.
            shares: dict[tuple[int, int], Array] = {}
            for j in some:
                column, stage = self._realization.column(j, first), self._place(j)[1]
                for index, weight in enumerate(weights[j]):
                    shares[index, stage] = shares.get((index, stage), 0.0) + weight * column
            change = part.replaced([(share, values[index][stage]) for (index, stage), share in shares.items()])
            change = [torch.where(finite, c, torch.zeros_like(c)) * (1.0 if kept is None else kept) for c in change]
            self._owed.change(change)
        return found

    def _off(
        self, first: int, outputs: list[torch.Tensor], parts: list[Carried], weights: dict[int, Array]
    ) -> list[torch.Tensor]:
        """By how much the latents of a step were off, for each stage, but for what its own outputs would change:
        delta_e = sum_j M_ej (estimate_j before - now)."""
        off = []
        for row in range(len(outputs)):
            e = first + row
            terms = [(1.0, value) for part in parts if (value := part.latent(row)) is not None]
            # The sampler got the step's own earlier stages as they were.
            terms += [(float(self._map[e, first + stage]), outputs[stage]) for stage in range(row)]
            for index, k in enumerate(sorted(self._known)):
                for stage, value in enumerate(self._known[k]):
                    share = sum(self._map[e, j] * w[index] for j, w in weights.items() if self._place(j)[1] == stage)
                    terms.append((-float(share), value))
            total = _sum(terms)
            off.append(torch.zeros_like(outputs[0]) if total is None else total)
        return off

    def _undisturbed(
        self,
        first: int,
        outputs: list[torch.Tensor],
        off: list[torch.Tensor],
        weights: dict[int, Array],
        opened: torch.Tensor | None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The outputs of a step as they would have been at latents that are not off; and which pictures are finite."""
        count = len(outputs)
        response = [self._response(first + row) for row in range(count)]
        if not self._responds or not any(response):
            return outputs, _finite(*outputs)
        coupling = np.zeros((count, count))
        for row in range(count):
            e = first + row
            for stage in range(row):
                coupling[row, stage] -= response[row] * self._map[e, first + stage]
            for j, weight in weights.items():
                coupling[row, self._place(j)[1]] -= response[row] * self._map[e, j] * weight[-1]
        scale = torch.ones_like(off[0][:, :1]) if opened is None else opened
        plain = [o - r * scale * d for o, r, d in zip(outputs, response, off, strict=True)]
        found = _solved(coupling, scale, plain, outputs)
        finite = _finite(*found, *outputs)
        return [torch.where(finite, new, old) for new, old in zip(found, outputs, strict=True)], finite

    def _store(self, step: int, outputs: list[torch.Tensor], found: list[torch.Tensor]) -> None:
        """Keep a computed step; a gap may follow it."""
        self._known[step] = found
        self._revisions[step] = [None if new is old else new - old for new, old in zip(found, outputs, strict=True)]
        self._gap = _Gap(self._realization, self._common)
        for kept, most in ((self._known, self._order), (self._revisions, self._held)):
            while len(kept) > most:
                del kept[min(kept)]

    def _repaid(self, evaluation: int) -> torch.Tensor | None:
        """What to add to the last output of a step, so that the next latent is the one that the estimates lead to.

        After that nothing is owed. With a multistep sampler, what was given earlier acts on later steps, too; what
        remains of it is paid there.
        """
        self._owed.to(evaluation + 1)
        owed, share = self._owed.latent(), float(self._map[evaluation + 1, evaluation])
        if owed is None or abs(share) < 1e-6:
            return None
        paid = owed.div_(share)
        column = self._realization.column(evaluation, evaluation + 1)
        if len(column) == 1:
            self._owed.clear()
        else:
            self._owed.add(-column, paid)
        return paid


def _opened(gap: torch.Tensor | None, mask: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """How much of the errors of a gap reached the latent, and where the latent is to be corrected for them.

    What a mask hid from the sampler is not corrected: where the mask opened during the gap, nothing is, and where it is
    the same all the time, everything.

    Args:
        gap: the least of the masks during the gap.
        mask: of the computed step that ends it.
    """
    if gap is None or mask is None:
        either = mask if gap is None else gap
        return (None, None) if either is None else (either * either, (either > 1e-3).to(either.dtype))
    least = torch.minimum(gap, mask)
    return least * mask, torch.where(mask > 1e-3, least / mask.clamp_min(1e-3), 0.0)


def _total_change(own: torch.Tensor | None, paid: torch.Tensor | None) -> torch.Tensor | None:
    """The sum of two changes, either of which may be nothing."""
    return paid if own is None else own if paid is None else own + paid


def _sum(terms: Iterable[tuple[float, torch.Tensor]]) -> torch.Tensor | None:
    total: torch.Tensor | None = None
    for weight, value in terms:
        if weight:
            total = weight * value if total is None else total.add_(value, alpha=weight)
    return total


def _solved(
    coupling: Array, factor: torch.Tensor, right: list[torch.Tensor], otherwise: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Solution of (1 + factor * coupling) x = right by elimination, for each picture; `otherwise` where it is stiff.

    Args:
        coupling: [count, count], count being the stages of a sampler.
        factor: of each picture, shape [batch, 1, ...].
        right, otherwise: count tensors of shape [batch, ...].
    """
    count = len(right)
    rows = [[factor * float(coupling[r, c]) + float(r == c) for c in range(count)] for r in range(count)]
    found, fine = list(right), torch.ones_like(factor, dtype=torch.bool)
    for pivot in range(count):
        fine = fine & (rows[pivot][pivot].abs() > MIN_PIVOT)
        for r in range(count):
            if r != pivot:
                share = rows[r][pivot] / rows[pivot][pivot]
                rows[r] = [a - share * b for a, b in zip(rows[r], rows[pivot], strict=True)]
                found[r] = found[r] - share * found[pivot]
    return [torch.where(fine, x / rows[r][r], o) for r, (x, o) in enumerate(zip(found, otherwise, strict=True))]


def _norms(value: torch.Tensor, parts: tuple[int, ...] = ()) -> torch.Tensor:
    """Norm of each part of each picture: float32 [batch * parts]."""
    flat = value.flatten(1)
    pieces = flat.split(parts, dim=1) if len(parts) > 1 and sum(parts) == flat.shape[1] else (flat,)
    wide = torch.promote_types(value.dtype, torch.float32)  # half precision could not hold the norm
    return torch.cat([torch.linalg.vector_norm(piece, dim=1, dtype=wide).float() for piece in pieces])


def _finite(*values: torch.Tensor) -> torch.Tensor:
    """Whether a picture is finite in all values: bool [batch, 1, ...]."""
    fine = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in values]).all(dim=0)
    return fine.reshape(-1, *[1] * (values[0].ndim - 1))
