"""The registry's icon and banner: `python -m demo.brand`.

Tall bars are evaluations that are computed, short ones are forecast, and the curve is what they are forecast from.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
ICON, BANNER = (400, 400), (1260, 540)
"""Pixels; the registry asks for a square of at most 400 and for 21:9."""
SCALE = 3  # drawn larger, then reduced: Pillow's shapes have no smooth edges
GROUND, COMPUTED, FORECAST, CURVE, INK, PALE = "#14181f", "#4d8dff", "#33496e", "#f2a33c", "#f2f5fa", "#9aa7ba"

log = logging.getLogger("brand")

Box = tuple[float, float, float, float]


def height(x: float) -> float:
    """The curve over [0, 1]: a peak in the first half that flattens to the end."""
    return 0.25 + 0.75 * (3.2 * x * (1 - x) ** 1.4 + 0.45 * x)


def bars(draw: ImageDraw.ImageDraw, box: Box, kinds: str) -> None:
    """A bar for each letter of `kinds` (C computed, f forecast) in a box (left, top, right, bottom), and the curve."""
    left, top, right, bottom = box
    pitch = (right - left) / len(kinds)
    thickness = pitch * 0.62
    points = []
    for index, kind in enumerate(kinds):
        centre = left + (index + 0.5) * pitch
        y = bottom - (bottom - top) * height((index + 0.5) / len(kinds))
        computed = kind == "C"
        crown = y if computed else bottom - (bottom - top) * 0.14
        area = (centre - thickness / 2, crown, centre + thickness / 2, bottom)
        draw.rounded_rectangle(area, thickness / 4, COMPUTED if computed else FORECAST)
        points.append((centre, y))
    samples = [i / 100 for i in range(101)]
    first, last = points[0][0], points[-1][0]
    line = []
    for sample in samples:
        x = first + (last - first) * sample
        line.append((x, bottom - (bottom - top) * height((x - left) / (right - left))))
    draw.line(line, CURVE, round(pitch * 0.12), joint="curve")
    for (x, y), kind in zip(points, kinds, strict=True):
        if kind == "C":
            radius = pitch * 0.2
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), CURVE)


def canvas(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An enlarged picture to draw on."""
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), GROUND)
    return image, ImageDraw.Draw(image)


def reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at its own size, with few enough colours for a small file."""
    return image.resize(size, Image.Resampling.LANCZOS).quantize(128)


def icon() -> Image.Image:
    """Seven bars."""
    image, draw = canvas(ICON)
    edge = 52 * SCALE
    bars(draw, (edge, edge, image.width - edge, image.height - edge), "CffCffC")
    return reduced(image, ICON)


def banner() -> Image.Image:
    """The name, what it does, and a run of 21 evaluations."""
    image, draw = canvas(BANNER)
    left = 90 * SCALE

    def font(size: int) -> Any:
        return ImageFont.load_default(size=size * SCALE)

    draw.text((left, 70 * SCALE), "Spectrum Accelerate", INK, font(84))
    line = "Compute a third of the steps. Forecast the rest. For ComfyUI."
    draw.text((left, 180 * SCALE), line, PALE, font(34))
    bars(draw, (left, 265 * SCALE, image.width - left, 470 * SCALE), "CffCffCfffCfffCffCffC")
    return reduced(image, BANNER)


def main() -> int:
    """Write both."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for name, image in (("icon", icon()), ("banner", banner())):
        file = IMAGES / f"{name}.png"
        image.save(file, optimize=True)
        log.info("%s: %d x %d", file.relative_to(ROOT), *image.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
