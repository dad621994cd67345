"""The trained models: what ComfyUI takes them for, and that they draw what they are asked for."""

import comfy.sample
import comfy.samplers
import node_helpers
import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from sampling import distance, runs
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.settings import Settings

from demo import inprocess

MODELS = {
    "flux": inprocess.embedded_model,
    "unet": inprocess.unet_model,
    "vunet": inprocess.vunet_model,
    "lumina": inprocess.lumina_model,
}
WANTED = {
    "flux": ("Flux", "Flux", ModelType.FLOW),
    "unet": ("BaseModel", "UNetModel", ModelType.EPS),
    "vunet": ("BaseModel", "UNetModel", ModelType.V_PREDICTION),
    "lumina": ("Lumina2", "NextDiT", ModelType.FLOW),
}
EMOJI, BACKGROUNDS = [5, 14, 23, 42, 59, 63], [1, 2, 0, 3, 7, 4]


def draw(model):
    """Six emoji on six backgrounds in ten steps."""
    noise = torch.randn((6, 16, 12, 12), generator=torch.Generator().manual_seed(3))
    positive, negative = inprocess.prompts(EMOJI, BACKGROUNDS), inprocess.prompts([-1] * 6, [-1] * 6)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 10, 3.0, "euler", "simple", positive, negative, torch.zeros_like(noise), disable_pbar=True
        )


def hits(latents):
    """How many of the pictures are recognised."""
    return sum(a == b for a, b in zip(inprocess.recognise(latents, BACKGROUNDS), EMOJI, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_comfyui_takes_it_for_what_it_is(name):
    model = MODELS[name]().model
    assert (type(model).__name__, type(model.diffusion_model).__name__, model.model_type) == WANTED[name]


@pytest.mark.parametrize("name", MODELS)
def test_it_draws_the_emoji_it_is_asked_for(name):
    """Pictures are nearer to the composites of their own emoji than to those of the 63 others; by chance, none is."""
    assert hits(draw(MODELS[name]())) >= 4


def test_without_its_training_it_would_not():
    """Weights of the same sizes, but in random order, draw nothing that is recognised."""
    weights = inprocess.unet_model().model.diffusion_model.state_dict()
    generator = torch.Generator().manual_seed(0)
    mixed = {name: _shuffled(value, generator) for name, value in weights.items()}
    assert hits(draw(inprocess.unet_model(mixed))) <= 1


def _shuffled(values, generator):
    return values.flatten()[torch.randperm(values.numel(), generator=generator)].view(values.shape)


def test_the_distilled_model_needs_eight_steps_and_no_guidance():
    """Its pictures are nearer to guided ones of many steps than the Flux' by as many calls, and forecasts help."""
    noise = torch.randn((6, 16, 12, 12), generator=torch.Generator().manual_seed(3))
    positive, negative = inprocess.prompts(EMOJI, BACKGROUNDS), inprocess.prompts([-1] * 6, [-1] * 6)

    def sample(model, steps, cfg=1.0):
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise),
                disable_pbar=True,
            )  # fmt: skip

    flux, distilled = inprocess.embedded_model(), inprocess.few_step_model()
    wanted, student = sample(flux, 48, 3.0), sample(distilled, 8)
    assert hits(student) >= 5
    others = sample(flux, 8), sample(flux, 4, 3.0)
    assert distance(student, wanted) < min(distance(other, wanted) for other in others)
    fast = accelerate(distilled, Settings.of())
    result = sample(fast, 8)
    assert runs(fast)[0].computed == 5
    assert distance(result, student) < distance(sample(distilled, 5), student)


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_a_model_that_predicts_velocities_is_forecast_by_its_output(cfg):
    """With its block output, guidance makes other pictures of them (docs/schedules.md is about the other models)."""

    def sample(model, steps=20):
        noise = torch.randn((4, 16, 12, 12), generator=torch.Generator().manual_seed(6))
        positive, negative = inprocess.prompts(EMOJI[:4], BACKGROUNDS[:4]), inprocess.prompts([-1] * 4, [-1] * 4)
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, cfg, "euler", "normal", positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=6,
            )  # fmt: skip

    model = inprocess.vunet_model()
    plain = sample(model)
    errors = {}
    for target in ("auto", "block output"):
        fast = accelerate(model, Settings.of(target=target, evaluations=10))
        errors[target] = distance(sample(fast), plain)
        assert runs(fast)[0].target == ("model output" if target == "auto" else target)
    assert errors["auto"] < max(errors["block output"] * (0.7 if cfg > 1 else 1.3), 0.02)
    assert errors["auto"] < distance(sample(model, 10), plain) * (1.3 if cfg > 1 else 1.0)


