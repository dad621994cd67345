"""The ways people sample: through ComfyUI's own nodes, compared with the plain run of the same workflow."""

import math

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from sampling import accelerated, counted, distance, kinds, nearer, runs
from spectrum_accelerate.nodes.samplers.table import SAMPLERS
from spectrum_accelerate.nodes.settings import DENOISED_LATENT
from spectrum_accelerate.spectrum_core.messages import Reason
from spectrum_accelerate.spectrum_core.schedule import Request
from spectrum_accelerate.spectrum_core.schedule.balanced import budget
from zoo import MODELS

import nodes

FLUX = MODELS["flux"]
SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"
POSITIVE, NEGATIVE = FLUX.conditioning(1), FLUX.conditioning(2)


@pytest.fixture
def model():
    return FLUX.build()


@pytest.fixture
def fast(model):
    return accelerated(model, **SETTINGS)


def latent(batch=1, size=8, seed=None):
    shape = (batch, 16, size, size)
    if seed is None:
        return {"samples": torch.zeros(shape)}
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(seed))}


def ksampler(model, steps=12, cfg=3.0, sampler="euler", start=None, denoise=1.0, positive=POSITIVE, scheduler="simple"):
    with torch.inference_mode():
        (result,) = nodes.common_ksampler(
            model, 7, steps, cfg, sampler, scheduler, positive, NEGATIVE, start or latent(), denoise=denoise
        )
    return result["samples"]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_batches_with_and_without_guidance(model, fast, batch, cfg, compatibility):
    start = latent(batch)
    block = model.model.diffusion_model.single_blocks[-1]
    with counted(block) as calls, torch.inference_mode():
        result = ksampler(fast, cfg=cfg, start=start)
    assert kinds(runs(fast)[0]) == SCHEDULE
    assert calls == [batch * (1 if cfg == 1 else 2)] * SCHEDULE.count("c"), "the blocks ran on computed ones only"
    error = distance(result, ksampler(model, cfg=cfg, start=start))
    compatibility("feature", f"batch of {batch}, CFG {cfg:g}", runs(fast), error)


def test_each_picture_of_a_batch_is_the_picture_that_it_is_alone(fast, monkeypatch):
    """The rows of a batch do not mix: picture 2 of a batch equals the same noise sampled alone."""
    noise = torch.randn((3, 16, 8, 8), generator=torch.Generator().manual_seed(3))

    def sample(noise):
        with torch.inference_mode():
            return comfy.sample.sample(
                fast, noise, 12, 3.0, "euler", "simple", POSITIVE, NEGATIVE, torch.zeros_like(noise), seed=1,
                disable_pbar=True,
            )  # fmt: skip

    batch = sample(noise)
    for row in range(3):
        torch.testing.assert_close(batch[row : row + 1], sample(noise[row : row + 1]), rtol=1e-3, atol=1e-3)


def test_the_split_of_conditionings_may_change_from_step_to_step(model, fast, monkeypatch):
    """Free memory decides how ComfyUI joins cond and uncond; the histories follow the rows."""
    joined = ksampler(fast)
    free = iter([10**15, 0, 0] * 100)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: next(free))
    with counted(model.model.diffusion_model.single_blocks[-1]) as calls:
        changing = ksampler(fast)
    assert {1, 2} == set(calls), "the split did change"
    assert [kinds(run) for run in runs(fast)] == [SCHEDULE] * 2
    torch.testing.assert_close(changing, joined, rtol=1e-3, atol=1e-3)


def test_image_to_image(model, fast, compatibility):
    start = latent(seed=5)
    result = ksampler(fast, denoise=0.5, start=start)
    assert kinds(runs(fast)[0]) == SCHEDULE
    error = distance(result, ksampler(model, denoise=0.5, start=start))
    compatibility("feature", "image to image, denoise 0.5", runs(fast), error)


