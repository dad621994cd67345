"""What a GPU has to show: bit-identity, no waiting, speed, memory, at the size of real models. One run, ratios.

    python dev.py gpu-kit                            # beforehand, where there is a network: what the machine lacks
    python dev.py bench gpu --out DIR                # DIR/gpu.json and DIR/gpu.md; at most 6 minutes on an H100
    python dev.py bench gpu --out DIR --size tiny    # the same script with small models on any machine
    python dev.py bench gpu --page DIR/gpu.json      # docs/gpu.md from that file

ComfyUI's own classes with random weights: time, memory and identity do not depend on what the weights are.
A part that fails is an entry "error" in the file; the others run all the same.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import LatentPreviewMethod, args

GPU = torch.cuda.is_available()
args.highvram = GPU  # the weights are made on the GPU and stay there
args.preview_method = LatentPreviewMethod.Latent2RGB

import _gpu_server  # noqa: E402
from _foreign import evenly  # noqa: E402
from _geometry import GEOMETRIES, Geometry  # noqa: E402  (boots ComfyUI)
from _gpu_page import page  # noqa: E402

# isort: split
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402
import latent_preview  # noqa: E402
import torch._dynamo.utils  # noqa: E402
from _cases import MODELS, Case, Setting, distances  # noqa: E402
from _counting import counted  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from comfy_api.torch_helpers import set_torch_compile_wrapper  # noqa: E402
from comfy_extras.nodes_easycache import EasyCacheHolder, EasyCacheNode  # noqa: E402
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict  # noqa: E402
from spectrum_accelerate.nodes.models.footprint import feature_bytes, held_bytes  # noqa: E402
from spectrum_accelerate.nodes.runtime import accelerate, attachment  # noqa: E402
from spectrum_accelerate.nodes.settings import BLOCK_OUTPUT, Settings  # noqa: E402
from spectrum_accelerate.spectrum_core.history import History  # noqa: E402

log = logging.getLogger("gpu")
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
NEEDS = {"needs": "a GPU"}
MIB = 2**20
STEPS, SEED = 50, 7


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Attributes:
        geometry: its sizes.
        config: its class in comfy.supported_models.
        budget: seconds that its runs may take together; fewer steps where the device is slower. 0 for small models.
        pooled: channels of the pooled text; 0 without.
        short: steps of a run that is not timed as a whole.
    """

    geometry: Geometry
    config: str
    budget: float
    pooled: int = 0
    short: int = 20

    @cached_property
    def patcher(self) -> Any:
        """The MODEL, with random weights, on the device."""
        config = getattr(comfy.supported_models, self.config)(dict(self.geometry.sizes))
        config.set_inference_dtype(DTYPE, None)
        model = config.get_model({}, "", device=DEVICE)
        model.diffusion_model.to(DEVICE).eval().requires_grad_(False)
        generator = torch.Generator(DEVICE).manual_seed(SEED)
        for name, weight in model.diffusion_model.named_parameters():
            if weight.ndim > 1:  # a small gain: features change slowly with time, as those of trained models do
                weight.normal_(std=0.4 / math.sqrt(math.prod(weight.shape[1:])), generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
        return comfy.model_patcher.CoreModelPatcher(model, load_device=DEVICE, offload_device=DEVICE)

    def release(self) -> None:
        """Make room for the next model."""
        self.__dict__.pop("patcher", None)
        comfy.model_management.unload_all_models()
        comfy.model_management.cleanup_models_gc()
        comfy.model_management.soft_empty_cache(True)

    def accelerated(self, count: int = 0) -> Any:
        """The MODEL with our node, `count` evaluations computed; the default number if 0."""
        return accelerate(self.patcher, Settings.of(evaluations=count, target=BLOCK_OUTPUT))

    def sigmas(self, steps: int) -> list[float]:
        """Noise levels of a run."""
        sampling = self.patcher.get_model_object("model_sampling")
        values: list[float] = comfy.samplers.calculate_sigmas(sampling, "simple", steps).tolist()
        return values

    def sample(self, model: Any, steps: int, callback: Any = None) -> torch.Tensor:
        """The final latent, by Euler."""
        generator = torch.Generator().manual_seed(SEED)

        def text() -> list[Any]:
            extras = {"pooled_output": torch.randn(1, self.pooled, generator=generator)} if self.pooled else {}
            return [[torch.randn(1, *self.geometry.context, generator=generator), extras]]

        empty = torch.zeros(1, *self.geometry.latent)
        noise = torch.randn(empty.shape, generator=generator)
        guidance = 4.0 if self.geometry.cfg else 1.0
        with torch.inference_mode():
            latent: torch.Tensor = comfy.sample.sample(
                model, noise, steps, guidance, "euler", "simple", text(), text(), empty, seed=SEED,
                disable_pbar=True, callback=callback,
            )  # fmt: skip
        return latent.cpu()

    def run(self, method: str, model: Any, steps: int) -> dict[str, Any]:
        """One timed run: seconds, evaluations of the network, and peak memory beside the weights."""
        before = torch.cuda.memory_allocated() if GPU else 0
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        with counted(self.patcher.model.diffusion_model) as rows:
            wait()
            start = time.perf_counter()
            latent = self.sample(model, steps)
            wait()
            seconds = time.perf_counter() - start
        peak = (torch.cuda.max_memory_allocated() - before) / MIB if GPU else None
        evaluations = sum(rows) / (2 if self.geometry.cfg else 1)
        found = {"method": method, "steps": steps, "evaluations": evaluations, "seconds": seconds, "peak_mib": peak}
        attached = attachment(model)
        if attached is not None:
            trace = attached.runs[-1]
            found |= {"summary": trace.summary(), "target": trace.target, "self_test": trace.self_test}
        return found | {"finite": bool(latent.isfinite().all())}


class EvenCache(EasyCacheHolder):  # type: ignore[misc]
    """EasyCache that computes at given noise levels, whatever its own measure says; it still measures."""

    levels: frozenset[float] = frozenset()

    def should_do_easycache(self, timestep: Any) -> bool:
        skip = timestep[0].item() not in self.levels
        self.reuse_threshold = math.inf if skip else -math.inf
        return bool(super().should_do_easycache(timestep))

    def clone(self) -> "EvenCache":
        made = EvenCache(0.0, 0.0, 1.0, self.subsample_factor, False, output_channels=self.output_channels)
        made.levels = self.levels
        return made


def easycache(subject: Subject, steps: int, count: int) -> Any:
    """The MODEL with ComfyUI's EasyCache, `count` evaluations computed: its cost, not its choice, is compared."""
    model = EasyCacheNode.execute(subject.patcher, 0.2, 0.0, 1.0, False).result[0]
    options, levels = model.model_options["transformer_options"], subject.sigmas(steps)
    holder = EvenCache(0.0, 0.0, 1.0, 8, False, output_channels=options["easycache"].output_channels)
    holder.levels = frozenset(levels[i] for i in evenly(steps, count, 3))
    options["easycache"] = holder
    return model


def wait() -> None:
    """For the device."""
    if GPU:
        torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------------ parts


def speed(subject: Subject) -> dict[str, Any]:
    """(c, d, e) Full, ours, EasyCache and fewer steps: time, evaluations, memory."""
    plain = subject.patcher
    subject.run("warm-up", plain, 3)
    one = subject.run("warm-up", plain, 3)["seconds"] / 3
    # Full, and 2 x 30 % and 2 x 20 % and 30 % of it; the full run again where there is time.
    steps = min(STEPS, max(12, int(subject.budget / (2.4 * one)))) if subject.budget else 10
    counts = max(4, round(0.3 * steps)), max(3, round(0.2 * steps))
    subject.run("warm-up", subject.accelerated(3), 6)
    full = subject.run("full", plain, steps)
    runs = [full]
    for count in counts:
        ours = subject.run("ours", subject.accelerated(count), steps)
        runs += [ours, subject.run("fewer steps", plain, round(ours["evaluations"]))]
    runs.append(subject.run("EasyCache", easycache(subject, steps, counts[0]), steps))
    spread = None
    if not subject.budget or one * steps * 3.4 < subject.budget:
        spread = subject.run("full", plain, steps)["seconds"] / full["seconds"] - 1
    for run in runs:
        run["speedup"] = full["seconds"] / run["seconds"]
        run["efficiency"] = run["speedup"] * run["evaluations"] / full["evaluations"]
    for ours, fewer in zip(runs[1::2], runs[2::2], strict=False):
        ours["against_fewer_steps"] = fewer["seconds"] / ours["seconds"]
    shape = (1, *subject.geometry.latent)
    feature = feature_bytes(plain.model.diffusion_model, shape, DTYPE)
    conditionings = 2 if subject.geometry.cfg else 1
    texts = conditionings * math.prod(subject.geometry.context) * torch.float32.itemsize
    planned = held_bytes(feature, shape, Settings.of().window, conditionings, corrected=True) + texts
    return {
        "model": subject.geometry.name, "latent": list(subject.geometry.latent), "runs": runs, "spread": spread,
        "weights_mib": sum(p.nbytes for p in plain.model.diffusion_model.parameters()) / MIB,
        "planned_mib": planned / MIB, "feature_mib": feature / MIB,
    }  # fmt: skip


def identity(subject: Subject) -> dict[str, Any]:
    """(a) The same seed three times, and twice with a preview of each step: bit-identical to the first; beside it the
    model without us. Where not: the first evaluation after which the latents differ."""
    model = subject.accelerated()

    def watched(sampled: Any, shown: bool) -> list[torch.Tensor]:
        preview = latent_preview.prepare_callback(sampled, subject.short) if shown else None
        seen = []

        def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
            seen.append(x.detach().clone())
            if preview is not None:
                preview(step, denoised, x, total)

        last = subject.sample(sampled, subject.short, callback)
        return [*seen, last.to(DEVICE)]

    def compared(sampled: Any, shown: tuple[bool, ...]) -> list[int | None]:
        first = watched(sampled, False)
        others = [watched(sampled, preview) for preview in shown]
        return [
            next((i for i, (a, b) in enumerate(zip(first, o, strict=True)) if not a.equal(b)), None) for o in others
        ]

    subject.sample(subject.patcher, 3)  # the very first run may differ: libraries choose their kernels
    found = {"plain": compared(subject.patcher, (False, False)), "ours": compared(model, (False, False, True, True))}
    attached = attachment(model)
    assert attached is not None
    return {
        "model": subject.geometry.name,
        "plain_repeated": found["plain"] == [None, None],
        "repeated": found["ours"][:2] == [None, None],
        "preview": found["ours"][2:] == [None, None],
        "first_difference": found,
        "kinds": sorted({run.kinds for run in attached.runs}),
    }


def synchronisation(subject: Subject) -> dict[str, Any]:
    """(b) Operations that make the host wait, as torch reports them, by the code that calls them.

    In mode "warn": ComfyUI's own would end the run in mode "error". What counts is that none is ours.
    """
    if not GPU:
        return NEEDS
    found: Counter[tuple[int, str]] = Counter()
    index = [-1]

    def show(*_: Any, **__: Any) -> None:
        frames = [f for f in traceback.extract_stack()[:-1] if "site-packages" not in f.filename]
        frames = [f for f in frames if "warnings.py" not in f.filename] or traceback.extract_stack()
        path = Path(frames[-1].filename)
        name = "/".join(path.parts[-3:])
        own = any(path.is_relative_to(ROOT / folder) for folder in ("nodes", "spectrum_core"))
        found[index[0], f"{'ours: ' if own else ''}{name}:{frames[-1].lineno}"] += 1

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        index[0] += 1
        return executor(*args, **kwargs)

    model = subject.accelerated()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "count", count)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            subject.sample(model, subject.short)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    kinds = attachment(model).runs[-1].kinds  # type: ignore[union-attr]
    places: dict[str, Counter[str]] = {"c": Counter(), "f": Counter()}
    for (number, place), times in found.items():
        if 0 <= number < len(kinds):
            places[kinds[number]][place] += times
    return {
        "model": subject.geometry.name,
        "kinds": kinds,
        "ours_on_forecasts": sum(times for place, times in places["f"].items() if place.startswith("ours")),
        "ours_on_computed": sum(times for place, times in places["c"].items() if place.startswith("ours")),
        "forecast": dict(places["f"]),
        "computed": dict(places["c"]),
    }


