"""Every row of the table, on ComfyUI's own class, through ComfyUI's own sampler."""

from collections import defaultdict
from pathlib import Path

import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from sampling import accelerated, distance, fingerprint, flat, kinds, nearer, runs
from spectrum_accelerate.nodes.models.architectures import ARCHITECTURES, find
from spectrum_accelerate.nodes.samplers.table import IRREGULAR
from spectrum_accelerate.nodes.settings import BLOCK_OUTPUT
from zoo import MODELS

SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"

NOT_SAMPLED = "is no diffusion model that is sampled"
NOT_BUILT = {
    "Stable_Zero123": "as SD15_instructpix2pix: an image beside the noise; its projection of the text is done once",
    "SD21UnclipL": "as SDXL: a vector beside the text",
    "SD21UnclipH": "as SDXL: a vector beside the text",
    "SDXL_instructpix2pix": "as SD15_instructpix2pix: an image beside the noise",
    "SDXLRefiner": "as SDXL: its vector has another score in it",
    "SSD1B": "as SDXL: fewer blocks",
    "KOALA_1B": "as SDXL: fewer blocks",
    "Segmind_Vega": "as SDXL: fewer blocks",
    "SV3D_u": "as SVD_img2vid: its vector holds less",
    "SV3D_p": "as SVD_img2vid: its vector holds where the camera is",
    "HunyuanDiT1": "as HunyuanDiT: other noise levels",
    "CosmosI2V": "as CosmosT2V: a mask beside the noise",
    "WAN21_FunControl2V": "as WAN21_I2V: two videos beside the noise",
    "WAN22_Camera": "as WAN21_Camera: without CLIP vision",
    "Hunyuan3Dv2mini": "as Hunyuan3Dv2: fewer blocks",
    "CogVideoX_I2V": "as CogVideoX_T2V: an image beside the noise",
    "CogVideoX_Inpaint": "as CogVideoX_T2V: an image and a mask beside the noise",
    "RT_DETR_v4": f"{NOT_SAMPLED}: it finds objects",
    "SAM3": f"{NOT_SAMPLED}: it segments pictures",
    "SAM31": f"{NOT_SAMPLED}: it segments videos",
    "DepthAnything3": f"{NOT_SAMPLED}: it estimates depth",
}
"""What ComfyUI supports and the zoo has not: as which other one of the same network class, or why it is not sampled."""

ONE_STEP = ("lotus_d", "seedvr2", "seedvr2_7b")
"""They were trained to be sampled in a single step."""


def _network_class(name):
    return type(MODELS[name].build().model.diffusion_model)


