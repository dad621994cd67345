"""What `dev.py demo` runs: the demo's workflow with and without Spectrum Accelerate, in a real ComfyUI server.

Each of several prompts runs twice with the same seed; the plain run merely lacks the node. The pictures with a map of
their differences, a plot, and the figures as text and as JSON go to output/demo.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import logging
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
PICTURE = ROOT / "docs" / "images" / "comparison.jpg"
WARM_UP_STEPS = 8
SIDE = 288  # of a shown picture; the model draws 96 x 96 pixels
AMPLIFIED = 16  # the map shows differences this many times as large
BEST_PSNR = 100.0  # what identical pictures get, instead of an infinity that JSON cannot hold
COMPUTED, FORECAST = "#2f6fde", "#f2a33c"
PROMPTS = (
    ("fox face", "mint", 3),
    ("ghost", "navy", 4),
    ("hamburger", "lavender", 4),
    ("sailboat", "sky blue", 3),
    ("penguin", "sky blue", 4),
    ("strawberry", "mint", 4),
)
"""Emoji, background and seed: such that the model draws them well without our node."""

log = logging.getLogger("demo")


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run left.

    Attributes:
        seconds: duration of the sampler node.
        latent: final latent [1, 16, height, width].
        picture: RGB, uint8 [height, width, 3].
        outputs: what each node showed, by node id.
    """

    seconds: float
    latent: np.ndarray
    picture: np.ndarray
    outputs: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The figures of all prompts, as report.json names them: sums, and means of the pictures' figures."""

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
    (picture,) = outputs[find_node(prompt, "SaveImage")]["images"]
    return Result(
        seconds=server.node_seconds(prompt_id)[find_node(prompt, "KSampler")],
        latent=load(server.view(latent))["latent_tensor"].astype(np.float64),
        picture=np.asarray(Image.open(io.BytesIO(server.view(picture))).convert("RGB")),
        outputs=outputs,
    )


def compare(plain: list[Result], accelerated: list[Result], traces: list[Json]) -> Comparison:
    """The figures that say what the acceleration gained and what it cost."""
    pictures = [
        {
            "relative_l2": float(np.linalg.norm(b.latent - a.latent) / np.linalg.norm(a.latent)),
            "psnr": min(BEST_PSNR, float(peak_signal_noise_ratio(a.picture, b.picture)))
            if (a.picture != b.picture).any()
            else BEST_PSNR,
            "ssim": float(structural_similarity(a.picture, b.picture, channel_axis=2)),
        }
        for a, b in zip(plain, accelerated, strict=True)
    ]
    kinds = "".join(trace["kinds"] for trace in traces)
    return Comparison(
        evaluations={"computed": kinds.count("c"), "total": len(kinds)},
        seconds={"plain": sum(r.seconds for r in plain), "accelerated": sum(r.seconds for r in accelerated)},
        **{name: float(np.mean([figures[name] for figures in pictures])) for name in ("relative_l2", "psnr", "ssim")},
        summary="\n".join(trace["summary"] for trace in traces),
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
        ("relative L2 of the final latents", "", f"{result.relative_l2:.4f}", ""),
        ("PSNR of the pictures (dB)", "", f"{result.psnr:.2f}", ""),
        ("SSIM of the pictures", "", f"{result.ssim:.4f}", ""),
    ]
    return "\n".join(f"{name:32}{a:>8}{b:>14}{c:>16}".rstrip() for name, a, b, c in rows)


def draw_pictures(file: Path, plain: list[Result], accelerated: list[Result], result: Comparison) -> None:
    """Both runs under each other, and the map of their differences under them; a column for each prompt."""
    computed, total = result.evaluations["computed"] // len(plain), result.evaluations["total"] // len(plain)
    rows = {
        f"plain: {total} evaluations": [run.picture for run in plain],
        f"Spectrum Accelerate: {computed} evaluations": [run.picture for run in accelerated],
        f"difference, {AMPLIFIED} times as bright": [
            np.minimum(255, AMPLIFIED * np.abs(a.picture.astype(int) - b.picture)).astype(np.uint8)
            for a, b in zip(plain, accelerated, strict=True)
        ],
    }
    gap, caption = 12, 40
    font: Any = ImageFont.load_default(size=22)
    sheet = Image.new("RGB", (len(plain) * (SIDE + gap) + gap, len(rows) * (SIDE + caption) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (text, pictures) in enumerate(rows.items()):
        top = row * (SIDE + caption)
        draw.text((gap, top + caption / 2), text, "#1c2430", font, anchor="lm")
        for column, picture in enumerate(pictures):
            shown = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(shown, (gap + column * (SIDE + gap), top + caption))
    sheet.save(file, optimize=True)


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
    known = [entry for entry in evaluations if entry["feature_error"] is not None]
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
    chosen = (arguments.emoji, arguments.background, arguments.seed)
    given = [tuple(value if value is not None else default for value, default in zip(chosen, PROMPTS[0], strict=True))]
    prompts = PROMPTS if all(value is None for value in chosen) else given
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    shutil.rmtree(BASE, ignore_errors=True)
    start = time.perf_counter()
    log.info("- starting ComfyUI ...")
    with ComfyServer(BASE) as server:
        log.info("  done in %.1f s", time.perf_counter() - start)
        fast = to_prompt(workflow, server.object_info())
        sampler = fast[find_node(fast, "KSampler")]["inputs"]
        positive = fast[sampler["positive"][0]]["inputs"]
        fast[find_node(fast, "EmptySD3LatentImage")]["inputs"]["batch_size"] = 1
        sampler["steps"] = arguments.steps or sampler["steps"]

        log.info("- warming up, so that loading the model does not count ...")
        warm_up = copy.deepcopy(fast)
        warm_up[find_node(warm_up, "KSampler")]["inputs"]["steps"] = WARM_UP_STEPS
        run(server, warm_up)
        plain, accelerated = [], []
        for emoji, background, seed in prompts:
            log.info("- %s on %s, seed %d, %d steps, without and with ...", emoji, background, seed, sampler["steps"])
            sampler["seed"] = seed
            positive.update(emoji=emoji, background=background)
            plain.append(run(server, without_node(without_outputs(fast, "SpectrumReport"), "SpectrumAccelerate")))
            accelerated.append(run(server, fast))
            log.info("  %.2f s and %.2f s", plain[-1].seconds, accelerated[-1].seconds)

    traces = [json.loads(r.outputs[find_node(fast, "SpectrumReport")]["spectrum"][-1]) for r in accelerated]
    result = compare(plain, accelerated, traces)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "report.json").write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", encoding="utf-8")
    draw_pictures(OUTPUT / "comparison.png", plain, accelerated, result)
    if arguments.update:
        Image.open(OUTPUT / "comparison.png").save(PICTURE, quality=74, optimize=True)
    draw_evaluations(OUTPUT / "evaluations.png", traces[0])
    return result


def main() -> int:
    """Run the demo and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary exception, so that the server ends too
    labels = json.loads((ROOT / "demo" / "model" / "labels.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="dev.py demo", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--emoji", choices=labels["emoji"], metavar="NAME", help="one prompt instead of six")
    parser.add_argument("--background", choices=labels["bg"], metavar="NAME", help="likewise")
    parser.add_argument("--seed", type=int, help="likewise")
    parser.add_argument("--steps", type=int, help="default: the workflow's")
    parser.add_argument("--update", action="store_true", help="also write docs/images/comparison.jpg")
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
