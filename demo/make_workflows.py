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
from .workflow import SEEDS, WIDGET_TYPES, Json, is_socket

WORKFLOWS = ROOT / "workflows"
PAPER = {
    "degree": 4,
    "window": 64,
    "warmup": 5,
    "tail": 0,
    "ridge": 0.1,
    "blend": 0.5,
    "intercept": "paper",
    "schedule": "growing interval",
    "correct": False,
}

TITLE, SLOT, WIDGET = 30, 20, 24  # heights of a node's parts
BELOW = 60  # room under a node; the page's newer renderer draws nodes up to 32 higher
BETWEEN, MARGIN, HEADING = 80, 20, 40  # between columns; of a group's frame; for its title
PLAIN, OURS = "#3f789e", "#b06634"
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
    groups: dict[str, Json] = field(default_factory=dict)
    _left: int = 0
    _top: int = 0
    _width: int = 0
    _group: str = ""

    def column(self, width: int, group: str, top: int = 0) -> None:
        """Begin a column; its nodes belong to a group."""
        self._left += self._width + BETWEEN if self.nodes else 0
        self._top, self._width, self._group = top, width, group

    def below(self, group: str, top: int = 0) -> None:
        """Go on in this column, not above `top`, with another group's nodes; those of no group ("") have no frame."""
        self._top, self._group = max(self._top + HEADING, top), group

    def node(self, kind: str, /, title: str = "", tall: int = 0, **inputs: Any) -> list[Output]:
        """Add a node to the column; the result is its outputs.

        Args:
            kind: the node's class.
            title: shown instead of its display name.
            tall: its least height.
            inputs: by name, an output of another node or a widget's value; widgets left out have their default.
        """
        schema, number = self.info[kind], len(self.nodes) + 1
        sockets: list[Json] = []
        widgets: list[Json] = []
        values: list[Any] = []
        for name, type_, options in _inputs(schema):
            entry: Json = {"name": name, "type": type_, "link": None}
            if is_socket(options) or not (type_ in WIDGET_TYPES or type_.startswith("COMFY_DYNAMIC")):
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
        height = max(tall, 6 + rows * SLOT + len(values) * WIDGET)
        self._place(kind, height, sockets + widgets, outputs, values, {"title": title} if title else {})
        return [Output(number, slot, output["type"]) for slot, output in enumerate(outputs)]

    def note(self, title: str, text: str, height: int) -> None:
        """Add advice to the column."""
        self._place("MarkdownNote", height, [], [], [text], {"title": title, **NOTE})

    def to_dict(self) -> Json:
        """What the page would save."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": list(self.groups.values()),
            "config": {},
            "extra": {"workflowRendererVersion": "LG"},
            "version": 0.4,
        }

    def _place(
        self, kind: str, height: int, inputs: list[Json], outputs: list[Json], values: list[Any], more: Json
    ) -> None:
        self.nodes.append(
            {
                "id": len(self.nodes) + 1,
                "type": kind,
                "pos": [self._left, self._top],
                "size": [self._width, height],
                "flags": {},
                "order": len(self.nodes),
                "mode": 0,
                "inputs": inputs,
                "outputs": outputs,
                "properties": {"Node name for S&R": kind},
                "widgets_values": values,
                **more,
            }
        )
        self._frame(self._left, self._top - TITLE, self._left + self._width, self._top + height)
        self._top += height + TITLE + BELOW

    def _frame(self, left: int, top: int, right: int, bottom: int) -> None:
        """Let the group's frame hold this area too."""
        if not self._group:
            return
        wanted = (left - MARGIN, top - HEADING, right + MARGIN, bottom + BELOW)
        color = OURS if self._group.startswith("Spectrum") else PLAIN
        new = {"id": len(self.groups) + 1, "title": self._group, "bounding": None, "color": color, "flags": {}}
        group = self.groups.setdefault(self._group, new)
        x, y, width, height = group["bounding"] or (wanted[0], wanted[1], 0, 0)
        left, top = min(x, wanted[0]), min(y, wanted[1])
        group["bounding"] = [left, top, max(x + width, wanted[2]) - left, max(y + height, wanted[3]) - top]

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


def accelerate(drawing: Drawing, model: Output, **values: Any) -> Output:
    """The node that all this is about, with room for its live text."""
    return drawing.node("SpectrumAccelerate", tall=400, model=model, **values)[0]


