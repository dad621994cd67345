"""Histories follow the rows: every way that conditionings, patches and weights reach the network.

Each case is a workflow of ComfyUI's own nodes on a tiny model of ComfyUI's own class; the same workflow without the
node is the oracle. For each: nothing changes while nothing is forecast, the schedule is followed or a reason is given,
the error is of the size that a plain prompt has on the same model, and nothing of the run stays behind.
"""

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.ldm.flux.controlnet
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.t2i_adapter.adapter
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras import (
    nodes_apg,
    nodes_context_windows,
    nodes_flux,
    nodes_freelunch,
    nodes_hooks,
    nodes_nag,
    nodes_perpneg,
    nodes_sag,
    nodes_sd3,
    nodes_slg,
)
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_model_advanced import RescaleCFG
from sampling import accelerated, distance, fingerprint, kinds, runs
from spectrum_accelerate.nodes.models import rows
from spectrum_accelerate.nodes.runtime.run import SamplingRun
from spectrum_accelerate.spectrum_core.messages import Reason
from zoo import MODELS, TinyModel, fill

import nodes

STEPS = 12
SCHEDULE = "cccfcfcffcfc"
SETTINGS = {"warmup": 3, "tail": 1}
NEVER = {"skip_interval": 1.0}
GAP = Reason.NO_HISTORY


class Node:
    """Spectrum Accelerate with certain settings; without any, no node at all. Remembers what it was put on."""

    def __init__(self, **settings):
        self.settings, self.models = settings, []

    def __call__(self, model):
        if not self.settings:
            return model
        self.models.append(accelerated(model, **self.settings))
        return self.models[-1]

    @property
    def traces(self):
        return [trace for model in self.models for trace in runs(model)]


Workflow = Callable[[TinyModel, Any, Node], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A workflow: (the zoo's model, a MODEL of it, the node) -> latent."""

    name: str
    model: str
    run: Workflow
    schedules: tuple[str, ...] = (SCHEDULE,)
    factor: float = 3.0
    build: Callable[[TinyModel], Any] = TinyModel.build


# --------------------------------------------------------------------------------------------------- parts of workflows


def ksampler(tiny, model, positive=None, negative=None, latent=None, cfg=3.0, steps=STEPS):
    """The KSampler node."""
    with torch.inference_mode():
        (result,) = nodes.common_ksampler(
            model, 7, steps, cfg, "euler", "simple", positive or tiny.conditioning(1), negative or tiny.conditioning(2),
            latent or {"samples": tiny.empty()},
        )  # fmt: skip
    return result["samples"]


def guided(tiny, model, guider, latent=None):
    """The SamplerCustomAdvanced node."""
    sigmas = custom.BasicScheduler.execute(model, "simple", STEPS, 1.0).result[0]
    sampler, noise = custom.KSamplerSelect.execute("euler").result[0], custom.RandomNoise.execute(7).result[0]
    with torch.inference_mode():
        output = custom.SamplerCustomAdvanced.execute(
            noise, guider.result[0], sampler, sigmas, latent or {"samples": tiny.empty()}
        )
    return output.result[0]["samples"]


def patched(patch: Callable[[Any], Any], **options) -> Workflow:
    """A node on the MODEL, behind ours and before ours: the same."""

    def run(tiny, model, node):
        result = ksampler(tiny, node(patch(model)), **options)
        if node.settings == SETTINGS:
            other = Node(**node.settings)
            assert torch.equal(ksampler(tiny, patch(other(model)), **options), result), "the order of nodes matters"
            assert [kinds(trace) for trace in other.traces] == [kinds(trace) for trace in node.traces]
        return result

    return run


def prompted(positive: Callable[[TinyModel], Any], negative: Callable[[TinyModel], Any] | None = None, **options):
    """Other conditionings."""
    return lambda tiny, model, node: ksampler(
        tiny, node(model), positive(tiny), negative(tiny) if negative else None, **options
    )


def plain(tiny, model, node):
    return ksampler(tiny, node(model))


def result(output):
    """The first output of a node of either API."""
    return output.result[0] if hasattr(output, "result") else output[0]


def latent(*shape):
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(3))}