def test_ksampler_advanced_start_and_end_steps(model, fast, compatibility):
    """Two halves of one schedule are two runs, each with its own warm-up and tail."""

    def halves(model):
        advanced = nodes.KSamplerAdvanced()
        common = (7, 24, 3.0, "euler", "simple", POSITIVE, NEGATIVE)
        with torch.inference_mode():
            (middle,) = advanced.sample(model, "enable", *common, latent(), 0, 12, "enable")
            (end,) = advanced.sample(model, "disable", *common, middle, 12, 10000, "disable")
        return end["samples"]

    result = halves(fast)
    assert [kinds(run) for run in runs(fast)] == [SCHEDULE] * 2
    assert runs(fast)[0].evaluations[-1].sigma > runs(fast)[1].evaluations[0].sigma
    error = distance(result, halves(model))
    compatibility("feature", "KSamplerAdvanced, 12 of 24 steps and the rest", runs(fast), error)


def test_two_samplers_in_one_workflow_do_not_mix(model):
    """Other seeds, settings and steps on two clones of one model; then each again alone: the same."""
    one, two = accelerated(model, **SETTINGS), accelerated(model, warmup=4, tail=2, degree=1)
    first = [ksampler(one), ksampler(two, steps=16)]
    second = [ksampler(two, steps=16), ksampler(one)]
    assert torch.equal(first[0], second[1]) and torch.equal(first[1], second[0])


def test_hires_second_pass(model, fast, compatibility):
    def passes(model):
        small = ksampler(model)
        large = torch.nn.functional.interpolate(small, scale_factor=2, mode="nearest")
        return ksampler(model, start={"samples": large}, denoise=0.6)

    result = passes(fast)
    assert result.shape[-1] == 16 and [kinds(run) for run in runs(fast)] == [SCHEDULE] * 2
    error = distance(result, passes(model))
    compatibility("feature", "hires second pass", runs(fast), error)


def test_custom_sampler_with_a_guider_that_is_used_twice(model, fast):
    """A cached guider node keeps its conditionings' ids from run to run."""
    guider = custom.CFGGuider.execute(fast, POSITIVE, NEGATIVE, 3.0).result[0]
    sigmas = custom.BasicScheduler.execute(model, "simple", 12, 1.0).result[0]
    sampler = custom.KSamplerSelect.execute("euler").result[0]
    results = []
    for _ in range(2):
        noise = custom.RandomNoise.execute(7).result[0]
        with torch.inference_mode():
            output = custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent()).result[0]
        results.append(output["samples"])
    assert torch.equal(*results)
    assert [kinds(run) for run in runs(fast)] == [SCHEDULE] * 2


def area(conditioning, x):
    return nodes.ConditioningSetArea().append(conditioning, 32, 64, x, 0, 1.0)[0]


def masked(conditioning, mask):
    return nodes.ConditioningSetMask().append(conditioning, mask, "default", 1.0)[0]


def test_regional_prompts(model, fast, compatibility):
    """Areas and masks: the same id stands on both sides of the guidance, and two rows have the same index."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    regional = area(POSITIVE, 0) + area(FLUX.conditioning(5), 32) + masked(FLUX.conditioning(6), mask) + POSITIVE
    result = ksampler(fast, positive=regional)
    assert kinds(runs(fast)[0]) == SCHEDULE
    plain = distance(ksampler(fast), ksampler(model))
    error = distance(result, ksampler(model, positive=regional))
    assert error < 2 * plain
    compatibility("feature", "areas and a mask beside a prompt", runs(fast)[:1], error)


def test_a_prompt_cache_does_not_remember_a_call_without_blocks(monkeypatch):
    """HiDream-O1 keeps the last two calls' keys and values in the model, from run to run."""
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    tiny = MODELS["hidream_o1"]
    model = tiny.build()
    fast = accelerated(model, warmup=3, tail=0)
    regional = [masked(tiny.conditioning(seed), torch.ones(1, 64, 64))[0] for seed in (5, 6, 7)]
    noise = torch.randn((1, *tiny.latent), generator=torch.Generator().manual_seed(1))

    def sample(model, positive, steps=12):
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, 1.0, "euler", "simple", positive, [], torch.zeros_like(noise), seed=1,
                disable_pbar=True,
            )  # fmt: skip

    result = sample(fast, regional)
    assert kinds(runs(fast)[0]) == SCHEDULE[:-1] + "f" and runs(fast)[0].target == "block output"
    sample(model, regional[:1])  # a call of the run before, whatever its place in the cache
    assert nearer(result, sample(model, regional), sample(model, regional, runs(fast)[0].computed - 2))


