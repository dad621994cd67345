"""What a forecast evaluation costs beside the head: ratios within one run.

    python dev.py bench overhead

1. The weighted sum of the history, as a ratio to one memory copy of the history that it reads.
2. Everything else that the node does on a forecast evaluation (decision, stream look-up, weights, leaving out the
   blocks), in microseconds and as a share of an evaluation of the embedded model.
3. A call without blocks as a share of a full call, for the geometry of FLUX.1 at 1024x1024: in operations (counted on
   the meta device at the real depth of 19 + 38 blocks) and in time (one block of each kind is measured on this device
   at 512x512, the rest of the depth is that many times the block).
4. The correction of a run of 15 of 50 with a latent of Wan2.1's 81 frames at 1280x720: each evaluation's share of it
   against a copy of the latent, and how many latents' worth of memory it holds.
5. What is left where Python is the limit, as with SDXL on a fast GPU: SDXL's own blocks with so few channels that
   computing takes no time. An evaluation of each kind, and whole runs as `bench gpu` measures them.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from _embedded import Case, Setting  # boots ComfyUI

# isort: split
import comfy.ldm.flux.math
import comfy.ops
import comfy.samplers
import gpu
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.attention import attention_pytorch
from spectrum_accelerate.nodes.models.architectures import ARCHITECTURES
from spectrum_accelerate.nodes.models.rows import ConditioningHistory, forecast_rows
from spectrum_accelerate.nodes.models.taps import TappedModel
from spectrum_accelerate.nodes.runtime import accelerate, attachment
from spectrum_accelerate.nodes.samplers.linear_map import linear_map
from spectrum_accelerate.nodes.settings import Settings
from spectrum_accelerate.spectrum_core.corrector import ORDER, Corrector, polynomial
from torch.utils.flop_counter import FlopCounterMode

from demo import inprocess

OUTPUT = Path(__file__).resolve().parent.parent / "output" / "benchmarks" / "overhead.json"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = (64, 128, 256)
FLUX = dict(
    in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0,
    num_heads=24, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True,
    txt_ids_dims=[],
)  # fmt: skip
DEPTH = {"double_blocks": 19, "single_blocks": 38}
WAN_LATENT = (1, 16, 21, 90, 160)
NARROW = {"model_channels": 32, "num_head_channels": 8}


def seconds(call: Callable[[], Any], repeats: int = 9) -> float:
    """Median duration of a call after a warm-up."""
    durations = []
    for _ in range(repeats + 1):
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[1:])


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def weighted_sum(mebibytes: int, dtype: torch.dtype) -> dict[str, Any]:
    """Forecasting features of a size from a full window, against copying that window."""
    settings = Settings.of()
    elements = mebibytes * 2**20 // dtype.itemsize
    stream = ConditioningHistory(settings.window)
    for position in (0, 2, 4):
        stream.push("head", position, torch.randn(elements, device=DEVICE).to(dtype).view(1, -1, 64))
    history = torch.randn((3, elements), device=DEVICE).to(dtype)
    copy = torch.empty_like(history)
    room: dict[str, torch.Tensor] = {}
    forecast_seconds = seconds(lambda: forecast_rows([stream], settings.forecaster(), 6, 50, room))
    copy_seconds = seconds(lambda: copy.copy_(history))
    return {
        "feature": f"{mebibytes} MiB {str(dtype).removeprefix('torch.')}",
        "forecast_ms": forecast_seconds * 1000,
        "copy_ms": copy_seconds * 1000,
        "ratio": forecast_seconds / copy_seconds,
    }


def bookkeeping() -> dict[str, float]:
    """Forecast evaluations of the embedded model (features of a few kB) against its head alone."""
    case = Case(Setting(50, 1.0, 3.0), seed=0)
    model = accelerate(case.model, Settings.of())
    case.sample(model)
    attached = attachment(model)
    assert attached is not None
    evaluations = attached.runs[-1].evaluations
    forecast = statistics.median(e.seconds for e in evaluations if e.kind == "forecast" and e.seconds)
    computed = statistics.median(e.seconds for e in evaluations if e.kind == "computed" and e.seconds)
    # The same call without blocks, the feature given: what is left is what any forecast must pay.
    bypass = TappedModel(case.model.model, ARCHITECTURES["Flux"])
    network = case.model.model
    features: dict[str, torch.Tensor] = {}
    x, t = case.noise.to(DEVICE), torch.ones(len(case.noise), device=DEVICE)
    conds = {"c_crossattn": case.positive[0][0].to(DEVICE), "y": case.positive[0][1]["pooled_output"].to(DEVICE)}
    with torch.inference_mode():
        call = lambda: network.apply_model(x, t, transformer_options={}, **conds)  # noqa: E731
        bypass.run_full(call, lambda label, feature: features.update({label: feature.clone()}))
        head = seconds(lambda: bypass.run_head(call, features), 30)
    return {
        "forecast_evaluation_ms": forecast * 1000,
        "head_alone_ms": head * 1000,
        "computed_evaluation_ms": computed * 1000,
        "share_of_computed": (forecast - head) / computed,
    }


def _flux(device: torch.device, double: int, single: int, dtype: torch.dtype) -> Flux:
    return Flux(
        image_model="flux", depth=double, depth_single_blocks=single, device=device, dtype=dtype,
        operations=comfy.ops.disable_weight_init, **FLUX,
    )  # fmt: skip


def _inputs(device: torch.device, size: int, dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, device=device, dtype=dtype)

    return (ones(1, 16, size // 8, size // 8), ones(1)), {
        "context": ones(1, 512, 4096), "y": ones(1, 768), "guidance": ones(1), "transformer_options": {},
    }  # fmt: skip


def flux_operations() -> dict[str, float]:
    """Floating-point operations of a full and of a skip call at the real depth."""
    meta = torch.device("meta")
    args, kwargs = _inputs(meta, 1024, torch.bfloat16)
    counts = {}
    for name, depth in (("full", DEPTH), ("skip", dict.fromkeys(DEPTH, 0))):
        network = _flux(meta, *depth.values(), torch.bfloat16)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(*args, **kwargs)
        counts[name] = counter.get_total_flops()
    full, skip = counts["full"], counts["skip"]
    return {"full_tflop": full / 1e12, "skip_tflop": skip / 1e12, "share": skip / full}


def flux_time(size: int) -> dict[str, float]:
    """Seconds of a skip call, and of a full call put together from measured blocks."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    repeats = 9 if DEVICE.type == "cuda" else 2
    args, kwargs = _inputs(DEVICE, size, dtype)
    durations = {}
    with torch.inference_mode():
        for name, depth in (("skip", (0, 0)), ("double_blocks", (1, 0)), ("single_blocks", (0, 1))):
            network = _flux(DEVICE, *depth, dtype)
            for weight in network.parameters():
                weight.normal_(std=0.02)
            durations[name] = seconds(partial(network, *args, **kwargs), repeats)
            del network
    skip = durations["skip"]
    full = skip + sum(count * (durations[name] - skip) for name, count in DEPTH.items())
    return {"size": size, "skip_s": skip, "full_s": full, "share": skip / full}


