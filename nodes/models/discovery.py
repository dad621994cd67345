"""Blocks and head of a network that has no row in the table, found by watching one call of it.

What is found is a proposal: as every row in every run, it is accepted by the self-test or not at all.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ...spectrum_core.messages import Message, Text, say
from .architectures import Architecture, Tap
from .taps import TapError, TappedModel, eager, label_of, overridden

SHARE = 0.5
"""The block lists hold more than this part of the network's parameters."""

MINOR = 0.1
"""A list that holds less than this part of what the largest holds does not count as blocks, and is not left out."""

UNKNOWN = Architecture(taps=(), rows_by_call=True)


class Discovery(TappedModel):
    """A tapped model that finds its row in the first call that it captures.

    Nothing is remembered from run to run: the same seed gives the same picture, whatever was sampled before.

    Args:
        base_model: ComfyUI's BaseModel (owner of `diffusion_model`).
        note: gets what was found.
    """

    def __init__(self, base_model: nn.Module, note: Callable[[Message], None]) -> None:
        super().__init__(base_model, UNKNOWN)
        self._note = note

    def run_full(
        self, call: Callable[[], torch.Tensor], receive: Callable[[str, torch.Tensor], None]
    ) -> tuple[torch.Tensor, Exception | None]:
        """As `TappedModel.run_full`. The first call is watched, and its feature counts already."""
        if self.architecture is not UNKNOWN:
            return super().run_full(call, receive)
        with eager(self.base_model) as network:  # watching would recompile
            watch = Watch(network)
            with watch.watching():
                output = call()
        name = type(network).__name__
        if watch.feature is None:
            return output, TapError(f"{name} is not in the table, and no blocks with a head behind them were found")
        row = self.architecture = watch.row
        blocks, head = ", ".join(row.blocks), row.taps[0].module
        self._note(say(Text.DISCOVERED, network=name, blocks=blocks, head=head))
        try:
            receive(label_of(row.taps[0]), watch.feature)
        except Exception as error:  # whatever it is (out of memory, say), the model's own call was right
            return output, error.with_traceback(None)
        return output, None


class Watch:
    """What one call of a network shows of its blocks and its head.

    Attributes:
        feature: what entered the head, as it was then; None where no head was found.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = [("", network, ""), *_modules(network)]
        self._half = SHARE * _parameters(network)
        self._sizes: Counter[str] = Counter()
        for _, module, owner in self._modules:
            self._sizes[owner] += _parameters(module) if owner else 0
        self._lists: dict[str, int] = {}  # that ran so far -> parameters
        self._rows = 0
        self._head = ""
        self._behind = False  # a block was left, and no head entered since
        self.feature: torch.Tensor | None = None

    @property
    def row(self) -> Architecture:
        """The largest lists that ran, and the first module behind the last of them."""
        return replace(UNKNOWN, taps=(Tap(self._head),), blocks=tuple(self._blocks()))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch a call; the network is as before when it ends."""
        with ExitStack() as stack:
            for path, module, owner in self._modules:
                stack.enter_context(overridden(module, "forward", partial(self._run, path, owner, module.forward)))
            yield

    def _run(self, path: str, owner: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A module's forward."""
        if not path and args and torch.is_tensor(args[0]):
            self._rows = args[0].shape[0]
        if owner:
            self._lists[owner] = self._sizes[owner]
            if owner in self._blocks():
                self._head, self._behind, self.feature = "", False, None
                output = forward(*args, **kwargs)
                self._behind = sum(self._blocks().values()) > self._half
                return output
        elif self._behind and args and self._has_tokens(args[0]):
            with suppress(RuntimeError):  # out of memory, say: the model's own call goes on
                self.feature = args[0].clone()
                self._head, self._behind = path, False
        return forward(*args, **kwargs)

    def _has_tokens(self, value: Any) -> bool:
        """Whether something is a feature, rather than one vector a row: a modulation, say."""
        return torch.is_tensor(value) and value.shape[:-1].numel() > self._rows

    def _blocks(self) -> dict[str, int]:
        """The lists of blocks among those that ran so far."""
        least = MINOR * max(self._lists.values(), default=0)
        return {path: size for path, size in self._lists.items() if size >= least}


def _modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """(path, module, path of its list or "") of the modules of a network, except those inside of a list's members."""
    for name, child in module.named_children():
        path = prefix + name
        if isinstance(child, nn.ModuleList) and _repeats(child):
            yield from ((f"{path}.{number}", block, path) for number, block in child.named_children())
        else:
            yield path, child, ""
            yield from _modules(child, f"{path}.")


def _repeats(modules: nn.ModuleList) -> bool:
    """Whether a list is one of blocks, rather than of lists of them or of the different parts of something."""
    kinds = {type(module) for module in modules}
    return nn.ModuleList not in kinds and (len(modules) == 1 or len(kinds) < len(modules))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
