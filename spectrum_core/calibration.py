"""A plan from one run: which evaluations to compute, from the inner products of one full run's outputs.

A deterministic sampler takes linear combinations: the latent before evaluation e is x_e = m_e x_0 + sum_j M_ej g_j,
where g_j is the network's output at evaluation j, and M depends on the sampler and the noise levels only. A forecast is
linear too: it puts g^_j = sum_k a_jk g_k in g_j's place, with weights that depend on positions only. So every schedule
and every forecaster moves x_e by sum_j c_j g_j with c = M_e (A - 1), and the square of that is c^T G c, where
G_jk = <g_j, g_k>. One run's G predicts them all, and the best evaluations are found on the host.

Where gaps are corrected (correction.py), a step that was forecast counts with its extrapolation until the gap ends,
with the interpolation that ends with the gap until the next one ends, and with the better interpolation from then on.

That is open loop: it takes the outputs for what they were in the full run, though a latent that is off changes them.

Source: the project's research, "plan from one run's Gram matrix". Related published work: DPCache (arXiv 2602.22654)
plans by dynamic programming over costs of single gaps; here the errors of gaps add up as vectors, with their signs.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .correction import INTERPOLATION, ORDER
from .forecast import Forecaster
from .schedule import Plan

Array = NDArray[np.float64]

VERSION = 1
MOST_EVALUATIONS = 256
MOST_STAGES = 3
MOST_TEXT = 1_000_000
LARGEST = 1e9
LONGEST_NAME = 100
"""What a plan may hold: it comes out of workflow files, which anyone can write."""

INDEFINITE = 1e-4
"""Most negative eigenvalue of a Gram matrix, as a share of the largest one: what float32 leaves."""

LEVEL_TOLERANCE = 1e-3
"""Distance of a run's noise levels to the calibrated ones, relative to the largest."""

ALONG, ALONG_CORRECTED = 1.0, 0.25
"""Weight of the squared errors where the network runs, with and without correction, against the one at the end: it sees
them and answers to them, which the closed form does not know, and an end that is good because errors cancel need not
stay so. Chosen by how schedules ranked in the closed loop on the trained models."""

BEGINNING = 1
"""Evaluations that a forecast needs to begin. The rest of a warm-up is for runs that nobody has measured."""

LONGEST = 1.25
"""Longest gap of a plan, in gaps of the schedule that the search begins with: what the closed form does not know (how a
network answers to a latent that is off) shows first in long ones."""

POWERS = (0.5, 0.65, 0.8, 1.0, 1.25)
"""Where a search begins besides the plan that it is given: steps at these powers of equal parts."""

ROUNDS = 40
"""Most rounds of each part of a search; a few are usual."""

MOST_HELD = 50_000
"""Forecasts of single steps that a search remembers; with a window of three it needs fewer."""

