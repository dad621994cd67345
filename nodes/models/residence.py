"""Conditionings on the model's device, for the time of a run.

ComfyUI keeps texts on the CPU and copies them to the device at each evaluation. Such a copy waits for everything that
the device still has to do, so that the short work of a forecast could not be prepared meanwhile.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from comfy.conds import CONDConstant

MOST = 64
"""Tensors that are held at most; where there are more, windows or a pack make new ones all the time."""

MOST_BYTES = 2**28
"""... and their bytes: a text has 8 MiB, the latents of a clip that a model continues 40 MiB."""


class Residence:
    """Copies of conditionings, each made once."""

    def __init__(self) -> None:
        self._moved: dict[int, tuple[Any, Any]] = {}  # id of what was given -> itself, so that it lives; its copy
        self._given_up = False

    def __len__(self) -> int:
        return len(self._moved)

    def clear(self) -> None:
        """Free the copies."""
        self._moved.clear()

    def moved(self, conds: list[Any], device: torch.device) -> list[Any]:
        """ComfyUI's conditionings with what the network gets of them on a device; themselves if that fails.

        Args:
            conds: for each output that the guider wants, None or dicts with "model_conds".
            device: of the latents.
        """
        if self._given_up:
            return conds
        try:
            found = [group and [self._dict(cond, device) for cond in group] for group in conds]
        except Exception:  # no room, or conditionings of another kind: ComfyUI then copies them itself
            logging.debug("Spectrum: moving conditionings", exc_info=True)
            self._given_up = True
        self._given_up |= (
            len(self._moved) > MOST or sum(_bytes(there) for _, there in self._moved.values()) > MOST_BYTES
        )
        if self._given_up:
            self.clear()
            return conds
        return found

    def _dict(self, cond: dict[str, Any], device: torch.device) -> dict[str, Any]:
        given = cond.get("model_conds")
        if not given:
            return cond
        return {**cond, "model_conds": {name: self._one(value, device) for name, value in given.items()}}

    def _one(self, value: Any, device: torch.device) -> Any:
        """One of ComfyUI's CONDRegular and its like. Constants are compared with each other, which would wait."""
        held = getattr(value, "cond", None)
        if isinstance(value, CONDConstant) or not _elsewhere(held, device):
            return value
        if id(held) not in self._moved:
            there = [_to(part, device) for part in held] if isinstance(held, list) else _to(held, device)
            self._moved[id(held)] = held, there
        made = copy.copy(value)
        made.cond = self._moved[id(held)][1]
        return made


def expected_bytes(conds: Mapping[str, Any], device: torch.device) -> int:
    """Bytes that the copies are going to take; 0 where they would be too many.

    Args:
        conds: name -> conditionings of a guider, as dicts of what a user's nodes gave.
        device: of the model.
    """
    given = [value for group in conds.values() for cond in group or () for value in cond.values()]
    found = {id(value): _bytes(value) for value in given if _elsewhere(value, device)}
    total = sum(found.values())
    return total if total <= MOST_BYTES else 0


def _elsewhere(held: Any, device: torch.device) -> bool:
    """Whether a tensor, or one of a list, is on another device."""
    parts = held if isinstance(held, list) else [held]
    return any(torch.is_tensor(part) and part.device != device for part in parts)


def _to(part: Any, device: torch.device) -> Any:
    return part.to(device) if torch.is_tensor(part) else part


def _bytes(held: Any) -> int:
    return sum(part.nbytes for part in (held if isinstance(held, list) else [held]) if torch.is_tensor(part))
