"""Samplers that no table knows: ComfyUI's own under another name, so that what they really do is known."""

import comfy.k_diffusion.sampling
import comfy.samplers
import numpy as np
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import accelerated, distance, runs
from spectrum_accelerate.nodes.samplers.layout import MOST_STAGES, Layout, found_layout, on_level
from spectrum_accelerate.nodes.samplers.recognition import STEPS, SamplerProbe, unexplained
from spectrum_accelerate.nodes.samplers.table import REPLACES_NOISE, SAMPLERS, UNGUIDED
from spectrum_accelerate.nodes.settings import ADAPTIVE, DENOISED_LATENT, RAW_OUTPUT
from spectrum_accelerate.spectrum_core.messages import Reason
from zoo import MODELS

FLUX = MODELS["flux"]
POSITIVE, NEGATIVE = FLUX.conditioning(1), FLUX.conditioning(2)
STEP_COUNT = 20


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


IRREGULAR_STEPS = ("heunpp2",)
"""The last two steps of heunpp2 have fewer evaluations than the others."""


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
        assert trace.off is not None and UNGUIDED in trace.summary()
        assert torch.equal(result, plain)
        return
    if row.obstacle == REPLACES_NOISE:
        assert REPLACES_NOISE in trace.summary() and torch.equal(result, plain)
        return
    if row.noisy:
        assert trace.target == DENOISED_LATENT and trace.total == len(trace.evaluations)
        assert 0 < trace.forecast <= STEP_COUNT // 5 * row.stages
        return
    if name in IRREGULAR_STEPS:
        assert trace.kinds == "c" * len(trace.kinds) or trace.forecast > 4
        assert torch.equal(result, plain) or distance(result, plain) < 0.1
        return
    own = accelerated(model, warmup=2, tail=2)
    error = distance(sample(own, comfy.samplers.sampler_object(name)), plain)
    assert trace.kinds == runs(own)[0].kinds and not trace.notes
    assert distance(result, plain) <= 1.3 * error


def test_functions_of_the_model_that_see_the_unguided_output_are_none_of_the_sampler(model):
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    fast = accelerated(patched, warmup=2, tail=2)
    sample(fast, of_its_own_mind("euler_ancestral"), cfg=3.0)
    assert 1 < runs(fast)[0].forecast <= STEP_COUNT // 5


def test_a_sampler_that_turns_out_to_add_noise_may_leave_nothing_to_forecast(model):
    """Its warm-up is longer than the part of the run that may be forecast."""
    fast = accelerated(model, schedule=ADAPTIVE, warmup=2, end_percent=0.2)
    results = [sample(m, of_its_own_mind("euler_ancestral")) for m in (fast, model)]
    assert torch.equal(*results) and "leave no step to forecast" in runs(fast)[0].summary()


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_with_noise_the_widgets_of_the_fit_change_nothing(model, name):
    """As the help says; the sampler is one of the table, so that gaps are corrected."""

    def outcome(**widgets):
        return sample(accelerated(model, **{"schedule": ADAPTIVE} | widgets), comfy.samplers.sampler_object(name))

    plain = outcome()
    for widget in (
        {"degree": 1},
        {"window": 8},
        {"target": RAW_OUTPUT},
        {"skip_interval": 8.0},
    ):
        assert torch.equal(outcome(**widget), plain), widget
    for widget in ({"correct": False}, {"tail": 10}, {"skip_interval": 1.1}, {"evaluations": 18}):
        assert not torch.equal(outcome(**widget), plain), widget


def of_its_own_mind(name):
    """A sampler that cannot be run on coefficients: it looks at what the model says."""
    inner = renamed(name)

    def sample_of_another_pack(model, x, sigmas, **kwargs):
        if not hasattr(model.inner_model, "conds"):
            raise RuntimeError("no guider")
        return inner.sampler_function(model, x, sigmas, **kwargs)

    return comfy.samplers.KSAMPLER(sample_of_another_pack)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "seeds_3", "lcm"])
def test_a_sampler_that_cannot_be_run_on_coefficients_is_watched(model, name):
    """Forecast with the stages that it shows; little, and by its denoised latents, if noise is added."""
    fast = accelerated(model, warmup=2, tail=2)
    result, plain = sample(fast, of_its_own_mind(name)), sample(model, of_its_own_mind(name))
    (trace,) = runs(fast)
    row = SAMPLERS[name]
    assert {e.reason for e in trace.evaluations[: 4 * row.stages]} == {Reason.PROBING}
    if row.noisy or row.obstacle == REPLACES_NOISE:
        assert "adds noise: at most 1.25x fewer evaluations" in trace.summary()
        assert trace.target == DENOISED_LATENT and trace.total == len(trace.evaluations)
        assert 0 < trace.forecast <= STEP_COUNT // 5 * row.stages
    else:
        assert trace.error is None and trace.forecast >= STEP_COUNT // 4 * row.stages
    assert distance(result, plain) < 0.6


