"""Drawings for the two nodes that show something: runs, and comparisons. They hold all their text, because ComfyUI's
page shows a node's picture, but not its text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..spectrum_core.trace import Trace

SCALE = 2
"""Pixels of a unit of the sizes below: sharp when the node is enlarged."""

WIDTH, MARGIN, BAND, BARS = 640, 24, 44, 150
"""Of the picture; around what it shows; left of the bars, for their axis; height of the bars."""

LARGE, SMALL = 20, 16
"""Sizes of type: legible where a node of 400 units shows the picture."""

BACKGROUND, INK, PALE = "#20242c", "#e6e9ef", "#9aa3b2"
COMPUTED, FORECAST, LINE = "#4c8dff", "#6f82a8", "#ff9a5c"

LEAST_ERROR = 0.02
"""Top of the error's axis at least, so that small errors look small."""


def plot(runs: Sequence[Trace], texts: Sequence[str]) -> torch.Tensor:
    """What runs did: for each a bar per evaluation (tall computed, short forecast), the estimated error so far as a
    line, and the text.

    Args:
        runs: may be empty.
        texts: one for each run, the first line its headline; without a run one that says why.

    Returns:
        IMAGE [1, height, width, 3], in [0, 1].
    """
    sheet = _Sheet()
    for index, text in enumerate(texts):
        headline, *details = text.splitlines()
        sheet.text(headline, LARGE, INK)
        if runs:
            _draw_run(sheet, runs[index])
        for line in details:
            sheet.text(line.strip(), SMALL, PALE)
        sheet.top += MARGIN
    return sheet.image(360)


def comparison(pictures: Mapping[str, torch.Tensor], text: str) -> torch.Tensor:
    """Pictures side by side with their captions, and figures under them.

    Args:
        pictures: by caption, the first of each IMAGE [batch, height, width, channels] is shown.
        text: the figures.

    Returns:
        IMAGE [1, height, width, 3], in [0, 1].
    """
    sheet = _Sheet()
    gap = 8
    side = (WIDTH - 2 * MARGIN - gap * (len(pictures) - 1)) // len(pictures)
    tallest = 0
    for index, (caption, images) in enumerate(pictures.items()):
        left = MARGIN + index * (side + gap)
        sheet.label(left, sheet.top + SMALL, caption, PALE, "ls")
        pixels = (images[0, :, :, :3].expand(-1, -1, 3).clamp(0, 1) * 255).round().byte().cpu().numpy()
        shown = Image.fromarray(pixels)
        height = max(1, round(side * shown.height / shown.width))
        resampling = Image.Resampling.LANCZOS if shown.width > side * SCALE else Image.Resampling.BICUBIC
        sheet.paste(shown.resize((side * SCALE, height * SCALE), resampling), left, sheet.top + SMALL + 8)
        tallest = max(tallest, height)
    sheet.top += SMALL + 8 + tallest + 16
    for line in text.splitlines():
        sheet.text(line, LARGE, INK)
    return sheet.image(0)


class _Sheet:
    """A picture that grows downwards; sizes are in units, see `SCALE`."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (WIDTH * SCALE, 100), BACKGROUND)
        self._fonts = {size: ImageFont.load_default(size=size * SCALE) for size in (LARGE, SMALL)}
        self.top = float(MARGIN)

    def _draw(self, bottom: float) -> ImageDraw.ImageDraw:
        """What draws; the picture reaches down to `bottom` then."""
        needed = int((bottom + MARGIN) * SCALE)
        if needed > self._image.height:
            taller = Image.new("RGB", (WIDTH * SCALE, max(needed, 2 * self._image.height)), BACKGROUND)
            taller.paste(self._image)
            self._image = taller
        return ImageDraw.Draw(self._image)

    def text(self, line: str, size: int, colour: str) -> None:
        """Write a line, broken where it is too long."""
        draw, font = self._draw(self.top), self._fonts[size]
        words, rest = line.split(" "), ""
        lines = []
        for word in words:
            longer = f"{rest} {word}".strip()
            if rest and draw.textlength(longer, font) > (WIDTH - 2 * MARGIN) * SCALE:
                lines.append(rest)
                longer = word
            rest = longer
        for part in [*lines, rest]:
            self._draw(self.top + size).text((MARGIN * SCALE, self.top * SCALE), part, colour, font)
            self.top += size * 1.35

    def label(self, x: float, y: float, text: str, colour: str, anchor: str) -> None:
        """Write a small text at a place."""
        self._draw(y).text((x * SCALE, y * SCALE), text, colour, self._fonts[SMALL], anchor=anchor)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle."""
        area = (left * SCALE, top * SCALE, max(left * SCALE, right * SCALE - 1), bottom * SCALE)
        self._draw(bottom).rectangle(area, colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, thickness: float) -> None:
        """Draw a line through points."""
        draw = self._draw(max(y for _, y in points))
        draw.line([(x * SCALE, y * SCALE) for x, y in points], colour, round(thickness * SCALE), joint="curve")

    def paste(self, picture: Image.Image, left: float, top: float) -> None:
        """Put a picture at a place; its size is in pixels."""
        self._draw(top + picture.height / SCALE)
        self._image.paste(picture, (round(left * SCALE), round(top * SCALE)))

    def image(self, least: int) -> torch.Tensor:
        """The IMAGE, at least so many units high."""
        height = int(max(least, self.top + MARGIN / 2) * SCALE)
        self._draw(height / SCALE)
        pixels: Any = np.asarray(self._image.crop((0, 0, WIDTH * SCALE, height)), dtype=np.float32) / 255
        return torch.from_numpy(pixels)[None]


def _draw_run(sheet: _Sheet, run: Trace) -> None:
    x = float(MARGIN)
    sheet.top += 6
    for name, colour, thick in (("computed", COMPUTED, 14), ("forecast", FORECAST, 14), ("estimated error", LINE, 3)):
        middle = sheet.top + SMALL / 2
        sheet.box(x, middle - thick / 2, x + 14, middle + thick / 2, colour)
        sheet.label(x + 20, middle, name, INK, "lm")
        x += 150
    top = sheet.top + SMALL + 14
    left, right, base = MARGIN + BAND, WIDTH - MARGIN, top + BARS
    count = max(1, run.total, len(run.evaluations))
    step = (right - left) / count
    for evaluation in run.evaluations:
        begin, computed = left + evaluation.position * step, evaluation.kind == "computed"
        width = step * 0.8 if step > 3 else step
        sheet.box(
            begin, base - (BARS if computed else BARS / 3), begin + width, base, COMPUTED if computed else FORECAST
        )
    known = [(e.position, e.estimate) for e in run.evaluations if e.estimate is not None]
    largest = max([LEAST_ERROR, *(error for _, error in known)])
    if len(known) > 1:
        sheet.line([(left + (p + 0.5) * step, base - BARS * error / largest) for p, error in known], LINE, 2)
        sheet.label(left - 6, top + 6, f"{largest:.0%}", LINE, "rm")
        sheet.label(left - 6, base - 6, "0%", LINE, "rm")
    sheet.line([(left, top), (left, base + 1), (right, base + 1)], PALE, 1)
    seconds = sum(e.seconds or 0.0 for e in run.evaluations)
    sheet.label(left, base + 16, "1", PALE, "lm")
    sheet.label((left + right) / 2, base + 16, f"evaluations, {seconds:.1f} s in all", PALE, "mm")
    sheet.label(right, base + 16, str(count), PALE, "rm")
    sheet.top = base + 34
