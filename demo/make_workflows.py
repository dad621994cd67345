"""Writes workflows/*.json: `python -m demo.make_workflows` (with COMFYUI_PATH set, as dev.py does).

What the files share is said once: the widgets' order is the real server's, the values of Spectrum Accelerate are the
node's defaults unless a workflow says otherwise, and nodes stand in columns from model to picture.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .comfy_server import ROOT, ComfyServer
from .workflow import SEEDS, WIDGET_TYPES, Json

WORKFLOWS = ROOT / "workflows"
PAPER = {"degree": 4, "window": 64, "tail": 0, "ridge": 0.1, "blend": 0.5, "intercept": "paper"}

TITLE, SLOT, WIDGET = 30, 20, 24  # heights of a node's parts
BELOW = 56  # room under a node; the page's newer renderer draws nodes up to 32 higher
BETWEEN, MARGIN, GROUP_TITLE = 110, 25, 50
PLAIN, OURS = "#3f789e", "#8a5a2b"
NOTE = {"color": "#432", "bgcolor": "#653"}

log = logging.getLogger("make_workflows")


@dataclass(frozen=True)
class Output:
    """An output of a node that others can be connected to."""

    node: int
    slot: int
    type: str


@dataclass
class Drawing:
    """A workflow in the making: columns from left to right, nodes in them from top to bottom.

    Attributes:
        name: the file's name.
        info: the server's answer to GET /object_info.
    """

    name: str
    info: Mapping[str, Any]
    nodes: list[Json] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[Json] = field(default_factory=list)
    _left: int = 0
    _top: int = 0
    _width: int = 0

    def column(self, title: str, width: int, color: str = PLAIN) -> None:
        """Begin a column, framed by a group."""
        self._left += self._width + BETWEEN if self.groups else 0
        self._top, self._width = 0, width
        frame = [self._left - MARGIN, -TITLE - GROUP_TITLE, width + 2 * MARGIN, 0]
        number = len(self.groups) + 1
        self.groups.append({"id": number, "title": title, "bounding": frame, "color": color, "flags": {}})

    def node(self, kind: str, *, title: str = "", height: int = 0, below: int = 0, **inputs: Any) -> list[Output]:
        """Add a node to the column; the result is its outputs.

        Args:
            kind: the node's class.
            title: shown instead of its display name.
            height: at least as high as this.
            below: extra room under it.
            inputs: by name, an output of another node or a widget's value; widgets left out have their default.
        """
        schema, number = self.info[kind], len(self.nodes) + 1
        sockets: list[Json] = []
        widgets: list[Json] = []
        values: list[Any] = []
        for name, type_, options in _inputs(schema):
            entry: Json = {"name": name, "type": type_, "link": None}
            if type_ not in WIDGET_TYPES and not type_.startswith("COMFY_DYNAMIC"):
                if name in inputs:
                    entry["link"] = self._link(inputs.pop(name), number, len(sockets))
                sockets.append(entry)
                continue
            widgets.append({**entry, "widget": {"name": name}})
            values.append(inputs.pop(name) if name in inputs else options["default"])
            if name in SEEDS:
                values.append("fixed")
        if inputs:
            raise ValueError(f"{self.name}: {kind} has no {', '.join(inputs)}")
        names = schema.get("output_name") or schema["output"]
        outputs = [{"name": n, "type": t, "links": []} for n, t in zip(names, schema["output"], strict=True)]
        rows = max(len(sockets), len(outputs))
        node = {
            "id": number,
            "type": kind,
            "inputs": sockets + widgets,
            "outputs": outputs,
            "properties": {"Node name for S&R": kind},
            "widgets_values": values,
            **({"title": title} if title else {}),
        }
        self._place(node, max(height, 6 + rows * SLOT + len(values) * WIDGET), below)
        return [Output(number, slot, output["type"]) for slot, output in enumerate(outputs)]

    def note(self, title: str, text: str, height: int) -> None:
        """Add advice to the column."""
        node = {"id": len(self.nodes) + 1, "type": "MarkdownNote", "inputs": [], "outputs": [], "title": title}
        self._place({**node, "properties": {}, "widgets_values": [text], **NOTE}, height)

    def to_dict(self) -> Json:
        """What the page would save."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"workflowRendererVersion": "LG"},
            "version": 0.4,
        }

    def _place(self, node: Json, height: int, below: int = 0) -> None:
        place = {"pos": [self._left, self._top], "size": [self._width, height]}
        self.nodes.append({**node, **place, "flags": {}, "order": len(self.nodes), "mode": 0})
        self._top += height + TITLE + BELOW + below
        for group in self.groups:  # all as high as the highest
            group["bounding"][3] = max(self.groups[0]["bounding"][3], self._top + GROUP_TITLE)

    def _link(self, source: Output, target: int, slot: int) -> int:
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, target, slot, source.type])
        self.nodes[source.node - 1]["outputs"][source.slot]["links"].append(number)
        return number


