"""ComfyUI plans with what a run is going to hold."""

import gc

import comfy.model_management
import node_helpers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from sampling import counted, runs
from spectrum_accelerate.nodes.models import residence
from spectrum_accelerate.nodes.models.footprint import CORRECTOR_LATENTS, feature_bytes, held_bytes
from spectrum_accelerate.nodes.runtime import accelerate, features
from spectrum_accelerate.nodes.settings import RAW_OUTPUT, Settings
from zoo import MODELS

KINDS = (
    "flux",
    "sd15",
    "wan21_t2v",
    "lumina2",
    "qwen_image",
    "ltxv",
    "hunyuan_video",
    "sd35",
    "chroma",
    "pixart_alpha",
)


@pytest.mark.parametrize("name", KINDS)
def test_the_width_of_a_network_is_found(name, monkeypatch):
    """Within a factor of two of the features that are really held."""
    kind = MODELS[name]
    model, held = kind.build(), []
    push = features.ConditioningHistory.push

    def counted(self, label, position, feature):
        held.append(feature.nbytes)
        push(self, label, position, feature)

    monkeypatch.setattr(features.ConditioningHistory, "push", counted)
    kind.sample(accelerate(model, Settings.of()), steps=8)
    expected = feature_bytes(model.model.diffusion_model, (1, *kind.latent), torch.float32)
    assert 0.5 <= expected / max(held) <= 2