def half(size=64):
    mask = torch.zeros(1, size, size)
    mask[:, :, : size // 2] = 1
    return mask


def area(conditioning, x, width=32):
    return nodes.ConditioningSetArea().append(conditioning, width, 64, x, 0, 1.0)[0]


def masked(conditioning, mask):
    return nodes.ConditioningSetMask().append(conditioning, mask, "default", 1.0)[0]


def between(conditioning, start, end):
    return nodes.ConditioningSetTimestepRange().set_range(conditioning, start, end)[0]


# ----------------------------------------------------------------------------------------------------------- workflows


def three_areas(tiny):
    return area(tiny.conditioning(5), 0, 24) + area(tiny.conditioning(6), 24, 24) + area(tiny.conditioning(8), 48, 16)


def three_masks(tiny):
    masks = half(), 1 - half(), half().transpose(1, 2)
    return [masked(tiny.conditioning(seed), mask)[0] for seed, mask in zip((5, 6, 8), masks, strict=True)]


def three_prompts_of_a_batch(tiny):
    """One CONDITIONING with a prompt per picture."""
    prompts = [tiny.conditioning(seed)[0] for seed in (5, 6, 8)]
    pooled = torch.cat([extra["pooled_output"] for _, extra in prompts])
    return [[torch.cat([tensor for tensor, _ in prompts]), {"pooled_output": pooled}]]


def dual_cfg(tiny, model, node, style="regular"):
    fast = node(model)
    conditionings = [tiny.conditioning(seed) for seed in (1, 5, 2)]
    return guided(tiny, fast, custom.DualCFGGuider.execute(fast, *conditionings, 3.0, 2.0, style))


def dual_model(tiny, model, node):
    """The negative prompt on a model of its own."""
    fast, other = node(model), tiny.build(seed=9)
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    return guided(tiny, fast, custom.DualModelGuider.execute(fast, positive, 3.0, other, negative))


def perp_neg(tiny, model, node):
    fast = node(model)
    conditionings = [tiny.conditioning(seed) for seed in (1, 2, 5)]
    return guided(tiny, fast, nodes_perpneg.PerpNegGuider.execute(fast, *conditionings, 3.0, 1.0))


def windows(schedule, frames=7):
    def patch(model):
        return result(
            nodes_context_windows.ContextWindowsManualNode.execute(
                model,
                3,
                1,
                schedule,
                1,
                False,
                "pyramid",
                2,
                False,
                cond_retain_index_list="",
                latent_retain_index_list="",
            )
        )

    return patched(patch, latent={"samples": torch.zeros(1, 16, frames, 8, 8)})


def inpainting(tiny, model, node):
    start = nodes.SetLatentNoiseMask().set_mask(latent(1, *tiny.latent), half())[0]
    return ksampler(tiny, node(model), latent=start)


def controlled(build, **options):
    """A control network on both conditionings; `options` of ControlNetApplyAdvanced."""

    def run(tiny, model, node):
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
        conditionings = nodes.ControlNetApplyAdvanced().apply_controlnet(
            tiny.conditioning(1), tiny.conditioning(2), build(tiny.name), image,
            **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0} | options,
        )  # fmt: skip
        return ksampler(tiny, node(model), *conditionings)

    return run


@cache
def control_net(name):
    """ComfyUI's ControlNet with a network of the model's size."""
    config = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, **MODELS[name].unet}
    if name == "flux":
        network = comfy.ldm.flux.controlnet.ControlNetFlux(**config)
    else:
        del config["out_channels"]
        network = comfy.cldm.cldm.ControlNet(num_heads=8, hint_channels=3, **config)
    fill(network, seed=6)
    network.eval().requires_grad_(False)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])