TRIED = 1_000_000
"""Most schedules that a search tries, times the evaluations of the run: longer runs take longer to judge. 15 of 50 take
about 3000 schedules."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What full runs of a model have told about its path.

    Attributes:
        gram: inner products of the outputs of the evaluations, divided by the squared norm of the final latent, mean
            over pictures: float64 [evaluations, evaluations].
        map: coefficient of each output in the latent that each evaluation begins with, and, last, in the final latent:
            float64 [evaluations + 1, evaluations], zero from the diagonal on.
        sigmas: the run's noise levels, shape [steps + 1].
        stages: evaluations of a step; the last step may have only one.
        model: class name of the diffusion model.
        sampler: name of the sampler.
        cfg: guidance scale, if the guider had one.
        runs: how many runs this is the mean of.

    Raises:
        ValueError: saying what is not as it must be.
    """

    gram: Array
    map: Array
    sigmas: tuple[float, ...]
    stages: int
    model: str
    sampler: str
    cfg: float | None = None
    runs: int = 1

    def __post_init__(self) -> None:
        steps, count = self.steps, len(self.gram)
        _demand(2 <= steps <= MOST_EVALUATIONS, f"has {steps} steps; from 2 to {MOST_EVALUATIONS} are possible")
        _demand(1 <= self.stages <= MOST_STAGES, f"has {self.stages} evaluations a step")
        _demand(
            count in (steps * self.stages, steps * self.stages - self.stages + 1),
            f"has {count} evaluations, which do not make {steps} steps of {self.stages}",
        )
        fitting = self.gram.shape == (count, count) and self.map.shape == (count + 1, count)
        _demand(fitting, "holds arrays of odd shapes")
        levels = np.asarray(self.sigmas, dtype=np.float64)
        for name, array in (("gram", self.gram), ("map", self.map), ("sigmas", levels)):
            _demand(bool((np.abs(array) <= LARGEST).all()), f"has a {name} that is not finite or too large")
        _demand(bool((levels >= 0).all() and (np.diff(levels) <= 0).all()), "has noise levels that do not descend")
        _demand(not np.triu(self.map).any(), "has a map in which an output acts before its evaluation")
        _demand(np.array_equal(self.gram, self.gram.T), "has a gram that is not symmetric")
        values = np.linalg.eigvalsh(self.gram)
        _demand(
            values[-1] > 0 and values[0] >= -INDEFINITE * values[-1], "has a gram that no outputs have: not definite"
        )
        _demand(self.runs >= 1, "is of no run")
        _demand(self.cfg is None or abs(self.cfg) <= LARGEST, "has a cfg that is not finite")

    @property
    def steps(self) -> int:
        """Steps of the sampler."""
        return len(self.sigmas) - 1

    # ------------------------------------------------------------------------------------------------ text

    def to_json(self) -> str:
        """Compact JSON, about 14 kB for 50 evaluations: the triangles of both matrices as float32, base64."""
        return json.dumps(
            {
                "spectrum_plan": VERSION,
                "model": self.model,
                "sampler": self.sampler,
                "cfg": self.cfg,
                "runs": self.runs,
                "stages": self.stages,
                "sigmas": [float(f"{sigma:.7g}") for sigma in self.sigmas],
                "map": _packed(self.map[1:]),
                "gram": _packed(self.gram),
            },
            allow_nan=False,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """The inverse of `to_json`, for text that anyone may have written.

        Raises:
            ValueError: saying what is wrong.
        """
        _demand(len(text) <= MOST_TEXT, f"is longer than {MOST_TEXT} characters")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        _demand(isinstance(data, dict) and "spectrum_plan" in data, "is not the text that Spectrum Plan gives")
        version = data.pop("spectrum_plan")
        _demand(version == VERSION and version is not True, f"is of version {str(version)[:20]}, not {VERSION}")
        names = {"model", "sampler", "cfg", "runs", "stages", "sigmas", "map", "gram"}
        _demand(set(data) == names, f"must hold exactly {', '.join(sorted(names))}")
        for name in ("model", "sampler"):
            value = data[name]
            fine = isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()
            _demand(fine, f"has no usable {name}")
        for name, most in (("runs", 10**6), ("stages", MOST_STAGES)):
            value = data[name]
            _demand(isinstance(value, int) and value is not True and 1 <= value <= most, f"has no usable {name}")
        _demand(data["cfg"] is None or _number(data["cfg"]), "has no usable cfg")
        sigmas = data["sigmas"]
        _demand(isinstance(sigmas, list) and 3 <= len(sigmas) <= MOST_EVALUATIONS + 1, "has no usable sigmas")
        _demand(all(map(_number, sigmas)), "has sigmas that are no numbers")
        # The last step has one evaluation where it ends at 0; the lengths of the texts tell which of the two it is.
        most = (len(sigmas) - 1) * data["stages"]
        lower = _unpacked(data["gram"], most - data["stages"] + 1, most)
        after = _unpacked(data["map"], len(lower), len(lower))
        gram = lower + np.tril(lower, -1).T
        return cls(
            gram=gram,
            map=np.concatenate([np.zeros((1, len(gram))), after]),
            sigmas=tuple(map(float, sigmas)),
            **{name: data[name] for name in ("stages", "model", "sampler", "runs")},
            cfg=None if data["cfg"] is None else float(data["cfg"]),
        )

    # ------------------------------------------------------------------------------------------------ use

    def misfit(self, model: str, sampler: str, stages: int, sigmas: Sequence[float]) -> str | None:
        """Why a run is not one that this calibration tells about, or None.

        Args:
            model, sampler, stages: as the attributes.
            sigmas: the run's noise levels, shape [steps + 1].
        """
        if model != self.model:
            return f"it was made for {self.model}, this is {model}"
        if (sampler, stages) != (self.sampler, self.stages):
            return f"it was made with the sampler {self.sampler}, this is {sampler}"
        if len(sigmas) != len(self.sigmas):
            return f"it was made for {self.steps} steps, these are {len(sigmas) - 1}"
        apart = max(abs(a - b) for a, b in zip(sigmas, self.sigmas, strict=True))
        if not apart <= LEVEL_TOLERANCE * max(self.sigmas):
            return "it was made for other noise levels (scheduler, shift or denoise differ)"
        return None

    def errors(self, computed: Collection[int], forecaster: Forecaster, corrected: bool = False) -> Array:
        """Predicted error of the latent that each evaluation begins with and, last, of the final latent.

        Args:
            computed: the steps that are computed; the first step must be among them.
            forecaster: how the others are forecast.
            corrected: whether gaps are corrected.

        Returns:
            L2 distances to the full run's latents, relative to the norm of its final latent: float64 [evaluations + 1].
        """
        return np.linalg.norm(self.displacements(computed, forecaster, corrected), axis=1)

    def predicted(self, computed: Collection[int], forecaster: Forecaster, corrected: bool = False) -> float:
        """Predicted error of the final latent, see `errors`."""
        return float(self.errors(computed, forecaster, corrected)[-1])

    def estimated(self, computed: Collection[int], forecaster: Forecaster, sizes: Sequence[float]) -> float:
        """What a corrected run would estimate its error to be (see `Trace.error`).

        Args:
            computed, forecaster: see `errors`.
            sizes: norm of the latent that each step begins with, relative to the final one's: [steps].
        """
        drifts = self.errors(computed, forecaster, corrected=True)
        return math.hypot(*(drifts[step * self.stages] / sizes[step] for step in computed))

    def displacements(self, computed: Collection[int], forecaster: Forecaster, corrected: bool = False) -> Array:
        """Predicted displacement of the latents of `errors`, which are its norms.

        Returns:
            In the coordinates of `factor`: float64 [evaluations + 1, rank].
        """
        return self._moved(computed, _Residuals(self, forecaster), corrected)

    def _moved(self, computed: Collection[int], residuals: "_Residuals", corrected: bool) -> Array:
        moved = np.zeros((len(self.map), self.factor.shape[1]))
        for part, values in residuals.of(computed, corrected):
            moved += (self.map * part) @ values
        return moved

    def _squares(self, computed: Collection[int], residuals: "_Residuals", corrected: bool) -> Array:
        moved = self._moved(computed, residuals, corrected)
        return np.einsum("er,er->e", moved, moved)

    def _cost(self, computed: Collection[int], residuals: "_Residuals", corrected: bool) -> float:
        """What a search minimises."""
        squares = self._squares(computed, residuals, corrected)
        at = [e for step in computed for e in self.evaluations(step)]
        return float(squares[-1] + (ALONG_CORRECTED if corrected else ALONG) * squares[at].sum())

    def evaluations(self, step: int) -> range:
        """The evaluations of a step."""
        return range(step * self.stages, min((step + 1) * self.stages, len(self.gram)))

    @cached_property
    def factor(self) -> Array:
        """Outputs that have this Gram matrix, one a row, in as few dimensions as it has: [evaluations, rank]."""
        values, vectors = np.linalg.eigh(self.gram)
        kept = values > 1e-8 * values[-1]
        return vectors[:, kept] * np.sqrt(values[kept])


class _Residuals:
    """By how much forecasts and corrections miss, in coordinates of `Calibration.factor`.

    Weights depend on the window and the target only, and neighbouring schedules share most windows, so each is solved
    once. Without a ridge a fit does not know where in the run it stands, and windows are shared along the run too.
    """

    def __init__(self, calibration: Calibration, forecaster: Forecaster) -> None:
        self._calibration, self._forecaster = calibration, forecaster
        self._weights: dict[tuple[bool, tuple[int, ...], int], Array] = {}
        self._rows: dict[tuple[bool, tuple[int, ...], int], Array] = {}

    def of(
        self, computed: Collection[int], corrected: bool
    ) -> Iterator[tuple[Array | NDArray[np.bool_] | float, Array]]:
        """Forecast minus output for every evaluation, zero where it is computed: [evaluations, rank]; with the part of
        the map that it holds for: [evaluations + 1, evaluations]. Without correction that is all of it."""
        calibration, forecaster = self._calibration, self._forecaster
        steps, never = calibration.steps, calibration.steps + 1
        chosen = sorted(set(computed))
        ends, judged = np.full(steps, -1), np.full(steps, -1)  # of each step's gap; and the step that corrects it again
        foretold, first, again = (np.zeros_like(calibration.factor) for _ in range(3))
        for k, begin in enumerate(chosen):
            end, after = (chosen[i] if i < len(chosen) else never for i in (k + 1, k + 2))
            for step in range(begin + 1, min(end, steps)):
                span = calibration.evaluations(step)
                known = tuple(chosen[: k + 1][-forecaster.window :])
                row = self._row(forecaster, known, step)
                foretold[span.start : span.stop] = row
                # The last step may lack stages: what was forecast of those is not judged by it.
                if corrected and end < steps:
                    better = self._row(INTERPOLATION, (*chosen[: k + 1][-ORDER:], end), step)
                    row = np.concatenate([better, row[len(better) :]])
                    first[span.start : span.stop] = row
                if corrected and after < steps:
                    better = self._row(INTERPOLATION, (begin, end, after), step)
                    again[span.start : span.stop] = np.concatenate([better, row[len(better) :]])
                ends[step], judged[step] = end, after
        if not corrected:
            yield 1.0, foretold
            return
        rows = np.append(np.arange(len(foretold)) // calibration.stages, steps)[:, None]
        ends, judged = (part.repeat(calibration.stages)[None, : len(foretold)] for part in (ends, judged))
        yield rows <= ends, foretold
        yield (ends < rows) & (rows <= judged), first
        yield judged < rows, again

    def _row(self, forecaster: Forecaster, known: tuple[int, ...], step: int) -> Array:
        """Of one step, as many stages as all of the known steps have: [stages, rank]."""
        key = (forecaster is INTERPOLATION, known, step)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MOST_HELD:
                self._rows.clear()
            calibration = self._calibration
            weights = self._solved(forecaster, known, step)
            shared = len(calibration.evaluations(known[-1]))
            row = self._rows[key] = np.stack(
                [
                    weights @ calibration.factor[[k * calibration.stages + stage for k in known]]
                    - calibration.factor[e]
                    for stage, e in list(enumerate(calibration.evaluations(step)))[:shared]
                ]
            )
        return row

    def _solved(self, forecaster: Forecaster, known: tuple[int, ...], step: int) -> Array:
        origin = known[0] if forecaster.ridge == 0 else 0
        key = (forecaster is INTERPOLATION, tuple(k - origin for k in known), step - origin)
        if key not in self._weights:
            if len(self._weights) >= MOST_HELD:
                self._weights.clear()
            self._weights[key] = forecaster.weights(key[1], key[2], self._calibration.steps)
        return self._weights[key]


@lru_cache(maxsize=16)
def improved(
    calibration: Calibration,
    start: Plan,
    forecaster: Forecaster,
    outside: frozenset[int] = frozenset(),
    corrected: bool = False,
) -> Plan:
    """The plan with as many evaluations that is predicted to be best; its tail and its first evaluation stay.

    From the plan given and from a few more, each evaluation in turn goes where it is best between its neighbours; then
    the best of these plans is changed by whole stretches that move and by single evaluations that go anywhere, until
    nothing helps. About a second for 15 of 50 (a few with a global fit, whose every window must be solved anew).

    Args:
        calibration: what is known of the run.
        start: the plan to begin with.
        forecaster: how the other steps are forecast.
        outside: steps that are computed in any case, whatever the plan says.
        corrected: whether gaps are corrected.
    """
    residuals, steps = _Residuals(calibration, forecaster), calibration.steps
    first = min(BEGINNING, start.warmup)
    low, high = first, steps - start.tail  # what lies between may move
    head = tuple(step for step in start.computed if step < low)
    tail = tuple(step for step in start.computed if step >= high)
    middle = start.computed[len(head) : len(start.computed) - len(tail)]
    known: dict[tuple[int, ...], float] = {}
    most = TRIED // len(calibration.gram)
    gaps = np.interp(np.arange(steps), start.computed, np.arange(len(start.computed)))

    def cost(free: tuple[int, ...]) -> float:
        if free not in known:
            computed = sorted(outside.union(head, free, tail))
            if len(known) >= most or np.diff(gaps[computed], append=gaps[-1]).max(initial=0) > LONGEST:
                return math.inf
            known[free] = calibration._cost(computed, residuals, corrected)
        return known[free]

    starts = dict.fromkeys([middle, *_spread(len(middle), low, high)])
    found = [_settled(free, low, high, cost) for free in starts]
    best = min(found, key=lambda free: (cost(free), free))
    for _ in range(ROUNDS):
        other = min((*_stretches(best, low, high), *_exchanges(best, low, high)), key=cost, default=best)
        other = _settled(other, low, high, cost)
        if not cost(other) < cost(best) * (1 - 1e-6):
            break
        best = other
    return replace(start, warmup=first, computed=(*head, *best, *tail))


def cheapest(
    calibration: Calibration,
    start: Callable[[int], Plan],
    counts: range,
    forecaster: Forecaster,
    sizes: Sequence[float],
    tolerance: float,
    outside: frozenset[int] = frozenset(),
) -> Plan | None:
    """The plan of the fewest evaluations that, improved for corrected runs, keeps the estimated error at a tolerance
    (by bisection). None if none is found that forecasts anything.

    Args:
        start: number of evaluations -> the plan to begin with.
        counts: the numbers to choose from.
        sizes: see `Calibration.estimated`.
        outside: see `improved`.
    """
    fitting, low, high = None, 0, len(counts)
    while low < high:
        middle = (low + high) // 2
        plan = improved(calibration, start(counts[middle]), forecaster, outside, corrected=True)
        if calibration.estimated(outside.union(plan.computed), forecaster, sizes) <= tolerance:
            fitting, high = plan, middle
        else:
            low = middle + 1
    return fitting if fitting and len(outside.union(fitting.computed)) < calibration.steps else None


def _settled(free: tuple[int, ...], low: int, high: int, cost: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """Each step in turn moved to the best place between its neighbours, until none moves."""
    for _ in range(ROUNDS):
        before = free
        for place in range(len(free)):
            after = free[place + 1] if place + 1 < len(free) else high
            options = range(free[place - 1] + 1 if place else low, after)
            free = min(((*free[:place], step, *free[place + 1 :]) for step in options), key=lambda f: (cost(f), f))
        if free == before:
            break
    return free


def _spread(count: int, low: int, high: int) -> Iterator[tuple[int, ...]]:
    """Plans whose gaps shrink, or grow, along the run."""
    for power in POWERS:
        places: list[int] = []
        for i in range(count):
            step = low - 1 + round((high - low + 1) * ((i + 1) / (count + 1)) ** power)
            places.append(min(max(step, places[-1] + 1 if places else low), high - count + i))
        yield tuple(places)


def _stretches(free: tuple[int, ...], low: int, high: int) -> Iterator[tuple[int, ...]]:
    """Plans with neighbours moved together by a step or two."""
    for begin, end in combinations(range(len(free) + 1), 2):
        for by in (-2, -1, 1, 2):
            moved = (*free[:begin], *(step + by for step in free[begin:end]), *free[end:])
            if moved[0] >= low and moved[-1] < high and all(a < b for a, b in pairwise(moved)):
                yield moved


def _exchanges(free: tuple[int, ...], low: int, high: int) -> Iterator[tuple[int, ...]]:
    """Plans with one step moved anywhere."""
    for step in free:
        rest = [other for other in free if other != step]
        for other in range(low, high):
            if other not in free:
                yield tuple(sorted([*rest, other]))


def mean(calibrations: Sequence[Calibration]) -> Calibration:
    """One calibration from runs of the same kind (see `Calibration.misfit`)."""
    total = sum(c.runs for c in calibrations)
    gram = np.sum([c.gram * (c.runs / total) for c in calibrations], axis=0)
    return replace(calibrations[-1], gram=gram, runs=total)


def _demand(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ValueError(f"the plan {otherwise}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _packed(square: Array) -> str:
    """The lower triangle, row by row, as float32."""
    rows, columns = np.tril_indices(len(square))
    return base64.b64encode(square[rows, columns].astype("<f4").tobytes()).decode("ascii")


def _unpacked(text: Any, *sizes: int) -> Array:
    """A lower triangle of one of the sizes: float64 [size, size]."""
    data = b""
    if isinstance(text, str):
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = b""
    size = next((size for size in sizes if len(data) == 2 * size * (size + 1)), 0)
    _demand(size > 0, "has a matrix that does not belong to its steps")
    square = np.zeros((size, size))
    square[np.tril_indices(size)] = np.frombuffer(data, dtype="<f4")
    return square
