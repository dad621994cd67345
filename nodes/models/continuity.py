"""Whether a call sees the part of the latent that it saw before.

Other packs hand the network windows, tiles and shifted canvases. Where these move from step to step, a history would
mix parts of the picture. A call that need not see the whole latent is therefore compared with the input that its
history has seen last: it may have changed about as much as the whole latent has.
"""

from collections.abc import Sequence

import torch
from einops import rearrange

from ...spectrum_core.readback import sketch
from .rows import Key

FACTOR, MARGIN = 1.5, 0.05
"""How much farther than the whole latent a part of it may move, and that share of the latent's size. Parts move
unevenly; other parts of the same latent have other noise and are off by far more."""


class Continuity:
    """What the calls of a run saw at their last computed step."""

    def __init__(self) -> None:
        self._parts: dict[Key, tuple[torch.Tensor, torch.Tensor]] = {}  # -> own input, whole latent

    def broken(self, keys: Sequence[Key], x: torch.Tensor, latent: torch.Tensor) -> list[bool]:
        """For each conditioning of a call: whether it saw something else before. Waits for the device.

        Args:
            keys: of the histories, in the order of the rows.
            x: the call's input, shape [conditionings * batch, ...].
            latent: the evaluation's whole latent.
        """
        whole = sketch(latent).to(x.device)
        moved: list[torch.Tensor] = []
        for key, own in zip(keys, _rows(x, len(keys)), strict=True):
            before = self._parts.get(key)
            if before is None or before[0].shape != own.shape or before[1].shape != whole.shape:
                moved.append(torch.zeros(3, device=x.device))
            else:
                moved.append(torch.stack([_size(own - before[0]), _size(whole - before[1]), _size(whole)]))
        return [not own <= FACTOR * all_ + MARGIN * size for own, all_, size in torch.stack(moved).tolist()]

    def saw(self, keys: Sequence[Key], x: torch.Tensor, latent: torch.Tensor) -> None:
        """What a computed call sees. Arguments as of `broken`."""
        whole = sketch(latent).to(x.device, copy=True)
        for key, own in zip(keys, _rows(x, len(keys)), strict=True):
            self._parts[key] = own.clone(), whole

    def clear(self) -> None:
        """Free everything."""
        self._parts.clear()


def _rows(x: torch.Tensor, count: int) -> list[torch.Tensor]:
    return [sketch(own) for own in rearrange(x, "(cond batch) ... -> cond batch ...", cond=count)]


def _size(value: torch.Tensor) -> torch.Tensor:
    return value.square().mean().sqrt()