def planned(monkeypatch, model, kind, **options):
    """Bytes that reach ComfyUI's loading of models."""
    seen = []
    load = comfy.model_management.load_models_gpu

    def watched(models, memory_required=0, **kwargs):
        seen.append((memory_required, kwargs.get("minimum_memory_required")))
        return load(models, memory_required=memory_required, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(comfy.model_management, "load_models_gpu", watched)
        kind.sample(model, **options)
    return seen[-1]


@pytest.mark.parametrize("target", ["auto", RAW_OUTPUT])
def test_the_plan_holds_histories_and_the_corrector(monkeypatch, target):
    kind = MODELS["flux"]
    model = kind.build()
    plain = planned(monkeypatch, model, kind, steps=12, cfg=3.0)
    fast = accelerate(model, Settings.of(target=target))
    ours = planned(monkeypatch, fast, kind, steps=12, cfg=3.0)
    latent = (1, *kind.latent)
    size = 4 * torch.Size(latent).numel()
    feature = size if target == RAW_OUTPUT else feature_bytes(model.model.diffusion_model, latent, torch.float32)
    expected = held_bytes(feature, latent, 3, 2, corrected=True)
    assert expected == 2 * 4 * feature + CORRECTOR_LATENTS * size
    assert ours[0] - plain[0] == pytest.approx(expected) and ours[1] - plain[1] == pytest.approx(expected)
    assert runs(fast)[0].forecast > 0
    assert planned(monkeypatch, model, kind, steps=12, cfg=3.0) == plain, "only for the accelerated run"


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("regions", [1, 3])
def test_the_plan_covers_what_is_held(monkeypatch, sampler, regions):
    """Of each stage of a step, and of each regional prompt."""
    kind = MODELS["flux"]
    model = kind.build()
    prompts, height = kind.conditioning, kind.latent[-2]

    def several(seed):
        found = []
        for region in range(regions if seed == 1 else 1):
            mask = torch.zeros(1, height, height)
            mask[:, region::regions] = 1.0
            values = {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": False}
            found += node_helpers.conditioning_set_values(prompts(seed + 10 * region), values)
        return found

    monkeypatch.setattr(type(kind), "conditioning", lambda self, seed: several(seed))
    plain = planned(monkeypatch, model, kind, steps=12, cfg=3.0, sampler=sampler)
    held, push = [], features.ConditioningHistory.push

    def watched(self, *args):
        push(self, *args)
        held.append(sum(o.nbytes for o in gc.get_objects() if type(o) is features.ConditioningHistory))

    monkeypatch.setattr(features.ConditioningHistory, "push", watched)
    fast = accelerate(model, Settings.of(correct=False))
    ours = planned(monkeypatch, fast, kind, steps=12, cfg=3.0, sampler=sampler)
    assert runs(fast)[-1].target == "block output" and max(held) <= ours[0] - plain[0] <= 2 * max(held)


@pytest.mark.parametrize("needed", [False, True])
def test_without_guidance_one_conditioning_is_planned(monkeypatch, needed):
    """ComfyUI leaves the negative one out then, unless a patch needs it."""
    kind = MODELS["flux"]
    model = kind.build()
    if needed:
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"], disable_cfg1_optimization=True)
    plain = planned(monkeypatch, model, kind, steps=12, cfg=1.0)
    ours = planned(monkeypatch, accelerate(model, Settings.of(target=RAW_OUTPUT)), kind, steps=12, cfg=1.0)
    latent = (1, *kind.latent)
    size = 4 * torch.Size(latent).numel()
    assert ours[0] - plain[0] == pytest.approx(held_bytes(size, latent, 3, 2 if needed else 1, corrected=True))


def test_the_plan_holds_the_texts_on_the_device(monkeypatch):
    """As if they were elsewhere; the model prepares further conditionings from them, which are small."""
    kind = MODELS["flux"]
    fast = accelerate(kind.build(), Settings.of())
    here = planned(monkeypatch, fast, kind, steps=8, cfg=3.0)
    monkeypatch.setattr(residence, "_elsewhere", lambda held, device: torch.is_tensor(held))
    copies = []
    monkeypatch.setattr(residence, "_to", lambda part, device: copies.append(part.clone()) or copies[-1])
    there = planned(monkeypatch, fast, kind, steps=8, cfg=3.0)
    assert copies and there[0] - here[0] == pytest.approx(sum(copy.nbytes for copy in copies), rel=0.1)


@pytest.mark.parametrize("affordable", [False, True])
@pytest.mark.parametrize("free", [0, 2**50], ids=["split", "joined"])
def test_auto_is_the_same_whether_conditionings_are_joined(monkeypatch, free, affordable):
    """ComfyUI joins them where memory is free; what is held is the same."""
    kind = MODELS["flux"]
    model = kind.build()
    held = 2 * 3 * feature_bytes(model.model.diffusion_model, (1, *kind.latent), torch.float32)
    total = (held + 1 if affordable else held - 1) / features.HISTORY_SHARE
    monkeypatch.setattr(features, "get_total_memory", lambda device: total)
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda self, device: free)
    fast = accelerate(model, Settings.of())
    with counted(model.model.diffusion_model) as rows:
        kind.sample(fast, steps=12, cfg=3.0)
    assert set(rows) == {2 if free else 1}
    assert runs(fast)[-1].target == ("block output" if affordable else RAW_OUTPUT) and runs(fast)[-1].forecast > 0


@pytest.mark.parametrize("name", ["chroma_radiance", "pixeldit"])
def test_auto_is_the_model_output_where_a_forecast_would_still_compute_much(monkeypatch, name):
    """Of what the run does and of what is planned for it."""
    kind = MODELS[name]
    model = kind.build()
    plans = {}
    for target in ("auto", RAW_OUTPUT):
        fast = accelerate(model, Settings.of(target=target))
        plans[target] = planned(monkeypatch, fast, kind, steps=8)
        assert runs(fast)[-1].target == RAW_OUTPUT and runs(fast)[-1].forecast > 0
    assert plans["auto"] == plans[RAW_OUTPUT]


def test_a_run_that_is_not_accelerated_plans_nothing(monkeypatch):
    kind = MODELS["flux"]
    model = kind.build()
    plain = planned(monkeypatch, model, kind, steps=4)
    assert planned(monkeypatch, accelerate(model, Settings.of()), kind, steps=4) == plain
