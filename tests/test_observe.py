"""Samplers that no table knows: ComfyUI's own under another name, so that what they really do is known."""

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import accelerated, distance, kinds, runs
from spectrum_accelerate.nodes.observe import STEPS, Observer, on_level, stages, unexplained
from spectrum_accelerate.nodes.samplers import SAMPLERS, STOCHASTIC, UNGUIDED
from spectrum_accelerate.nodes.settings import BALANCED, DEFAULTS, DENOISED_LATENT, RAW_OUTPUT
from spectrum_accelerate.spectrum_core.readback import Readback
from zoo import MODELS

FLUX = MODELS["flux"]
POSITIVE, NEGATIVE = FLUX.conditioning(1), FLUX.conditioning(2)
STEP_COUNT = 20

UNTABLED = {"heunpp2": 3}
"""Evaluations of a step of those that are regular but have no row: the last two steps of heunpp2 have fewer."""


@pytest.fixture(scope="module")
def model():
    return FLUX.build()


def renamed(name):
    """A sampler of ComfyUI as another pack would bring it."""
    function = getattr(comfy.k_diffusion.sampling, f"sample_{name}")

    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)

    return comfy.samplers.KSAMPLER(sample_of_another_pack)


def sample(model, sampler, steps=STEP_COUNT, cfg=1.0):
    noise = custom.RandomNoise.execute(7).result[0]
    guider = custom.CFGGuider.execute(model, POSITIVE, NEGATIVE, cfg).result[0]
    sigmas = custom.BasicScheduler.execute(model, "simple", steps, 1.0).result[0]
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with torch.inference_mode():
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).result[0]["samples"]


def own_samplers():
    return sorted(n for n in comfy.samplers.KSAMPLER_NAMES if n in SAMPLERS and n not in ("dpm_fast", "dpm_adaptive"))


@pytest.mark.parametrize("name", own_samplers())
def test_a_sampler_is_recognised_by_what_it_does(model, name):
    """Forecast with the stages that the table gives; little, and by its denoised latents, if noise is added."""
    fast = accelerated(model, warmup=2, tail=2)
    result, plain = sample(fast, renamed(name)), sample(model, renamed(name))
    (trace,) = runs(fast)
    row = SAMPLERS[name]
    if row.obstacle == UNGUIDED:
        assert f"the sampler of_another_pack, which is not known, {UNGUIDED}" in trace.summary()
        assert torch.equal(result, plain)
        return
    if row.noisy or row.obstacle == STOCHASTIC:
        assert "adds noise: its denoised latents are forecast, at most 1.25x" in trace.summary()
        assert trace.target == DENOISED_LATENT and trace.total == len(trace.evaluations)
        # sa_solver adds none in its first steps, and is forecast as a deterministic one until it does.
        assert 0 < trace.forecast <= (STEP_COUNT // 5 if name != "sa_solver" else STEP_COUNT // 2) * row.stages
        assert 0 < distance(result, plain) < 0.5
        return
    count = UNTABLED.get(name, row.stages)
    assert sum(e.reason == "watching an unknown sampler" for e in trace.evaluations) == count * STEPS
    assert trace.forecast >= 4 and not trace.notes and 0 < distance(result, plain) < 0.5
    later = kinds(trace)[count * STEPS :]
    assert all(len(set(later[i : i + count])) == 1 for i in range(0, len(later), count)), "a step goes as a whole"


def test_functions_of_the_model_that_see_the_unguided_output_are_none_of_the_sampler(model):
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    fast = accelerated(patched, warmup=2, tail=2)
    sample(fast, renamed("euler_ancestral"), cfg=3.0)
    assert runs(fast)[0].forecast == STEP_COUNT // 5


def test_a_sampler_that_turns_out_to_add_noise_may_leave_nothing_to_forecast(model):
    """Its warm-up is longer than the part of the run that may be forecast."""
    widgets = {"schedule": BALANCED, "speedup": 3.3, "warmup": 2, "tail": 1, "end_percent": 0.2}
    fast = accelerated(model, **widgets)
    results = [sample(m, renamed("euler_ancestral")) for m in (fast, model)]
    assert torch.equal(*results) and "no step to forecast lies between" in runs(fast)[0].summary()


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_with_noise_the_widgets_of_the_fit_change_nothing(model, name):
    """As the help says; the sampler is one of the table, so that gaps are corrected."""

    def outcome(**widgets):
        return sample(accelerated(model, **DEFAULTS | widgets), comfy.samplers.sampler_object(name))

    plain = outcome()
    for widget in (
        {"degree": 1},
        {"window": 8},
        {"ridge": 0.5},
        {"blend": 0.0},
        {"intercept": "paper"},
        {"target": RAW_OUTPUT},
        {"tolerance": 0.5},
        {"speedup": 8.0},
        {"warmup": 10},
    ):
        assert torch.equal(outcome(**widget), plain), widget
    for widget in ({"correct": False}, {"tail": 6}, {"speedup": 1.1}, {"evaluations": 18}):
        assert not torch.equal(outcome(**widget), plain), widget


def test_a_run_that_ends_while_it_is_watched_says_so(model):
    fast = accelerated(model, warmup=1, tail=0)
    assert torch.equal(sample(fast, renamed("heun"), steps=3), sample(model, renamed("heun"), steps=3))
    assert "is not known, and the run was over too soon" in runs(fast)[0].summary()


def test_levels_without_a_pattern_are_refused(model):
    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for k in range(20):
            x = model(x, sigmas[0] * 0.97**k * x.new_ones([x.shape[0]]), **extra_args)
        return x

    fast = accelerated(model, warmup=2)
    sampler = comfy.samplers.KSAMPLER(sample_of_another_pack)
    assert torch.equal(sample(fast, sampler), sample(model, sampler))
    assert "goes to noise levels that follow no pattern" in runs(fast)[0].summary()


def test_nothing_of_the_watched_steps_is_held_after_an_interrupt(model):
    """The latents of an interrupted run are free as soon as the run is."""
    import gc
    import weakref

    alive = []

    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        output = model(x, sigmas[0] * x.new_ones([x.shape[0]]), **extra_args)
        alive.append(weakref.ref(output))
        raise RuntimeError("stop")

    fast = accelerated(model, warmup=2)
    with pytest.raises(RuntimeError, match="stop"):
        sample(fast, comfy.samplers.KSAMPLER(sample_of_another_pack))
    gc.collect()
    assert [reference() for reference in alive] == [None]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 3), st.integers(4, 12), st.randoms(use_true_random=False))