def evaluations(subject: Subject) -> dict[str, Any]:
    """(f) One evaluation: until Python has submitted it, and until the device is done; medians in milliseconds."""

    def clocked(model: Any) -> list[tuple[float, float]]:
        times = []

        def clock(executor: Any, *args: Any, **kwargs: Any) -> Any:
            wait()
            start = time.perf_counter()
            output = executor(*args, **kwargs)
            host = time.perf_counter() - start
            wait()
            times.append((host, time.perf_counter() - start))
            return output

        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "clock", clock)
        subject.sample(model, subject.short)
        return times

    def medians(times: list[tuple[float, float]]) -> dict[str, float]:
        host, total = zip(*times, strict=True)
        return {"host_ms": statistics.median(host) * 1000, "total_ms": statistics.median(total) * 1000}

    plain, model = clocked(subject.patcher.clone()), subject.accelerated()
    times = clocked(model)
    kinds = attachment(model).runs[-1].kinds  # type: ignore[union-attr]
    by_kind = {kind: [t for t, k in zip(times, kinds, strict=True) if k == kind] for kind in "cf"}
    found = {
        "model": subject.geometry.name, "plain": medians(plain[1:]),
        "computed": medians(by_kind["c"][1:]), "forecast": medians(by_kind["f"]),
    }  # fmt: skip
    return found | {"forecast_of_plain": found["forecast"]["total_ms"] / found["plain"]["total_ms"]}


