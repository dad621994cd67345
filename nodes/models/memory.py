"""What a network and its patches keep from call to call.

Patches with a memory (attention banks, RF edit, FlowEdit) store what they see at each step, and read it later: every
step must then be computed. A network that keeps a cache of its own must not be called without its blocks. Both are seen
by what a call leaves behind in dictionaries, lists and attributes.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

BANKS = {"rfedit": "RF edit", "attn_bank": "an attention bank"}
"""Entry of transformer_options -> the memory that it announces."""

DEPTH = 5
"""How far containers are followed."""

IGNORED = frozenset({"wrappers", "callbacks", "uuids", "cond_or_uncond", "sigmas", "sample_sigmas", "multigpu_clones"})
"""Entries of transformer_options that ComfyUI owns."""

TORCH = frozenset(nn.Module().__dict__)
"""Attributes that every module has."""

LEAVES = (torch.Tensor, nn.Module, ModelPatcher, type, str, bytes, int, float, bool, type(None))
"""What is not followed."""

MOST = 20_000
"""Objects that are looked at."""

Kept = Mapping[str, tuple[int, ...]]
"""Where -> identities of the tensors there."""


def bank(options: Mapping[str, Any]) -> str | None:
    """The memory that a call's transformer_options announce, or None."""
    return next((name for key, name in BANKS.items() if options.get(key)), None)


def kept_by_patches(options: Mapping[str, Any]) -> Kept:
    """Tensors in containers that outlive a call: in transformer_options, in patches, and in what these enclose."""
    found: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for name, value in options.items():
        if name not in IGNORED:
            found.update(_tensors(str(name), value, 0, seen))
    return found


def kept_by_network(network: nn.Module) -> Kept:
    """Tensors that the modules of a network hold besides their weights."""
    found: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for path, module in network.named_modules():
        for name, value in _own(module):
            where = f"{path}.{name}".lstrip(".")
            if torch.is_tensor(value):
                found[where] = (id(value),)
            elif isinstance(value, dict | list):
                found.update(_tensors(where, value, 0, seen))
    return found


@contextmanager
def preserved(network: nn.Module) -> Iterator[None]:
    """The modules of a network have the same attributes afterwards, and these the same members."""
    before = [
        (module, name, value, copy.copy(value) if isinstance(value, dict | list) else None)
        for module in network.modules()
        for name, value in _own(module)
    ]
    known = {(id(module), name) for module, name, _, _ in before}
    try:
        yield
    finally:
        for module in network.modules():
            for name in [name for name, _ in _own(module) if (id(module), name) not in known]:
                del vars(module)[name]
        for module, name, value, members in before:
            if isinstance(value, dict) and isinstance(members, dict):
                value.clear()
                value.update(members)
            elif isinstance(value, list) and isinstance(members, list):
                value[:] = members
            vars(module)[name] = value


def _own(module: nn.Module) -> list[tuple[str, Any]]:
    """A module's attributes besides those that every module has."""
    return [(name, value) for name, value in vars(module).items() if name not in TORCH]


def grown(before: Kept, after: Kept) -> str | None:
    """A container that holds more tensors than before, or None."""
    return next((where for where, tensors in after.items() if len(tensors) > len(before.get(where, ()))), None)


def changed(before: Kept, after: Kept) -> str | None:
    """A place whose tensors are not those from before, or None."""
    return next((where for where in {**before, **after} if before.get(where, ()) != after.get(where, ())), None)


def _tensors(where: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(place, identities of its tensors) for each container that can be reached."""
    if depth > DEPTH or len(seen) > MOST or id(value) in seen or isinstance(value, LEAVES):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        members = [(str(key), member) for key, member in value.items()]
    elif isinstance(value, list | tuple | set):
        members = [(str(index), member) for index, member in enumerate(value)]
    elif callable(value):
        members = [(name, member) for name, member in _enclosed(value) if not torch.is_tensor(member)]
    else:
        members = [(n, m) for n, m in getattr(value, "__dict__", {}).items() if isinstance(m, dict | list)]
    yield where, tuple(id(member) for _, member in members if torch.is_tensor(member))
    for name, member in members:
        yield from _tensors(f"{where}.{name}", member, depth + 1, seen)


def _enclosed(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function or a callable object holds on to."""
    bound = getattr(function, "__self__", None)
    if bound is not None and not isinstance(bound, nn.Module):
        yield "self", getattr(bound, "__dict__", {})
    for name, member in getattr(function, "__dict__", {}).items():
        yield name, member
    inner = getattr(function, "__func__", getattr(function, "func", function))
    code, cells = getattr(inner, "__code__", None), getattr(inner, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
