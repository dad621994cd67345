"""torch.compile beside Spectrum: both node orders, whole model and single blocks, both targets."""

from dataclasses import replace

import pytest
import torch
import torch._dynamo.utils
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from sampling import accelerated, distance, fingerprint, kinds, runs
from zoo import MODELS

FLUX = MODELS["flux"]
STEPS = 12
SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"
BLOCKS = ("double_blocks", "single_blocks", "joint_blocks", "blocks")
ALL = pytest.mark.all
TINY = {**MODELS, "flux": replace(FLUX, unet=FLUX.unet | {"depth": 1, "depth_single_blocks": 1})}
"""Fewer blocks compile sooner."""


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Each test compiles for itself."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    """How many graphs were compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def on_gpu_like_attention(model):
    """The attention that a GPU has; the CPU's reads the free memory inside the compiled code, which recompiles it."""
    clone = model.clone()

    def override(_, *args, **kwargs):
        return attention_pytorch(*args, **kwargs)

    clone.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = override
    return clone


def compiled(model, backend, per_block):
    """What TorchCompileModel does, or a node that compiles each block by itself."""
    clone, network = model.clone(), model.model.diffusion_model
    keys = ["diffusion_model"]
    if per_block:
        keys = [f"diffusion_model.{name}.{i}" for name in BLOCKS for i in range(len(getattr(network, name, ())))]
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=clone, backend=backend, options=options, keys=keys)
    return clone


@pytest.mark.parametrize(
    ("name", "backend", "per_block", "first", "target"),
    [
        ("flux", "eager", False, "compile", "block output"),
        ("flux", "eager", True, "spectrum", "block output"),
        ("flux", "eager", False, "spectrum", "model output"),
        pytest.param("flux", "eager", False, "spectrum", "block output", marks=ALL),
        pytest.param("flux", "eager", True, "compile", "block output", marks=ALL),
        pytest.param("flux", "eager", False, "compile", "model output", marks=ALL),
        pytest.param("flux", "eager", True, "compile", "model output", marks=ALL),
        pytest.param("flux", "eager", True, "spectrum", "model output", marks=ALL),
        pytest.param("flux", "inductor", False, "compile", "block output", marks=ALL),
        pytest.param("flux", "inductor", False, "spectrum", "block output", marks=ALL),
        pytest.param("flux", "inductor", True, "spectrum", "block output", marks=ALL),
        pytest.param("flux", "inductor", False, "compile", "model output", marks=ALL),
        pytest.param("sd15", "eager", False, "compile", "block output", marks=ALL),
        pytest.param("sd35", "eager", False, "spectrum", "block output", marks=ALL),
        pytest.param("wan21_t2v", "eager", False, "compile", "block output", marks=ALL),
        pytest.param("wan21_t2v", "inductor", True, "compile", "block output", marks=ALL),
    ],
)
def test_compiled_and_accelerated(name, backend, per_block, first, target, compatibility):
    """The schedule is kept, blocks rest on forecasts, only the first run compiles, and only its first evaluations."""
    tiny, settings = TINY[name], {**SETTINGS, "target": target}
    model = on_gpu_like_attention(tiny.build())
    network = model.model.diffusion_model
    before = fingerprint(model)
    plain = tiny.sample(model, steps=STEPS, cfg=3.0)
    eager = tiny.sample(accelerated(model, **settings), steps=STEPS, cfg=3.0)

    if first == "compile":
        fast = accelerated(compiled(model, backend, per_block), **settings)
    else:
        fast = compiled(accelerated(model, **settings), backend, per_block)
    seen = []
    result = tiny.sample(fast, steps=STEPS, cfg=3.0, callback=lambda *_: seen.append(graphs()))
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE and trace.target == target and not trace.notes, trace.summary()
    assert trace.self_test is not None and trace.self_test < 1e-5
    assert distance(result, eager) < 1e-3
    assert seen[0] > 0 and len(set(seen)) == 1, f"graphs compiled after each evaluation: {seen}"

    assert distance(tiny.sample(fast, steps=STEPS, cfg=3.0), result) < 1e-6
    assert graphs() == seen[0], "the second run compiled again"
    assert kinds(runs(fast)[1]) == SCHEDULE
    assert torch.equal(tiny.sample(model, steps=STEPS, cfg=3.0), plain)
    assert fingerprint(model) == before and model.model.diffusion_model is network
    what = "each block compiled" if per_block else "all compiled"
    compatibility("feature", f"{what}, {backend}, {first} first, {name}, {target}", [trace], distance(result, plain))