def test_a_run_that_ends_while_it_is_watched_says_so(model):
    fast = accelerated(model, warmup=1, tail=0)
    results = [sample(m, of_its_own_mind("euler_ancestral"), steps=3) for m in (fast, model)]
    assert torch.equal(*results)
    assert "the run ended before it was understood" in runs(fast)[0].summary()


def test_levels_without_a_pattern_are_refused(model):
    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for k in range(20):
            x = model(x, sigmas[0] * 0.97**k * x.new_ones([x.shape[0]]), **extra_args)
        return x

    fast = accelerated(model, warmup=2)
    sampler = comfy.samplers.KSAMPLER(sample_of_another_pack)
    assert torch.equal(sample(fast, sampler), sample(model, sampler))
    assert "goes to noise levels that are not those of its steps" in runs(fast)[0].summary()


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
    assert alive and not [reference for reference in alive if reference() is not None]


LEVELS = [1 - i / 20 for i in range(21)]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, MOST_STAGES), st.integers(4, 12), st.randoms(use_true_random=False))
def test_the_stages_are_counted(count, steps, random):
    """Whatever levels the later evaluations of a step have, as long as they are not where a step could begin."""
    levels = [1 - i / steps for i in range(steps + 1)]
    seen = [
        level if stage == 0 else level - (0.3 + 0.4 * random.random()) / steps
        for level in levels[:-1]
        for stage in range(count)
    ]
    layout = found_layout(seen, levels)
    assert layout.starts == tuple(range(0, len(seen), count)) and layout.stages == count


@pytest.mark.parametrize("extra", [{0: 1}, {0: 2, 1: 2}, {0: 1, 1: 1, 18: 1}])
def test_steps_with_more_evaluations_than_others_are_found(extra):
    """Multistep methods that start, or end, with single steps (RES4LYF's res_2m, res_3m)."""
    seen, starts = [], []
    for step, level in enumerate(LEVELS[:-1]):
        starts.append(len(seen))
        seen += [level, *(level - 0.02 - 0.005 * i for i in range(extra.get(step, 0)))]
    assert found_layout(seen, LEVELS).starts == tuple(starts)


def test_evaluations_at_the_next_level_belong_to_the_step_before():
    """Heun's second stage; and a step like that among steps of one evaluation."""
    heun = [LEVELS[0], *(LEVELS[i] for i in range(1, 10) for _ in range(2))]
    assert found_layout(heun, LEVELS).starts == tuple(range(0, 19, 2))
    assert found_layout([LEVELS[0], LEVELS[1], LEVELS[1], LEVELS[2], LEVELS[3]], LEVELS).starts == (0, 2, 3, 4)


def test_more_stages_than_can_be_told_apart_are_no_pattern():
    seen = [level - 0.004 * stage for level in LEVELS[:-1] for stage in range(MOST_STAGES + 1)]
    assert found_layout(seen, LEVELS) is None
    assert found_layout([0.9, 0.8, 0.7], LEVELS) is None, "it does not begin at the beginning"


def test_a_layout_knows_the_places():
    layout = Layout((0, 2, 4, 5, 6), 7)
    assert [layout.place(e) for e in range(8)] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0), (5, 0)]
    assert [layout.ends(e) for e in range(7)] == [False, True, False, True, True, True, True]
    assert layout.stages == 2 and layout.gap == 1
    assert Layout((0, 2, 4, 5), 6).continued(Layout.uniform(8, 1, True)).starts == (0, 2, 4, 5, 6, 7, 8, 9)


def test_levels_compare_relatively_and_by_their_distance():
    levels = [14.7, 13.0, 12.9, 0.0, 0.0]
    assert on_level(14.6, levels, 0) and not on_level(14.3, levels, 0)
    assert on_level(13.01, levels, 1) and not on_level(13.05, levels, 1), "the next one is near"
    assert on_level(0.0, levels, 4) and not on_level(0.01, levels, 4)


def test_what_combinations_explain_and_noise_does_not():
    x, d, e, noise = np.random.default_rng(0).standard_normal((4, 256))
    assert unexplained(0.9 * x + 0.2 * d - 0.1 * e, [x, d, e]) < 1e-6
    assert unexplained(0.9 * x + 0.2 * d + 0.1 * noise, [x, d, e]) > 0.1
    assert unexplained(0.999 * x + 0.001 * d + 0.001 * noise, [x, d, e]) > 0.1, "a small step"
    assert unexplained(x, [x, d]) == 0, "a step that does not move"


def test_only_the_latest_steps_are_held():
    probe = SamplerProbe(LEVELS)
    classified = None
    for step in range(12):
        assert (classified is None) == (step < STEPS)
        probe.record(LEVELS[step], torch.full((1, 2), 1.0 - step), torch.ones(1, 2))
        classified = probe.classify()
    info, layout = classified
    assert info.stages == 1 and not info.obstacle and len(layout.starts) == 12
    assert sum(latent.wait().numel() > 0 for latent, _ in probe._calls) == STEPS + 1