def test_one_conditioning_as_positive_and_negative(model, fast):
    with torch.inference_mode():
        results = [
            nodes.common_ksampler(m, 7, steps, 3.0, "euler", "simple", POSITIVE, POSITIVE, latent())[0]["samples"]
            for m, steps in ((fast, 12), (model, 12), (model, SCHEDULE.count("c")))
        ]
    assert kinds(runs(fast)[0]) == SCHEDULE and nearer(*results)


def test_guidance_that_pauses(model, fast, compatibility):
    """CFGOverride drops the uncond for some steps: when it comes back it is computed, not forecast across the gap."""
    paused = custom.CFGOverride.execute(fast, 1.0, 0.3, 0.6).result[0]
    plain = custom.CFGOverride.execute(model, 1.0, 0.3, 0.6).result[0]
    result = ksampler(paused, steps=30)
    trace = runs(paused)[0]
    assert Reason.NO_HISTORY in [e.reason for e in trace.evaluations]
    error = distance(result, ksampler(plain, steps=30))
    assert trace.forecast > 8
    compatibility("feature", "CFGOverride, CFG 1 for a while", [trace], error)


def test_a_second_call_of_the_same_conditioning_is_another_stream(compatibility):
    """Perturbed-attention guidance evaluates the cond again in each step, with patched attention."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    unet = MODELS["sd15"]
    plain = PerturbedAttentionGuidance.execute(unet.build(), 3.0).result[0]
    guided = accelerated(plain, **SETTINGS)
    result = unet.sample(guided, steps=12, cfg=3.0)
    assert kinds(runs(guided)[0]) == SCHEDULE
    error = distance(result, unet.sample(plain, steps=12, cfg=3.0))
    compatibility("feature", "PAG", runs(guided), error)


@pytest.mark.parametrize(
    ("on", "scheduler"),
    [
        ("flux", "simple"),
        ("flux", "karras"),
        *(pytest.param(on, "simple", marks=pytest.mark.all) for on in ("sd15", "wan21_t2v", "lumina2", "ace_step")),
    ],
)
@pytest.mark.parametrize("name", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_is_accelerated_or_says_why_not(name, on, scheduler, compatibility):
    """ComfyUI's list of samplers; what the table says of each is compared with what it really does."""
    tiny = MODELS[on]
    model = tiny.build()
    fast = accelerated(model, **SETTINGS)
    result, plain = (tiny.sample(m, 12, 3.0, sampler=name, scheduler=scheduler) for m in (fast, model))
    (trace,) = runs(fast)
    assert trace.sampler in SAMPLERS, "ComfyUI has a new sampler: classify it"
    row, error = SAMPLERS[trace.sampler], distance(result, plain)
    if row.obstacle:
        assert error == 0 and name in trace.summary() and row.obstacle in trace.summary()
        compatibility("sampler", name, [trace], error, column=f"{on}, {scheduler}")
        return
    assert not trace.full and len(trace.evaluations) == trace.total and not trace.notes
    assert trace.total == 12 * row.stages - (row.stages - 1)
    steps = kinds(trace)[:: row.stages]
    assert kinds(trace) == "".join(kind * row.stages for kind in steps)[: trace.total], "a step goes as a whole"
    if row.noisy:
        wanted = budget(Request(tuple(range(13)), 2.0, guidance=3.0, **SETTINGS))
        assert trace.target == DENOISED_LATENT
        assert steps.startswith("cc") and steps.count("c") == max(wanted, math.ceil(12 / row.max_speedup))
    else:
        assert steps == SCHEDULE
    compatibility("sampler", name, [trace], error, column=f"{on}, {scheduler}")


