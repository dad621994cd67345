"""Other accelerators on the same MODEL: Spectrum stands down and names them."""

from typing import Any

from ...spectrum_core.messages import Message, Text, say

CONFLICTS = {
    "easycache": "EasyCache or LazyCache",
}
"""Entry of transformer_options -> the accelerator that puts it there."""


def conflict(options: dict[str, Any]) -> Message | None:
    """Why Spectrum stands down, or None.

    Args:
        options: the guider's model_options.
    """
    present = options.get("transformer_options", {})
    other = next((name for key, name in CONFLICTS.items() if key in present), None)
    return None if other is None else say(Text.CONFLICT, other=other)
