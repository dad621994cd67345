"""A forecast extrapolates. Once the next evaluation is computed, the gap can be interpolated, and the sampler is told.

A deterministic sampler takes linear combinations: the latent before evaluation e is x_e = x_0 + sum_j M_ej d_j, where
d_j = (x_j - denoised_j) / sigma_j is what it was told at evaluation j and M depends on the sampler and the noise levels
only. Forecasts miss, d^_j = d_j + r_j, and leave x_e off by sum_j M_ej r_j. When an evaluation has been computed, the
forecasts behind it can be judged: a polynomial through computed points on both sides of a gap is several times nearer
to the truth than one that ends before it. What it says is believed from then on, and the difference to what the sampler
was told is paid with the current evaluation, so that the next latent is as if it had been told so at once. This is the
corrector of a predictor-corrector method (Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I",
III.1), without its second evaluation. A gap is corrected twice: when it ends, and when the next one ends.

The computed output itself was taken at a latent that was off by some delta, and answers to that. What it would have
been without is d - (1 - kappa) / sigma * delta, where kappa is the gain of the denoiser, the change of its result with
its input, see `gain`. Networks differ in it. Where too little was subtracted, what is believed of one computed step is
beyond the path, the next forecasts overshoot, and the next computed output lies on the other side of them. So the signs
of the innovations tell, as in adaptive filters (Mehra, "On the identification of variances and adaptive Kalman
filtering", IEEE Transactions on Automatic Control 15, 1970): as long as they alternate, more is subtracted.

Samplers that add noise take linear combinations too, but the derivative is rough then: it has all of the noise. There d
is the denoised latent itself, of which fresh noise changes little, and gaps are interpolated by straight lines.

Nothing here waits for the device.
"""

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


def between(order: int) -> Forecaster:
    """The polynomial through the computed points nearest to a gap."""
    return Forecaster(degree=order, window=order + 1, ridge=0.0)


INTERPOLATION = between(ORDER)

SPREAD = 0.1
"""Standard deviation of the data in `gain`. Latents have about 1, but errors mostly take directions in which data
hardly vary. Chosen on tuning prompts of the trained models, as `GUIDED` was."""

MEMORY = 8
"""Steps for which what a sampler was told is kept at most; no sampler of the table answers to it for longer."""

STIFF = 0.2
"""Smallest pivot, in absolute terms, of the system for the outputs without their latents' errors; below, they are
taken as they are."""

PACE, EXPECTED, MOST = 0.5, -0.2, 4.0
"""How the response grows while innovations alternate: by the factor exp(PACE (EXPECTED - cosine)) with every computed
step, cosine being that of its innovation with the one before; between 1 and MOST in all. Where the response is right,
the cosine is a little below 0. Chosen on tuning prompts of the trained models."""

GUIDED = 0.375
"""How much the square of the guidance beyond 1 takes from the gain where there is but noise: the conditioned result
turns back what the unconditioned one follows, and their difference is magnified. In proportion to the guidance it was
too little at scales of 5 and 7, on the tuning prompts of the trained models."""


def gain(sigma: float, scale: float, guidance: float = 1.0) -> float:
    """Change of the denoised latent with its input x = scale * data + sigma * noise.

    That of normally distributed data, and less with guidance, see `GUIDED`, in proportion to the share of noise.

    Args:
        sigma: noise level.
        scale: of the data: 1 - sigma in flows, 1 in models that predict noise.
        guidance: scale of classifier-free guidance.
    """
    variance = (scale * SPREAD) ** 2 + sigma**2
    plain = scale * SPREAD**2 / variance if variance else 1.0
    return plain - GUIDED * max(0.0, guidance - 1.0) ** 2 * sigma / max(scale + sigma, 1e-12)


@dataclass
class _Told:
    """One evaluation: what the sampler was told, and what is believed now."""

    told: torch.Tensor
    believed: torch.Tensor


