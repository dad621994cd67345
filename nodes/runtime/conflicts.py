"""Other packs inside the network's call: accelerators on the same MODEL, and forwards that may keep state."""

from collections.abc import Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...spectrum_core.messages import Message, Text, say

CONFLICTS = {
    "easycache": "EasyCache or LazyCache",
    "rel_l1_thresh": "TeaCache",
    "magcache_thresh": "MagCache",
    "cache_dit_turbo": "CacheDiT",
}
"""Entry of transformer_options -> the accelerator that puts it there."""

REPLACED = ("forward", "_forward", "forward_orig")
"""Methods of a network that packs replace on the instance."""

STATELESS = frozenset({"hidream_o1_patch_seam_smoothing"})
"""Keys of DIFFUSION_MODEL wrappers that keep nothing from call to call: ComfyUI's own."""


def conflict(options: Mapping[str, Any]) -> Message | None:
    """Why Spectrum stands down, or None.

    Args:
        options: the guider's model_options.
    """
    present = options.get("transformer_options", {})
    other = next((name for key, name in CONFLICTS.items() if key in present), None)
    return None if other is None else say(Text.CONFLICT, other=other)


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
    wrappers = options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {})
    foreign = [str(key) for key, found in wrappers.items() if found and key not in STATELESS]
    return f"another pack wraps the model ({foreign[0]})" if foreign else None
