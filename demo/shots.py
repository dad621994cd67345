"""Pictures of the workflows in the real page: `python -m demo.shots` (with COMFYUI_PATH set, as dev.py does).

Writes docs/images/page.png: the demo after a run. Covers of the workflows: demo/covers.py.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from pathlib import Path

from PIL import Image

from .comfy_server import ROOT, ComfyServer

sys.path.append(str(ROOT / "tests"))
from frontend import Page, chromium, read

DEMO = "spectrum_demo"
PAGE = (1400, 520)
SHOWN = ("Spectrum Accelerate", "Sampling", "Result")
FRAME = 20.0  # around what is shown, in the workflow's own units
GRAPH = '#graph-canvas, [data-testid="transform-pane"], [data-testid="transform-pane"] *, .dom-widget, .dom-widget *'
ALONE = f"body * {{ visibility: hidden }} body :is({GRAPH}) {{ visibility: visible !important }}"
VIEW = """([left, top, scale, style]) => { const { ds } = app.canvas, sheet = new CSSStyleSheet()
    sheet.replaceSync(style); document.adoptedStyleSheets = [sheet]
    ds.scale = scale; ds.offset[0] = -left; ds.offset[1] = -top
    app.canvas.show_info = false; app.canvas.setDirty(true, true) }"""
Box = tuple[float, float, float, float]

log = logging.getLogger("shots")


def frame(name: str, *titles: str) -> Box:
    """Left, top, width and height of what a workflow's groups cover: of all, or of those with these titles."""
    boxes = [group["bounding"] for group in read(name)["groups"] if not titles or group["title"] in titles]
    left, top = (min(box[axis] for box in boxes) for axis in (0, 1))
    right, bottom = (max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1))
    return left, top, right - left, bottom - top


def shoot(page: Page, box: Box, size: tuple[int, int]) -> Image.Image:
    """A picture of this size of the graph alone; the box begins at its left upper corner and is as wide."""
    left, top, width, _ = box
    page.page.set_viewport_size({"width": size[0], "height": size[1]})
    page.page.evaluate(VIEW, [left - FRAME, top - FRAME, size[0] / (width + 2 * FRAME), ALONE])
    page.page.wait_for_timeout(1500)  # the page draws when it likes
    return Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")


def main() -> int:
    """Draw all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server, chromium() as browser:
        page = Page(browser, server, vue=False)
        page.load(read(DEMO))
        page.queue()
        page.wait("execution_success", 300)
        shoot(page, frame(DEMO, *SHOWN), PAGE).quantize(256).save(ROOT / "docs" / "images" / "page.png", optimize=True)
    log.info("docs/images/page.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