def weighted_sum(subject: Subject) -> dict[str, Any]:
    """(g) The sum of a history, which reads three features and writes one, against a copy of that history."""
    settings = Settings.of()
    shape = (1, *subject.geometry.latent)
    size = feature_bytes(subject.patcher.model.diffusion_model, shape, DTYPE) // DTYPE.itemsize
    history = History(settings.window)
    for position in range(settings.window):
        history.push(position, torch.randn(size, device=DEVICE, dtype=DTYPE))
    source = torch.randn(settings.window, size, device=DEVICE, dtype=DTYPE)
    target, out = torch.empty_like(source), torch.empty(size, device=DEVICE, dtype=DTYPE)
    weights = settings.forecaster().weights(history.positions, settings.window, subject.short)

    def seconds(call: Callable[[], Any], times: int = 20) -> float:
        call()
        wait()
        start = time.perf_counter()
        for _ in range(times):
            call()
        wait()
        return (time.perf_counter() - start) / times

    summed = seconds(lambda: history.combine(weights.tolist(), out))
    copied = seconds(lambda: target.copy_(source))
    moved = (settings.window + 1) * out.nbytes / summed, 2 * source.nbytes / copied
    return {
        "model": subject.geometry.name, "feature_mib": out.nbytes / MIB, "sum_ms": summed * 1000,
        "copy_ms": copied * 1000, "copy_gb_per_s": moved[1] / 1e9, "of_copy_bandwidth": moved[0] / moved[1],
    }  # fmt: skip


