"""A predictor-corrector around forecasts (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, III.1).

A deterministic sampler is a linear map of the model's outputs: the latent before evaluation e is
x_e = x_0 + sum_j M_ej d_j, where d_j = (x_j - denoised_j) / sigma_j is the output of evaluation j, and M depends on the
sampler and the noise levels only. Forecasts miss, d_j + r_j, and leave x_e off by sum_j M_ej r_j.

Once the next evaluation is computed, the gap before it can be interpolated: a polynomial through computed outputs on
both sides is several times nearer to the truth than one that ends before the gap. From then on the interpolated value
is the estimate of d_j; the residual, estimate minus what the sampler was given, is injected through the current output,
so that the next latent is the one that the sampler would have reached with the estimates. This needs no further
evaluation. A gap is corrected twice: when it ends, and when the next one ends.

The computed output itself was taken at a latent that was off by some delta, and responds to that. Without delta it
would have been d - (1 - kappa) / sigma * delta, where kappa is the gain of the denoiser, the change of its result with
its input, see `denoiser_gain`. Networks differ in it. Where too little is subtracted, estimates overshoot, and the
innovations (what a computed output adds to its forecast) alternate in direction; as in adaptive filters (Mehra, "On the
identification of variances and adaptive Kalman filtering", IEEE Transactions on Automatic Control 15, 1970), the
response then grows.

Samplers that add noise are linear maps, too, but their derivative has all of the noise. There, d is the denoised latent
itself, which fresh noise changes little, and gaps are interpolated by straight lines.

Everything is done for each picture by itself. Nothing here waits for the device.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .forecast import Forecaster

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

MEMORY = 8
"""Steps for which outputs are kept at most; no sampler of the table answers to it for longer."""

MIN_PIVOT = 0.2
"""Smallest pivot, in absolute terms, of the system for the outputs without their latents' errors; below, they are
taken as they are."""

ADAPT_RATE, EXPECTED_COSINE, MAX_RESPONSE = 0.5, -0.2, 4.0
"""How the response grows while innovations alternate: by the factor exp(ADAPT_RATE (EXPECTED_COSINE - cosine)) with
every computed step, cosine being that of its innovation with the one before; between 1 and MAX_RESPONSE in all. Where
the response is right, the cosine is a little below 0. Chosen on tuning prompts of the trained models."""

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


@dataclass
class _Output:
    """One evaluation: the output that the sampler was given, the best estimate of it now, and where it counts."""

    applied: torch.Tensor
    estimate: torch.Tensor
    mask: torch.Tensor | None = None


class Corrector:
    """What a sampler was given in one run, and what is known better by now.

    Args:
        map: coefficient of each output in the latent that each evaluation begins with, and, last, in the final latent:
            float64 [evaluations + 1, evaluations].
        starts: the first evaluation of each step, ascending from 0. Steps that are forecast have the same number of
            evaluations, or fewer at the end.
        response: evaluation -> change of an output with its latent, (1 - kappa) / sigma, as it is now.
        weights: of the run's forecasts; positions are steps.
        between: of the interpolation between computed steps, see `polynomial`.
        held: how many computed steps a forecast uses at most.
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
        held: int = ORDER + 1,
        order: int = ORDER,
        parts: Sequence[int] = (),
    ) -> None:
        self._parts = tuple(parts)
        self._map, self._starts, self._response = map, tuple(starts), response
        self._weights, self._held = weights, max(held, order + 1)
        self._order, self._between = order, between
        self._memory_steps = _memory_steps(map, self._starts)
        self._known: dict[int, list[torch.Tensor]] = {}  # computed step -> what its outputs would have been, by stage
        self._revisions: dict[
            int, list[torch.Tensor | None]
        ] = {}  # ... and by how much that differs from what they were
        self._entries: dict[int, _Output] = {}  # by evaluation
        self._response_scale: torch.Tensor | None = None  # by picture: factor of the response that alternation led to
        self._innovation: torch.Tensor | None = None  # what the latest corrected step differed by from its forecast
        self._drift: torch.Tensor | None = None

    def restart(self) -> None:
        """Forget everything: what comes next is another path."""
        self._known.clear()
        self._revisions.clear()
        self._entries.clear()
        self._response_scale = self._innovation = self._drift = None

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
        known = [k for k in self._known if len(self._known[k]) > stage]
        if not known:
            return None
        weights = self._weights(known, step)
        estimate = output
        for k, weight in zip(known, weights, strict=True):
            revision = self._revisions[k][stage]
            if revision is not None and weight:
                estimate = estimate + float(weight) * revision.nan_to_num()
        applied = self._inject(evaluation, estimate, None)
        self._entries[evaluation] = _Output(applied if self._memory_steps else estimate, estimate, mask)
        return None if applied is output else applied - output

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
        self._entries[evaluation] = _Output(output, output, mask)
        if not self._ends(evaluation):
            return None
        first = evaluation - stage
        outputs = [self._entries[e].applied for e in range(first, evaluation + 1)]
        gap = self._gap(first)
        residual = self._correct_gap(step, outputs, gap, latent) if gap else self._store(step, outputs, outputs)
        applied = self._inject(evaluation, self._entries[evaluation].estimate, residual)
        if self._memory_steps:
            self._entries[evaluation].applied = applied
        return None if applied is output else applied - output

    # ------------------------------------------------------------------------------------------------ parts

    def _ends(self, evaluation: int) -> bool:
        """Whether an evaluation is the last one of its step."""
        return evaluation + 1 in self._starts or evaluation == self._map.shape[1] - 1

    def _place(self, evaluation: int) -> tuple[int, int]:
        """Step of an evaluation, and its stage within the step."""
        step = bisect_right(self._starts, evaluation) - 1
        return step, evaluation - self._starts[step]

    def _gap(self, first: int) -> list[int]:
        """The evaluations before `first` that computed points now lie on both sides of, and did not for so long: all
        that were forecast since the last but one computed step."""
        steps = sorted(self._known)[-self._order :]
        return [
            e
            for e in self._entries
            if steps and self._starts[steps[0]] < e < first and self._place(e)[0] not in self._known
        ]

    def _correct_gap(
        self, step: int, outputs: list[torch.Tensor], gap: list[int], latent: torch.Tensor
    ) -> torch.Tensor | None:
        """Interpolate a gap. Returns the residual: what that changes of the latent after this step."""
        first, count = self._starts[step], len(outputs)
        stages = {e: self._place(e)[1] for e in gap}
        points = [*sorted(self._known)[-self._order :], step]
        fewest = min(len(self._known[k]) for k in points[:-1])
        gap = [e for e in gap if stages[e] < min(count, fewest)]  # the first and the last step may lack stages
        weights = {e: self._between(points, self._place(e)[0]) for e in gap}
        # Latents were off by delta_e = sum_j M_ej (believed_j before - now), which holds the outputs to be found.
        response = [self._response(first + row) for row in range(count)]
        off: list[torch.Tensor] = []
        coupling = np.zeros((count, count))
        for row in range(count):
            e = first + row
            terms = [(float(self._map[e, j]), self._entries[j].estimate) for j in gap]
            for stage in range(row):  # the sampler got the step's own earlier stages as they were
                coupling[row, stage] -= response[row] * self._map[e, first + stage]
                terms.append((float(self._map[e, first + stage]), outputs[stage]))
            for j in gap:
                coupling[row, stages[j]] -= response[row] * self._map[e, j] * weights[j][-1]
            for index, k in enumerate(points[:-1]):
                for stage, value in enumerate(self._known[k]):
                    share = sum(self._map[e, j] * weights[j][index] for j in gap if stages[j] == stage)
                    terms.append((-float(share), value))
            total = _sum(terms)
            off.append(torch.zeros_like(outputs[0]) if total is None else total)
        scale = torch.ones(len(latent), device=latent.device) if self._response_scale is None else self._response_scale
        scale = scale.to(latent.dtype).reshape(-1, *[1] * (latent.ndim - 1))
        opened, kept = self._opened([*gap, first + count - 1])
        if opened is not None:
            scale = scale * opened
        plain = [o - response[row] * scale * d for row, (o, d) in enumerate(zip(outputs, off, strict=True))]
        found = _solved(coupling, scale, plain, outputs)
        prior = self._prior(step)
        finite = _finite(*found, *outputs)
        if prior is not None:
            self._adapt_response(found[0] - prior)
        found = [torch.where(finite, new, old) for new, old in zip(found, outputs, strict=True)]
        values = [*(self._known[k] for k in points[:-1]), found]
        residual: list[tuple[float, torch.Tensor]] = []
        drift = off[0]
        for j in gap:
            entry = self._entries[j]
            share = float(self._map[first, j] * weights[j][-1])
            drift = drift - share * found[stages[j]]
            now = _total((float(w), value[stages[j]]) for w, value in zip(weights[j], values, strict=True))
            change = torch.where(finite, now - entry.estimate, torch.zeros_like(now))
            if kept is not None:
                change = change * kept
            residual.append((float(self._map[first, j]), change))
            entry.estimate = entry.estimate + change
            if not self._memory_steps:
                entry.applied = entry.estimate
        if opened is not None:
            drift = drift * opened
        self._drift = _norms(drift, self._parts) / _norms(latent, self._parts).clamp_min(1e-12)
        rest = self._store(step, outputs, found)
        return _sum([*residual, *([(1.0, rest)] if rest is not None else [])])

    def _opened(self, evaluations: Sequence[int]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """How much of the errors of a gap reached the latent, and where the latent is to be corrected for them.

        What a mask hid from the sampler is not corrected: where the mask opened during the gap, nothing is, and where
        it is the same all the time, everything.

        Args:
            evaluations: of the gap and, last, the computed one that ends it.
        """
        masks = [mask for e in evaluations if (mask := self._entries[e].mask) is not None]
        if not masks:
            return None, None
        least, now = masks[0], masks[-1]
        for mask in masks[1:]:
            least = torch.minimum(least, mask)
        return least * now, torch.where(now > 1e-3, least / now.clamp_min(1e-3), 0.0)

    def _prior(self, step: int) -> torch.Tensor | None:
        """What the earlier outputs foretell of a step's first evaluation."""
        known = sorted(self._known)
        weights = self._weights(known, step)
        return _sum((float(w), self._known[k][0]) for k, w in zip(known, weights, strict=True) if w)

    def _adapt_response(self, innovation: torch.Tensor) -> None:
        """Let the response of each picture grow while its innovations alternate, and shrink again."""
        before, now = self._innovation, innovation.flatten(1)
        self._innovation = now
        if before is None:
            return
        cosine = torch.nn.functional.cosine_similarity(before.float(), now.float(), dim=1).nan_to_num(EXPECTED_COSINE)
        scale = torch.ones_like(cosine) if self._response_scale is None else self._response_scale
        self._response_scale = (scale * torch.exp(ADAPT_RATE * (EXPECTED_COSINE - cosine))).clamp(1.0, MAX_RESPONSE)

    def _store(self, step: int, outputs: list[torch.Tensor], found: list[torch.Tensor]) -> torch.Tensor | None:
        """Keep a computed step. Returns the residual of its earlier stages, which the sampler got as they came."""
        first, after = self._starts[step], self._starts[step] + len(outputs)
        same = found is outputs
        self._known[step] = found
        self._revisions[step] = [None if same else new - old for new, old in zip(found, outputs, strict=True)]
        while len(self._known) > self._held:
            oldest = min(self._known)
            del self._known[oldest], self._revisions[oldest]
        kept = self._starts[max(0, min(sorted(self._known)[-self._order :][0], step - self._memory_steps))]
        self._entries = {e: entry for e, entry in self._entries.items() if e >= kept}
        residual: list[tuple[float, torch.Tensor]] = []
        for stage, value in enumerate(found):
            if not same:
                entry = self._entries[first + stage]
                entry.estimate = value
                if stage < len(found) - 1:
                    residual.append((float(self._map[after, first + stage]), value - entry.applied))
        return _sum(residual)

    def _inject(self, evaluation: int, estimate: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """What to give the sampler, so that the next latent is the one that the estimates lead to.

        After that nothing is left to correct. With a multistep sampler, what was injected earlier acts on later steps,
        too, by coefficients that differ from one step to the next; that is corrected as well.
        """
        if not self._ends(evaluation):
            return estimate
        first, after = evaluation - self._place(evaluation)[1], evaluation + 1
        terms = [(1.0, residual)] if residual is not None else []
        for j, entry in self._entries.items():
            change = float(self._map[after, j] - self._map[first, j])
            if j < first and entry.applied is not entry.estimate and abs(change) > 1e-9:
                terms.append((change, entry.estimate - entry.applied))
        total, share = _sum(terms), float(self._map[after, evaluation])
        return estimate if total is None or abs(share) < 1e-6 else estimate + total / share


def _memory_steps(map: Array, starts: Sequence[int]) -> int:
    """Steps for which an output goes on to move latents after its own step: 0 for samplers without a memory."""
    moves = np.abs(np.diff(map[[*starts, len(map) - 1]], axis=0)) > 1e-6 * np.abs(map).max()
    steps, outputs = np.nonzero(moves)
    own = np.searchsorted(starts, outputs, side="right") - 1
    return int(min(MEMORY, (steps - own).max(initial=0)))


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


def _total(terms: Iterable[tuple[float, torch.Tensor]]) -> torch.Tensor:
    total = _sum(terms)
    assert total is not None  # weights that sum to 1 are not all zero
    return total


def _norms(value: torch.Tensor, parts: tuple[int, ...] = ()) -> torch.Tensor:
    """Norm of each part of each picture: float32 [batch * parts]."""
    flat = value.flatten(1)
    pieces = flat.split(parts, dim=1) if len(parts) > 1 and sum(parts) == flat.shape[1] else (flat,)
    return torch.cat([torch.linalg.vector_norm(piece, dim=1, dtype=torch.float32) for piece in pieces])


def _finite(*values: torch.Tensor) -> torch.Tensor:
    """Whether a picture is finite in all values: bool [batch, 1, ...]."""
    fine = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in values]).all(dim=0)
    return fine.reshape(-1, *[1] * (values[0].ndim - 1))