def guided(model, guider, sigmas):
    """The two latents of SamplerCustomAdvanced."""

    class Noise:
        seed = 1

        def generate_noise(self, latent):
            return torch.randn((6, 16, 12, 12), generator=torch.Generator().manual_seed(4))

    sampler, empty = comfy.samplers.sampler_object("euler"), {"samples": torch.zeros(6, 16, 12, 12)}
    with torch.inference_mode():
        output, denoised = SamplerCustomAdvanced.execute(Noise(), guider, sampler, sigmas, empty).args
    return output["samples"], denoised["samples"]


def cfg_guider(model, positive, cfg=3.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, inprocess.prompts([-1] * 6, [-1] * 6))
    guider.set_cfg(cfg)
    return guider


def levels(model, steps):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)


@pytest.mark.parametrize("name", ["flux", "lumina", "unet"])
def test_prompts_that_take_turns_come_nearer_than_with_fewer_steps(name):
    """The second prompt has no history when it begins: what it needs to be computed comes on top."""
    model = MODELS[name]()
    first, second = inprocess.prompts(EMOJI, BACKGROUNDS), inprocess.prompts(EMOJI[::-1], BACKGROUNDS)
    positive = [
        *node_helpers.conditioning_set_values(first, {"start_percent": 0.0, "end_percent": 0.4}),
        *node_helpers.conditioning_set_values(second, {"start_percent": 0.4, "end_percent": 1.0}),
    ]

    def sample(model, steps):
        return guided(model, cfg_guider(model, positive), levels(model, steps))[0]

    plain, fast = sample(model, 30), accelerate(model, Settings.of())
    error, trace = distance(sample(fast, 30), plain), runs(fast)[-1]
    assert 12 < trace.computed <= 15
    assert error < 0.7 * distance(sample(model, trace.computed), plain)


@pytest.mark.parametrize("name", ["flux", "lumina", "unet"])
def test_what_a_run_with_noise_left_shows_is_the_models_own(name):
    """denoised_output of SamplerCustomAdvanced, which a second stage may go on from."""
    model = MODELS[name]()
    fast = accelerate(model, Settings.of())
    positive, sigmas = inprocess.prompts(EMOJI, BACKGROUNDS), levels(model, 20)[:13]
    plain = guided(model, cfg_guider(model, positive), sigmas)
    output, denoised = guided(fast, cfg_guider(fast, positive), sigmas)
    assert "f" in runs(fast)[-1].kinds and distance(output, plain[0]) < 0.02
    assert distance(denoised, plain[1]) < 0.04


def test_a_guider_that_guides_away_from_its_negative_prompt_gets_more_evaluations():
    model = inprocess.lumina_model()
    computed = []
    for away in (0.0, 1.0):
        fast = accelerate(model, Settings.of())
        guider = Guider_PerpNeg(fast)
        positive, empty = inprocess.prompts(EMOJI, BACKGROUNDS), inprocess.prompts([-1] * 6, [-1] * 6)
        guider.set_conds(positive, inprocess.prompts(EMOJI[::-1], BACKGROUNDS), empty)
        guider.set_cfg(3.0, away)
        guided(fast, guider, levels(model, 30))
        computed.append(runs(fast)[-1].computed)
    assert computed[0] == 12 < computed[1]