@cache
def t2i_adapter(name):
    """ComfyUI's T2I-Adapter with the model's channels."""
    network = comfy.t2i_adapter.adapter.Adapter(cin=192, channels=[32, 64], nums_rb=1, ksize=1, sk=True, xl=False)
    fill(network, seed=6)
    network.eval().requires_grad_(False)
    return comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", torch.device("cpu"))


def deeper(tiny):
    """With two layers a level, as T2I-Adapters expect."""
    depths = {"num_res_blocks": [2, 2], "transformer_depth": [1] * 4, "transformer_depth_output": [1] * 6}
    return replace(tiny, unet=tiny.unet | depths).build()


def image_prompt(model):
    """What an IP-Adapter does: attention to further tokens beside the prompt's, in every cross attention."""
    generator = torch.Generator().manual_seed(5)
    tokens = {channels: torch.randn(1, 4, channels, generator=generator) for channels in (32, 64)}

    def attend(q, k, v, extra):
        more, heads = tokens[k.shape[-1]].expand(q.shape[0], -1, -1), extra["n_heads"]
        return optimized_attention(q, k, v, heads) + 0.5 * optimized_attention(q, more, more, heads)

    clone = model.clone()
    for place in [("input", 1), ("middle", 0), ("output", 1), ("output", 2)]:
        clone.set_model_attn2_replace(attend, *place)
    return clone


def identity_prompt(model):
    """What PuLID and others do on Flux: replace a block by itself and something more."""

    def block(args, extra):
        out = extra["original_block"](args)
        out["img"] = out["img"] + 0.2 * torch.sin(out["img"])
        return out

    clone = model.clone()
    clone.set_model_patch_replace(block, "dit", "double_block", 1)
    clone.set_model_patch_replace(block, "dit", "single_block", 0)
    return clone


def lora(model, rank=4, seed=11):
    """The file of a LoRA for all layers of a model's blocks."""
    generator = torch.Generator().manual_seed(seed)
    file = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if name.endswith(".weight") and weight.ndim == 2 and "blocks" in name:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            out, into = weight.shape
            file[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=generator) / rank**0.5
            file[f"{key}.lora_down.weight"] = torch.randn(rank, into, generator=generator) / into**0.5
    return file


def with_lora(model):
    """The LoraLoaderModelOnly node, behind its file."""
    return comfy.sd.load_lora_for_models(model, None, lora(model), 0.5, 0)[0]


def low_vram(tiny, model, node):
    """Memory for next to nothing: weights stay where they are, and each layer patches its own when it runs."""
    load = comfy.model_management.LoadedModel.model_load
    comfy.model_management.unload_all_models()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            comfy.model_management.LoadedModel,
            "model_load",
            lambda self, lowvram_model_memory=0, **options: load(self, 1, **options),
        )
        fast = node(with_lora(model))
        got = ksampler(tiny, fast)
    assert fast.lowvram_patch_counter() > 0
    return got


def lora_hooks(*strengths):
    """A LoRA on the positive only, whose strength is a schedule of keyframes."""

    def run(tiny, model, node):
        hooks, keyframes = comfy.hooks.create_hook_lora(lora(model), 0.5, 0.0), None
        for number, strength in enumerate(strengths):
            (keyframes,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(
                strength, number / len(strengths), keyframes
            )
        (hooks,) = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, keyframes)
        (positive,) = nodes_hooks.SetModelHooksOnCond().attach_hook(tiny.conditioning(1), hooks)
        return ksampler(tiny, node(model), positive)

    return run


def experts(shared):
    """Wan 2.2: a MODEL for high noise and one for low, each with the node, or one clone for both."""

    def run(tiny, model, node):
        high = node(model)
        low = high if shared else node(tiny.build(seed=9))
        common = (7, 2 * STEPS, 3.0, "euler", "simple", tiny.conditioning(1), tiny.conditioning(2))
        with torch.inference_mode():
            advanced = nodes.KSamplerAdvanced()
            (middle,) = advanced.sample(high, "enable", *common, {"samples": tiny.empty()}, 0, STEPS, "enable")
            (end,) = advanced.sample(low, "disable", *common, middle, STEPS, 10000, "disable")
        return end["samples"]

    return run


