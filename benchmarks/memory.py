"""What a run holds, and what a forecast evaluation still computes, at the size of real models.

    python dev.py bench memory   # docs/memory.md

On torch's meta device: shapes, bytes and operations of ComfyUI's own classes, without weights.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _geometry import GEOMETRIES, Geometry, Live

import torch  # isort: skip
from spectrum_accelerate.nodes.models.architectures import find  # isort: skip
from spectrum_accelerate.nodes.models.footprint import CORRECTOR_LATENTS, feature_bytes  # isort: skip
from spectrum_accelerate.nodes.models.taps import TappedModel  # isort: skip
from spectrum_accelerate.nodes.runtime.features import HISTORY_SHARE  # isort: skip
from spectrum_accelerate.nodes.settings import WINDOW  # isort: skip
from torch.utils.flop_counter import FlopCounterMode  # isort: skip

log = logging.getLogger("memory")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
MIB = 2**20


class Owner(torch.nn.Module):
    """What a tapped model expects: the owner of the network."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.diffusion_model = network


@dataclass
class Row:
    """Figures of one model; bytes, and shares of a full call.

    Attributes:
        feature: the last hidden feature of all conditionings, as it is captured.
        planned: the same as `footprint` foretells it.
        latent: float32.
        activations: peak of a full call, weights not counted.
        head: share of a full call's operations that a call without blocks still does.
    """

    name: str
    rows: int
    feature: int
    planned: int
    latent: int
    activations: int
    head: float

    @property
    def block_output(self) -> int:
        """Held with target "block output": the histories, and the joined feature that enters the head."""
        return self.feature * (int(WINDOW.default) + 1)

    @property
    def model_output(self) -> int:
        """Held with target "model output"."""
        return self.latent * self.rows * (int(WINDOW.default) + 1)

    @property
    def corrector(self) -> int:
        """Held by the corrector, at most about."""
        return self.latent * CORRECTOR_LATENTS


def measured(geometry: Geometry) -> Row:
    """The figures of a model."""
    network = geometry.build()
    architecture = find(type(network))
    assert architecture is not None
    tapped, rows = TappedModel(Owner(network), architecture), 2 if geometry.cfg else 1
    seen: dict[str, torch.Tensor] = {}

    def receive(label: str, feature: torch.Tensor) -> None:
        seen[label] = torch.empty_like(feature)

    def call() -> torch.Tensor:
        return geometry.call(network, rows)

    with Live() as live:
        _, problem = tapped.run_full(call, lambda *_: None)
    tapped.run_full(call, receive)
    if problem is not None:
        raise problem
    full = flops(call)
    head = flops(lambda: tapped.run_head(call, dict(seen)))
    latent = (1, *geometry.latent)
    return Row(
        geometry.name,
        rows,
        sum(feature.nbytes for feature in seen.values()),
        rows * feature_bytes(network, latent, torch.bfloat16),
        4 * math.prod(latent),
        live.peak,
        head / full,
    )


def flops(function: Any) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        function()
    total: int = counter.get_total_flops()
    return total


def main() -> None:
    logging.getLogger().setLevel(logging.INFO)
    lines = []
    for geometry in GEOMETRIES:
        row = measured(geometry)
        most = row.block_output / HISTORY_SHARE / 2**30 * int(WINDOW.default) / (int(WINDOW.default) + 1)
        cells = [row.feature, row.block_output, row.model_output, row.corrector, row.activations]
        figures = " | ".join(f"{value / MIB:,.0f}" for value in cells)
        lines.append(f"| {row.name}{', CFG' if row.rows > 1 else ''} | {figures} | {most:.0f} GiB | {row.head:.2%} |")
        log.info("%s planned/captured %.2f", lines[-1], row.planned / row.feature)
    OUTPUT.write_text(HEADER.format(table="\n".join(lines), share=f"{HISTORY_SHARE:.0%}", window=WINDOW.default))


HEADER = """# Memory

`python dev.py bench memory`: MiB at the size of real models, bfloat16, one picture or video. ComfyUI's own classes on
torch's meta device: sizes are exact, nothing was run. Defaults: `window` {window}.

| model | feature | held, block output | held, model output | corrector | activations | auto from | forecast |
|---|---|---|---|---|---|---|---|
{table}

* *feature*: the last hidden feature of one evaluation, all conditionings.
* *held*: histories of `window` features and the joined one that enters the head. The first evaluations hold fewer.
* *corrector*: latents in float32, at most about.
* *activations*: the model's own peak in one full call, without weights, with fused attention.
* *auto from*: `target` "auto" takes the block output where its histories need at most {share} of the device's
  memory: from this size of device on. Below, it takes the model output.
* *forecast*: share of a full call's operations that a forecast evaluation with target "block output" still
  needs (embedders and head). With "model output" it is nothing.

ComfyUI is told: what a run will hold is added to the memory that it plans with before it loads the model. If memory
runs out all the same, the features are freed and the run goes on without forecasts.
"""

if __name__ == "__main__":
    main()
