"""One call of the real model: in full with its feature tapped, or its head alone with a feature put in.

The model's own forward runs in both cases; nothing of it is copied. Whatever is changed is an instance attribute of
this one model and is restored before the call returns, also on an error or an interrupt.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from .architectures import DENOISED, Architecture, Tap

Features = dict[str, torch.Tensor]

RESULT = "result"
"""Label of the one feature of `DENOISED`."""


class TapError(RuntimeError):
    """The model's forward did not pass the taps as the architecture says."""


class TappedModel:
    """The two ways to call one base model.

    Args:
        base_model: ComfyUI's BaseModel (owner of `diffusion_model`).
        architecture: the row to go by.
    """

    def __init__(self, base_model: nn.Module, architecture: Architecture) -> None:
        self.base_model = base_model
        self.architecture = architecture

    def run_full(
        self, call: Callable[[], torch.Tensor], receive: Callable[[str, torch.Tensor], None]
    ) -> tuple[torch.Tensor, Exception | None]:
        """Run the full call; `receive` gets every feature as it enters the head, before the head can change it.

        Returns:
            The call's output, and what went wrong with the taps if something did (the output is right all the same).
        """
        seen: list[str] = []
        problems: list[Exception] = []

        def take(label: str, feature: Any) -> None:
            try:
                if label in seen:
                    raise TapError(f"the model passes {label} more than once in a call")
                if not torch.is_tensor(feature):
                    raise TapError(f"the model passes no tensor to {label}")
                seen.append(label)
                receive(label, feature)
            except Exception as error:  # whatever it is (out of memory, say), the model's own call goes on
                problems.append(error.with_traceback(None))  # which would keep the feature alive

        def tapped(tap: Tap, original: Callable, *args: Any, **kwargs: Any) -> Any:
            if tap.argument is not None:
                take(label_of(tap), args[tap.argument] if tap.argument < len(args) else None)
                return original(*args, **kwargs)
            output = original(*args, **kwargs)
            for index, part in enumerate([output] if torch.is_tensor(output) else output):
                take(label_of(tap, index), part)
            return output

        network: Any = self.base_model.diffusion_model
        with self._taps(tapped, network):
            output = call()
        if self.architecture is DENOISED:
            take(RESULT, output)
        if not seen:
            missed = ", ".join(label_of(tap) for tap in self.architecture.taps)
            problems.append(TapError(f"the model never passes {missed}"))
        return output, problems[0] if problems else None

    def run_head(self, call: Callable[[], torch.Tensor], features: Features) -> torch.Tensor:
        """Run the call without the blocks, the features (by the labels that `run_full` gave) in their place."""
        if self.architecture is DENOISED:
            return features[RESULT]

        def replaced(tap: Tap, original: Callable, *args: Any, **kwargs: Any) -> Any:
            if tap.argument is not None:
                args = (*args[: tap.argument], features[label_of(tap)], *args[tap.argument + 1 :])
                return original(*args, **kwargs)
            parts = list(features.values())
            return parts[0] if len(parts) == 1 else parts

        with ExitStack() as stack:
            raw = stack.enter_context(eager(self.base_model))  # a changing module list would recompile
            blocks = [stack.enter_context(_left_out(raw, path)) for path in self.architecture.blocks]
            if blocks and not any(blocks):
                raise TapError(f"the model has no {', '.join(self.architecture.blocks)}")
            for path in self.architecture.feeders:
                stack.enter_context(_left_out(raw, path))
            stack.enter_context(self._taps(replaced, raw))
            return call()

    @contextmanager
    def _taps(self, wrapper: Callable[..., Any], network: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for tap in self.architecture.taps:
                # A compiled model keeps its inner modules under _orig_mod; its result is tapped on the outside.
                inside = tap.argument is not None
                # A variant or another version may lack a tap; if none is passed at all, `run_full` says so.
                for module in _find(getattr(network, "_orig_mod", network) if inside else network, tap.module):
                    original = getattr(module, tap.method, None)
                    if original is None:
                        continue
                    method = partial(wrapper, tap, original)
                    stack.enter_context(overridden(module, tap.method, method, compilable=not inside))
            yield


def label_of(tap: Tap, index: int = 0) -> str:
    """What the feature at a tap is called; `index` counts the parts of a result."""
    name = ".".join(part for part in (tap.module, tap.method) if part)
    return name if tap.argument is not None else f"{name}[{index}]"


def _find(root: nn.Module, path: str) -> list[nn.Module]:
    """The modules at a dotted path: one or none, or all children where it says `*`."""
    found = [root]
    for name in path.split(".") if path else ():
        children = ([*m.children()] if name == "*" else [getattr(m, name, None)] for m in found)
        found = [child for group in children for child in group if child is not None]
    return found


@contextmanager
def _left_out(root: nn.Module, path: str) -> Iterator[int]:
    """Containers of blocks without their blocks, for the time being: a list becomes empty, a single module None.

    Yields how many there are.
    """
    parent, _, name = path.rpartition(".")
    count = 0
    with ExitStack() as stack:
        for owner in _find(root, parent):
            for child in [*owner._modules] if name == "*" else [name]:
                blocks = owner._modules.get(child)
                if blocks is not None:
                    empty = nn.ModuleList() if isinstance(blocks, nn.ModuleList) else None
                    stack.enter_context(_attribute(owner, child, empty))
                    count += 1
        yield count


@contextmanager
def eager(base_model: nn.Module) -> Iterator[nn.Module]:
    """Calls of a base model run its network as it was before torch.compile, for the time being. Yields the network."""
    network: Any = base_model.diffusion_model
    raw: nn.Module = getattr(network, "_orig_mod", network)
    with _attribute(base_model, "diffusion_model", raw) if raw is not network else nullcontext():
        yield raw


@contextmanager
def _attribute(owner: nn.Module, name: str, value: nn.Module | None) -> Iterator[None]:
    """A submodule for the time being. Its place among the owner's modules stays (state-dict order)."""
    before = owner._modules[name]
    owner._modules[name] = value
    try:
        yield
    finally:
        owner._modules[name] = before


@contextmanager
def overridden(module: nn.Module, name: str, method: Callable[..., Any], compilable: bool = False) -> Iterator[None]:
    """An instance's own method for the time being. Hooks would be ignored by a compiled model.

    Args:
        module: the instance.
        name: of the method.
        method: instead of the instance's.
        compilable: whether torch.compile may look into it.
    """
    if not compilable and "torch._dynamo" in sys.modules:  # else nothing is compiled; the import costs seconds
        method = torch.compiler.disable(method)
    absent = object()
    before = module.__dict__.get(name, absent)
    module.__dict__[name] = method
    try:
        yield
    finally:
        if before is absent:
            del module.__dict__[name]
        else:
            module.__dict__[name] = before