def test_the_document_shows_the_table():
    """`python dev.py bench models` writes it."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "models.md").read_text()
    shown = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("|")}
    for name, row in ARCHITECTURES.items():
        _, _, taps, left_out, *_ = shown[name]
        assert taps == ", ".join(f"`{tap.module or tap.method}`" for tap in row.taps), name
        assert left_out == ", ".join(f"`{path}`" for path in (*row.blocks, *row.feeders)), name


def test_every_row_of_the_table_has_a_tiny_model():
    tested = {base.__name__ for model in MODELS.values() for base in _network_class(model.name).__mro__}
    assert not set(ARCHITECTURES) - tested


@pytest.fixture
def network_of(monkeypatch):
    """Gives the network class that ComfyUI chooses for a configuration, before it makes one of full size."""

    class Chosen(Exception):
        pass

    def choose(self, config, model_type=None, device=None, unet_model=comfy.model_base.UNetModel):
        raise Chosen(unet_model)

    def network(name):
        config = getattr(comfy.supported_models, name)
        with pytest.raises(Chosen) as chosen:
            config({"in_channels": 4, **config.unet_config}).get_model(defaultdict(lambda: torch.zeros(1, 1)), "")
        return chosen.value.args[0]

    monkeypatch.setattr(comfy.model_base.BaseModel, "__init__", choose)
    return network


def test_every_model_of_comfyui_is_built_or_said_why_not(network_of):
    """A model that a new ComfyUI adds fails here until it is in the zoo or in the table."""
    built = {tiny.config for tiny in MODELS.values()}
    supported = {config.__name__ for config in comfy.supported_models.models}
    assert not supported - built - set(NOT_BUILT), "forgotten"
    assert set(NOT_BUILT) <= supported - built, "listed in vain"
    for name, reason in NOT_BUILT.items():
        if not reason.startswith(NOT_SAMPLED):
            other = reason.removeprefix("as ").split(":")[0]
            assert other in built and network_of(name) is network_of(other), name


SPARE = 2
"""Evaluations that a plain run may have fewer and still be farther off: the paths of some random weights are rough."""


@pytest.mark.parametrize("name", MODELS)
def test_architecture(name, compatibility):
    """Never-skip is exact, the self-test is exact, the schedule is kept, and the plain model is as before."""
    tiny = MODELS[name]
    model = tiny.build()
    before = fingerprint(model)
    plain = tiny.sample(model, steps=12, cfg=3.0)

    never = accelerated(model, skip_interval=1.0, **SETTINGS)
    assert torch.equal(flat(tiny.sample(never, steps=12, cfg=3.0)), flat(plain))

    fast = accelerated(model, **SETTINGS, target=BLOCK_OUTPUT)
    first = tiny.sample(fast, steps=12, cfg=3.0)
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE, trace.summary()
    assert trace.target == "block output", trace.notes
    assert trace.self_test is not None and trace.self_test < 1e-6
    assert nearer(first, plain, tiny.sample(model, steps=trace.computed - SPARE, cfg=3.0))

    assert torch.equal(flat(tiny.sample(fast, steps=12, cfg=3.0)), flat(first)), "the second run differs"
    assert torch.equal(flat(tiny.sample(model, steps=12, cfg=3.0)), flat(plain)), "the plain model differs afterwards"
    assert fingerprint(model) == before
    compatibility("model", name, [trace], distance(first, plain))


@pytest.mark.parametrize("name", MODELS)
def test_model_output_target(name, compatibility):
    """The target that needs no row works on the same models."""
    tiny = MODELS[name]
    model = tiny.build()
    fast = accelerated(model, target="model output", **SETTINGS)
    result = tiny.sample(fast, steps=12, cfg=1.0)
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE and trace.self_test < 1e-6 and not trace.notes
    plain, fewer = (tiny.sample(model, steps=steps, cfg=1.0) for steps in (12, trace.computed - SPARE))
    assert nearer(result, plain, fewer)
    compatibility("model", name, [trace], distance(result, plain), column="model output")


@pytest.mark.parametrize("name", MODELS)
def test_split_and_joined_conditionings_agree(name, monkeypatch):
    """ComfyUI splits cond and uncond when memory is short: the same histories, so the same result."""
    import comfy.model_patcher

    tiny = MODELS[name]
    model = tiny.build()
    fast = accelerated(model, **SETTINGS)
    joined, plain_joined = (tiny.sample(m, steps=8, cfg=3.0) for m in (fast, model))
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    split, plain_split = (tiny.sample(m, steps=8, cfg=3.0) for m in (fast, model))
    assert [kinds(run) for run in runs(fast)] == [SCHEDULE[:7] + "c"] * 2
    # Some models themselves give other results for other batches (by rounding, or ACE-Step 1.5's tokenizer).
    assert distance(split, joined) < max(1e-3, 3 * distance(plain_split, plain_joined))


@pytest.mark.parametrize("name", ("hunyuan3d_21", "seedvr2", "seedvr2_7b"))
def test_where_joined_conditionings_are_swapped_no_history_goes_to_the_other(name, monkeypatch):
    """Memory gets short before a forecast: the conditionings come one by one, and what came joined is not used."""
    import comfy.model_patcher

    tiny = MODELS[name]
    fast = accelerated(tiny.build(), **SETTINGS)

    def split(step, *_):
        if step == 4:
            monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)

    tiny.sample(fast, steps=8, cfg=3.0, callback=split)
    assert kinds(runs(fast)[0]) == "cccfcccc"


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_one_step_model_runs_in_full(name, compatibility):
    tiny = MODELS[name]
    model = tiny.build()
    fast = accelerated(model)
    result, plain = (tiny.sample(m, steps=1) for m in (fast, model))
    (trace,) = runs(fast)
    assert str(trace.full).startswith("1 steps are too few") and torch.equal(result, plain)
    compatibility("feature", f"1 step of {name}", [trace], distance(result, plain))


def test_an_autoregressive_model_with_its_own_sampler_runs_in_full(compatibility):
    """Causal Wan samples frame after frame; with any other sampler, it is accelerated as Wan is."""
    tiny = MODELS["wan21_causal_ar"]
    model = tiny.build()
    before = fingerprint(model)
    fast = accelerated(model, **SETTINGS)
    sampler = comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 1})  # what the node SamplerARVideo gives
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 12)
    latent = tiny.empty()
    inputs = (sampler, sigmas, tiny.conditioning(1), tiny.conditioning(2), latent)

    def sample(model):
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                model, comfy.sample.prepare_noise(latent, 0), 1.0, *inputs, seed=0, disable_pbar=True
            )

    result, plain = sample(fast), sample(model)
    (trace,) = runs(fast)
    assert str(trace.full) == f'sampler "ar_video" {IRREGULAR}' and torch.equal(result, plain)
    assert fingerprint(model) == before
    compatibility("feature", "sampler of autoregressive video, on causal Wan", [trace], distance(result, plain))


def test_a_subclass_inherits_its_parents_row():
    parent = _network_class("flux")
    assert find(type("Renamed", (parent,), {})) is ARCHITECTURES["Flux"]
    assert find(torch.nn.Linear) is None