def test_the_stages_are_counted(count, steps, random):
    """Whatever levels the later evaluations of a step have, as long as they are not where a step could begin."""
    levels = [1 - i / steps for i in range(steps + 1)]
    seen = [
        level if stage == 0 else level - (0.3 + 0.4 * random.random()) / steps
        for level in levels[:-1]
        for stage in range(count)
    ]
    enough = count * (STEPS - 1) + 1
    assert stages(seen, levels) == count
    assert stages(seen[:enough], levels) == count
    assert stages(seen[: enough - 1], levels) is None


def test_more_stages_than_can_be_told_apart_are_no_pattern():
    levels = [1 - i / 20 for i in range(21)]
    assert stages([level - 0.02 * (stage > 0) for level in levels[:-1] for stage in range(4)], levels) == 0


def test_levels_compare_relatively_and_by_their_distance():
    levels = [14.7, 13.0, 12.9, 0.0, 0.0]
    assert on_level(14.6, levels, 0) and not on_level(14.3, levels, 0)
    assert on_level(13.01, levels, 1) and not on_level(13.05, levels, 1), "the next one is near"
    assert on_level(0.0, levels, 4) and not on_level(0.01, levels, 4)


def test_what_combinations_explain_and_noise_does_not():
    generator = torch.Generator().manual_seed(0)
    x, d, e, noise = torch.randn(4, 1, 4, 8, 8, generator=generator)
    assert unexplained(0.9 * x + 0.2 * d - 0.1 * e, [x, d, e]) < 1e-5
    assert unexplained(0.9 * x + 0.2 * d + 0.1 * noise, [x, d, e]) > 0.1
    assert unexplained(x, [x, d]) == 0, "a step that does not move"


def test_only_the_latest_steps_are_held():
    observer = Observer([1 - i / 10 for i in range(11)])
    verdict = None
    for step in range(9):
        assert (verdict is None) == (step < STEPS)
        observer.see(Readback(torch.tensor(1 - step / 10)), torch.full((1, 2), 1.0 - step), torch.ones(1, 2))
        verdict = observer.verdict()
    assert verdict is not None and verdict.stages == 1 and not verdict.obstacle
    assert len(observer._calls) == STEPS + 1
