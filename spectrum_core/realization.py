"""How the past of a sampler reaches its future: through few latents, however long the past is.

A sampler is a linear map of the model's outputs. What the outputs before evaluation e leave in all later latents is a
matrix of low rank: a sampler remembers its latent and, if it is a multistep method, a few outputs. A factorisation of
that rank is a realization of the map (Ho & Kalman, "Effective construction of linear state-variable models from
input/output functions", 1966); the rank is 1 for euler and at most 4 for ComfyUI's samplers.
"""

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Singular values below this share of the map's largest coefficient are rounding."""


class Realization:
    """The map, factorised before each evaluation: map[e:, :e] = rows(e) @ [column(0, e), column(1, e), ...].

    Args:
        map: coefficient of each output in the latent that each evaluation begins with, and, last, in the final latent:
            float64 [evaluations + 1, evaluations].

    >>> euler = Realization(np.tril(np.ones((5, 4)), -1))
    >>> euler.rows(3).shape, float((euler.rows(3) @ euler.column(1, 3))[0].round(6))
    ((2, 1), 1.0)
    """

    def __init__(self, map: Array) -> None:
        self.map = map
        scale = TOLERANCE * max(float(np.abs(map).max(initial=0.0)), 1e-30)
        self._rows: list[Array] = [np.zeros((len(map), 0))]
        self._steps: list[Array] = []  # from the state before e, and output e, to the state after it
        for e in range(map.shape[1]):
            joined = np.concatenate([self._rows[e][1:], map[e + 1 :, e : e + 1]], axis=1)
            left, values, right = np.linalg.svd(joined, full_matrices=False)
            rank = int((values > scale).sum())
            self._rows.append(left[:, :rank] * values[:rank])
            self._steps.append(right[:rank])

    def rows(self, e: int) -> Array:
        """What latents e, e + 1 ... have of the state before evaluation e: float64 [evaluations + 1 - e, rank]."""
        return self._rows[e]

    def between(self, e: int, later: int) -> Array:
        """The state before evaluation `later` of that before e, without what happens meanwhile: [rank, rank]."""
        passed: Array = np.eye(self._rows[e].shape[1])
        for index in range(e, later):
            passed = self._steps[index][:, :-1] @ passed
        return passed

    def column(self, j: int, e: int) -> Array:
        """Output j in the state before evaluation e > j: [rank]."""
        entered: Array = self.between(j + 1, e) @ self._steps[j][:, -1]
        return entered


class Carried:
    """What some outputs leave in the latents to come: as many latents as the rank, whatever the number of outputs.

    Args:
        realization: of the sampler.
    """

    def __init__(self, realization: Realization) -> None:
        self.realization = realization
        self._at = 0
        self._state: list[torch.Tensor] = []  # empty for zero

    def to(self, e: int) -> None:
        """Go on to the state before evaluation e."""
        if self._state and e > self._at:
            self._state = mixed(self.realization.between(self._at, e), self._state)
        self._at = max(self._at, e)

    def add(self, column: Array, value: torch.Tensor) -> None:
        """An output, or a change of one, that enters the state by a column of the realization."""
        if not self._state:
            self._state = [float(share) * value for share in column]
            return
        for kept, share in zip(self._state, column, strict=True):
            kept.add_(value, alpha=float(share))

    def change(self, by: list[torch.Tensor]) -> None:
        """Add a state of the same evaluation, which is not kept."""
        if not self._state:
            self._state = [value.clone() for value in by]
            return
        for kept, value in zip(self._state, by, strict=True):
            kept.add_(value)

    def latent(self, row: int = 0) -> torch.Tensor | None:
        """What it adds to the latent of a later evaluation, or of this one for 0; None for nothing."""
        if not self._state:
            return None
        return mixed(self.realization.rows(self._at)[row : row + 1], self._state)[0]

    def replaced(self, columns: list[tuple[Array, torch.Tensor]]) -> list[torch.Tensor]:
        """By how much the state changes if outputs that enter by these columns take the place of its own."""
        shares = np.stack([column for column, _ in columns], axis=1)
        wanted = mixed(shares, [value for _, value in columns])
        return [value.sub_(kept) for value, kept in zip(wanted, self._state, strict=True)]

    def clear(self) -> None:
        """Nothing is carried any more."""
        self._state = []


def mixed(weights: Array, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Sums of tensors, one for each row of weights [sums, tensors]; none shares memory with them."""
    found = []
    for row in weights:
        total = float(row[0]) * values[0]
        for weight, value in zip(row[1:], values[1:], strict=True):
            if weight:
                total.add_(value, alpha=float(weight))
        found.append(total)
    return found
