"""How a sampler that no table knows calls the model, from what it does.

A sampler of another pack can be forecast if its evaluations are steps along one smooth path: each step begins at its
own noise level, has the same number of evaluations, and leads where the outputs so far lead. Fresh noise leads
elsewhere, and then little is forecast. When in doubt, everything is computed.
"""

import math
from collections.abc import Sequence

import torch

from ..spectrum_core.readback import Readback
from .samplers import UNGUIDED, UNKNOWN, Sampler

STEPS = 4
"""Steps that are watched before anything is forecast; also how far back a multistep method may look."""

MOST_STAGES = 3

LEVEL_TOLERANCE = 0.02, 0.25
"""Distance of a noise level to the schedule's, relative to it and to the next one; some samplers go through log-SNR and
back in float32."""

NOISE_TOLERANCE = 0.02
"""Share of a step that the outputs so far do not explain. Of a deterministic sampler, rounding; of others, noise."""


def on_level(sigma: float, levels: Sequence[float], step: int) -> bool:
    """Whether a noise level is the one at which a step of the schedule begins."""
    expected, after = levels[step], levels[min(step + 1, len(levels) - 1)]
    relative, spacing = LEVEL_TOLERANCE
    return abs(sigma - expected) <= min(
        relative * max(abs(expected), 1e-3), spacing * abs(expected - after) or math.inf
    )


def stages(seen: Sequence[float], levels: Sequence[float]) -> int | None:
    """Evaluations of a step, by the noise levels of the evaluations so far.

    Args:
        seen: noise level of each evaluation so far.
        levels: the run's noise levels.

    Returns:
        The smallest number with which every step begins at its own level; 0 if there is none, None if it is too early
        to say.
    """
    for count in range(1, MOST_STAGES + 1):
        begins = [(seen[i], i // count) for i in range(0, len(seen), count) if i // count < len(levels)]
        if all(on_level(sigma, levels, step) for sigma, step in begins):
            return count if len(begins) >= STEPS else None
    return 0


def unexplained(latent: torch.Tensor, known: Sequence[torch.Tensor]) -> torch.Tensor:
    """The share of a step that is no linear combination of what was known: 0-dim, on the device.

    Deterministic samplers take linear combinations of the latent and the outputs (every Runge-Kutta and multistep
    method does), so what is left after a least-squares fit is what the sampler added.

    Args:
        latent: where the step led.
        known: the latent it began at, then those of earlier steps and the outputs so far.
    """
    move = (latent - known[0]).flatten().float()
    basis, _ = torch.linalg.qr(torch.stack([k.flatten().float() for k in known], dim=1))
    rest = move - basis @ (basis.T @ move)
    return torch.linalg.vector_norm(rest) / torch.linalg.vector_norm(move).clamp_min(1e-12)


class Observer:
    """Watches a run.

    Args:
        levels: the run's noise levels, shape [steps + 1].
    """

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels = levels
        self._sigmas: list[Readback] = []
        self._calls: list[tuple[torch.Tensor, torch.Tensor]] = []  # latent and output of the latest evaluations
        self._noise: list[Readback] = []
        self._stages: int | None = None
        self._unguided = False

    def see(self, sigma: Readback, latent: torch.Tensor, output: torch.Tensor, unguided: bool = False) -> None:
        """One evaluation.

        Args:
            sigma: its noise level.
            latent: a copy of the latent that it was given.
            output: what the sampler gets.
            unguided: whether the sampler gets the unguided output besides.
        """
        self._unguided |= unguided
        if self._stages is None:
            self._sigmas.append(sigma)
        self._calls.append((latent, output.detach().clone()))  # a sampler may go on in place
        if self._stages and len(self._calls) % self._stages == 1 % self._stages:  # a step begins
            del self._calls[: -STEPS * self._stages - 1]
            self._noise.append(self._unexplained((len(self._calls) - 1) // self._stages, self._stages))

    def verdict(self) -> Sampler | None:
        """How the sampler calls the model, as far as one can know by now; None while it is too early to say."""
        if self._stages is None:
            self._stages = stages([sigma.wait() for sigma in self._sigmas], self._levels)
            if self._stages is None:
                return None
            for step in range(1, STEPS if self._stages else 0):
                self._noise.append(self._unexplained(step, self._stages))
                self._noise[-1].wait()
        if self._stages == 0:
            return Sampler(obstacle="goes to noise levels that follow no pattern")
        shares = [(noise, noise.poll()) for noise in self._noise]
        self._noise = [noise for noise, share in shares if share is None]
        noisy = any(share is not None and not share < NOISE_TOLERANCE for _, share in shares)
        if noisy and self._unguided:  # what the output does not explain may be either
            return Sampler(self._stages, obstacle=UNGUIDED)
        return Sampler(self._stages, UNKNOWN if noisy else math.inf)

    def _unexplained(self, step: int, count: int) -> Readback:
        """See `unexplained`; `step` counts from the oldest one that is held."""
        before = self._calls[: step * count]
        begins = [latent for latent, _ in reversed(before[::count])]
        return Readback(unexplained(self._calls[step * count][0], [*begins, *(output for _, output in before)]))