def _inputs(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Json]]:
    for group in ("required", "optional"):
        for name, (kind, *rest) in schema["input"].get(group, {}).items():
            options = dict(rest[0]) if rest else {}
            choices = kind if isinstance(kind, list) else options.get("options", [])
            if choices and "default" not in options:
                first = choices[0]
                options["default"] = first["key"] if isinstance(first, Mapping) else first
            yield name, "COMBO" if isinstance(kind, list) else kind, options


def text_to_image(drawing: Drawing, clip: Output, prompt: str, negative: str | None) -> list[Output]:
    """The column of prompts: positive and, if the model takes one, negative conditioning."""
    drawing.column("Prompt", 400)
    (positive,) = drawing.node("CLIPTextEncode", title="Prompt", height=180, clip=clip, text=prompt)
    if negative is None:
        return [positive]
    return [positive, *drawing.node("CLIPTextEncode", title="Negative prompt", height=140, clip=clip, text=negative)]


def accelerate(drawing: Drawing, model: Output, **values: Any) -> Output:
    """The node that all this is about, with room for its live text."""
    (accelerated,) = drawing.node("SpectrumAccelerate", height=340, below=80, model=model, **values)
    return accelerated


def report(drawing: Drawing, model: Output, latent: Output) -> None:
    """What the run did, as text and as a picture."""
    summary, plot = drawing.node("SpectrumReport", model=model, latent=latent)
    drawing.node("PreviewAny", title="What the run did", height=190, source=summary)
    drawing.node("PreviewImage", title="Computed and forecast evaluations", height=200, images=plot)


def demo(drawing: Drawing) -> None:
    """The demo of `dev.py demo`: the tiny model of this repository."""
    drawing.column("Model and prompt", 320)
    (model,) = drawing.node("UNETLoader", unet_name="tiny_flux.safetensors")
    (model,) = drawing.node("ModelSamplingAuraFlow", model=model, shift=3.0)
    (positive,) = drawing.node("SpectrumDemoEmoji", title="Prompt", emoji="rocket", background="navy")
    (negative,) = drawing.node("SpectrumDemoEmoji", title="Negative prompt", emoji="nothing", background="nothing")
    (latent,) = drawing.node("EmptySD3LatentImage", width=96, height=96, batch_size=4)

    drawing.column("Spectrum Accelerate", 340, OURS)
    model = accelerate(drawing, model)
    drawing.note(
        "About this demo",
        "The network runs on a third of the steps; **Spectrum Accelerate** forecasts the others.\n\n"
        "Queue it, then set `skip_interval` to 1 (nothing is forecast) and queue it again: the same pictures from all "
        "the evaluations.\n\n"
        "The model draws emoji of 96 x 96 pixels. It is part of this repository, as is the node **Emoji Prompt**; "
        "`python dev.py serve` starts ComfyUI with both.",
        240,
    )

    drawing.column("Sampling", 300)
    sampling = {"seed": 7, "steps": 50, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    (latent,) = drawing.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **sampling
    )
    (vae,) = drawing.node("VAELoader", vae_name="tiny_vae.safetensors")
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    drawing.node("SaveLatent", samples=latent, filename_prefix="spectrum/demo")

    drawing.column("Result", 440)
    drawing.node("SaveImage", height=440, images=images, filename_prefix="spectrum/demo")
    drawing.column("Report", 440)
    report(drawing, model, latent)


def files(**folders: str) -> str:
    """Where the model files of a workflow go."""
    return "**Model files**\n\n" + "\n".join(f"- `models/{folder}`: {names}" for folder, names in folders.items())


FLUX_FILES = files(
    diffusion_models="flux1-dev.safetensors",
    text_encoders="t5xxl_fp16.safetensors, clip_l.safetensors",
    vae="ae.safetensors",
)
MANUAL = "**Spectrum Accelerate** stands between the model (with its LoRAs and patches) and the sampler. "