def loaded(dtype=None, stored=False, **options):
    """The weights in another dtype, through ComfyUI's own loader."""

    def build(tiny):
        weights = tiny.build().model.diffusion_model.state_dict()
        return comfy.sd.load_diffusion_model_state_dict(
            {key: value.to(dtype) for key, value in weights.items()} if stored else weights,
            {**options, **({"dtype": dtype} if dtype else {})},
            {"config": json.dumps({"transformer": tiny.unet})},
        )

    return build


def cast(dtype):
    """A model that computes in a dtype of two bytes."""

    def build(tiny):
        model = tiny.build()
        model.model.to(dtype)
        model.model.diffusion_model.dtype = dtype
        return model

    return build


class Dequantised(comfy.ops.manual_cast):
    """As the GGUF pack does: layers with whole numbers for weights, from which forward makes floating ones."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            weight = state_dict[prefix + "weight"].float()
            self.scale = weight.abs().amax(1, keepdim=True) / 127
            self.whole = (weight / self.scale).round().to(torch.int8)
            super()._load_from_state_dict(state_dict, prefix, *args)
            self.weight.data.fill_(torch.nan)  # nobody may use it

        def forward(self, x):
            return torch.nn.functional.linear(x, self.whole.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def kv_cache(tiny, model, node):
    """Flux2 with its reference in a cache: from the second evaluation on, the blocks see fewer tokens."""
    conditionings = [
        result(ReferenceLatent.execute(tiny.conditioning(seed), latent(1, *tiny.latent))) for seed in (1, 2)
    ]
    sizes = set()
    handle = model.model.diffusion_model.double_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: sizes.add(kwargs["img"].shape[1]), with_kwargs=True
    )
    got = ksampler(tiny, node(result(nodes_flux.FluxKVCache.execute(model))), *conditionings)
    handle.remove()
    assert sizes == {16, 32}
    return got


# fmt: off
CASES = (
    Case("three areas", "flux", prompted(three_areas)),
    Case("three masks", "flux", prompted(three_masks)),
    Case("three masks, unet", "sd15", prompted(three_masks)),
    Case(
        "a prompt for each seed", "flux",
        prompted(three_prompts_of_a_batch, latent={"samples": torch.zeros(3, 16, 8, 8)}),
    ),
    Case("DualCFG", "flux", dual_cfg),
    Case("DualCFG, nested", "sd15", lambda *args: dual_cfg(*args, style="nested")),
    Case("DualModel", "flux", dual_model),
    Case("PerpNeg", "flux", perp_neg),
    Case("SAG", "sd15", patched(lambda model: result(nodes_sag.SelfAttentionGuidance.execute(model, 0.5, 2.0)))),
    Case(
        "SLG", "flux",
        patched(lambda m: result(nodes_slg.SkipLayerGuidanceDiT.execute(m, 3.0, 0.0, 1.0, "1", "0"))),
    ),
    Case(
        "SLG for a while", "flux",
        patched(lambda m: result(nodes_slg.SkipLayerGuidanceDiT.execute(m, 3.0, 0.3, 0.6, "1", "0"))),
        ("cccfcccffcfc",),
    ),
    Case(
        "SLG simple", "flux",
        patched(lambda m: result(nodes_slg.SkipLayerGuidanceDiTSimple.execute(m, 0.0, 1.0, "1", "0"))),
    ),
    Case(
        "SLG of SD3", "sd35",
        patched(lambda m: result(nodes_sd3.SkipLayerGuidanceSD3.execute(m, "1", 3.0, 0.0, 1.0))),
    ),
    Case("APG", "flux", patched(lambda m: result(nodes_apg.APG.execute(m, 1.0, 5.0, -0.5)))),
    Case("RescaleCFG", "sd15", patched(lambda m: RescaleCFG().patch(m, 0.7)[0])),
    Case("NAG", "flux", patched(lambda m: result(nodes_nag.NAGuidance.execute(m, 5.0, 0.5, 1.5)), cfg=1.0)),
    Case("windows that stay", "wan21_t2v", windows("standard_static")),
    Case("windows that move", "wan21_t2v", windows("standard_uniform"), ("c" * STEPS,)),
    Case("noise mask", "flux", inpainting),
    Case("inpainting model", "sd15_inpaint", inpainting),
    Case("fill model", "flux_fill", inpainting),
    Case("reference latents", "flux_kontext", plain),
    Case("reference latents, qwen", "qwen_image_edit", plain),
    Case("KV cache", "flux2_klein", kv_cache),
    Case("ControlNet", "sd15", controlled(control_net)),
    Case("ControlNet for a while", "sd15", controlled(control_net, end_percent=0.5), ("cccfcfcccffc",)),
    Case("ControlNet of flux", "flux", controlled(control_net)),
    Case("ControlNet of flux for a while", "flux", controlled(control_net, end_percent=0.5), ("cccfcfcccffc",)),
    Case("T2I-Adapter", "sd15", controlled(t2i_adapter), build=deeper),
    Case("image prompt", "sd15", patched(image_prompt)),
    Case("replaced blocks", "flux", patched(identity_prompt)),
    Case("FreeU", "sd15", patched(lambda m: result(nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.9, 0.2)))),
    Case("LoRA", "flux", patched(with_lora)),
    Case("LoRA hook", "flux", lora_hooks(1.0)),
    Case("LoRA hook with keyframes", "flux", lora_hooks(1.0, 0.0), ("cccfcfcccffc",)),
    Case("low VRAM", "flux", low_vram),
    Case("bf16", "flux", plain, build=cast(torch.bfloat16)),
    Case("fp16", "sd15", plain, build=cast(torch.float16)),
    Case("bf16 weights", "flux", plain, build=loaded(torch.bfloat16, stored=True)),
    Case("fp16 weights", "flux", plain, build=loaded(torch.float16, stored=True)),
    Case("fp8 weights", "wan21_t2v", plain, build=loaded(torch.float8_e4m3fn)),
    Case("quantised layers", "wan21_t2v", plain, build=loaded(custom_operations=Dequantised)),
    Case("two experts", "wan21_t2v", experts(shared=False), (SCHEDULE,) * 2),
    Case("one expert twice", "wan21_t2v", experts(shared=True), (SCHEDULE,) * 2),
    Case(
        "a prompt for the first half", "flux",
        prompted(lambda t: t.conditioning(1) + between(t.conditioning(5), 0, 0.5)),
    ),
    Case(
        "a prompt for the second half", "flux",
        prompted(lambda t: t.conditioning(1) + between(t.conditioning(5), 0.5, 1)), ("cccfcfcccffc",),
    ),
)
# fmt: on


@cache
def plain_runs(name):
    """A prompt on a model, with guidance: the latent without the node and with it."""
    tiny = MODELS[name]
    model = tiny.build()
    return ksampler(tiny, model), ksampler(tiny, accelerated(model, **SETTINGS))


@pytest.fixture
def histories(monkeypatch):
    """The histories that are alive."""
    alive = weakref.WeakSet()

    class Watched(rows.History):
        def __init__(self, capacity):
            super().__init__(capacity)
            alive.add(self)

    monkeypatch.setattr(rows, "History", Watched)
    return alive


def state(model):
    """What a run must leave: modules, their own attributes, and the unpatched weights (which may be new tensors)."""
    comfy.model_management.unload_all_models()
    return [repr(entry if isinstance(entry[2], list) else entry[::2]) for entry in fingerprint(model)]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_streams(case, histories, monkeypatch, compatibility):
    tiny = MODELS[case.model]
    model = case.build(tiny)
    before = state(model)
    oracle = case.run(tiny, model, Node())
    prompt, prompt_fast = plain_runs(case.model)
    if case.run is not plain and oracle.shape == prompt.shape:
        assert distance(oracle, prompt) > 0.005, "the case matters"
    fast = Node(**SETTINGS)
    got = case.run(tiny, model, fast)
    assert [kinds(trace) for trace in fast.traces] == list(case.schedules)
    for trace in fast.traces:
        assert trace.target == "block output" and trace.self_test == 0.0 and not trace.notes
        unplanned = {e.reason for e in trace.evaluations if e.reason and not e.reason.scheduled}
        assert unplanned == (set() if kinds(trace) == SCHEDULE else {GAP})
    if "f" in "".join(case.schedules):
        assert 0 < distance(got, oracle) <= case.factor * distance(prompt_fast, prompt)
    else:
        assert torch.equal(got, oracle), "computed is computed, for all conditionings"
    # Every evaluation captured, none forecast; after the accelerated run: so the plain model is as it was, too.
    monkeypatch.setattr(SamplingRun, "_unsuitable", lambda self: None)
    never = Node(**NEVER)
    assert torch.equal(case.run(tiny, model, never), oracle)
    assert all(kinds(trace) == "c" * STEPS and trace.self_test == 0.0 for trace in never.traces)
    assert state(model) == before
    if histories:
        gc.collect()
    assert not histories, "features outlive the run"
    compatibility("feature", case.name, fast.traces, distance(got, oracle))


@pytest.mark.parametrize("case", CASES[::16], ids=[case.name for case in CASES[::16]])
def test_an_interval_of_one_changes_nothing(case):
    tiny, never = MODELS[case.model], Node(**NEVER)
    model = case.build(tiny)
    assert torch.equal(case.run(tiny, model, never), case.run(tiny, model, Node()))
    assert all("skip_interval = 1" in trace.summary() for trace in never.traces)


@pytest.mark.parametrize("network", [control_net, t2i_adapter], ids=["ControlNet", "T2I-Adapter"])
def test_control_networks_rest_during_forecasts(network, monkeypatch):
    tiny = MODELS["sd15"]
    model, calls, kind = deeper(tiny), [], type(network("sd15"))
    monkeypatch.setattr(kind, "get_control", lambda self, *args, f=kind.get_control: calls.append(0) or f(self, *args))
    fast = Node(**SETTINGS)
    controlled(network)(tiny, model, fast)
    assert kinds(fast.traces[0]) == SCHEDULE and len(calls) == SCHEDULE.count("c")


def test_windows_that_move_leave_no_histories_behind(histories, monkeypatch):
    """Each evaluation brings windows never seen before: what is held does not grow with their number."""
    tiny, counts = MODELS["wan21_t2v"], []
    push = rows.History.push
    monkeypatch.setattr(rows.History, "push", lambda *args: counts.append(len(histories)) or push(*args))
    fast = Node(**SETTINGS)
    windows("standard_uniform", frames=12)(tiny, tiny.build(), fast)
    calls = len(counts) // STEPS
    assert GAP in {e.reason for e in fast.traces[0].evaluations}
    assert 0 < max(counts) <= 2 * calls, "this evaluation's windows and the last one's"
    assert not histories


def test_the_larger_of_two_scales_sets_the_budget():
    tiny = MODELS["flux"]
    conditionings = [tiny.conditioning(seed) for seed in (1, 5, 2)]

    def computed(*scales):
        fast = accelerated(tiny.build(), schedule="adaptive", skip_interval=3.3, warmup=1)
        guided(tiny, fast, custom.DualCFGGuider.execute(fast, *conditionings, *scales, "regular"))
        return runs(fast)[0].kinds.count("c")

    assert computed(7.0, 2.0) == computed(2.0, 7.0) > computed(3.0, 2.0)
