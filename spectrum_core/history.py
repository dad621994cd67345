"""Bounded store of the features of one stream, and their weighted sum."""

import math
from collections.abc import Iterator, Sequence

import torch

CHUNK_HOST = 1 << 19
CHUNK_DEVICE = 1 << 22
"""Elements summed at a time: the float32 accumulator stays in cache, so that each history entry is read once."""


class History:
    """The most recent features of one stream.

    One buffer of `capacity` features is allocated at the first `push` and reused until `clear`; nothing grows with the
    number of steps, and no method waits for the device.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buffer: torch.Tensor | None = None
        self._shape: torch.Size = torch.Size()
        self._positions: list[float] = []
        self._slots: list[int] = []

    @property
    def positions(self) -> tuple[float, ...]:
        """Positions of the stored features, oldest first."""
        return tuple(self._positions)

    @property
    def shape(self) -> torch.Size:
        """Shape of the stored features."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the stored features."""
        return self._filled().dtype

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self._buffer is None else self._buffer.nbytes

    def __len__(self) -> int:
        return len(self._positions)

    def clear(self) -> None:
        """Forget everything and free the buffer."""
        self._buffer = None
        self._positions.clear()
        self._slots.clear()

    def discard(self, position: float) -> None:
        """Forget what is stored at a position (its value turned out to be unusable)."""
        while position in self._positions:
            index = self._positions.index(position)
            del self._positions[index], self._slots[index]

    def push(self, position: float, feature: torch.Tensor) -> None:
        """Copy a feature of any shape and floating dtype; the oldest gives way. Another shape, dtype or device
        starts a new history."""
        buffer = self._buffer
        if buffer is None or not self._same_kind(feature):
            self.clear()
            self._shape = feature.shape
            buffer = self._buffer = torch.empty(
                (self._capacity, feature.numel()), dtype=feature.dtype, device=feature.device
            )
        if len(self._slots) == self._capacity:
            slot = self._slots.pop(0)
            self._positions.pop(0)
        else:
            slot = next(s for s in range(self._capacity) if s not in self._slots)
        buffer[slot].view(feature.shape).copy_(feature.detach())
        self._positions.append(position)
        self._slots.append(slot)

    def fits(self, feature: torch.Tensor) -> bool:
        """Whether there is a history and a feature continues it."""
        return bool(self._positions) and self._same_kind(feature)

    def empty(self, count: int, reuse: torch.Tensor | None = None) -> torch.Tensor:
        """Room for `count` of the stored features, joined on dimension 0; `reuse` if it is just that."""
        buffer = self._filled()
        shape = (count * self._shape[0], *self._shape[1:])
        if reuse is not None and (reuse.shape, reuse.dtype, reuse.device) == (shape, buffer.dtype, buffer.device):
            return reuse
        return torch.empty(shape, dtype=buffer.dtype, device=buffer.device)

    def combine(self, weights: Sequence[float], out: torch.Tensor | None = None) -> torch.Tensor:
        """sum_k weights[k] * feature_k, accumulated in float32 (float64 for float64 features), in the features' dtype.

        Args:
            weights: one per stored feature, oldest first, shape [K].
            out: contiguous tensor of the features' shape to write to; else a new one.
        """
        buffer = self._filled()
        if out is None:
            out = torch.empty(self._shape, dtype=buffer.dtype, device=buffer.device)
        flat = out.view(-1)
        for start, total in self._sums(weights):
            if flat.dtype == torch.float16:  # an extrapolation may leave the range that its points were in
                limit = torch.finfo(torch.float16).max
                total.clamp_(-limit, limit)
            flat[start : start + total.numel()].copy_(total)
        return out

    def error(self, weights: Sequence[float], feature: torch.Tensor) -> torch.Tensor:
        """Relative L2 distance of the weighted sum to a feature: a 0-dim float32 tensor on the feature's device.

        0 where both are zero; inf where only the feature is.
        """
        flat = feature.reshape(-1)
        distance = norm = torch.zeros((), dtype=torch.float32, device=feature.device)
        for start, total in self._sums(weights):
            truth = flat[start : start + total.numel()]
            total -= truth
            distance = distance + torch.linalg.vector_norm(total).square()
            norm = norm + torch.linalg.vector_norm(truth, dtype=total.dtype).square()
        return torch.where(distance == 0, distance, torch.sqrt(distance / norm)).float()

    def _same_kind(self, feature: torch.Tensor) -> bool:
        buffer = self._buffer
        return (
            buffer is not None
            and self._shape == feature.shape
            and buffer.dtype == feature.dtype
            and buffer.device == feature.device
        )

    def _filled(self) -> torch.Tensor:
        if self._buffer is None or not self._positions:
            raise ValueError("the history is empty")
        return self._buffer

    def _sums(self, weights: Sequence[float]) -> Iterator[tuple[int, torch.Tensor]]:
        """The weighted sum piece by piece: (first element, accumulator). The accumulator is reused."""
        buffer = self._filled()
        if len(weights) != len(self._slots):
            raise ValueError(f"{len(weights)} weights for {len(self._slots)} features")
        used = [(slot, float(w)) for slot, w in zip(self._slots, weights, strict=True) if w != 0.0]
        size = math.prod(self._shape)
        chunk = max(1, min(size, CHUNK_HOST if buffer.device.type == "cpu" else CHUNK_DEVICE))
        scratch = torch.empty(chunk, dtype=torch.promote_types(buffer.dtype, torch.float32), device=buffer.device)
        for start in range(0, size, chunk):
            total = scratch[: min(chunk, size - start)].zero_()
            for slot, w in used:
                total.add_(buffer[slot, start : start + total.numel()], alpha=w)
            yield start, total
