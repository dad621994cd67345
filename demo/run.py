"""What `dev.py demo` runs: the demo's workflow with and without Spectrum Accelerate, in a real ComfyUI server.

Both runs are the same prompt with the same seed; the plain one merely lacks the node. The pictures, a plot, and the
figures as text and as JSON go to output/demo.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import logging
import math
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from .comfy_server import ROOT, ComfyServer, PromptError, ServerError
from .workflow import Json, WorkflowError, find_node, to_prompt, without_node, without_outputs

matplotlib.use("Agg")
from matplotlib import pyplot

WORKFLOW = ROOT / "demo" / "emoji_nodes" / "workflows" / "spectrum_demo.json"
OUTPUT = ROOT / "output" / "demo"
BASE = ROOT / ".dev" / "demo"
WARM_UP_STEPS = 8
SCALE = 3  # the model draws 96 x 96 pixels
BEST_PSNR = 100.0  # what identical pictures get, instead of an infinity that JSON cannot hold
COMPUTED, FORECAST = "#2f6fde", "#f2a33c"

log = logging.getLogger("demo")


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run left.

    Attributes:
        seconds: duration of the sampler node.
        latent: final latent [batch, 16, 12, 12].
        pictures: RGB, uint8 [96, 96, 3] each.
        outputs: what each node showed, by node id.
    """

    seconds: float
    latent: np.ndarray
    pictures: list[np.ndarray]
    outputs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The figures of both runs, as report.json names them; those of the pictures are means over the batch."""

    evaluations: dict[str, int]
    seconds: dict[str, float]
    relative_l2: float
    psnr: float
    ssim: float
    summary: str
    pictures: list[dict[str, float]]


def run(server: ComfyServer, prompt: dict[str, Json]) -> Result:
    """Run a prompt and fetch its latent and its pictures through the server, as the page would."""
    prompt_id = server.submit(prompt)
    outputs = server.wait(prompt_id)
    (latent,) = outputs[find_node(prompt, "SaveLatent")]["latents"]
    pictures = outputs[find_node(prompt, "SaveImage")]["images"]
    return Result(
        seconds=server.node_seconds(prompt_id)[find_node(prompt, "KSampler")],
        latent=load(server.view(latent))["latent_tensor"].astype(np.float64),
        pictures=[np.asarray(Image.open(io.BytesIO(server.view(file))).convert("RGB")) for file in pictures],
        outputs=outputs,
    )


def compare(plain: Result, accelerated: Result, trace: Json) -> Comparison:
    """The figures that say what the acceleration gained and what it cost."""
    pictures = [
        {
            "psnr": min(BEST_PSNR, float(peak_signal_noise_ratio(a, b))) if (a != b).any() else BEST_PSNR,
            "ssim": float(structural_similarity(a, b, channel_axis=2)),
        }
        for a, b in zip(plain.pictures, accelerated.pictures, strict=True)
    ]
    kinds = [evaluation["kind"] for evaluation in trace["evaluations"]]
    return Comparison(
        evaluations={"computed": kinds.count("computed"), "total": len(kinds)},
        seconds={"plain": plain.seconds, "accelerated": accelerated.seconds},
        relative_l2=float(np.linalg.norm(accelerated.latent - plain.latent) / np.linalg.norm(plain.latent)),
        psnr=float(np.mean([figures["psnr"] for figures in pictures])),
        ssim=float(np.mean([figures["ssim"] for figures in pictures])),
        summary=trace.get("summary", ""),
        pictures=pictures,
    )


def table(result: Comparison) -> str:
    """The figures as text."""
    computed, total = result.evaluations["computed"], result.evaluations["total"]
    plain, accelerated = result.seconds["plain"], result.seconds["accelerated"]
    rows = [
        ("", "plain", "accelerated", "ratio"),
        ("network evaluations", f"{total}", f"{computed}", f"{total / computed:.2f}x fewer"),
        ("seconds", f"{plain:.2f}", f"{accelerated:.2f}", f"{plain / accelerated:.2f}x faster"),
        ("relative L2 of the final latent", "", f"{result.relative_l2:.4f}", ""),
        ("PSNR of the pictures (dB)", "", f"{result.psnr:.2f}", ""),
        ("SSIM of the pictures", "", f"{result.ssim:.4f}", ""),
    ]
    return "\n".join(f"{name:32}{a:>8}{b:>14}{c:>16}".rstrip() for name, a, b, c in rows)


def grid(pictures: list[np.ndarray]) -> Image.Image:
    """The pictures of a batch as one, enlarged."""
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = (side * SCALE for side in pictures[0].shape[:2])
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    for index, picture in enumerate(pictures):
        enlarged = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(enlarged, (index % columns * width, index // columns * height))
    return sheet


def draw_pictures(file: Path, plain: Result, accelerated: Result, result: Comparison) -> None:
    """Both runs side by side, with what each one cost."""
    computed, total = result.evaluations["computed"], result.evaluations["total"]
    panels = [
        (grid(plain.pictures), f"plain: {total} evaluations, {plain.seconds:.2f} s"),
        (grid(accelerated.pictures), f"Spectrum Accelerate: {computed} evaluations, {accelerated.seconds:.2f} s"),
    ]
    gap, caption = 16, 44
    width, height = panels[0][0].size
    font: Any = ImageFont.load_default(size=min(20, width // 22))  # a single picture is narrower than its caption
    sheet = Image.new("RGB", (2 * width + 3 * gap, height + caption + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (panel, text) in enumerate(panels):
        left = gap + index * (width + gap)
        draw.text((left, caption / 2), text, "#1c2430", font, anchor="lm")
        sheet.paste(panel, (left, caption))
    sheet.save(file)


def draw_evaluations(file: Path, trace: Json) -> None:
    """How long each evaluation took and, where one was computed, how far its own forecast would have been off."""
    evaluations = trace["evaluations"]
    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 5), layout="constrained")
    for kind, colour in (("computed", COMPUTED), ("forecast", FORECAST)):
        chosen = [entry for entry in evaluations if entry["kind"] == kind]
        seconds = [1000 * (entry["seconds"] or 0.0) for entry in chosen]
        top.bar([entry["position"] for entry in chosen], seconds, color=colour, label=f"{kind} ({len(chosen)})")
    top.set_ylabel("milliseconds")
    top.legend(loc="upper right", ncols=2)
    computed = sum(entry["kind"] == "computed" for entry in evaluations)
    top.set_title(f"{computed} of {len(evaluations)} evaluations computed")
    sigmas = bottom.twinx()
    positions = [entry["position"] for entry in evaluations]
    sigmas.plot(positions, [entry["sigma"] for entry in evaluations], color="#8892a0", linewidth=1)
    sigmas.set_ylabel("sigma", color="#8892a0")
    known = [entry for entry in evaluations if entry["feature_error"]]
    bottom.plot(
        [e["position"] for e in known], [100 * e["feature_error"] for e in known], "o-", color="#d4572a", markersize=4
    )
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("error of the forecast\nfeature (%, relative L2)", color="#d4572a")
    bottom.set_xlabel("evaluation")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def demonstrate(arguments: argparse.Namespace) -> Comparison:
    """Start the server, run both prompts, write everything to the output folder."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    shutil.rmtree(BASE, ignore_errors=True)
    start = time.perf_counter()
    log.info("- starting ComfyUI ...")
    with ComfyServer(BASE) as server:
        log.info("  done in %.1f s", time.perf_counter() - start)
        accelerated_prompt = to_prompt(workflow, server.object_info())
        sampler = accelerated_prompt[find_node(accelerated_prompt, "KSampler")]["inputs"]
        positive = accelerated_prompt[sampler["positive"][0]]["inputs"]
        sampler.update({} if arguments.seed is None else {"seed": arguments.seed})
        positive.update({k: v for k in ("emoji", "background") if (v := getattr(arguments, k))})
        plain_prompt = without_node(without_outputs(accelerated_prompt, "SpectrumReport"), "SpectrumAccelerate")

        log.info("- warming up, so that loading the model does not count ...")
        warm_up = copy.deepcopy(accelerated_prompt)
        warm_up[find_node(warm_up, "KSampler")]["inputs"]["steps"] = WARM_UP_STEPS
        run(server, warm_up)
        log.info("- %s on %s, %d steps, plain ...", positive["emoji"], positive["background"], sampler["steps"])
        plain = run(server, plain_prompt)
        log.info("  %.2f s", plain.seconds)
        log.info("- the same with Spectrum Accelerate ...")
        accelerated = run(server, accelerated_prompt)
        log.info("  %.2f s", accelerated.seconds)

    shown = accelerated.outputs[find_node(accelerated_prompt, "SpectrumReport")]
    trace = {**json.loads(shown["spectrum"][-1]), "summary": shown["text"][0].splitlines()[0]}
    result = compare(plain, accelerated, trace)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "report.json").write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", encoding="utf-8")
    draw_pictures(OUTPUT / "comparison.png", plain, accelerated, result)
    draw_evaluations(OUTPUT / "evaluations.png", trace)
    return result


def main() -> int:
    """Run the demo and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary exception, so that the server ends too
    labels = json.loads((ROOT / "demo" / "model" / "labels.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="dev.py demo", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--emoji", choices=labels["emoji"], metavar="NAME", help="default: the workflow's")
    parser.add_argument("--background", choices=labels["bg"], metavar="NAME", help="default: the workflow's")
    parser.add_argument("--seed", type=int, help="default: the workflow's")
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        result = demonstrate(arguments)
    except (ServerError, PromptError, WorkflowError) as error:
        log.error("The demo failed: %s", error)
        return 1
    log.info("\n%s\n\n%s\n", table(result), result.summary)
    computed, total = result.evaluations["computed"], result.evaluations["total"]
    if computed == total:
        log.error("The demo failed: nothing was accelerated.")
        return 1
    log.info(
        "Demo done in %.0f s: %d of %d evaluations computed; see %s",
        time.perf_counter() - start,
        computed,
        total,
        OUTPUT.relative_to(ROOT) / "comparison.png",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
