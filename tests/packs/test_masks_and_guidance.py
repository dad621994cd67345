"""Masks that open step by step, and guidance that changes from step to step."""

import comfy.samplers
import pytest
import torch
from beside import EMOJI, STEPS, beside, latents, own, prompts, some
from comfy.sampler_helpers import prepare_mask
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

from demo import inprocess

RAMP = torch.linspace(0, 1, 96)[None, None, None, :].expand(1, 1, 96, 96)
MASKS = {"everything": torch.ones_like(RAMP), "half": (RAMP > 0.5).float(), "soft": 0.2 + 0.8 * RAMP}


@pytest.fixture(scope="module")
def image():
    return latents(inprocess.embedded_model(), own("euler"), seed=9)


@pytest.mark.parametrize("cfg", some([1.0, 3.0], 3.0))
@pytest.mark.parametrize("name", some(["euler", "dpmpp_2m"], "euler"))
def test_a_mask_that_opens_costs_no_more_than_one_that_does_not(image, name, cfg):
    """DifferentialDiffusion, which ComfyUI's inpainting templates use."""

    def opening(model):
        return DifferentialDiffusion.execute(model)[0]

    def run(model, sampler, **more):
        return latents(model, sampler, cfg=cfg, image=image, **more)

    outcome = beside(lambda: own(name), opening, sample=run, noise_mask=RAMP)
    fixed = beside(lambda: own(name), sample=run, noise_mask=MASKS["everything"])
    assert outcome.trace.computed <= STEPS / 2
    assert outcome.median <= 1.3 * fixed.median + 0.005 and outcome.error < 0.8 * outcome.fewer()


@pytest.mark.parametrize("mask", MASKS)
def test_what_a_mask_hides_is_the_image(image, mask):
    outcome = beside(lambda: own("euler"), image=image, noise_mask=MASKS[mask])
    hidden = (MASKS[mask][..., ::8, ::8] == 0).expand_as(image)
    assert torch.allclose(outcome.result[hidden], image[hidden], atol=1e-5)
    assert outcome.trace.computed < STEPS / 2 and outcome.error < 0.03


@pytest.mark.parametrize("mask", MASKS)
def test_previews_show_the_models_own_picture_under_masks(image, mask):
    """Not what the sampler is told in order to make good for earlier forecasts."""
    shown, own_pictures = [], []

    def see(args):
        own_pictures.append(args["denoised"].clone())
        return args["denoised"]

    def seeing(model):
        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(see)
        return clone

    def run(model, sampler, **more):
        return latents(model, sampler, image=image, callback=lambda s, d, x, t: shown.append(d.clone()), **more)

    beside(lambda: own("euler"), seeing, sample=run, noise_mask=MASKS[mask])
    kept = prepare_mask(MASKS[mask], image.shape, image.device)
    hidden = shown[0] - own_pictures[0] * kept  # what the image adds
    for preview, picture in zip(shown[STEPS:-1], own_pictures[STEPS:-1], strict=True):  # the last one is the result
        assert torch.allclose(preview, picture * kept + hidden, atol=1e-4)


class Scheduled(comfy.samplers.CFGGuider):
    """A guider with a scale for each step (KJNodes' ScheduledCFG, by a list)."""

    scales: tuple[float, ...] = ()

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 (as in ComfyUI)
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        scale = self.scales[int((sigmas[:-1] - timestep[0]).abs().argmin())]
        conds = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *conds, scale, model_options=model_options, seed=seed
        )


def guided(scales):
    def sample(model, sampler, **more):
        guider = Scheduled(model)
        guider.scales = scales
        guider.set_conds(*prompts())
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        noise = torch.randn(len(EMOJI), 16, 12, 12, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=5)

    return sample


@pytest.mark.parametrize(
    "scales",
    [
        [5 - 3.5 * i / 23 for i in range(24)],
        [1.5 + 2.5 * i / 23 for i in range(24)],
        [3.0] * 12 + [1.0] * 12,
        [2.0, 3.5] * 12,
    ],
    ids=["falls", "rises", "switches off", "alternates"],
)
def test_guidance_that_changes_from_step_to_step(scales):
    load = inprocess.lumina_model  # whose pictures flip less
    constant = beside(lambda: own("euler"), load=load, sample=guided([max(scales)] * 24))
    outcome = beside(lambda: own("euler"), load=load, sample=guided(scales))
    assert outcome.trace.computed <= 1.1 * constant.trace.computed
    assert outcome.median <= 1.3 * constant.median


def test_a_scale_that_changes_slowly_does_not_restart_the_corrector():
    """So that the error is known."""
    outcome = beside(lambda: own("euler"), sample=guided([5 - 3.5 * i / 23 for i in range(24)]))
    assert outcome.trace.error is not None
    assert sum(e.drift is not None for e in outcome.trace.evaluations) >= 5