class Corrector:
    """What a sampler was told of one run, and what is believed by now.

    Args:
        map: coefficient of each output in the latent that each evaluation begins with, and, last, in the final latent:
            float64 [evaluations + 1, evaluations].
        stages: evaluations of a step; the last step may have only one.
        response: evaluation -> change of an output with its latent, (1 - kappa) / sigma, as it is now.
        weights: of the run's forecasts; positions are steps.
        held: how many computed steps a forecast uses at most.
        order: of the polynomials that gaps are interpolated by.
    """

    def __init__(
        self,
        map: Array,
        stages: int,
        response: Callable[[int], float],
        weights: Weights,
        held: int = ORDER + 1,
        order: int = ORDER,
    ) -> None:
        self._map, self._stages, self._response = map, stages, response
        self._weights, self._held = weights, max(held, order + 1)
        self._order, self._between = order, between(order)
        self._reach = _reach(map, stages)
        self._known: dict[int, list[torch.Tensor]] = {}  # computed step -> what its outputs would have been, by stage
        self._shifts: dict[int, list[torch.Tensor | None]] = {}  # ... and by how much that differs from what they were
        self._recent: dict[int, _Told] = {}  # by evaluation
        self._doubt: torch.Tensor | None = None  # by picture: factor of the response that alternation led to
        self._innovation: torch.Tensor | None = None  # what the latest corrected step differed by from its forecast
        self._drift: torch.Tensor | None = None

    def restart(self) -> None:
        """Forget everything: what comes next is another path."""
        self._known.clear()
        self._shifts.clear()
        self._recent.clear()
        self._doubt = self._innovation = self._drift = None

    def drift(self) -> torch.Tensor | None:
        """By how much the latent was off when the latest evaluation was computed, relative to itself, [batch]; None if
        nothing was forecast before it."""
        drift, self._drift = self._drift, None
        return drift

    def forecast(self, evaluation: int, output: torch.Tensor) -> torch.Tensor | None:
        """What to add to a forecast output before the sampler is told; None for nothing.

        Args:
            evaluation: its number in the run.
            output: the output d, shape [batch, ...].
        """
        step, stage = divmod(evaluation, self._stages)
        known = [k for k in self._known if len(self._known[k]) > stage]
        if not known:
            return None
        weights = self._weights(known, step)
        believed = output
        for k, weight in zip(known, weights, strict=True):
            shift = self._shifts[k][stage]
            if shift is not None and weight:
                believed = believed + float(weight) * shift.nan_to_num()
        told = self._pay(evaluation, believed, None)
        self._recent[evaluation] = _Told(told if self._reach else believed, believed)
        return None if told is output else told - output

    def computed(self, evaluation: int, output: torch.Tensor, latent: torch.Tensor) -> torch.Tensor | None:
        """What to add to a computed output before the sampler is told; None for nothing.

        Args:
            evaluation: its number in the run.
            output: the output d, shape [batch, ...].
            latent: x, of the same shape.
        """
        step = evaluation // self._stages
        self._recent[evaluation] = _Told(output, output)
        if not self._ends(evaluation):
            return None
        first = step * self._stages
        outputs = [self._recent[e].told for e in range(first, evaluation + 1)]
        gap = self._gap(first)
        owed = self._settle(step, outputs, gap, latent) if gap else self._learn(step, outputs, outputs)
        told = self._pay(evaluation, self._recent[evaluation].believed, owed)
        if self._reach:
            self._recent[evaluation].told = told
        return None if told is output else told - output

    # ------------------------------------------------------------------------------------------------ parts

    def _ends(self, evaluation: int) -> bool:
        """Whether an evaluation is the last one of its step."""
        return evaluation % self._stages == self._stages - 1 or evaluation == self._map.shape[1] - 1

    def _gap(self, first: int) -> list[int]:
        """The evaluations before `first` that computed points now lie on both sides of, and did not for so long: all
        that were forecast since the last but one computed step."""
        steps = sorted(self._known)[-self._order :]
        return [
            e
            for e in self._recent
            if steps and steps[0] * self._stages < e < first and e // self._stages not in self._known
        ]

    def _settle(
        self, step: int, outputs: list[torch.Tensor], gap: list[int], latent: torch.Tensor
    ) -> torch.Tensor | None:
        """Believe the interpolation from now on. What that changes of the latent after this step."""
        first, count = step * self._stages, len(outputs)
        gap = [e for e in gap if e % self._stages < count]  # the last step may lack stages
        points = [*sorted(self._known)[-self._order :], step]
        weights = {e: self._between.weights(points, e // self._stages, self._map.shape[1]) for e in gap}
        # Latents were off by delta_e = sum_j M_ej (believed_j before - now), which holds the outputs to be found.
        response = [self._response(first + row) for row in range(count)]
        off: list[torch.Tensor] = []
        coupling = np.zeros((count, count))
        for row in range(count):
            e = first + row
            terms = [(float(self._map[e, j]), self._recent[j].believed) for j in gap]
            for stage in range(row):  # the step's own earlier stages were told as they were
                coupling[row, stage] -= response[row] * self._map[e, first + stage]
                terms.append((float(self._map[e, first + stage]), outputs[stage]))
            for j in gap:
                coupling[row, j % self._stages] -= response[row] * self._map[e, j] * weights[j][-1]
            for index, k in enumerate(points[:-1]):
                for stage, value in enumerate(self._known[k]):
                    share = sum(self._map[e, j] * weights[j][index] for j in gap if j % self._stages == stage)
                    terms.append((-float(share), value))
            total = _sum(terms)
            off.append(torch.zeros_like(outputs[0]) if total is None else total)
        doubt = torch.ones(len(latent), device=latent.device) if self._doubt is None else self._doubt
        doubt = doubt.to(latent.dtype).reshape(-1, *[1] * (latent.ndim - 1))
        plain = [o - response[row] * doubt * d for row, (o, d) in enumerate(zip(outputs, off, strict=True))]
        found = _solved(coupling, doubt, plain, outputs)
        foretold = self._foretold(step)
        trusted = _finite(*found, *outputs)
        if foretold is not None:
            self._doubted(found[0] - foretold)
        found = [torch.where(trusted, new, old) for new, old in zip(found, outputs, strict=True)]
        values = [*(self._known[k] for k in points[:-1]), found]
        owed: list[tuple[float, torch.Tensor]] = []
        drift = off[0]
        for j in gap:
            entry = self._recent[j]
            share = float(self._map[first, j] * weights[j][-1])
            drift = drift - share * found[j % self._stages]
            now = _total((float(w), value[j % self._stages]) for w, value in zip(weights[j], values, strict=True))
            change = torch.where(trusted, now - entry.believed, torch.zeros_like(now))
            owed.append((float(self._map[first, j]), change))
            entry.believed = entry.believed + change
            if not self._reach:
                entry.told = entry.believed
        self._drift = _norms(drift) / _norms(latent).clamp_min(1e-12)
        rest = self._learn(step, outputs, found)
        return _sum([*owed, *([(1.0, rest)] if rest is not None else [])])

    def _foretold(self, step: int) -> torch.Tensor | None:
        """What the earlier outputs foretell of a step's first evaluation."""
        known = sorted(self._known)
        weights = self._weights(known, step)
        return _sum((float(w), self._known[k][0]) for k, w in zip(known, weights, strict=True) if w)

    def _doubted(self, innovation: torch.Tensor) -> None:
        """Let the response of each picture grow while its innovations alternate, and shrink again."""
        before, now = self._innovation, innovation.flatten(1)
        self._innovation = now
        if before is None:
            return
        cosine = torch.nn.functional.cosine_similarity(before.float(), now.float(), dim=1).nan_to_num(EXPECTED)
        doubt = torch.ones_like(cosine) if self._doubt is None else self._doubt
        self._doubt = (doubt * torch.exp(PACE * (EXPECTED - cosine))).clamp(1.0, MOST)

    def _learn(self, step: int, outputs: list[torch.Tensor], found: list[torch.Tensor]) -> torch.Tensor | None:
        """Keep a computed step. What its earlier stages, which the sampler was told as they came, leave owed."""
        first, after = step * self._stages, step * self._stages + len(outputs)
        same = found is outputs
        self._known[step] = found
        self._shifts[step] = [None if same else new - old for new, old in zip(found, outputs, strict=True)]
        while len(self._known) > self._held:
            oldest = min(self._known)
            del self._known[oldest], self._shifts[oldest]
        kept = min(sorted(self._known)[-self._order :][0], step - self._reach) * self._stages
        self._recent = {e: entry for e, entry in self._recent.items() if e >= kept}
        owed: list[tuple[float, torch.Tensor]] = []
        for stage, value in enumerate(found):
            if not same:
                entry = self._recent[first + stage]
                entry.believed = value
                if stage < len(found) - 1:
                    owed.append((float(self._map[after, first + stage]), value - entry.told))
        return _sum(owed)

    def _pay(self, evaluation: int, believed: torch.Tensor, owed: torch.Tensor | None) -> torch.Tensor:
        """What to tell the sampler, so that the next latent is as if it had always been told what is believed.

        After each payment nothing is owed. What a sampler with a memory owes again is what earlier payments change of
        its later steps: coefficients that differ from one step to the next.
        """
        if not self._ends(evaluation):
            return believed
        first, after = evaluation - evaluation % self._stages, evaluation + 1
        terms = [(1.0, owed)] if owed is not None else []
        for j, entry in self._recent.items():
            change = float(self._map[after, j] - self._map[first, j])
            if j < first and entry.told is not entry.believed and abs(change) > 1e-9:
                terms.append((change, entry.believed - entry.told))
        total, share = _sum(terms), float(self._map[after, evaluation])
        return believed if total is None or abs(share) < 1e-6 else believed + total / share


def _reach(map: Array, stages: int) -> int:
    """Steps for which an output goes on to move latents after its own step: 0 for samplers without a memory."""
    starts = map[[*range(0, len(map) - 1, stages), len(map) - 1]]
    moves = np.abs(np.diff(starts, axis=0)) > 1e-6 * np.abs(map).max()
    steps, outputs = np.nonzero(moves)
    return int(min(MEMORY, (steps - outputs // stages).max(initial=0)))


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
        fine = fine & (rows[pivot][pivot].abs() > STIFF)
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


def _norms(value: torch.Tensor) -> torch.Tensor:
    """Norm of each picture: float32 [batch]."""
    norms: torch.Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=torch.float32)
    return norms


def _finite(*values: torch.Tensor) -> torch.Tensor:
    """Whether a picture is finite in all values: bool [batch, 1, ...]."""
    fine = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in values]).all(dim=0)
    return fine.reshape(-1, *[1] * (values[0].ndim - 1))