def compiled(subject: Subject) -> dict[str, Any]:
    """(h) torch.compile of two blocks of full width: graphs, and which evaluations compiled."""
    backend = "inductor" if GPU else "eager"
    found: dict[str, Any] = {"model": f"{subject.geometry.name}, 1 + 1 blocks", "backend": backend}
    for name in ("plain", "ours"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = subject.patcher.clone() if name == "plain" else subject.accelerated()
        set_torch_compile_wrapper(model=model, backend=backend, options={"guard_filter_fn": skip_torch_compile_dict})
        after: list[int] = []

        def graphs(*_: Any, after: list[int] = after) -> None:
            after.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

        start = time.perf_counter()
        subject.sample(model, 8, graphs)
        wait()
        first = time.perf_counter() - start
        start = time.perf_counter()
        subject.sample(model, 8, graphs)
        wait()
        recompiled = [i for i in range(1, len(after)) if after[i] > after[i - 1]]
        seconds = {"first_s": first, "again_s": time.perf_counter() - start}
        found[name] = {"graphs": after[-1], "first": after[0], "compiled_at": recompiled, **seconds}
    torch._dynamo.reset()
    return found


def trained(_: None) -> dict[str, Any]:
    """(i) The trained models on the device and on the CPU: the same evaluations, as near to the full run of each."""
    found, state = {}, comfy.model_management.cpu_state
    for kind in dict.fromkeys((state, comfy.model_management.CPUState.CPU)):
        comfy.model_management.cpu_state = kind  # models that are loaded from here on
        try:
            device = comfy.model_management.get_torch_device()
            for name in MODELS:
                case = Case(Setting(name, "euler", 30, 3.0, 3.0, ()), SEED, 4)
                full, _ = case.sample()
                fast = accelerate(case.model, Settings.of())
                latents, _ = case.sample(fast)
                attached = attachment(fast)
                assert attached is not None
                found[f"{name}, {device.type}"] = {
                    "kinds": attached.runs[-1].kinds,
                    "relative_l2": float(distances(latents, full).mean()),
                    "estimated": attached.runs[-1].error,
                }
        finally:
            comfy.model_management.cpu_state = state
    return found


def server(_: None) -> dict[str, Any]:
    """(j) ComfyUI's server as users start it."""
    flux = subjects(not GPU)["flux"]
    return _gpu_server.measure(flux.geometry, flux.config, flux.pooled, 20)


# ------------------------------------------------------------------------------------------------ all of it


def subjects(tiny: bool) -> dict[str, Subject]:
    """FLUX.1-dev, two blocks of it, Qwen-Image, Wan 2.1 14B (it has the sizes of 2.2), SDXL; or small ones, most of
    hidden width 1024."""
    flux, qwen, sdxl, wan = (
        next(g for g in GEOMETRIES if g.name.startswith(name))
        for name in ("FLUX.1 dev", "Qwen-Image", "SDXL", "Wan 2.2 14B, 832")
    )
    qwen = replace(qwen, name="Qwen-Image, 1024 x 1024", latent=(16, 1, 128, 128))
    wan = replace(wan, name="Wan 2.1 14B, 832 x 480, 25 frames", latent=(16, 7, 60, 104))
    if tiny:

        def small(geometry: Geometry, latent: tuple[int, ...], **sizes: Any) -> Geometry:
            name = f"small {geometry.name.split(',')[0]}"
            context = (16, geometry.context[1])
            return replace(geometry, name=name, latent=latent, context=context, sizes={**geometry.sizes, **sizes})

        flux = small(flux, (16, 16, 16), hidden_size=1024, num_heads=8, depth=1, depth_single_blocks=2)
        qwen = small(qwen, (16, 1, 16, 16), num_attention_heads=8, num_layers=1)
        wan = small(wan, (16, 3, 8, 8), dim=1024, ffn_dim=4096, num_heads=8, num_layers=2)
        sdxl = small(
            sdxl, (4, 16, 16), model_channels=64, num_res_blocks=[1, 1], channel_mult=[1, 2],
            transformer_depth=[0, 2], transformer_depth_middle=2, transformer_depth_output=[0, 0, 2, 2],
        )  # fmt: skip
    block = replace(flux, sizes={**flux.sizes, "depth": 1, "depth_single_blocks": 1})
    found = {
        "flux": Subject(flux, "Flux", 30, 768, short=14), "qwen": Subject(qwen, "QwenImage", 60),
        "wan": Subject(wan, "WAN21_T2V", 60), "sdxl": Subject(sdxl, "SDXL", 30, 1280),
        "block": Subject(block, "Flux", 0, 768),
    }  # fmt: skip
    return {name: replace(subject, budget=0, short=10) for name, subject in found.items()} if tiny else found


PARTS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "identity": ("flux", identity),
    "synchronisation": ("flux", synchronisation),
    "flux_evaluations": ("flux", evaluations),
    "flux_sum": ("flux", weighted_sum),
    "flux": ("flux", speed),
    "sdxl_evaluations": ("sdxl", evaluations),
    "sdxl": ("sdxl", speed),
    "wan_sum": ("wan", weighted_sum),
    "wan": ("wan", speed),
    "compile": ("block", compiled),
    "qwen": ("qwen", speed),
    "trained": ("", trained),
    "server": ("", server),
}
"""Part -> model if it is one, measurement; in this order, so that each model is made once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--limit", type=float, default=330, help="seconds after which no further part begins")
    parser.add_argument("--page", type=Path, help="write docs/gpu.md from this gpu.json; measures nothing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these; others stay as DIR/gpu.json has them")
    given = parser.parse_args()
    if given.page:
        PAGE.write_text(page(json.loads(given.page.read_text())))
        return 0
    if given.out is None or (given.size == "real" and not GPU):
        parser.error("--out DIR is needed" if given.out is None else "real models need a GPU; here: --size tiny")
    logging.getLogger().setLevel(logging.INFO)
    given.out.mkdir(parents=True, exist_ok=True)
    start, models, current = time.perf_counter(), subjects(given.size == "tiny"), ""
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if GPU else "CPU, one thread",
        "memory_mib": torch.cuda.get_device_properties(0).total_memory / MIB if GPU else None,
        "torch": torch.__version__, "size": given.size, "parts": {},
    }  # fmt: skip
    if given.parts and (given.out / "gpu.json").exists():
        before = json.loads((given.out / "gpu.json").read_text())
        same = [before[key] == results[key] for key in ("device", "torch", "size")]
        if not all(same):
            parser.error(f"{given.out / 'gpu.json'} was measured elsewhere: {before['device']}, {before['torch']}")
        results["parts"] = before["parts"]
    for part, (name, measure) in PARTS.items():
        if given.parts and part not in given.parts:
            continue
        if time.perf_counter() - start > given.limit:
            results["parts"][part] = {"error": "no time left"}
            continue
        if current not in ("", name):
            models[current].release()
        current, began = name, time.perf_counter()
        try:
            found = measure(models.get(name))
        except Exception as error:
            log.exception(part)
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        results["parts"][part] = found
        results["seconds"] = time.perf_counter() - start
        log.info("%s: %.0f s %s", part, time.perf_counter() - began, json.dumps(found))
        (given.out / "gpu.json").write_text(json.dumps(results, indent=1))
        (given.out / "gpu.md").write_text(page(results))
    return int(any("error" in found for found in results["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
