"""Drawings of a run: what the report shows."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..spectrum_core.trace import Trace

WIDTH, ROW, MARGIN = 960, 300, 24
BACKGROUND, INK, PALE = "#20242c", "#e6e9ef", "#8d96a5"
COMPUTED, FORECAST, LINE = "#4c8dff", "#3d5378", "#ff9a5c"


def plot(runs: Sequence[Trace], text: str) -> torch.Tensor:
    """A row per run: a bar per evaluation (tall computed, short forecast), feature errors as a line; without a run,
    the text.

    Returns:
        IMAGE [1, height, width, 3], in [0, 1].
    """
    image = Image.new("RGB", (WIDTH, max(360, ROW * len(runs))), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=17)
    for row, run in enumerate(runs):
        _draw_run(draw, font, run, row * ROW)
    if not runs:
        _draw_line(draw, font, text, MARGIN)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _draw_line(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, top: int
) -> None:
    while draw.textlength(text, font) > WIDTH - 2 * MARGIN:
        text = text[:-4].rstrip(".") + "..."
    draw.text((MARGIN, top), text, INK, font)


def _draw_run(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, run: Trace, top: int
) -> None:
    _draw_line(draw, font, run.summary(), top + 14)
    left, right, base, height = MARGIN, WIDTH - MARGIN, top + ROW - 62, 130
    step = (right - left) / max(1, run.total)
    for evaluation in run.evaluations:
        x, computed = left + evaluation.position * step, evaluation.kind == "computed"
        draw.rectangle(
            (x + step * 0.12, base - (height if computed else height // 3), x + step * 0.88, base),
            COMPUTED if computed else FORECAST,
        )
    known = [(e.position, e.feature_error) for e in run.evaluations if e.feature_error is not None]
    if len(known) > 1 and (largest := max(error for _, error in known)) > 0:
        points = [(left + (p + 0.5) * step, base - height * error / largest) for p, error in known]
        draw.line(points, LINE, 3)
        draw.text((right, top + 46), f"feature error, at most {largest:.1%}", LINE, font, anchor="ra")
    draw.line([(left, base + 1), (right, base + 1)], PALE, 1)
    seconds = sum(e.seconds or 0.0 for e in run.evaluations)
    draw.text((left, base + 8), f"step 0, noise {_sigma(run, 0)}", PALE, font)
    draw.text(((left + right) // 2, base + 8), f"{seconds:.1f} s in all", PALE, font, anchor="ma")
    draw.text((right, base + 8), f"evaluation {run.total - 1}, noise {_sigma(run, -1)}", PALE, font, anchor="ra")
    draw.rectangle((left, top + 50, left + 14, top + 64), COMPUTED)
    draw.text((left + 22, top + 46), "computed", INK, font)
    draw.rectangle((left + 130, top + 50, left + 144, top + 64), FORECAST)
    draw.text((left + 152, top + 46), "forecast", INK, font)


def _sigma(run: Trace, index: int) -> str:
    return f"{run.evaluations[index].sigma:.3g}" if run.evaluations else "?"