def accelerate_auto(drawing: Drawing, model: Output, goal: str) -> Output:
    """The node that is told a goal instead of widgets, with room for its live text."""
    return drawing.node("SpectrumAuto", tall=200, model=model, goal=goal)[0]


def sample(
    drawing: Drawing, model: Output, positive: Output, negative: Output, latent: Output, **values: Any
) -> Output:
    """The usual sampler."""
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return drawing.node("KSampler", **inputs, **values)[0]


def result(
    drawing: Drawing, latent: Output, vae: Output, reported: Output | None = None, keep_latent: bool = False
) -> None:
    """From the latent to the picture; and what was done, if a model is to be reported."""
    prefix = f"spectrum/{drawing.name.removeprefix('spectrum_')}"
    row = 480  # where the report begins
    drawing.column(250, "Result")
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    if keep_latent:
        drawing.node("SaveLatent", samples=latent, filename_prefix=prefix)
    if reported:
        drawing.below("Spectrum Report", row)
        summary, plot = drawing.node("SpectrumReport", model=reported, latent=latent)
    drawing.column(440 if reported else 540, "Result")
    drawing.node("SaveImage", tall=320 if reported else 580, images=images, filename_prefix=prefix)
    if reported:
        drawing.below("Spectrum Report", row)
        drawing.node("PreviewAny", title="What the run did", tall=210, source=summary)
        drawing.node("PreviewImage", title="Computed and forecast evaluations", tall=270, images=plot)


def about(advice: str, **folders: str) -> str:
    """Advice, and where the model files go."""
    where = "\n".join(f"- models/{folder}: *{names}*" for folder, names in folders.items())
    return f"{advice}\n\n**Model files**\n\n{where}"


PLACE = "**Spectrum Accelerate** stands between the model (with its LoRAs and patches) and the sampler. "


