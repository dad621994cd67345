"""Other packs inside the network's call: accelerators on the same MODEL, and forwards that may keep state."""

from collections.abc import Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...spectrum_core.messages import Message, Text, say
from ..models.memory import bank

CONFLICTS = {
    "easycache": "EasyCache or LazyCache",
    "rel_l1_thresh": "TeaCache",
    "magcache_thresh": "MagCache",
    "cache_dit_turbo": "CacheDiT",
}
"""Entry of transformer_options -> the accelerator that puts it there."""

REPLACED = ("forward", "_forward", "forward_orig")
"""Methods of a network that packs replace: on the instance, or in a class of their own."""

STATELESS = frozenset({"hidream_o1_patch_seam_smoothing"})
"""Keys of DIFFUSION_MODEL wrappers that keep nothing from call to call: ComfyUI's own."""


def conflict(options: Mapping[str, Any]) -> Message | None:
    """Why Spectrum stands down, or None.

    Args:
        options: the guider's model_options.
    """
    present = options.get("transformer_options", {})
    memory = bank(present)
    if memory is not None:
        return say(Text.BANK, bank=memory)
    other = next((name for key, name in CONFLICTS.items() if key in present), None)
    return None if other is None else say(Text.CONFLICT, other=other)


def moves_parts(options: Mapping[str, Any], own: str) -> bool:
    """Whether another pack stands between an evaluation and its calls, and may choose what each of them sees.

    Args:
        options: the guider's model_options.
        own: the key of our wrappers.
    """
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    between = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)
    return "model_function_wrapper" in options or any(
        found and key != own for kind in between for key, found in wrappers.get(kind, {}).items()
    )


def replaced_methods(network: Any) -> frozenset[str]:
    """The methods of a network that are replaced on the instance now."""
    return frozenset(name for name in REPLACED if name in vars(network))


def foreign_forward(network: Any, options: Mapping[str, Any]) -> str | None:
    """What of another pack runs inside the network's call and may keep state; None if nothing does.

    Such code must not run on a forecast: called without blocks it would store what an empty network gives, and use that
    in the next computed call.

    Args:
        network: the diffusion model.
        options: the call's transformer_options.
    """
    replaced = replaced_methods(network)
    if replaced:
        return f"another pack replaces the model's {min(replaced)}"
    kind = type(network)
    owner = next((base for base in kind.__mro__ if not vars(base).keys().isdisjoint(REPLACED)), kind)
    if not owner.__module__.startswith("comfy."):
        return f"{kind.__name__} is another pack's"
    wrappers = options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
    foreign = [str(key) for key, found in wrappers.items() if found and key not in STATELESS]
    return f"another pack wraps the model ({foreign[0]})" if foreign else None
