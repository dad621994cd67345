"""What the sampling tests share: the node on a MODEL, latents as one tensor, and counting what really ran."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spectrum_accelerate.nodes.runtime import accelerate, attachment
from spectrum_accelerate.nodes.settings import PAPER, Settings
from spectrum_accelerate.spectrum_core.trace import Trace

PLAIN_PAPER = {"schedule": PAPER, "skip_interval": 2.0, "warmup": 1, "ridge": 0.0}
"""The paper's schedule with an exact fit: what is computed then is easy to write down."""


def accelerated(model: Any, **changes: Any) -> Any:
    """The MODEL with the paper's schedule and an exact fit; or with the defaults of another; some values changed."""
    paper = changes.get("schedule", PAPER) == PAPER
    return accelerate(model, Settings.of(**(PLAIN_PAPER if paper else {}) | changes))


def runs(model: Any) -> list[Trace]:
    """Traces of what sampled this MODEL."""
    attached = attachment(model)
    assert attached is not None
    return list(attached.runs)


def flat(latent: Any) -> torch.Tensor:
    """A latent, nested or not, as one tensor."""
    parts = latent.unbind() if getattr(latent, "is_nested", False) else [latent]
    return torch.cat([part.flatten() for part in parts])


def distance(a: Any, b: Any) -> float:
    """Relative L2 distance of two latents."""
    a, b = flat(a), flat(b)
    return float((a - b).norm() / b.norm())


def nearer(result: Any, plain: Any, fewer: Any) -> bool:
    """Whether a run with forecasts is nearer to the plain one than a plain run with fewer steps, but not the same."""
    return 0 < distance(result, plain) < distance(fewer, plain)


def kinds(trace: Trace) -> str:
    """c for each computed evaluation, f for each forecast one."""
    return trace.kinds


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """The batch sizes with which a module really runs."""
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[0]) if args else None)
    try:
        yield calls
    finally:
        handle.remove()


def fingerprint(model: Any) -> list[tuple[str, int, Any]]:
    """Everything about a model's modules that a run must leave as it was: tree, weights' identity, own attributes."""
    network = model.model.diffusion_model
    modules = [
        (name, id(module), sorted((key, id(value)) for key, value in module.__dict__.items() if callable(value)))
        for name, module in network.named_modules()
    ]
    return modules + [(name, id(weight), weight.double().sum().item()) for name, weight in network.named_parameters()]
