"""The part of `bench gpu` that a user would run: ComfyUI's own server, as it starts by default, with the pack.

On NVIDIA it then loads weights as the computation asks for them (DynamicVRAM). Too little memory is simulated by a
headroom that ComfyUI leaves free.
"""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _geometry import Geometry
from safetensors.numpy import load

from demo.comfy_server import DEMO_PACKS, ComfyServer
from demo.workflow import find_node, to_prompt, without_node, without_outputs

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "demo" / "emoji_nodes" / "workflows" / "spectrum_demo.json"
FREE_GIB = 16
"""Memory that the model may use: FLUX.1 dev has 22.2 GiB of weights in bfloat16."""


def measure(geometry: Geometry, config: str, pooled: int, steps: int) -> dict[str, Any]:
    """The demo's workflow and a large model, without and with the node, in one server."""
    packs = {**DEMO_PACKS, "spectrum-random-model": ROOT / "benchmarks" / "random_nodes"}
    arguments = ["--preview-method", "latent2rgb"]
    cpu = not torch.cuda.is_available()
    if not cpu:
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        arguments += ["--vram-headroom", f"{max(0.0, total - FREE_GIB):.1f}"]
    with (
        tempfile.TemporaryDirectory() as page,  # a kit brings no page
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base,
        ComfyServer(Path(base), packs=packs, cpu=cpu, arguments=[*arguments, "--front-end-root", page]) as server,
    ):
        found = {"demo": _demo(server), "large": _large(server, geometry, config, pooled, steps)}
        log = server.log_text()
    dynamic = "DynamicVRAM support detected and enabled" in log
    return {"model": geometry.name, "dynamic": dynamic, "free_gib": None if cpu else FREE_GIB, **found}


def _demo(server: ComfyServer) -> dict[str, Any]:
    """The trained model: which evaluations are computed, and by how much the latents differ."""
    fast = _demo_prompt(server)
    plain = without_node(without_outputs(fast, "SpectrumReport"), "SpectrumAccelerate")
    runs = [_run(server, prompt) for prompt in (plain, _again(plain), fast, _again(fast))]
    reference = runs[0]["latent"]
    return {
        "kinds": runs[2]["trace"]["kinds"],
        "relative_l2": float(np.linalg.norm(runs[2]["latent"] - reference) / np.linalg.norm(reference)),
        "plain_repeated": bool((runs[1]["latent"] == reference).all()),
        "repeated": bool((runs[2]["latent"] == runs[3]["latent"]).all()),
    }


def _demo_prompt(server: ComfyServer) -> dict[str, Any]:
    prompt: dict[str, Any] = to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")), server.object_info())
    return prompt


def _again(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same computation, which ComfyUI does not know to be the same: in float32 the shift is what it was."""
    changed = copy.deepcopy(prompt)
    changed[find_node(changed, "ModelSamplingAuraFlow")]["inputs"]["shift"] += 1e-9
    return changed


def _large(server: ComfyServer, geometry: Geometry, config: str, pooled: int, steps: int) -> dict[str, Any]:
    """A model that does not fit: time of the sampler's node without and with ours, and with as few steps."""
    tokens, width = geometry.context
    _, height, columns = geometry.latent
    size = {"width": 8 * columns, "height": 8 * height, "batch_size": 1}
    sampler = {"seed": 7, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 1], "latent_image": ["3", 0]}
    model = {"config": config, "sizes": json.dumps(geometry.sizes), "tokens": tokens, "width": width, "pooled": pooled}
    plain: dict[str, Any] = {
        "1": {"class_type": "SpectrumRandomModel", "inputs": model},
        "3": {"class_type": "EmptySD3LatentImage", "inputs": size},
        "4": {"class_type": "KSampler", "inputs": {**links, **sampler}},
        "5": {"class_type": "SaveLatent", "inputs": {"samples": ["4", 0], "filename_prefix": "large"}},
    }
    demo, fast = _demo_prompt(server), copy.deepcopy(plain)
    given = demo[find_node(demo, "SpectrumAccelerate")]["inputs"]
    fast["2"] = {"class_type": "SpectrumAccelerate", "inputs": {**given, "model": ["1", 0]}}
    fast["4"]["inputs"]["model"] = ["2", 0]
    fast["6"] = {"class_type": "SpectrumReport", "inputs": {"model": ["2", 0], "latent": ["4", 0]}}
    _run(server, _with_steps(plain, 2))  # loads the weights
    full, ours = _run(server, plain), _run(server, fast)
    computed = ours["trace"]["kinds"].count("c")
    fewer = _run(server, _with_steps(plain, computed))
    return {
        "steps": steps, "computed": computed, "summary": ours["trace"]["summary"], "target": ours["trace"]["target"],
        "full_s": full["seconds"], "ours_s": ours["seconds"], "fewer_s": fewer["seconds"],
        "speedup": full["seconds"] / ours["seconds"], "finite": bool(np.isfinite(ours["latent"]).all()),
    }  # fmt: skip


def _with_steps(prompt: dict[str, Any], steps: int) -> dict[str, Any]:
    changed = copy.deepcopy(prompt)
    changed["4"]["inputs"]["steps"] = steps
    return changed


def _run(server: ComfyServer, prompt: dict[str, Any]) -> dict[str, Any]:
    """One prompt: seconds of the sampler (None if ComfyUI had its result already), its latent, our report."""
    prompt_id = server.submit(prompt)
    outputs = server.wait(prompt_id)
    (latent,) = outputs[find_node(prompt, "SaveLatent")]["latents"]
    reports = [o["spectrum"][-1] for o in outputs.values() if "spectrum" in o]
    return {
        "seconds": server.node_seconds(prompt_id).get(find_node(prompt, "KSampler")),
        "latent": load(server.view(latent))["latent_tensor"].astype(np.float64),
        "trace": json.loads(reports[-1]) if reports else None,
    }