def correction(sampler: str) -> dict[str, Any]:
    """What correcting a run of the defaults takes, beside what the sampler itself does."""
    settings, sampling = Settings.of(), inprocess.embedded_model(3.0).get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 50)
    found = linear_map(
        comfy.samplers.ksampler(sampler), sampling, sigmas, lambda sigma, output, latent: latent - sigma * output
    )
    corrector = Corrector(
        found.coefficients[:, 1:].numpy(), range(50), lambda e: 1 / found.levels[e],
        lambda known, step: settings.forecaster().weights(known, step, 50),
        lambda known, step: polynomial(ORDER).weights(known, step, 50),
    )  # fmt: skip
    computed = set(settings.schedule_for(sigmas.tolist()).plan(50))
    # A smooth path: outputs that do not lie on one are not corrected.
    directions = torch.randn((3, *WAN_LATENT), device=DEVICE)
    durations: dict[str, list[float]] = {"computed": [], "forecast": []}
    held = 0
    for step in range(50):
        output = directions[0] + step / 50 * directions[1] + (step / 50) ** 2 * directions[2]
        kind = "computed" if step in computed else "forecast"
        _wait()
        start = time.perf_counter()
        if kind == "computed":
            corrector.computed(step, output, output)
        else:
            corrector.forecast(step, output)
        _wait()
        durations[kind].append(time.perf_counter() - start)
        held = max(held, held_by(corrector))
    copy = torch.empty_like(output)
    copy_seconds = seconds(lambda: copy.copy_(output))
    return {
        "sampler": sampler,
        "latent": list(WAN_LATENT),
        "copy_ms": copy_seconds * 1000,
        **{f"{kind}_ms": statistics.median(found) * 1000 for kind, found in durations.items()},
        **{f"{kind}_in_copies": statistics.median(found) / copy_seconds for kind, found in durations.items()},
        "held_latents": held / output.nbytes,
    }


def held_by(root: object) -> int:
    """Bytes of all tensors that an object leads to, each storage once."""
    storages, seen, found = {}, set(), [root]
    while found:
        thing = found.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, dict):
            found += thing.values()
        elif isinstance(thing, list | tuple):
            found += thing
        elif type(thing).__module__.startswith("spectrum_accelerate"):
            found += vars(thing).values()
    return sum(storages.values())


def host() -> dict[str, Any]:
    """SDXL's blocks with few channels: Python's time only."""
    sdxl = gpu.subjects(tiny=False)["sdxl"]
    sizes = {**sdxl.geometry.sizes, **NARROW}
    geometry = replace(sdxl.geometry, latent=(4, 8, 8), context=(8, sdxl.geometry.context[1]), sizes=sizes)
    narrow = replace(sdxl, geometry=geometry, short=50)
    return {"evaluations": gpu.evaluations(narrow), "runs": gpu.speed(narrow)["runs"]}


def main() -> None:
    comfy.ldm.flux.math.optimized_attention = attention_pytorch  # the CPU's default asks a meta device for its memory
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.getLogger().setLevel(logging.INFO)
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU, one thread",
        "torch": torch.__version__,
        "weighted_sum": [weighted_sum(m, d) for d in (torch.float32, torch.bfloat16) for m in SIZES],
        "bookkeeping": bookkeeping(),
        "flux_operations": flux_operations(),
        "flux_time": flux_time(1024 if DEVICE.type == "cuda" else 512),
        "host": host(),
        "correction": [correction(sampler) for sampler in ("euler", "dpmpp_2m")],
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(results, indent=1))
    logging.info(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
