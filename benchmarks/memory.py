"""What a run holds, and what a forecast evaluation still computes, at the size of real models.

    python dev.py bench memory   # docs/memory.md

On torch's meta device: shapes, bytes and operations of ComfyUI's own classes, without weights.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _geometry import GEOMETRIES, Geometry, Live
from _sizes import MORE_GEOMETRIES

import torch  # isort: skip
from spectrum_accelerate.nodes.models.architectures import ARCHITECTURES  # isort: skip
from spectrum_accelerate.nodes.models.footprint import CORRECTOR_LATENTS, feature_bytes  # isort: skip
from spectrum_accelerate.nodes.models.taps import TappedModel  # isort: skip
from spectrum_accelerate.nodes.runtime.features import HISTORY_SHARE  # isort: skip
from spectrum_accelerate.nodes.settings import WINDOW  # isort: skip
from torch.utils.flop_counter import FlopCounterMode  # isort: skip

log = logging.getLogger("memory")
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
MIB = 2**20
LITTLE = 0.01
"""From this share of a full call on, the page says what a forecast evaluation computes."""


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


@dataclass
class Forecast:
    """What a forecast evaluation of one model still computes.

    Attributes:
        architecture: its row in the table of architectures.
        share: of a full call's operations.
    """

    architecture: str
    geometry: Geometry
    share: float

    def __str__(self) -> str:
        """Its line of the table."""
        return f"| {self.architecture} | {self.geometry.name} | {self.share:.2%} |"


class Calls:
    """The two ways to call a model at its usual size.

    Attributes:
        network: on the meta device.
        architecture: name of its row in the table of architectures.
        rows: conditionings of a call.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.network, self.rows = geometry.build(), 2 if geometry.cfg else 1
        self.architecture = next(c.__name__ for c in type(self.network).__mro__ if c.__name__ in ARCHITECTURES)
        self._geometry = geometry
        self._tapped = TappedModel(Owner(self.network), ARCHITECTURES[self.architecture])

    def full(self) -> torch.Tensor:
        """A full call."""
        return self._geometry.call(self.network, self.rows, self._tapped.architecture.options)

    def captured(self) -> dict[str, torch.Tensor]:
        """The features of a full call."""
        seen: dict[str, torch.Tensor] = {}

        def receive(label: str, feature: torch.Tensor) -> None:
            seen[label] = torch.empty_like(feature)

        _, problem = self._tapped.run_full(self.full, receive)
        if problem is not None:
            raise problem
        return seen

    def head(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """A call without blocks."""
        return self._tapped.run_head(self.full, dict(features))

    def share(self, features: dict[str, torch.Tensor]) -> float:
        """Share of a full call's operations that a call without blocks still does."""
        return flops(lambda: self.head(features)) / flops(self.full)


def measured(geometry: Geometry) -> tuple[Row, Forecast]:
    """The figures of a model."""
    calls = Calls(geometry)
    with Live() as live:
        calls.full()
    features = calls.captured()
    latent, share = (1, *geometry.latent), calls.share(features)
    row = Row(
        geometry.name,
        calls.rows,
        sum(feature.nbytes for feature in features.values()),
        calls.rows * feature_bytes(calls.network, latent, torch.bfloat16),
        4 * math.prod(latent),
        live.peak,
        share,
    )
    return row, Forecast(calls.architecture, geometry, share)


def forecast(geometry: Geometry) -> Forecast:
    """What a forecast evaluation of a model still computes."""
    calls = Calls(geometry)
    return Forecast(calls.architecture, geometry, calls.share(calls.captured()))


def flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        function()
    total: int = counter.get_total_flops()
    return total


def main() -> None:
    logging.getLogger().setLevel(logging.INFO)
    lines, forecasts = [], []
    for geometry in GEOMETRIES:
        row, evaluation = measured(geometry)
        forecasts.append(evaluation)
        most = row.block_output / HISTORY_SHARE / 2**30 * int(WINDOW.default) / (int(WINDOW.default) + 1)
        cells = [row.feature, row.block_output, row.model_output, row.corrector, row.activations]
        figures = " | ".join(f"{value / MIB:,.0f}" for value in cells)
        lines.append(f"| {row.name}{', CFG' if row.rows > 1 else ''} | {figures} | {most:.0f} GiB | {row.head:.2%} |")
        log.info("%s planned/captured %.2f", lines[-1], row.planned / row.feature)
    for geometry in MORE_GEOMETRIES:
        forecasts.append(forecast(geometry))
        log.info("%s", forecasts[-1])
    names = list(ARCHITECTURES)
    forecasts.sort(key=lambda evaluation: names.index(evaluation.architecture))
    done = {evaluation.architecture for evaluation in forecasts}
    OUTPUT.write_text(
        PAGE.format(
            table="\n".join(lines),
            share=f"{HISTORY_SHARE:.0%}",
            window=WINDOW.default,
            forecasts="\n".join(map(str, forecasts)),
            notes="\n".join(f"* {f.geometry.name}: {f.geometry.note}" for f in forecasts if f.share >= LITTLE),
            little=f"{LITTLE:.0%}",
            missing=", ".join(name for name in names if name not in done) or "none",
        )
    )


PAGE = """# Memory

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

ComfyUI is told: what a run will hold is added to the memory that it plans with before it loads the model. That includes
the texts, which stay on the GPU while the run forecasts. If memory runs out all the same, the features are freed and
the run goes on without forecasts.

## What a forecast evaluation still computes

Every architecture that the nodes know, at the size of a published model, with target "block output". Matrix products,
convolutions and attention count.

| architecture | measured at | of a full call |
|---|---|---|
{forecasts}

From {little} on, `target` "auto" takes the model output:

{notes}

Architectures that are not in the table: {missing}.
"""

if __name__ == "__main__":
    main()