def flux(drawing: Drawing, steps: int = 30, advice: str = "", **values: Any) -> tuple[Output, Output]:
    """FLUX.1 dev, text to image; the result is the accelerated model and the latent."""
    drawing.column("Models", 340)
    (model,) = drawing.node("UNETLoader", unet_name="flux1-dev.safetensors")
    (clip,) = drawing.node(
        "DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors", type="flux"
    )
    (vae,) = drawing.node("VAELoader", vae_name="ae.safetensors")
    drawing.note("About this workflow", f"{advice or FLUX_ADVICE}\n\n{FLUX_FILES}", 250)

    prompt = (
        "A lighthouse on a rocky coast at dusk, its beam sweeping over a calm sea, a small red boat in the foreground, "
        "warm light in the windows, photograph, 35 mm"
    )
    (positive,) = text_to_image(drawing, clip, prompt, None)
    (negative,) = drawing.node("ConditioningZeroOut", conditioning=positive)
    (positive,) = drawing.node("FluxGuidance", conditioning=positive, guidance=3.5)
    (latent,) = drawing.node("EmptySD3LatentImage", width=1024, height=1024)

    drawing.column("Spectrum Accelerate", 340, OURS)
    model = accelerate(drawing, model, **values)

    drawing.column("Sampling", 300)
    sampling = {"seed": 42, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    (latent,) = drawing.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **sampling
    )
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)

    drawing.column("Result", 520)
    drawing.node("SaveImage", height=560, images=images, filename_prefix=f"spectrum/{drawing.name}")
    return model, latent


FLUX_ADVICE = (
    MANUAL + "More steps are worth it: what they add is mostly forecast. If fine detail suffers, lower `growth` or "
    "raise `tail`."
)
PAPER_ADVICE = (
    "FLUX.1 dev with the settings of the Spectrum paper: a polynomial of degree 4 through all computed features, damped "
    "(`ridge` 0.1), and no computed tail. Compare it with the node's defaults in `spectrum_flux`."
)


def paper(drawing: Drawing) -> None:
    """The paper's settings, and what they did."""
    model, latent = flux(drawing, 50, PAPER_ADVICE, **PAPER)
    drawing.column("Report", 440)
    report(drawing, model, latent)


def qwen_image(drawing: Drawing) -> None:
    """Qwen-Image, text to image."""
    drawing.column("Models", 340)
    (model,) = drawing.node("UNETLoader", unet_name="qwen_image_fp8_e4m3fn.safetensors")
    (clip,) = drawing.node("CLIPLoader", clip_name="qwen_2.5_vl_7b_fp8_scaled.safetensors", type="qwen_image")
    (vae,) = drawing.node("VAELoader", vae_name="qwen_image_vae.safetensors")
    advice = (
        MANUAL + "With CFG above 1 both prompts are forecast. `cfg` 2.5 and 20 steps are quicker still; lower `warmup` "
        "to 3 then."
    )
    where = files(
        diffusion_models="qwen_image_fp8_e4m3fn.safetensors",
        text_encoders="qwen_2.5_vl_7b_fp8_scaled.safetensors",
        vae="qwen_image_vae.safetensors",
    )
    drawing.note("About this workflow", f"{advice}\n\n{where}", 260)

    prompt = (
        'A small bookshop on a rainy evening, warm light behind the window, a hand-painted sign over the door reads '
        '"Spectrum Books", reflections on the wet pavement, detailed illustration'
    )
    positive, negative = text_to_image(drawing, clip, prompt, " ")
    (latent,) = drawing.node("EmptySD3LatentImage", width=1328, height=1328)

    drawing.column("Spectrum Accelerate", 340, OURS)
    (model,) = drawing.node("ModelSamplingAuraFlow", model=model, shift=3.1)
    model = accelerate(drawing, model)

    drawing.column("Sampling", 300)
    sampling = {"seed": 42, "steps": 50, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
    (latent,) = drawing.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **sampling
    )
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)

    drawing.column("Result", 520)
    drawing.node("SaveImage", height=560, images=images, filename_prefix=f"spectrum/{drawing.name}")


