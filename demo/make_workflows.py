"""Writes workflows/, subgraphs/ and the demo's workflow: `python dev.py workflows` draws their covers, too.

What the files share is said once: the widgets' order and defaults are the real server's, nodes stand in columns from
model to picture, and a model file has one address. So after a node has changed, one command writes all files anew.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomllib

from spectrum_core.schedule import Request
from spectrum_core.schedule.balanced import budget

from .comfy_server import ROOT, ComfyServer
from .workflow import DYNAMIC_COMBO, INPUTS, OUTPUTS, Json, choice, has_control, has_widget

WORKFLOWS, BLUEPRINTS = ROOT / "workflows", ROOT / "subgraphs"
DEMO = ROOT / "demo" / "emoji_nodes" / "workflows" / "spectrum_demo.json"  # a template of the demo's own pack
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {"cnr_id": "comfy-core", "ver": "0.30.0"}
OURS = {"cnr_id": PROJECT["name"], "ver": PROJECT["version"]}
"""What the page offers to install where a node is missing."""

TITLE, SLOT, WIDGET = 30, 20, 24  # heights of a node's parts
BELOW = 60  # room under a node; the page's newer renderer draws nodes up to 32 higher
BETWEEN, MARGIN, HEADING = 80, 20, 40  # between columns; of a group's frame; for its title
INSIDE = 100  # what ids of nodes in subgraphs begin behind
CHART = 110  # room for the live chart on Spectrum Accelerate
PLAIN_COLOR, OUR_COLOR = "#3f789e", "#b06634"
NOTE = {"color": "#432", "bgcolor": "#653"}

MODELS = {
    file.rpartition("/")[2]: (folder, f"https://huggingface.co/{repository}/resolve/main/{file}")
    for folder, repository, file in (
        line.split()
        for line in """
checkpoints stabilityai/stable-diffusion-xl-base-1.0 sd_xl_base_1.0.safetensors
checkpoints Lightricks/LTX-2 ltx-2-19b-dev-fp8.safetensors
diffusion_models Comfy-Org/flux1-dev flux1-dev.safetensors
diffusion_models Comfy-Org/flux2-klein split_files/diffusion_models/flux-2-klein-base-4b.safetensors
diffusion_models Comfy-Org/HunyuanVideo_1.5_repackaged split_files/diffusion_models/hunyuanvideo1.5_720p_t2v_fp16.safetensors
diffusion_models Comfy-Org/Qwen-Image_ComfyUI split_files/diffusion_models/qwen_image_2512_fp8_e4m3fn.safetensors
diffusion_models Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors
diffusion_models Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors
diffusion_models Comfy-Org/z_image split_files/diffusion_models/z_image_bf16.safetensors
text_encoders comfyanonymous/flux_text_encoders clip_l.safetensors
text_encoders comfyanonymous/flux_text_encoders t5xxl_fp16.safetensors
text_encoders Comfy-Org/z_image_turbo split_files/text_encoders/qwen_3_4b.safetensors
text_encoders Comfy-Org/HunyuanVideo_1.5_repackaged split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors
text_encoders Comfy-Org/HunyuanVideo_1.5_repackaged split_files/text_encoders/byt5_small_glyphxl_fp16.safetensors
text_encoders Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors
text_encoders Comfy-Org/ltx-2 split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors
vae Comfy-Org/Lumina_Image_2.0_Repackaged split_files/vae/ae.safetensors
vae Comfy-Org/flux2-dev split_files/vae/flux2-vae.safetensors
vae Comfy-Org/HunyuanVideo_1.5_repackaged split_files/vae/hunyuanvideo15_vae_fp16.safetensors
vae Comfy-Org/Qwen-Image_ComfyUI split_files/vae/qwen_image_vae.safetensors
vae Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/vae/wan_2.1_vae.safetensors
""".strip().splitlines()  # noqa: E501 (addresses)
    )
}
"""Model file -> folder of ComfyUI's `models`, and address: those of ComfyUI's own templates."""

log = logging.getLogger("make_workflows")


@dataclass(frozen=True)
class Output:
    """An output of a node that others can be connected to; of a subgraph's input end if `node` is INPUTS."""

    node: int
    slot: int
    type: str