def demo(drawing: Drawing) -> None:
    """The demo of `dev.py demo`: the tiny model of this repository."""
    drawing.column(330, "Model")
    (model,) = drawing.node("UNETLoader", unet_name="tiny_flux.safetensors")
    (vae,) = drawing.node("VAELoader", vae_name="tiny_vae.safetensors")
    drawing.below("")
    drawing.note(
        "About this demo",
        "The network runs on a third of the steps; **Spectrum Accelerate** forecasts the others.\n\n"
        "Run it, then set *speedup* to 1 (nothing is forecast) and run it again to compare.\n\n"
        "The model draws emoji of 96 x 96 pixels. It is part of this repository, as is the node **Emoji Prompt**; "
        "*python dev.py serve* starts ComfyUI with both.",
        220,
    )

    drawing.column(300, "Inputs")
    (model,) = drawing.node("ModelSamplingAuraFlow", model=model, shift=3.0)
    (positive,) = drawing.node("SpectrumDemoEmoji", title="Prompt", emoji="ghost", background="sky blue")
    (negative,) = drawing.node("SpectrumDemoEmoji", title="Negative prompt", emoji="nothing", background="nothing")
    (latent,) = drawing.node("EmptySD3LatentImage", width=96, height=96, batch_size=4)

    drawing.column(340, "Spectrum Accelerate")
    model = accelerate(drawing, model)

    drawing.column(300, "Sampling")
    sampling = {"seed": 10, "steps": 50, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = sample(drawing, model, positive, negative, latent, **sampling)

    result(drawing, latent, vae, reported=model, keep_latent=True)


def flux(
    drawing: Drawing, steps: int = 30, advice: str = "", reported: bool = False, goal: str = "", **values: Any
) -> None:
    """FLUX.1 dev, text to image; with the node that is told a goal, if there is one."""
    drawing.column(340, "Models")
    (model,) = drawing.node("UNETLoader", unet_name="flux1-dev.safetensors")
    names = {"clip_name1": "t5xxl_fp16.safetensors", "clip_name2": "clip_l.safetensors"}
    (clip,) = drawing.node("DualCLIPLoader", type="flux", **names)
    (vae,) = drawing.node("VAELoader", vae_name="ae.safetensors")
    drawing.below("")
    advice = advice or (
        PLACE + "Extra steps cost little: most of them are forecast. If fine detail suffers, lower *speedup* or "
        "raise *tail*."
    )
    text = about(
        advice,
        diffusion_models="flux1-dev.safetensors",
        text_encoders="t5xxl_fp16.safetensors, clip_l.safetensors",
        vae="ae.safetensors",
    )
    drawing.note("About this workflow", text, 230)

    prompt = (
        "A lighthouse on a rocky coast at dusk, its beam sweeping over a calm sea, a small red boat in the foreground, "
        "warm light in the windows, photograph, 35 mm"
    )
    drawing.column(400, "Inputs", top=100)  # the model's link passes above
    (text,) = drawing.node("CLIPTextEncode", title="Prompt", tall=180, clip=clip, text=prompt)
    (latent,) = drawing.node("EmptySD3LatentImage", width=1024, height=1024)

    drawing.column(340, "Spectrum Accelerate")
    model = accelerate_auto(drawing, model, goal) if goal else accelerate(drawing, model, **values)
    drawing.below("Guidance")
    (positive,) = drawing.node("FluxGuidance", conditioning=text, guidance=3.5)
    (negative,) = drawing.node("ConditioningZeroOut", conditioning=text)

    drawing.column(300, "Sampling")
    sampling = {"seed": 42, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = sample(drawing, model, positive, negative, latent, **sampling)
    result(drawing, latent, vae, reported=model if reported else None)


def paper(drawing: Drawing) -> None:
    """The paper's settings, and what they did."""
    advice = (
        "FLUX.1 dev with the settings of the Spectrum paper: a polynomial of degree 4 through all computed features "
        "(*window* 64), damped (*ridge* 0.1), and no computed *tail*. Compare it with spectrum_flux, which has the "
        "node's defaults."
    )
    flux(drawing, 50, advice, reported=True, **PAPER)


def auto(drawing: Drawing) -> None:
    """A goal instead of widgets, and what came of it."""
    advice = (
        "FLUX.1 dev with **Spectrum Accelerate (Auto)**: the node is told a *goal* and sees during the run how far the "
        "forecasts are off. Set *goal* to *quality* or *fast* and compare; *evaluations* and *tolerance* take a value "
        "of your own. The report shows what was computed and why."
    )
    flux(drawing, advice=advice, reported=True, goal="balanced")


def qwen_image(drawing: Drawing) -> None:
    """Qwen-Image, text to image."""
    drawing.column(340, "Models")
    (model,) = drawing.node("UNETLoader", unet_name="qwen_image_fp8_e4m3fn.safetensors")
    (clip,) = drawing.node("CLIPLoader", clip_name="qwen_2.5_vl_7b_fp8_scaled.safetensors", type="qwen_image")
    (vae,) = drawing.node("VAELoader", vae_name="qwen_image_vae.safetensors")
    drawing.below("")
    text = about(
        PLACE + "For a quicker draft: 20 steps and *cfg* 2.5.",
        diffusion_models="qwen_image_fp8_e4m3fn.safetensors",
        text_encoders="qwen_2.5_vl_7b_fp8_scaled.safetensors",
        vae="qwen_image_vae.safetensors",
    )
    drawing.note("About this workflow", text, 230)

    prompt = (
        "A small bookshop on a rainy evening, warm light behind the window, a hand-painted sign over the door reads "
        '"Spectrum Books", reflections on the wet pavement, detailed illustration'
    )
    drawing.column(400, "Inputs")
    (model,) = drawing.node("ModelSamplingAuraFlow", model=model, shift=3.1)
    (positive,) = drawing.node("CLIPTextEncode", title="Prompt", tall=160, clip=clip, text=prompt)
    (negative,) = drawing.node("CLIPTextEncode", title="Negative prompt", tall=110, clip=clip, text=" ")
    (latent,) = drawing.node("EmptySD3LatentImage", width=1328, height=1328)

    drawing.column(340, "Spectrum Accelerate")
    model = accelerate(drawing, model)

    drawing.column(300, "Sampling")
    sampling = {"seed": 42, "steps": 50, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = sample(drawing, model, positive, negative, latent, **sampling)
    result(drawing, latent, vae)


def sdxl(drawing: Drawing) -> None:
    """SDXL, text to image."""
    drawing.column(340, "Model")
    model, clip, vae = drawing.node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
    drawing.below("")
    advice = (
        PLACE + "Samplers that add fresh noise at every step (ancestral, SDE, LCM) run in full; *dpmpp_2m* and *euler* "
        "are accelerated."
    )
    drawing.note("About this workflow", about(advice, checkpoints="sd_xl_base_1.0.safetensors"), 200)

    prompt = "a red fox asleep in fresh snow, first morning light, shallow depth of field, photograph"
    drawing.column(400, "Inputs", top=130)  # the links of model and VAE pass above
    (positive,) = drawing.node("CLIPTextEncode", title="Prompt", tall=140, clip=clip, text=prompt)
    worse = "blurry, low quality, text, watermark"
    (negative,) = drawing.node("CLIPTextEncode", title="Negative prompt", tall=110, clip=clip, text=worse)
    (latent,) = drawing.node("EmptyLatentImage", width=1024, height=1024)

    drawing.column(340, "Spectrum Accelerate")
    model = accelerate(drawing, model)

    drawing.column(300, "Sampling")
    sampling = {"seed": 42, "steps": 40, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    latent = sample(drawing, model, positive, negative, latent, **sampling)
    result(drawing, latent, vae)


def wan22(drawing: Drawing) -> None:
    """Wan 2.2 14B, text to video: two experts, each accelerated by a node of its own."""
    high, low = (f"wan2.2_t2v_{noise}_noise_14B_fp8_scaled.safetensors" for noise in ("high", "low"))
    row = 660  # where the second expert begins
    drawing.column(360, "Models")
    (model_high,) = drawing.node("UNETLoader", title="High noise model", unet_name=high)
    (model_low,) = drawing.node("UNETLoader", title="Low noise model", unet_name=low)
    (clip,) = drawing.node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    (vae,) = drawing.node("VAELoader", vae_name="wan_2.1_vae.safetensors")
    drawing.below("")
    text = about(
        "Each of the two experts has a **Spectrum Accelerate** of its own, because each is a run of its own, of 10 of "
        "the 20 steps; at least 5 of them are computed.",
        diffusion_models=f"{high}, {low}",
        text_encoders="umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        vae="wan_2.1_vae.safetensors",
    )
    drawing.note("About this workflow", text, 270)

    prompt = (
        "A paper boat drifts down a rain-filled gutter between autumn leaves, low camera following close behind, "
        "soft overcast light, shallow depth of field, cinematic"
    )
    worse = (
        "色调艳丽, 过曝, 静态, 细节模糊不清, 字幕, 风格, 作品, 画作, 画面, 静止, 整体发灰, 最差质量, 低质量, "
        "JPEG压缩残留, 丑陋的, 残缺的, 多余的手指, 画得不好的手部, 画得不好的脸部, 畸形的, 毁容的, "
        "形态畸形的肢体, 手指融合, 静止不动的画面, 杂乱的背景, 三条腿, 背景人很多, 倒着走"
    )
    drawing.column(400, "Inputs")
    (model_high,) = drawing.node("ModelSamplingSD3", title="Shift (high noise)", model=model_high, shift=8.0)
    (positive,) = drawing.node("CLIPTextEncode", title="Prompt", tall=150, clip=clip, text=prompt)
    (negative,) = drawing.node("CLIPTextEncode", title="Negative prompt", tall=150, clip=clip, text=worse)
    drawing.below("Inputs", row)
    (model_low,) = drawing.node("ModelSamplingSD3", title="Shift (low noise)", model=model_low, shift=8.0)
    (latent,) = drawing.node("EmptyHunyuanLatentVideo", width=832, height=480, length=81)

    drawing.column(340, "Spectrum Accelerate")
    model_high = accelerate(drawing, model_high)
    drawing.below("Spectrum Accelerate", row)
    model_low = accelerate(drawing, model_low)

    drawing.column(320, "Sampling")
    sampling = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
    sampling |= {"positive": positive, "negative": negative}
    first = {"model": model_high, "noise_seed": 42, "end_at_step": 10, "return_with_leftover_noise": "enable"}
    (latent,) = drawing.node(
        "KSamplerAdvanced", title="Steps 0 to 10 (high noise)", latent_image=latent, **first, **sampling
    )
    drawing.below("Sampling", row)
    second = {"model": model_low, "add_noise": "disable", "start_at_step": 10}
    (latent,) = drawing.node(
        "KSamplerAdvanced", title="Steps 10 to 20 (low noise)", latent_image=latent, **second, **sampling
    )

    drawing.column(230, "Result", row)
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    drawing.column(270, "Result", row)
    (video,) = drawing.node("CreateVideo", images=images, fps=16.0)
    drawing.column(480, "Result", row)
    drawing.node("SaveVideo", tall=400, video=video, filename_prefix="spectrum/wan22")


DRAWERS = {
    "spectrum_auto": auto,
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