def sdxl(drawing: Drawing) -> None:
    """SDXL, text to image."""
    drawing.column("Model", 340)
    model, clip, vae = drawing.node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
    advice = (
        MANUAL + "Samplers that add fresh noise at every step (ancestral, SDE, LCM) run in full; `dpmpp_2m` and `euler` "
        "are accelerated."
    )
    drawing.note("About this workflow", f"{advice}\n\n{files(checkpoints='sd_xl_base_1.0.safetensors')}", 220)

    prompt = "a red fox asleep in fresh snow, first morning light, shallow depth of field, photograph"
    positive, negative = text_to_image(drawing, clip, prompt, "blurry, low quality, text, watermark")
    (latent,) = drawing.node("EmptyLatentImage", width=1024, height=1024)

    drawing.column("Spectrum Accelerate", 340, OURS)
    model = accelerate(drawing, model)

    drawing.column("Sampling", 300)
    sampling = {"seed": 42, "steps": 40, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    (latent,) = drawing.node(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **sampling
    )
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)

    drawing.column("Result", 520)
    drawing.node("SaveImage", height=560, images=images, filename_prefix=f"spectrum/{drawing.name}")


def wan22(drawing: Drawing) -> None:
    """Wan 2.2 14B, text to video: two experts, each accelerated by a node of its own."""
    high, low = (f"wan2.2_t2v_{noise}_noise_14B_fp8_scaled.safetensors" for noise in ("high", "low"))
    drawing.column("Models", 360)
    (model_high,) = drawing.node("UNETLoader", title="High noise model", unet_name=high)
    (model_low,) = drawing.node("UNETLoader", title="Low noise model", unet_name=low)
    (clip,) = drawing.node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    (vae,) = drawing.node("VAELoader", vae_name="wan_2.1_vae.safetensors")
    advice = (
        "Each of the two experts has a **Spectrum Accelerate** of its own. `warmup` is 3, because each of them runs 10 "
        "of the 20 steps only."
    )
    where = files(
        diffusion_models=f"{high}, {low}",
        text_encoders="umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        vae="wan_2.1_vae.safetensors",
    )
    drawing.note("About this workflow", f"{advice}\n\n{where}", 300)

    prompt = (
        "A paper boat drifts down a rain-filled gutter between autumn leaves, low camera following close behind, "
        "soft overcast light, shallow depth of field, cinematic"
    )
    negative_prompt = (
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
        "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，"
        "倒着走"
    )
    positive, negative = text_to_image(drawing, clip, prompt, negative_prompt)
    (latent,) = drawing.node("EmptyHunyuanLatentVideo", width=832, height=480, length=81)

    drawing.column("Spectrum Accelerate", 340, OURS)
    (model_high,) = drawing.node("ModelSamplingSD3", title="Shift (high noise)", model=model_high, shift=8.0)
    model_high = accelerate(drawing, model_high, warmup=3)
    (model_low,) = drawing.node("ModelSamplingSD3", title="Shift (low noise)", model=model_low, shift=8.0)
    model_low = accelerate(drawing, model_low, warmup=3)

    drawing.column("Sampling", 320)
    sampling = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
    sampling |= {"positive": positive, "negative": negative}
    (latent,) = drawing.node(
        "KSamplerAdvanced",
        title="Steps 0 to 10 (high noise)",
        model=model_high,
        latent_image=latent,
        noise_seed=42,
        end_at_step=10,
        return_with_leftover_noise="enable",
        **sampling,
    )
    (latent,) = drawing.node(
        "KSamplerAdvanced",
        title="Steps 10 to 20 (low noise)",
        model=model_low,
        latent_image=latent,
        add_noise="disable",
        start_at_step=10,
        **sampling,
    )
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)

    drawing.column("Result", 520)
    (video,) = drawing.node("CreateVideo", images=images, fps=16.0)
    drawing.node("SaveVideo", height=480, video=video, filename_prefix=f"spectrum/{drawing.name}")


DRAWERS = {
    "spectrum_demo": demo,
    "spectrum_flux": flux,
    "spectrum_paper_settings": paper,
    "spectrum_qwen_image": qwen_image,
    "spectrum_sdxl": sdxl,
    "spectrum_wan22": wan22,
}


def main() -> int:
    """Write every workflow."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        info = server.object_info()
    for name, draw in DRAWERS.items():
        drawing = Drawing(name, info)
        draw(drawing)
        text = json.dumps(drawing.to_dict(), indent=1, ensure_ascii=False)
        (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        log.info("workflows/%s.json", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
