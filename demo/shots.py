"""Pictures of the real page: `python dev.py shots`.

Writes docs/images/page.png (the demo after a run), the pictures of the nodes' help, and into output/shots one picture
for each state of the node (idle, running, done, off, old), for a subgraph, for Spectrum Compare and for the A/B
blueprint, with both renderers of nodes and in two versions of the page. They are for looking at; tests/test_page.py
checks what can be checked.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

import dev

from .comfy_server import ROOT, ComfyServer
from .make_workflows import Drawing, compared, demo_inputs, ksampler
from .workflow import find_node, to_prompt

sys.path.append(str(ROOT / "tests"))
from frontend import Page, chromium, read

DEMO = "spectrum_demo"
OUTPUT = ROOT / "output" / "shots"
PAGE = (1400, 520)
HELP_WIDTH = 640
SHOWN = ("Spectrum Accelerate", "Sampling", "Result")
FRAME = 20.0  # around what is shown, in the workflow's own units
GRAPH = '#graph-canvas, [data-testid="transform-pane"], [data-testid="transform-pane"] *, .dom-widget, .dom-widget *'
ALONE = f"body * {{ visibility: hidden }} body :is({GRAPH}) {{ visibility: visible !important }}"
VIEW = """([left, top, scale, style]) => { const { ds } = app.canvas, sheet = new CSSStyleSheet()
    sheet.replaceSync(style); document.adoptedStyleSheets = [sheet]
    ds.scale = scale; ds.offset[0] = -left; ds.offset[1] = -top
    app.canvas.show_info = false; app.canvas.setDirty(true, true) }"""
BOX = """types => { const shown = n => !types.length || types.includes(n.type) || n.subgraph
    const nodes = app.canvas.graph.nodes.filter(shown)
    const boxes = nodes.map(n => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1] + 90])
    const side = (k, choose) => choose(...boxes.map(box => box[k]))
    return [side(0, Math.min), side(1, Math.min), side(2, Math.max), side(3, Math.max)] }"""
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
    picture = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    page.page.evaluate("() => { document.adoptedStyleSheets = [] }")
    page.page.set_viewport_size({"width": 1280, "height": 800})
    return picture


def around(page: Page, *types: str, widest: int = 1400, scale: float = 1.0) -> Image.Image:
    """A picture of the nodes of these classes, and of subgraphs' nodes; of all nodes without a class."""
    left, top, right, bottom = page.page.evaluate(BOX, list(types))
    width = right - left + 2 * FRAME
    scale = min(scale, widest / width)
    size = (round(width * scale), round((bottom - top + 2 * FRAME) * scale))
    return shoot(page, (left, top, right - left, bottom - top), size)


def blueprint(info: dict[str, Any], make: Callable[[Any], Drawing]) -> dict[str, Any]:
    """A workflow with a blueprint, and the demo's model for it."""
    drawing = Drawing(make.__name__, info)
    given, vae = demo_inputs(drawing)
    drawing.column(400, "")
    if make is ksampler:
        (latent,) = drawing.subgraph(make(info), **given)
        drawing.column(300, "")
        (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
        drawing.node("SaveImage", tall=400, images=images)
    else:
        plain, fast, *_ = drawing.subgraph(make(info), tall=420, vae=vae, **given)
        drawing.column(440, "")
        drawing.node("SpectrumCompare", tall=520, plain=plain, accelerated=fast)
    return drawing.to_dict()


def states(page: Page, info: dict[str, Any], save: Callable[[str, Image.Image], None]) -> None:
    """One picture for each thing that there is to see."""
    node = "SpectrumAccelerate"
    page.load(dict(read(DEMO), id=str(uuid.uuid4())))
    page.page.wait_for_timeout(1500)
    save("idle", around(page, node))
    page.set("KSampler", steps=400)
    page.queue()
    page.page.wait_for_timeout(4000)
    save("running", around(page, node))
    page.wait("execution_success", 300)
    page.set("KSampler", steps=50)
    page.queue()
    page.wait("execution_success", 300)
    save("done", around(page, node))
    save("done at 60 percent", around(page, node, scale=0.6))
    save("demo", around(page))
    page.set(node, skip_interval=5.0)
    save("old", around(page, node))
    page.set(node, skip_interval=3.3)
    page.set("KSampler", sampler_name="lcm")
    page.queue()
    page.wait("execution_success", 300)
    save("off", around(page, node))
    for name, make in (("subgraph", ksampler), ("A-B", compared)):
        page.load(blueprint(info, make))
        page.queue()
        page.wait("execution_success", 300)
        save(name, around(page))
    page.page.evaluate("() => app.canvas.openSubgraph(app.rootGraph.nodes.find(n => n.subgraph).subgraph)")
    page.page.wait_for_timeout(1500)
    save("A-B inside", around(page))


def help_pictures(server: ComfyServer) -> None:
    """What the two other nodes show, for their help."""
    info = server.object_info()
    prompt = to_prompt(blueprint(info, compared), info)
    prompt[find_node(prompt, "BasicScheduler")]["inputs"].update(steps=30, scheduler="simple")
    prompt[find_node(prompt, "PrimitiveFloat")]["inputs"]["value"] = 5.0
    outputs = server.queue(prompt)
    for kind, file in (("SpectrumReport", "report"), ("SpectrumCompare", "compare")):
        key = next(key for key, node in prompt.items() if node["class_type"] == kind)
        drawn = Image.open(io.BytesIO(server.view(outputs[key]["images"][0]))).convert("RGB")
        small = drawn.resize((HELP_WIDTH, HELP_WIDTH * drawn.height // drawn.width), Image.Resampling.LANCZOS)
        save_help(small, file)


def save_help(picture: Image.Image, file: str) -> None:
    """Put a picture where the nodes' help finds it."""
    folder = ROOT / "web" / "docs" / "images"
    folder.mkdir(exist_ok=True)
    picture.quantize(160, method=Image.Quantize.FASTOCTREE).save(folder / f"{file}.png", optimize=True)
    log.info("web/docs/images/%s.png", file)


def main() -> int:
    """Draw all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(prog="dev.py shots", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default="", metavar="WORDS", help='say "pinned, classic" for these alone')
    arguments = parser.parse_args()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    newer = ["--front-end-root", str(dev.newer_frontend(Path(sys.executable)))]
    for version, options in (("pinned", []), ("newer", newer)):
        for renderer in ("classic", "nodes 2.0"):
            kind = f"{version}, {renderer}"
            if arguments.only not in kind:
                continue
            with (
                tempfile.TemporaryDirectory() as base,
                ComfyServer(Path(base), arguments=options) as server,
                chromium() as browser,
            ):
                draw(Page(browser, server, vue=renderer != "classic"), server, kind)
    log.info("%s: %d pictures", OUTPUT.relative_to(ROOT), len(list(OUTPUT.glob("*.png"))))
    return 0


def draw(page: Page, server: ComfyServer, kind: str) -> None:
    """The pictures of a version and a renderer; what is committed is of what most users have."""

    def save(name: str, image: Image.Image) -> None:
        image.save(OUTPUT / f"{kind}, {name}.png")

    states(page, server.object_info(), save)
    if kind == "pinned, classic":
        page.load(read(DEMO))
        page.queue()
        page.wait("execution_success", 300)
        drawn = shoot(page, frame(DEMO, *SHOWN), PAGE)
        drawn.convert("RGB").quantize(256).save(ROOT / "docs" / "images" / "page.png", optimize=True)
        log.info("docs/images/page.png")
        save_help(around(page, "SpectrumAccelerate"), "node")
        help_pictures(server)


if __name__ == "__main__":
    sys.exit(main())