@pytest.mark.parametrize("name", ["heun", "dpm_2"])
def test_the_stages_of_a_step_do_not_mix(name):
    """On the trained model a two-stage sampler is forecast as well as a one-stage one of as many steps."""
    from demo import inprocess

    model = inprocess.embedded_model()
    positive, negative = inprocess.prompts([5, 60], [1, 2]), inprocess.prompts([-1] * 2, [-1] * 2)
    noise = torch.randn((2, 16, 12, 12), generator=torch.Generator().manual_seed(0))

    def error(sampler):
        results = []
        for m in (accelerated(model, tail=2), model):
            with torch.inference_mode():
                results.append(comfy.sample.sample(
                    m, noise, 25, 3.0, sampler, "simple", positive, negative, torch.zeros_like(noise), seed=1,
                    disable_pbar=True,
                ))  # fmt: skip
        return distance(*results)

    assert error(name) < 1.5 * error("euler")


def test_a_sampler_that_only_bears_a_known_name_is_found_out(model, fast, compatibility):
    """Another pack's sampler, called like ComfyUI's, that goes its own way."""

    def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma in sigmas[:-1]:
            x = x + 0.01 * model(x, sigma.sqrt() * x.new_ones([x.shape[0]]), **extra_args)
        return x

    noise = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(0))
    sigmas = custom.BasicScheduler.execute(model, "simple", 12, 1.0).result[0]

    def sample(model):
        with torch.inference_mode():
            return comfy.samplers.sample(
                model, noise, POSITIVE, NEGATIVE, 3.0, model.load_device, comfy.samplers.KSAMPLER(sample_euler), sigmas,
                latent_image=torch.zeros_like(noise), disable_pbar=True,
            )  # fmt: skip

    result, plain = sample(fast), sample(model)
    assert str(runs(fast)[0].off) == 'unknown sampler "euler" goes to noise levels that are not those of its steps'
    assert torch.equal(result, plain)
    compatibility("feature", "a sampler that only bears a known name", runs(fast), 0.0)


def test_a_sampler_with_churn_is_stochastic(model, fast):
    sampler = comfy.samplers.ksampler("euler", {"s_churn": 0.5})
    guider = custom.BasicGuider.execute(fast, POSITIVE).result[0]
    sigmas = custom.BasicScheduler.execute(model, "simple", 12, 1.0).result[0]
    with torch.inference_mode():
        custom.SamplerCustomAdvanced.execute(custom.RandomNoise.execute(7).result[0], guider, sampler, sigmas, latent())
    assert "adds noise at every step (s_churn)" in runs(fast)[0].summary()


def test_too_few_steps(model, fast, compatibility):
    assert torch.equal(ksampler(fast, steps=4), ksampler(model, steps=4))
    assert runs(fast)[0].summary() == (
        "Spectrum: not accelerated: 4 steps are too few for warmup = 3 and tail = 1; "
        "use more steps or lower these widgets"
    )
    compatibility("feature", "4 steps", runs(fast), 0.0)


def test_a_conditioning_that_begins_late_costs_one_evaluation_or_two(model, fast, monkeypatch):
    """ConditioningSetTimestepRange: a new stream is computed until it has two points; the others keep their history."""
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    late = nodes.ConditioningSetTimestepRange().set_range(FLUX.conditioning(5), 0.5, 1.0)[0]
    result = ksampler(fast, steps=30, positive=POSITIVE + late)
    trace = runs(fast)[0]
    forced = [e.position for e in trace.evaluations if e.reason == Reason.NO_HISTORY]
    assert len(forced) == 1
    assert trace.evaluations[forced[0] + 1].kind == "computed" and trace.evaluations[forced[0] + 2].kind == "forecast"
    plain, fewer = (ksampler(model, steps=steps, positive=POSITIVE + late) for steps in (30, trace.computed))
    assert nearer(result, plain, fewer)
