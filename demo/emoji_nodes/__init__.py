"""The demo's text encoder: a table of conditionings for the emoji and backgrounds that the tiny model was trained on.

Not loaded for users: only the demo, `dev.py serve` and the tests put this folder beside the pack (comfy_server.py).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file

# The folder is symlinked into custom_nodes; its neighbour `model` is only beside the real one.
MODEL = Path(__file__).resolve().parent.parent / "model"
NOTHING = "nothing"


@cache
def labels() -> dict[str, list[str]]:
    """The names in the tables' order; the last row of each table is "nothing"."""
    names = json.loads((MODEL / "labels.json").read_text(encoding="utf-8"))
    return {key: [*names[key], NOTHING] for key in ("emoji", "bg")}


@cache
def tables() -> dict[str, torch.Tensor]:
    """ctx_e [65, 2, 64], ctx_b [9, 1, 64], y_e [65, 64], y_b [9, 64]."""
    return load_file(MODEL / "tiny_cond.safetensors")


class SpectrumDemoEmoji(io.ComfyNode):
    """Emoji and background to CONDITIONING, as a text encoder would do for a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One list for each of the two."""
        return io.Schema(
            node_id="SpectrumDemoEmoji",
            display_name="Emoji Prompt (demo)",
            category="spectrum/demo",
            description='The prompt of the demo\'s tiny model. "nothing" twice is its empty prompt, for the negative.',
            inputs=[
                io.Combo.Input("emoji", options=labels()["emoji"], default="rocket"),
                io.Combo.Input("background", options=labels()["bg"]),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, emoji: str, background: str) -> io.NodeOutput:
        """Context [1, 3, 64] and pooled output [1, 64] of the chosen rows."""
        row, table = labels(), tables()
        e, b = row["emoji"].index(emoji), row["bg"].index(background)
        context = torch.cat([table["ctx_e"][e], table["ctx_b"][b]])[None]
        pooled = (table["y_e"][e] + table["y_b"][b])[None]
        return io.NodeOutput([[context, {"pooled_output": pooled}]])


class SpectrumDemoExtension(ComfyExtension):
    """The demo's one node."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """What ComfyUI asks for."""
        return [SpectrumDemoEmoji]


async def comfy_entrypoint() -> SpectrumDemoExtension:
    """What ComfyUI calls when it loads this folder."""
    return SpectrumDemoExtension()
