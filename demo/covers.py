"""Covers of the workflows: `python -m demo.covers` (with COMFYUI_PATH set, as dev.py does) writes workflows/*.jpg.

A cover shows what Spectrum Accelerate does at the workflow's steps and sampler: plain | accelerated, and which
evaluations were computed. The large models are not here, so the pictures are the demo model's, and the cover says so.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .brand import COMPUTED, FORECAST, GROUND, INK, PALE
from .comfy_server import ROOT, ComfyServer
from .make_workflows import DEMO, DRAWERS, WORKFLOWS, budgeted
from .workflow import Json, find_node, to_prompt, without_node, without_outputs

SIDE = 640
PICTURE = 288
SUBJECTS = (
    ("fox face", "mint", 3),
    ("ghost", "navy", 4),
    ("penguin", "sky blue", 4),
    ("cat face", "pink", 3),
    ("mushroom", "sky blue", 3),
    ("hamburger", "lavender", 4),
    ("strawberry", "mint", 4),
    ("sailboat", "sky blue", 3),
    ("rocket", "navy", 2),
)
"""Emoji, background and seed: such that the model draws them well without our node."""

log = logging.getLogger("covers")


@dataclass(frozen=True)
class Sampling:
    """How a workflow samples.

    Attributes:
        steps: of one run of a sampler.
        sampler: its name.
        runs: how many runs with Spectrum Accelerate follow each other.
        cfg: guidance scale; 1 where there is none.
    """

    steps: int
    sampler: str
    runs: int
    cfg: float


def sampling(prompt: Mapping[str, Json]) -> Sampling:
    """Read it from a workflow's prompt."""

    def value(name: str) -> Any:
        found = [node["inputs"][name] for node in prompt.values() if name in node["inputs"]]
        while isinstance(found[0], list):
            found[0] = prompt[found[0][0]]["inputs"]["value"]
        return found[0]

    runs = sum(node["class_type"] == "SpectrumAccelerate" for node in prompt.values())
    guided = any("cfg" in node["inputs"] for node in prompt.values())
    return Sampling(value("steps") // runs, value("sampler_name"), runs, value("cfg") if guided else 1.0)


def picture(server: ComfyServer, outputs: Mapping[str, Any], prompt: dict[str, Json]) -> Image.Image:
    """The picture that a prompt saved."""
    (file,) = outputs[find_node(prompt, "SaveImage")]["images"]
    image = Image.open(io.BytesIO(server.view(file))).convert("RGB")
    return image.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS)


def font(size: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(size=size)


def draw(name: str, pictures: list[Image.Image], kinds: list[str], runs: int) -> Image.Image:
    """The cover; `kinds` are those of one run's evaluations."""
    cover = Image.new("RGB", (SIDE, SIDE), GROUND)
    pen = ImageDraw.Draw(cover)
    pen.text((24, 46), name, INK, font(46), anchor="lm")
    computed = kinds.count("computed")
    gap = (SIDE - 2 * PICTURE) // 3
    total = len(kinds) * runs
    captions = (f"plain: {total} of {total}", f"accelerated: {computed * runs} of {total}")
    for index, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = gap + index * (PICTURE + gap)
        cover.paste(image, (left, 96))
        pen.text((left, 96 + PICTURE + 24), caption, INK, font(26), anchor="lm")
    pitch = (SIDE - 2 * gap) / len(kinds)
    base = 556
    for index, kind in enumerate(kinds):
        left, height = gap + index * pitch, 92 if kind == "computed" else 26
        area = (left, base - height, left + pitch * 0.7, base)
        pen.rounded_rectangle(area, 2, COMPUTED if kind == "computed" else FORECAST)
    run = "each of two runs: " if runs > 1 else ""
    counts = f"{run}{computed} evaluations computed, {len(kinds) - computed} forecast"
    pen.text((gap, 584), counts, PALE, font(24), anchor="lm")
    pen.text((gap, 618), "pictures: this pack's demo model, with this workflow's steps", PALE, font(18), anchor="lm")
    return cover


def main() -> int:
    """Draw all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        info = server.object_info()
        demo = to_prompt(json.loads(DEMO.read_text(encoding="utf-8")), info)
        for index, name in enumerate(DRAWERS):
            workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
            how = sampling(to_prompt(workflow, info))
            fast = copy.deepcopy(demo)
            inputs = fast[find_node(fast, "KSampler")]["inputs"]
            fast[find_node(fast, "EmptySD3LatentImage")]["inputs"]["batch_size"] = 1
            emoji, background, seed = SUBJECTS[index % len(SUBJECTS)]
            fast[inputs["positive"][0]]["inputs"].update(emoji=emoji, background=background)
            inputs.update(steps=how.steps, sampler_name=how.sampler, seed=seed)
            ours = fast[find_node(fast, "SpectrumAccelerate")]["inputs"]
            ours["schedule.evaluations"] = budgeted(info, how.steps, how.cfg, how.sampler == "res_multistep")
            plain = without_node(without_outputs(fast, "SpectrumReport"), "SpectrumAccelerate")
            outputs = server.queue(fast)
            trace = json.loads(outputs[find_node(fast, "SpectrumReport")]["spectrum"][-1])
            kinds = [evaluation["kind"] for evaluation in trace["evaluations"]]
            pictures = [picture(server, server.queue(plain), plain), picture(server, outputs, fast)]
            cover = draw(name, pictures, kinds, how.runs)
            cover.save(WORKFLOWS / f"{name}.jpg", quality=80, optimize=True)
            log.info("%s: %d of %d", (WORKFLOWS / f"{name}.jpg").relative_to(ROOT), kinds.count("computed"), len(kinds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
