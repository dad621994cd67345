"""Which evaluation belongs to which step of a sampler."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL_TOLERANCE = 0.02
"""Distance of a noise level to a step's, relative to it: some samplers go through log-SNR and back in float32."""

SPACING_TOLERANCE = 0.25
"""The same, relative to the distance to the next step's level."""

FAR_OFF = 2.0
"""Factor by which a wrapper may change the noise level that the network is told."""

MOST_STAGES = 6
"""Evaluations of a step at most; RES4LYF's res_6s has as many."""


@dataclass(frozen=True)
class Layout:
    """The evaluations of a run, by step.

    Attributes:
        starts: the first evaluation of each step, ascending from 0.
        total: evaluations of the run.

    >>> heun = Layout.uniform(steps=3, stages=2, ends_at_zero=True)
    >>> heun.starts, heun.total, heun.place(3), heun.ends(4)
    ((0, 2, 4), 5, (1, 1), True)
    """

    starts: tuple[int, ...]
    total: int

    @classmethod
    def uniform(cls, steps: int, stages: int, ends_at_zero: bool) -> "Layout":
        """`stages` evaluations a step; a last step down to noise level 0 has one."""
        return cls(
            tuple(range(0, steps * stages, stages)), steps * stages - (stages - 1) * (steps > 0 and ends_at_zero)
        )

    @property
    def stages(self) -> int:
        """The most evaluations of a step."""
        return max((end - start for start, end in zip(self.starts, self._ends, strict=True)), default=1)

    @property
    def _ends(self) -> tuple[int, ...]:
        return (*self.starts[1:], self.total) if self.starts else ()

    def place(self, evaluation: int) -> tuple[int, int]:
        """Step of an evaluation, and its stage within the step. Beyond the run, steps of one evaluation follow."""
        if evaluation >= self.total:
            return len(self.starts) + evaluation - self.total, 0
        step = bisect_right(self.starts, evaluation) - 1
        return step, evaluation - self.starts[step]

    def ends(self, evaluation: int) -> bool:
        """Whether an evaluation is the last one of its step."""
        return evaluation >= self.total or evaluation + 1 in self._ends

    @property
    def gap(self) -> int:
        """Evaluations of the latest complete step."""
        return self.starts[-1] - self.starts[-2] if len(self.starts) > 1 else 1

    @property
    def irregular(self) -> frozenset[int]:
        """Steps with other than the usual number of evaluations; a last step may have fewer."""
        counts = [end - start for start, end in zip(self.starts, self._ends, strict=True)]
        usual = max(sorted(set(counts)), key=counts.count, default=1)
        last = len(counts) - 1
        return frozenset(s for s, count in enumerate(counts) if count != usual and not (s == last and count < usual))

    def continued(self, rest: "Layout") -> "Layout":
        """These steps, and then the steps of a uniform layout."""
        begun, shift = len(self.starts) - 1, self.starts[-1] - rest.starts[len(self.starts) - 1]
        return Layout((*self.starts[:begun], *(s + shift for s in rest.starts[begun:])), rest.total + shift)

    def mean_stages(self) -> float:
        """Evaluations of a step on average."""
        return self.total / max(1, len(self.starts))


def on_level(sigma: float, levels: Sequence[float], step: int) -> bool:
    """Whether a noise level is the one at which a step begins.

    Args:
        sigma: the noise level.
        levels: the run's noise levels, shape [steps + 1].
        step: the step.
    """
    if step >= len(levels):
        return False
    expected, after = levels[step], levels[min(step + 1, len(levels) - 1)]
    allowed = LEVEL_TOLERANCE * max(abs(expected), 1e-3)
    spacing = SPACING_TOLERANCE * abs(expected - after)
    return abs(sigma - expected) <= (min(allowed, spacing) if spacing else allowed)


def mapped_layout(seen: Sequence[float], levels: Sequence[float]) -> Layout | None:
    """The layout of a whole run whose evaluations are known beforehand; None if they are not steps along one path.

    Where they do not lie on the levels of the run (a wrapper that hands the network other ones), their number tells,
    if none is far off.

    Args:
        seen: noise level of each evaluation, in order.
        levels: the run's noise levels, shape [steps + 1].

    >>> mapped_layout([0.9, 0.7, 0.5], [1.0, 0.8, 0.6, 0.0]).starts
    (0, 1, 2)
    """
    steps = len(levels) - 1
    layout = found_layout(seen, levels)
    if layout is not None and len(layout.starts) == steps:
        return layout
    for stages in range(1, MOST_STAGES + 1):
        layout = Layout.uniform(steps, stages, levels[-1] == 0)
        begins = zip((seen[start] for start in layout.starts if start < len(seen)), levels, strict=False)
        if layout.total == len(seen) and all(level / FAR_OFF < sigma < level * FAR_OFF for sigma, level in begins):
            return layout
    return None


def cleaned(levels: Sequence[float]) -> list[float]:
    """The noise levels that a run goes through: some packs pad them with zeros.

    >>> cleaned([0.0, 1.0, 0.5, 0.0, 0.0])
    [1.0, 0.5, 0.0]
    """
    first = next((i for i, level in enumerate(levels) if level > 0), 0)
    last = next((i for i in range(first, len(levels)) if levels[i] <= 0), len(levels) - 1)
    return list(levels[first : last + 1])


def found_layout(seen: Sequence[float], levels: Sequence[float]) -> Layout | None:
    """The layout of a run whose evaluations had these noise levels; None if they do not go from level to level.

    A step begins at its own noise level. Most samplers have the same number of evaluations in each step. Others have
    more in some steps (a multistep method that starts with single steps); where several evaluations in a row lie on a
    level, the last one begins the step.

    Args:
        seen: noise level of each evaluation, in order; it may be the beginning of a run.
        levels: the run's noise levels, shape [steps + 1].

    >>> found_layout([1.0, 0.9, 0.8, 0.7, 0.6], [1.0, 0.8, 0.6, 0.0]).starts
    (0, 2, 4)
    >>> found_layout([1.0, 0.9, 0.8, 0.6, 0.4], [1.0, 0.8, 0.6, 0.4, 0.0]).starts
    (0, 2, 3, 4)
    """
    for stages in range(1, MOST_STAGES + 1):
        starts = range(0, len(seen), stages)
        if 1 < len(starts) < len(levels) + 1 and all(on_level(seen[i], levels, step) for step, i in enumerate(starts)):
            return Layout(tuple(starts), len(seen))
    found: list[int] = []
    for index, sigma in enumerate(seen):
        if on_level(sigma, levels, len(found)):
            found.append(index)
        elif len(found) > 1 and on_level(sigma, levels, len(found) - 1):
            found[-1] = index
    if not found or found[0] != 0:
        return None
    if max(b - a for a, b in zip(found, [*found[1:], len(seen)], strict=True)) > MOST_STAGES:
        return None
    return Layout(tuple(found), len(seen))