@dataclass
class Drawing:
    """A graph in the making: columns from left to right, nodes in them from top to bottom.

    Attributes:
        name: the file's name, or the subgraph's.
        info: the server's answer to GET /object_info.
        inside: whether this is a subgraph.
        takes, gives: a subgraph's inputs and outputs.
        promoted: widgets inside that the subgraph's node shows: (node, widget's name, where the input stands).
        definitions: the subgraphs that nodes here are of.
    """

    name: str
    info: Mapping[str, Any]
    inside: bool = False
    nodes: list[Json] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: dict[str, Json] = field(default_factory=dict)
    takes: list[Json] = field(default_factory=list)
    gives: list[Json] = field(default_factory=list)
    promoted: list[tuple[int, str, str]] = field(default_factory=list)
    definitions: list[Json] = field(default_factory=list)
    _left: int = 0
    _top: int = 0
    _width: int = 0
    _group: str = ""

    # --- places ---------------------------------------------------------------------------------------------------

    def column(self, width: int, group: str, top: int = 0) -> None:
        """Begin a column; its nodes belong to a group."""
        self._left += self._width + BETWEEN if self.nodes else 0
        self._top, self._width, self._group = top, width, group

    def below(self, group: str, top: int = 0) -> None:
        """Go on in this column, not above `top`, with another group's nodes; those of no group ("") have no frame."""
        self._top, self._group = max(self._top + HEADING, top), group

    # --- nodes ----------------------------------------------------------------------------------------------------

    def node(
        self, kind: str, /, title: str = "", tall: int = 0, show: Sequence[str] = (), **inputs: Any
    ) -> list[Output]:
        """Add a node to the column; the result is its outputs.

        Args:
            kind: the node's class.
            title: shown instead of its display name.
            tall: its least height.
            show: widgets that the subgraph's node shows, too.
            inputs: by name, an output of another node or a widget's value; widgets left out have their default. What a
                dynamic combo's choice brings is named "combo.input".
        """
        schema, number = self.info[kind], self._next()
        sockets: list[Json] = []
        widgets: list[Json] = []
        values: list[Any] = []
        for name, shown, options in self._entries(schema["input"], "", inputs):
            entry: Json = {"name": name, "type": shown, "link": None}
            given = inputs.pop(name, options.get("default"))
            if not has_widget(shown, options):
                entry["link"] = self._link(given, number, len(sockets)) if isinstance(given, Output) else None
                sockets.append(entry)
                continue
            widgets.append({**entry, "widget": {"name": name}, "source": given if isinstance(given, Output) else None})
            values.append(options.get("default", 0) if isinstance(given, Output) else given)
            if has_control(name, shown, options):
                values.append("fixed")
        if inputs:
            raise ValueError(f"{self.name}: {kind} has no {', '.join(inputs)}")
        for place, entry in enumerate(widgets, len(sockets)):
            source = entry.pop("source")
            entry["link"] = self._link(source, number, place) if source else None
        names = schema.get("output_name") or schema["output"]
        outputs = [{"name": n, "type": t, "links": []} for n, t in zip(names, schema["output"], strict=True)]
        rows = max(len(sockets), len(outputs))
        height = max(tall, 6 + rows * SLOT + len(values) * WIDGET)
        properties: Json = {"Node name for S&R": kind, **(OURS if kind.startswith("Spectrum") else CORE)}
        files = [value for value in values if value in MODELS]
        if files:
            properties["models"] = [
                {"name": file, "url": MODELS[file][1], "directory": MODELS[file][0]} for file in dict.fromkeys(files)
            ]
        self._place(kind, height, sockets + widgets, outputs, values, properties, {"title": title} if title else {})
        for name in show:
            (entry,) = (entry for entry in widgets if entry["name"] == name)
            self._promote(number, entry, [*sockets, *widgets].index(entry), title)
        return [Output(number, slot, output["type"]) for slot, output in enumerate(outputs)]

    def note(self, title: str, text: str, height: int) -> None:
        """Add advice to the column."""
        self._place("MarkdownNote", height, [], [], [text], dict(CORE), {"title": title, **NOTE})

    def subgraph(self, inner: Drawing, tall: int = 0, **inputs: Output) -> list[Output]:
        """Add a node that is this subgraph; the result is its outputs."""
        definition = inner.definition()
        self.definitions += [definition, *inner.definitions]
        number = self._next()
        entries: list[Json] = []
        for place, take in enumerate(inner.takes):
            entry: Json = {"name": take["name"], "type": take["type"], "link": None}
            if "label" in take:
                entry["label"] = take["label"]
            if any(name == take["name"] for *_, name in inner.promoted):
                entry["widget"] = {"name": take["name"]}
            if take["name"] in inputs:
                entry["link"] = self._link(inputs.pop(take["name"]), number, place)
            entries.append(entry)
        if inputs:
            raise ValueError(f"{self.name}: {inner.name} has no {', '.join(inputs)}")
        outputs = [{"name": give["name"], "type": give["type"], "links": []} for give in inner.gives]
        rows = max(len(entries) - len(inner.promoted), len(outputs))
        height = max(tall, 6 + rows * SLOT + (1 + len(inner.promoted)) * WIDGET)
        properties: Json = {"proxyWidgets": [[str(node), widget] for node, widget, _ in inner.promoted], **OURS}
        self._place(definition["id"], height, entries, outputs, [], properties, {"title": inner.name})
        return [Output(number, slot, output["type"]) for slot, output in enumerate(outputs)]

    # --- the ends of a subgraph -----------------------------------------------------------------------------------

    def take(self, name: str, type_: str, label: str = "") -> Output:
        """An input of this subgraph."""
        while any(entry["name"] == name for entry in self.takes):
            name += "_2"
        entry = {"id": self._uuid("take", name), "name": name, "type": type_, "linkIds": []}
        self.takes.append({**entry, "label": label} if label else entry)
        return Output(INPUTS, len(self.takes) - 1, type_)

    def give(self, name: str, source: Output) -> None:
        """An output of this subgraph."""
        entry = {"id": self._uuid("give", name), "name": name, "type": source.type, "linkIds": []}
        self.gives.append(entry)
        self._link(source, OUTPUTS, len(self.gives) - 1)

    def _promote(self, number: int, entry: Json, place: int, title: str) -> None:
        """Show a widget on the subgraph's node; a title says more than `value`, and what its brackets say is added."""
        label = title.lower() if entry["name"] == "value" else ""
        if "(" in title:
            label = f"{entry['name']} {title[title.index('(') :]}"
        source = self.take(entry["name"], entry["type"], label)
        entry["link"] = self._link(source, number, place)
        self.promoted.append((number, entry["name"], self.takes[-1]["name"]))

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> Json:
        """What the page would save."""
        saved: Json = {
            "id": self._uuid("file"),
            "revision": 0,
            "last_node_id": max(
                node["id"] for graph in (self.nodes, *(d["nodes"] for d in self.definitions)) for node in graph
            ),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": list(self.groups.values()),
            "config": {},
            "extra": {"workflowRendererVersion": "LG"},
            "version": 0.4,
        }
        if self.definitions:
            saved["definitions"] = {"subgraphs": self.definitions}
        return saved

    def definition(self) -> Json:
        """This subgraph, as a file that uses it holds it."""
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        right = max(node["pos"][0] + node["size"][0] for node in self.nodes)
        state = {"lastGroupId": len(self.groups), "lastNodeId": self.nodes[-1]["id"], "lastLinkId": len(self.links)}
        return {
            "id": self._uuid("subgraph"),
            "version": 1,
            "state": {**state, "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUTS, "bounding": [-300, 0, 160, 50 + SLOT * len(self.takes)]},
            "outputNode": {"id": OUTPUTS, "bounding": [right + 120, 0, 160, 50 + SLOT * len(self.gives)]},
            "inputs": [{**entry, "pos": [-160, 24 + SLOT * i]} for i, entry in enumerate(self.takes)],
            "outputs": [{**entry, "pos": [right + 140, 24 + SLOT * i]} for i, entry in enumerate(self.gives)],
            "widgets": [],
            "nodes": self.nodes,
            "groups": list(self.groups.values()),
            "links": [dict(zip(keys, link, strict=True)) for link in self.links],
            "extra": {"workflowRendererVersion": "LG"},
        }

    # --- inside ---------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        """The next node's id; the page renumbers nodes of a subgraph that share their ids with nodes outside."""
        return len(self.nodes) + (1 + INSIDE if self.inside else 1)

    def _uuid(self, *words: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join((PROJECT["name"], self.name, *words))))

    def _entries(
        self, inputs: Mapping[str, Any], prefix: str, given: Mapping[str, Any]
    ) -> Iterator[tuple[str, str, Json]]:
        """Name, type as the page shows it, and options of each input; what a chosen choice brings follows its combo."""
        for group in ("required", "optional"):
            for short, (kind, *rest) in inputs.get(group, {}).items():
                options = dict(rest[0]) if rest else {}
                choices = kind if isinstance(kind, list) else options.get("options", [])
                name = prefix + short
                if choices and "default" not in options:
                    first = choices[0]
                    options["default"] = first["key"] if isinstance(first, Mapping) else first
                chosen = given.get(name, options.get("default"))
                yield name, "COMBO" if isinstance(kind, list) else options.get("widgetType", kind), options
                if kind == DYNAMIC_COMBO:
                    further = choice(options, chosen)
                    if further is None:
                        raise ValueError(f"{self.name}: {name} has no choice {chosen!r}")
                    yield from self._entries(further, f"{name}.", given)

    def _place(
        self,
        kind: str,
        height: int,
        inputs: list[Json],
        outputs: list[Json],
        values: list[Any],
        properties: Json,
        more: Json,
    ) -> None:
        self.nodes.append(
            {
                "id": self._next(),
                "type": kind,
                "pos": [self._left, self._top],
                "size": [self._width, height],
                "flags": {},
                "order": len(self.nodes),
                "mode": 0,
                "inputs": inputs,
                "outputs": outputs,
                "properties": properties,
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
        color = OUR_COLOR if self._group.startswith("Spectrum") else PLAIN_COLOR
        new = {"id": len(self.groups) + 1, "title": self._group, "bounding": None, "color": color, "flags": {}}
        group = self.groups.setdefault(self._group, new)
        x, y, width, height = group["bounding"] or (wanted[0], wanted[1], 0, 0)
        left, top = min(x, wanted[0]), min(y, wanted[1])
        group["bounding"] = [left, top, max(x + width, wanted[2]) - left, max(y + height, wanted[3]) - top]

    def _link(self, source: Output, target: int, slot: int) -> int:
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, target, slot, source.type])
        if source.node == INPUTS:
            self.takes[source.slot]["linkIds"].append(number)
        else:
            (node,) = (node for node in self.nodes if node["id"] == source.node)
            node["outputs"][source.slot]["links"].append(number)
        if target == OUTPUTS:
            self.gives[slot]["linkIds"].append(number)
        return number


