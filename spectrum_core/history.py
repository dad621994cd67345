"""Bounded store of the features of one conditioning's rows, and their weighted sum."""

from collections.abc import Iterator, Sequence

import torch

CHUNK_HOST = 1 << 19
CHUNK_DEVICE = 1 << 22
"""Elements summed at a time: the float32 accumulator stays in cache, so that each history entry is read once."""


class History:
    """The most recent features, at most `capacity`.

    Memory for a feature is allocated when it is first needed, and reused once the oldest feature gives way. Nothing
    grows with the number of steps, and no method waits for the device.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._features: list[torch.Tensor] = []  # contiguous, oldest first
        self._positions: list[float] = []

    @property
    def positions(self) -> tuple[float, ...]:
        """Positions of the stored features, oldest first."""
        return tuple(self._positions)

    @property
    def shape(self) -> torch.Size:
        """Shape of the stored features."""
        return self._latest().shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the stored features."""
        return self._latest().dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(feature.nbytes for feature in self._features)

    def __len__(self) -> int:
        return len(self._positions)

    def clear(self) -> None:
        """Forget everything and free the memory."""
        self._features, self._positions = [], []

    def discard(self, position: float) -> None:
        """Forget what is stored at a position."""
        kept = [(p, feature) for p, feature in zip(self._positions, self._features, strict=True) if p != position]
        self._positions, self._features = [p for p, _ in kept], [feature for _, feature in kept]

    def push(self, position: float, feature: torch.Tensor) -> None:
        """Copy a feature of any shape and floating dtype; the oldest gives way. Another shape, dtype or device starts a
        new history. Values that are not finite become 0."""
        if self._features and not self.fits(feature):
            self.clear()
        if len(self._features) == self._capacity:
            slot = self._features.pop(0)
            self._positions.pop(0)
        else:
            slot = torch.empty(feature.shape, dtype=feature.dtype, device=feature.device)
        # A value that is not finite must not reach a forecast before it is known; see `error`, which says so.
        self._features.append(slot.copy_(feature.detach()).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0))
        self._positions.append(position)

    def fits(self, feature: torch.Tensor) -> bool:
        """Whether there is a history and a feature continues it."""
        return bool(self._features) and _kind(self._latest()) == _kind(feature)

    def empty(self, count: int, reuse: torch.Tensor | None = None) -> torch.Tensor:
        """Memory for `count` of the stored features, joined on dimension 0; `reuse` if it is just that."""
        like = self._latest()
        shape = (count * like.shape[0], *like.shape[1:])
        if reuse is not None and _kind(reuse) == (shape, like.dtype, like.device):
            return reuse
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def combine(self, weights: Sequence[float], out: torch.Tensor | None = None) -> torch.Tensor:
        """sum_k weights[k] * feature_k, accumulated in float32 (float64 for float64 features), in the features' dtype.

        Args:
            weights: one per stored feature, oldest first, shape [K].
            out: contiguous tensor of the features' shape to write to; else a new one.

        Raises:
            ValueError: if the history is empty, or another number of weights is given.
        """
        if out is None:
            out = torch.empty_like(self._latest(), memory_format=torch.contiguous_format)
        flat = out.view(-1)
        for start, total in self._sums(weights):
            if flat.dtype == torch.float16:  # an extrapolation may leave the range that its points were in
                limit = torch.finfo(torch.float16).max
                total.clamp_(-limit, limit)
            flat[start : start + total.numel()].copy_(total)
        return out

    def error(self, weights: Sequence[float], feature: torch.Tensor, pictures: int = 1) -> torch.Tensor:
        """Relative L2 distance of the weighted sum to a feature, for each picture of it.

        Args:
            weights: one per stored feature, oldest first, shape [K].
            feature: of the stored features' shape.
            pictures: what dimension 0 divides into.

        Returns:
            float32 [pictures] on the feature's device; 0 where both are zero, inf where only the feature is. NaN where
            either is not finite.
        """
        flat = feature.reshape(-1)
        size = max(1, flat.numel() // pictures)
        squares = torch.zeros((2, pictures), dtype=torch.float32, device=feature.device)
        for start, total in self._sums(weights, within=size):
            truth = flat[start : start + total.numel()]
            total -= truth
            picture = start // size
            squares[0, picture] += torch.linalg.vector_norm(total).square().float()
            squares[1, picture] += torch.linalg.vector_norm(truth, dtype=total.dtype).square().float()
        distance, norm = squares
        return torch.where(distance == 0, distance, torch.sqrt(distance / norm))

    def _latest(self) -> torch.Tensor:
        if not self._features:
            raise ValueError("the history is empty")
        return self._features[-1]

    def _sums(self, weights: Sequence[float], within: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """The weighted sum piece by piece: (first element, accumulator). The accumulator is reused; no piece crosses a
        multiple of `within`."""
        like = self._latest()
        if len(weights) != len(self._features):
            raise ValueError(f"{len(weights)} weights for {len(self._features)} features")
        used = [(f.view(-1), float(w)) for f, w in zip(self._features, weights, strict=True) if w != 0.0]
        within = within or max(1, like.numel())
        chunk = max(1, min(within, CHUNK_HOST if like.device.type == "cpu" else CHUNK_DEVICE))
        scratch = torch.empty(chunk, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        for first in range(0, like.numel(), within):
            for start in range(first, first + within, chunk):
                total = scratch[: min(chunk, first + within - start)].zero_()
                for feature, w in used:
                    total.add_(feature[start : start + total.numel()], alpha=w)
                yield start, total


def _kind(feature: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    return tuple(feature.shape), feature.dtype, feature.device