# --- parts ------------------------------------------------------------------------------------------------------------


def accelerate(drawing: Drawing, model: Output, title: str = "", **values: Any) -> Output:
    """The node that all this is about, with room for its live chart."""
    show = ("skip_interval",) if drawing.inside else ()
    kind = "SpectrumAccelerate"
    (output,) = drawing.node(kind, title=title, show=show, model=model, **values)
    node = drawing.nodes[-1]
    grown = CHART
    node["size"][1] += grown
    drawing._top += grown
    drawing._frame(
        drawing._left, node["pos"][1] - TITLE, drawing._left + drawing._width, node["pos"][1] + node["size"][1]
    )
    return output


def sample(
    drawing: Drawing, model: Output, positive: Output, negative: Output, latent: Output, **values: Any
) -> Output:
    """The usual sampler."""
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    show = ("seed", "steps", "cfg") if drawing.inside else ()
    return drawing.node("KSampler", show=show, **inputs, **values)[0]


def guided(
    drawing: Drawing,
    model: Output,
    positive: Output,
    negative: Output,
    latent: Output,
    cfg: float,
    sigmas: Output,
    **noise: Any,
) -> Output:
    """The sampler in parts, as templates with schedulers of their own have it."""
    show = (("noise_seed",), ("cfg",)) if drawing.inside else ((), ())
    (random,) = drawing.node("RandomNoise", show=show[0], **noise)
    (guider,) = drawing.node("CFGGuider", show=show[1], model=model, positive=positive, negative=negative, cfg=cfg)
    (sampler,) = drawing.node("KSamplerSelect", sampler_name="euler")
    parts = {"noise": random, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    return drawing.node("SamplerCustomAdvanced", **parts)[0]


def prompts(drawing: Drawing, clip: Output, prompt: str, negative: str | None = None) -> list[Output]:
    """The prompt, and the negative one if there is one."""
    show = ("text",) if drawing.inside else ()
    found = drawing.node("CLIPTextEncode", title="Prompt", tall=180, show=show, clip=clip, text=prompt)
    if negative is not None:
        found += drawing.node("CLIPTextEncode", title="Negative prompt", tall=130, clip=clip, text=negative)
    return found


def size(drawing: Drawing, kind: str, **values: int) -> Output:
    """The empty latent; a subgraph's node shows its size."""
    return drawing.node(kind, show=tuple(values) if drawing.inside else (), **values)[0]


def about(advice: str, *files: str) -> str:
    """Advice, and where the model files go."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(MODELS[file][0], []).append(f"[{file}]({MODELS[file][1]})")
    where = "\n".join(f"- models/{folder}: {', '.join(names)}" for folder, names in folders.items())
    return f"{advice}\n\n**Model files**\n\n{where}"


def expected(drawing: Drawing, steps: int, cfg: float = 1.0, multistep: bool = False) -> str:
    """What the node does with so many steps and its default interval."""
    computed = budgeted(drawing.info, steps, cfg, multistep)
    return (
        f"**What to expect.** Of {steps} steps, {computed} are computed; **Spectrum Accelerate** forecasts the others: "
        f"{steps / computed:.2g} times fewer model evaluations."
    )


def budgeted(info: Mapping[str, Any], steps: int, cfg: float = 1.0, multistep: bool = False) -> int:
    """How many of so many steps the node computes with its defaults."""
    interval = info["SpectrumAccelerate"]["input"]["required"]["skip_interval"][1]["default"]
    return budget(Request(tuple(range(steps + 1)), interval, guidance=cfg, multistep=multistep))


BYPASS = "To compare, bypass the node (Ctrl+B) and run again with the same seed, or open *Compare A-B (SDXL)*."


def in_subgraph(drawing: Drawing, title: str, note: str, inner: Drawing, save: str, note_height: int = 330) -> None:
    """Note, subgraph and result, as ComfyUI's own templates show a model."""
    drawing.column(420, "")
    drawing.note("About this workflow", note, note_height)
    drawing.column(440, "Spectrum Accelerate (in the subgraph)")
    (result,) = drawing.subgraph(inner, tall=620)
    drawing.column(560, "Result")
    name = f"spectrum/{save}"
    if result.type == "VIDEO":
        drawing.node("SaveVideo", tall=580, video=result, filename_prefix=name)
    else:
        drawing.node("SaveImage", tall=580, images=result, filename_prefix=name)


# --- workflows --------------------------------------------------------------------------------------------------------


def demo_inputs(drawing: Drawing) -> tuple[dict[str, Output], Output]:
    """The tiny model of the demo with a prompt: what a blueprint samples with, and the VAE."""
    drawing.column(300, "")
    (model,) = drawing.node("UNETLoader", unet_name="tiny_flux.safetensors")
    (vae,) = drawing.node("VAELoader", vae_name="tiny_vae.safetensors")
    (positive,) = drawing.node("SpectrumDemoEmoji", emoji="ghost", background="navy")
    (negative,) = drawing.node("SpectrumDemoEmoji", emoji="nothing", background="nothing")
    (latent,) = drawing.node("EmptySD3LatentImage", width=96, height=96)
    return {"model": model, "positive": positive, "negative": negative, "latent_image": latent}, vae


def demo(drawing: Drawing) -> None:
    """The demo of `dev.py demo`: the tiny model of this repository."""
    drawing.column(330, "Model")
    (model,) = drawing.node("UNETLoader", unet_name="tiny_flux.safetensors")
    (vae,) = drawing.node("VAELoader", vae_name="tiny_vae.safetensors")
    drawing.below("")
    text = (
        "On most steps the network does not run; **Spectrum Accelerate** forecasts its output.\n\n"
        "Run it. Then bypass the node (Ctrl+B) and run again to compare.\n\n"
        "The model draws emoji of 96 x 96 pixels. It is part of this repository, as is the node **Emoji Prompt**; "
        "*python dev.py serve* starts ComfyUI with both."
    )
    drawing.note("About this demo", text, 240)

    drawing.column(300, "Inputs")
    (model,) = drawing.node("ModelSamplingAuraFlow", model=model, shift=3.0)
    (positive,) = drawing.node("SpectrumDemoEmoji", title="Prompt", emoji="ghost", background="sky blue")
    (negative,) = drawing.node("SpectrumDemoEmoji", title="Negative prompt", emoji="nothing", background="nothing")
    (latent,) = drawing.node("EmptySD3LatentImage", width=96, height=96, batch_size=4)

    drawing.column(360, "Spectrum Accelerate")
    model = accelerate(drawing, model)

    drawing.column(300, "Sampling")
    sampling = {"seed": 10, "steps": 50, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = sample(drawing, model, positive, negative, latent, **sampling)

    drawing.column(280, "Result")
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    drawing.node("SaveLatent", samples=latent, filename_prefix="spectrum/demo")
    drawing.column(440, "Result")
    drawing.node("SaveImage", tall=400, images=images, filename_prefix="spectrum/demo")
    drawing.column(440, "Spectrum Report")
    drawing.node("SpectrumReport", tall=480, model=model, latent=latent)


def flux(drawing: Drawing) -> None:
    """FLUX.1 dev, text to image."""
    inner = Drawing("Text to image (FLUX.1 dev)", drawing.info, inside=True)
    inner.column(340, "Models")
    (model,) = inner.node("UNETLoader", unet_name="flux1-dev.safetensors")
    names = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors"}
    (clip,) = inner.node("DualCLIPLoader", type="flux", **names)
    (vae,) = inner.node("VAELoader", vae_name="ae.safetensors")
    prompt = (
        "A lighthouse on a rocky coast at dusk, its beam sweeping over a calm sea, a small red boat in the foreground, "
        "warm light in the windows, photograph, 35 mm"
    )
    inner.column(400, "Inputs")
    (text,) = prompts(inner, clip, prompt)
    latent = size(inner, "EmptySD3LatentImage", width=1024, height=1024)
    inner.column(340, "Spectrum Accelerate")
    model = accelerate(inner, model)
    inner.column(320, "Sampling")
    (positive,) = inner.node("FluxGuidance", conditioning=text, guidance=3.5)
    (negative,) = inner.node("ConditioningZeroOut", conditioning=text)
    sampling = {"seed": 42, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = sample(inner, model, positive, negative, latent, **sampling)
    inner.column(240, "Sampling")
    (images,) = inner.node("VAEDecode", samples=latent, vae=vae)
    inner.give("IMAGE", images)
    advice = (
        f"{expected(drawing, 20)} More steps cost little, and forecasts get better: try 30 or 50.\n\n"
        f"FLUX.1 schnell and turbo LoRAs take 4 to 8 steps; there is next to nothing to forecast. {BYPASS}"
    )
    note = about(advice, "flux1-dev.safetensors", *names.values(), "ae.safetensors")
    in_subgraph(drawing, "FLUX.1 dev", note, inner, "flux1-dev")


def klein(drawing: Drawing) -> None:
    """FLUX.2 klein base, text to image."""
    inner = Drawing("Text to image (FLUX.2 klein base 4B)", drawing.info, inside=True)
    inner.column(340, "Models")
    (model,) = inner.node("UNETLoader", unet_name="flux-2-klein-base-4b.safetensors")
    (clip,) = inner.node("CLIPLoader", clip_name="qwen_3_4b.safetensors", type="flux2")
    (vae,) = inner.node("VAELoader", vae_name="flux2-vae.safetensors")
    inner.column(400, "Inputs")
    prompt = "A tiny bakery built into an old oak tree, fresh bread in the window, morning mist, storybook illustration"
    positive, negative = prompts(inner, clip, prompt, "")
    (width,) = inner.node("PrimitiveInt", title="Width", value=1024)
    (height,) = inner.node("PrimitiveInt", title="Height", value=1024)
    inner.column(340, "Spectrum Accelerate")
    model = accelerate(inner, model)
    inner.column(320, "Sampling")
    (latent,) = inner.node("EmptyFlux2LatentImage", width=width, height=height)
    (sigmas,) = inner.node("Flux2Scheduler", show=("steps",), steps=20, width=width, height=height)
    latent = guided(inner, model, positive, negative, latent, 5.0, sigmas, noise_seed=42)
    inner.column(240, "Sampling")
    (images,) = inner.node("VAEDecode", samples=latent, vae=vae)
    inner.give("IMAGE", images)
    files = ("flux-2-klein-base-4b.safetensors", "qwen_3_4b.safetensors", "flux2-vae.safetensors")
    advice = (
        f"{expected(drawing, 20, 5.0)} More steps gain more: of 50, {budgeted(drawing.info, 50, 5.0)} are computed."
        "\n\n"
        f"The distilled klein takes 4 steps without CFG: leave Spectrum Accelerate out there. {BYPASS}"
    )
    in_subgraph(drawing, "FLUX.2 klein base", about(advice, *files), inner, "flux2-klein-base")


def qwen_image(drawing: Drawing) -> None:
    """Qwen-Image 2512, text to image."""
    inner = Drawing("Text to image (Qwen-Image 2512)", drawing.info, inside=True)
    files = (
        "qwen_image_2512_fp8_e4m3fn.safetensors",
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "qwen_image_vae.safetensors",
    )
    inner.column(340, "Models")
    (model,) = inner.node("UNETLoader", unet_name=files[0])
    (clip,) = inner.node("CLIPLoader", clip_name=files[1], type="qwen_image")
    (vae,) = inner.node("VAELoader", vae_name=files[2])
    inner.column(400, "Inputs")
    prompt = (
        "A small bookshop on a rainy evening, warm light behind the window, a hand-painted sign over the door reads "
        '"Spectrum Books", reflections on the wet pavement, detailed illustration'
    )
    positive, negative = prompts(inner, clip, prompt, "low resolution, blurred text, deformed hands, oversaturated")
    latent = size(inner, "EmptySD3LatentImage", width=1328, height=1328)
    inner.column(340, "Spectrum Accelerate")
    (model,) = inner.node("ModelSamplingAuraFlow", model=model, shift=3.1)
    model = accelerate(inner, model)
    inner.column(320, "Sampling")
    sampling = {"seed": 42, "steps": 50, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = sample(inner, model, positive, negative, latent, **sampling)
    inner.column(240, "Sampling")
    (images,) = inner.node("VAEDecode", samples=latent, vae=vae)
    inner.give("IMAGE", images)
    advice = (
        f"{expected(drawing, 50, 4.0)} 50 steps are this model's own number, so this is where forecasting gains most."
        "\n\n"
        f"With the 4-step Lightning LoRA there is nothing to forecast: bypass the node. {BYPASS}"
    )
    in_subgraph(drawing, "Qwen-Image 2512", about(advice, *files), inner, "qwen-image-2512")


def z_image(drawing: Drawing) -> None:
    """Z-Image (base), text to image."""
    inner = Drawing("Text to image (Z-Image)", drawing.info, inside=True)
    files = ("z_image_bf16.safetensors", "qwen_3_4b.safetensors", "ae.safetensors")
    inner.column(340, "Models")
    (model,) = inner.node("UNETLoader", unet_name=files[0])
    (clip,) = inner.node("CLIPLoader", clip_name=files[1], type="lumina2")
    (vae,) = inner.node("VAELoader", vae_name=files[2])
    inner.column(400, "Inputs")
    prompt = "A ceramic teapot shaped like a sleeping cat on a linen tablecloth, soft window light, product photograph"
    positive, negative = prompts(inner, clip, prompt, "")
    latent = size(inner, "EmptySD3LatentImage", width=1024, height=1024)
    inner.column(340, "Spectrum Accelerate")
    (model,) = inner.node("ModelSamplingAuraFlow", model=model, shift=3.0)
    model = accelerate(inner, model)
    inner.column(320, "Sampling")
    sampling = {"seed": 42, "steps": 25, "cfg": 4.0, "sampler_name": "res_multistep", "scheduler": "simple"}
    latent = sample(inner, model, positive, negative, latent, **sampling)
    inner.column(240, "Sampling")
    (images,) = inner.node("VAEDecode", samples=latent, vae=vae)
    inner.give("IMAGE", images)
    advice = (
        f"{expected(drawing, 25, 4.0, multistep=True)} The model takes up to 50 steps: with forecasts they cost little "
        "more.\n\n"
        f"Z-Image Turbo takes 8 steps without CFG, where little can be forecast. {BYPASS}"
    )
    in_subgraph(drawing, "Z-Image", about(advice, *files), inner, "z-image")


def sdxl_inputs(drawing: Drawing, note: str, note_height: int) -> tuple[Output, Output, Output, Output, Output]:
    """Model, VAE, both conditionings and the latent of SDXL."""
    drawing.column(360, "Model")
    model, clip, vae = drawing.node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
    drawing.below("")
    drawing.note("About this workflow", note, note_height)
    drawing.column(400, "Inputs", top=130)  # the links of model and VAE pass above
    prompt = "a red fox asleep in fresh snow, first morning light, shallow depth of field, photograph"
    positive, negative = prompts(drawing, clip, prompt, "blurry, low quality, text, watermark")
    (latent,) = drawing.node("EmptyLatentImage", width=1024, height=1024)
    return model, vae, positive, negative, latent


def sdxl(drawing: Drawing) -> None:
    """SDXL, text to image."""
    advice = (
        f"{expected(drawing, 30, 5.0)} Guidance magnifies what forecasts miss: at CFG 7, "
        f"{budgeted(drawing.info, 30, 7.0)} are computed, and with dpmpp_2m {budgeted(drawing.info, 30, 7.0, True)}."
        "\n\nSamplers that add noise (ancestral, SDE) are accelerated less. SDXL Turbo "
        f"and Lightning take 1 to 8 steps: leave the node out there. {BYPASS}"
    )
    note = about(advice, "sd_xl_base_1.0.safetensors")
    model, vae, positive, negative, latent = sdxl_inputs(drawing, note, 360)
    drawing.column(360, "Spectrum Accelerate")
    model = accelerate(drawing, model)
    drawing.column(320, "Sampling")
    sampling = {"seed": 42, "steps": 30, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    latent = sample(drawing, model, positive, negative, latent, **sampling)
    drawing.column(280, "Result")
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    drawing.column(480, "Result")
    drawing.node("SaveImage", tall=520, images=images, filename_prefix="spectrum/sdxl")
    drawing.column(440, "Spectrum Report")
    drawing.node("SpectrumReport", tall=480, model=model, latent=latent)


def wan22(drawing: Drawing) -> None:
    """Wan 2.2 14B, text to video: two experts, each accelerated by a node of its own."""
    inner = Drawing("Text to video (Wan 2.2 14B)", drawing.info, inside=True)
    high, low = (f"wan2.2_t2v_{noise}_noise_14B_fp8_scaled.safetensors" for noise in ("high", "low"))
    files = (high, low, "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors")
    inner.column(360, "Models")
    (model_high,) = inner.node("UNETLoader", title="High noise model", unet_name=high)
    (model_low,) = inner.node("UNETLoader", title="Low noise model", unet_name=low)
    (clip,) = inner.node("CLIPLoader", clip_name=files[2], type="wan")
    (vae,) = inner.node("VAELoader", vae_name=files[3])
    inner.column(400, "Inputs")
    prompt = (
        "A paper boat drifts down a rain-filled gutter between autumn leaves, low camera following close behind, "
        "soft overcast light, shallow depth of field, cinematic"
    )
    worse = "overexposed, static, blurred details, subtitles, watermark, low quality, deformed, cluttered background"
    positive, negative = prompts(inner, clip, prompt, worse)
    latent = size(inner, "EmptyHunyuanLatentVideo", width=832, height=480, length=81)
    inner.column(340, "Spectrum Accelerate")
    (model_high,) = inner.node("ModelSamplingSD3", title="Shift (high noise)", model=model_high, shift=5.0)
    model_high = accelerate(inner, model_high, title="Spectrum Accelerate (high noise)")
    inner.column(340, "Spectrum Accelerate")
    (model_low,) = inner.node("ModelSamplingSD3", title="Shift (low noise)", model=model_low, shift=5.0)
    model_low = accelerate(inner, model_low, title="Spectrum Accelerate (low noise)")
    inner.column(340, "Sampling")
    (steps,) = inner.node("PrimitiveInt", title="Steps", value=20, show=("value",))
    (half,) = inner.node("PrimitiveInt", title="First low noise step", value=10, show=("value",))
    sampling = {"cfg": 3.5, "sampler_name": "euler", "scheduler": "simple", "steps": steps}
    sampling |= {"positive": positive, "negative": negative}
    first = {"model": model_high, "noise_seed": 42, "end_at_step": half, "return_with_leftover_noise": "enable"}
    (latent,) = inner.node(
        "KSamplerAdvanced", title="High noise", show=("noise_seed",), latent_image=latent, **first, **sampling
    )
    second = {"model": model_low, "add_noise": "disable", "start_at_step": half}
    inner.column(340, "Sampling")
    (latent,) = inner.node("KSamplerAdvanced", title="Low noise", latent_image=latent, **second, **sampling)
    inner.column(260, "Result")
    (images,) = inner.node("VAEDecode", samples=latent, vae=vae)
    (video,) = inner.node("CreateVideo", images=images, fps=16.0)
    inner.give("VIDEO", video)
    advice = (
        "**What to expect.** Each of the two experts has a **Spectrum Accelerate** of its own, because each is a run "
        f"of its own: 10 of the 20 steps, of which {budgeted(drawing.info, 10, 3.5)} are computed. "
        "More steps gain more.\n\nWith the 4-step Lightning LoRAs each expert has 2 steps: nothing can be forecast. "
        "Memory: each node holds a few features of about 320 MiB at this size while it samples."
    )
    in_subgraph(drawing, "Wan 2.2 14B", about(advice, *files), inner, "wan22", 420)


def ltx2(drawing: Drawing) -> None:
    """LTX-2, text to video with sound, in one stage."""
    inner = Drawing("Text to video with sound (LTX-2)", drawing.info, inside=True)
    checkpoint, encoder = "ltx-2-19b-dev-fp8.safetensors", "gemma_3_12B_it_fp4_mixed.safetensors"
    inner.column(360, "Models")
    model, _, vae = inner.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
    (clip,) = inner.node("LTXAVTextEncoderLoader", text_encoder=encoder, ckpt_name=checkpoint)
    (audio_vae,) = inner.node("LTXVAudioVAELoader", ckpt_name=checkpoint)
    inner.column(400, "Inputs")
    prompt = (
        "A street musician plays a slow waltz on an accordion under a stone bridge, rain drips at the edge of the "
        "arch, the camera glides closer, warm lantern light, the melody echoes"
    )
    positive, negative = prompts(inner, clip, prompt, "blurry, low quality, still frame, watermark, titles, subtitles")
    (length,) = inner.node("PrimitiveInt", title="Frames", value=97, show=("value",))
    (rate,) = inner.node("PrimitiveFloat", title="Frames per second", value=24.0)
    inner.column(340, "Latent")
    latent = inner.node("EmptyLTXVLatentVideo", show=("width", "height"), width=768, height=512, length=length)[0]
    (sound,) = inner.node("LTXVEmptyLatentAudio", frames_number=length, frame_rate=rate, audio_vae=audio_vae)
    (latent,) = inner.node("LTXVConcatAVLatent", video_latent=latent, audio_latent=sound)
    positive, negative = inner.node("LTXVConditioning", positive=positive, negative=negative, frame_rate=rate)
    inner.column(340, "Spectrum Accelerate")
    model = accelerate(inner, model)
    inner.column(320, "Sampling")
    (sigmas,) = inner.node("LTXVScheduler", show=("steps",), steps=20, latent=latent)
    latent = guided(inner, model, positive, negative, latent, 4.0, sigmas, noise_seed=42)
    inner.column(300, "Result")
    picture, sound = inner.node("LTXVSeparateAVLatent", av_latent=latent)
    (images,) = inner.node("VAEDecodeTiled", samples=picture, vae=vae, temporal_size=4096)
    (audio,) = inner.node("LTXVAudioVAEDecode", samples=sound, audio_vae=audio_vae)
    (video,) = inner.node("CreateVideo", images=images, fps=rate, audio=audio)
    inner.give("VIDEO", video)
    advice = (
        f"{expected(drawing, 20, 4.0)} The sampler is *euler*: *euler_ancestral* adds noise and is accelerated less."
        "\n\nThis is the first of the two stages of ComfyUI's template. The second one, with the distilled LoRA and 3 "
        "steps, has nothing to forecast: connect the plain model there."
    )
    in_subgraph(drawing, "LTX-2", about(advice, checkpoint, encoder), inner, "ltx-2", 380)


def hunyuan_video(drawing: Drawing) -> None:
    """HunyuanVideo 1.5, text to video."""
    files = (
        "hunyuanvideo1.5_720p_t2v_fp16.safetensors",
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "byt5_small_glyphxl_fp16.safetensors",
        "hunyuanvideo15_vae_fp16.safetensors",
    )
    drawing.column(400, "Models")
    (model,) = drawing.node("UNETLoader", unet_name=files[0])
    (clip,) = drawing.node("DualCLIPLoader", clip_name1=files[1], clip_name2=files[2], type="hunyuan_video_15")
    (vae,) = drawing.node("VAELoader", vae_name=files[3])
    drawing.below("")
    advice = (
        f"{expected(drawing, 20, 6.0)} With CFG each of them is two evaluations of the network. 50 steps are "
        f"the model's own number; with forecasts they cost as much as {budgeted(drawing.info, 50, 6.0)} full ones.\n\n"
        "The distilled models (8 steps, also the 1080p upscaler) gain little. EasyCache does the same: use one of the "
        "two."
    )
    drawing.note("About this workflow", about(advice, *files), 400)
    drawing.column(400, "Inputs")
    prompt = (
        "A tram climbs a steep street between pastel houses at sunrise, laundry moves in the wind, the camera follows "
        "from behind, long shadows, cinematic"
    )
    positive, negative = prompts(drawing, clip, prompt, "")
    (latent,) = drawing.node("EmptyHunyuanVideo15Latent", width=1280, height=720, length=121)
    drawing.column(360, "Spectrum Accelerate")
    model = accelerate(drawing, model)
    drawing.column(320, "Sampling")
    (sigmas,) = drawing.node("BasicScheduler", model=model, scheduler="simple", steps=20)
    (shifted,) = drawing.node("ModelSamplingSD3", model=model, shift=7.0)
    latent = guided(drawing, shifted, positive, negative, latent, 6.0, sigmas, noise_seed=42)
    drawing.column(280, "Result")
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    (video,) = drawing.node("CreateVideo", images=images, fps=24.0)
    drawing.column(560, "Result")
    drawing.node("SaveVideo", tall=400, video=video, filename_prefix="spectrum/hunyuanvideo-1.5")
    drawing.below("Spectrum Report")
    drawing.node("SpectrumReport", tall=480, model=model, latent=latent)


def a_b(drawing: Drawing) -> None:
    """Both runs of SDXL with one seed, and what differs."""
    advice = (
        "The subgraph samples twice with one seed: plain, and with **Spectrum Accelerate**. *Image Compare* shows "
        "both, *Spectrum Compare* where and how much they differ, *Spectrum Report* what was computed.\n\nSet "
        "*skip_interval* and *steps* on the subgraph. For your own model: replace the loader and the prompts, or take "
        "**Spectrum A/B** from the node library (*Subgraph Blueprints*) into your workflow."
    )
    note = about(advice, "sd_xl_base_1.0.safetensors")
    model, vae, positive, negative, latent = sdxl_inputs(drawing, note, 380)
    drawing.column(400, "Spectrum A/B")
    inputs = {"model": model, "vae": vae, "positive": positive, "negative": negative, "latent_image": latent}
    plain, fast, difference, figures, summary, plot = drawing.subgraph(compared(drawing.info), tall=560, **inputs)
    drawing.column(440, "Result")
    drawing.node("PreviewImage", title="Plain", tall=440, images=plain)
    drawing.node("PreviewImage", title="Accelerated", tall=440, images=fast)
    drawing.column(520, "Result")
    drawing.node("ImageCompare", title="Image Compare (in Nodes 2.0)", tall=520, image_a=plain, image_b=fast)
    drawing.node("PreviewImage", title="Where they differ", tall=440, images=difference)
    drawing.column(520, "Spectrum Report")
    drawing.node("PreviewAny", title="How much they differ", tall=160, source=figures)
    drawing.node("PreviewAny", title="What was computed", tall=240, source=summary)
    drawing.node("PreviewImage", title="Evaluations", tall=380, images=plot)


# --- blueprints -------------------------------------------------------------------------------------------------------


def compared(info: Mapping[str, Any]) -> Drawing:
    """The subgraph "Spectrum A/B"; one noise, one sampler, one schedule of steps feed both runs."""
    inner = Drawing("Spectrum A/B", info, inside=True)
    model, positive, negative = (
        inner.take("model", "MODEL"),
        *(inner.take(name, "CONDITIONING") for name in ("positive", "negative")),
    )
    latent, vae = inner.take("latent_image", "LATENT"), inner.take("vae", "VAE")
    inner.column(320, "The same for both")
    (noise,) = inner.node("RandomNoise", show=("noise_seed",), noise_seed=42)
    (sampler,) = inner.node("KSamplerSelect", show=("sampler_name",), sampler_name="euler")
    (sigmas,) = inner.node(
        "BasicScheduler", show=("scheduler", "steps", "denoise"), model=model, scheduler="normal", steps=30
    )
    (cfg,) = inner.node("PrimitiveFloat", title="CFG", show=("value",), value=7.0)
    inner.column(360, "Spectrum Accelerate")
    fast_model = accelerate(inner, model)
    samples: list[Output] = []
    inner.column(320, "Sampling")
    for name, used in (("plain", model), ("accelerated", fast_model)):
        guidance = {"positive": positive, "negative": negative, "cfg": cfg}
        (guider,) = inner.node("CFGGuider", title=f"Guider ({name})", model=used, **guidance)
        parts = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        samples.append(inner.node("SamplerCustomAdvanced", title=f"Sampler ({name})", **parts)[0])
    inner.column(280, "Pictures")
    images = [
        inner.node("VAEDecode", title=f"VAE Decode ({name})", samples=latent_, vae=vae)[0]
        for name, latent_ in zip(("plain", "accelerated"), samples, strict=True)
    ]
    inner.column(440, "Spectrum Compare and Report")
    difference, figures = inner.node("SpectrumCompare", tall=300, plain=images[0], accelerated=images[1])
    summary, plot = inner.node("SpectrumReport", tall=480, model=fast_model, latent=samples[1])
    inner.column(440, "Side by side (in Nodes 2.0)")
    inner.node("ImageCompare", tall=480, image_a=images[0], image_b=images[1])
    for name, output in (
        ("plain", images[0]),
        ("accelerated", images[1]),
        ("difference", difference),
        ("figures", figures),
        ("summary", summary),
        ("plot", plot),
    ):
        inner.give(name, output)
    return inner


def ksampler(info: Mapping[str, Any]) -> Drawing:
    """The subgraph "KSampler with Spectrum": takes a KSampler's place."""
    inner = Drawing("KSampler with Spectrum", info, inside=True)
    model = inner.take("model", "MODEL")
    positive, negative = (inner.take(name, "CONDITIONING") for name in ("positive", "negative"))
    latent = inner.take("latent_image", "LATENT")
    inner.column(360, "Spectrum Accelerate")
    model = accelerate(inner, model)
    inner.column(320, "Sampling")
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    show = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
    values = {"seed": 42, "steps": 30, "cfg": 5.0, "sampler_name": "euler", "scheduler": "simple"}
    (samples,) = inner.node("KSampler", show=show, **inputs, **values)
    inner.column(440, "Spectrum Report")
    inner.node("SpectrumReport", tall=480, model=model, latent=samples)
    inner.give("LATENT", samples)
    return inner


DRAWERS = {
    "Compare A-B (SDXL)": a_b,
    "FLUX.1 dev": flux,
    "FLUX.2 klein base": klein,
    "HunyuanVideo 1.5": hunyuan_video,
    "LTX-2": ltx2,
    "Qwen-Image 2512": qwen_image,
    "SDXL": sdxl,
    "Wan 2.2 14B": wan22,
    "Z-Image": z_image,
}
"""Workflows by the name that the page's template browser shows, which is the file's."""

SUBGRAPHS = {"KSampler with Spectrum": ksampler, "Spectrum A-B": compared}
"""Blueprints by the file's name."""


def written(info: Mapping[str, Any]) -> dict[Path, Json]:
    """Every file and its content, for the nodes that a server has."""
    files: dict[Path, Json] = {}
    for file, draw in {DEMO: demo, **{WORKFLOWS / f"{name}.json": draw for name, draw in DRAWERS.items()}}.items():
        drawing = Drawing(file.stem, info)
        draw(drawing)
        files[file] = drawing.to_dict()
    for name, make in SUBGRAPHS.items():
        drawing = Drawing(name, info)
        drawing.column(400, "")
        drawing.subgraph(make(info))
        files[BLUEPRINTS / f"{name}.json"] = drawing.to_dict()
    return files


def text(content: Json) -> str:
    """A file's text."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write every file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        files = written(server.object_info())
    for file, content in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text(content), encoding="utf-8")
        log.info("%s", file.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
