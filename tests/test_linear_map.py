"""A sampler run on coefficients is what the sampler does."""

import comfy.k_diffusion.sampling
import comfy.samplers
import numpy as np
import pytest
import torch
from spectrum_accelerate.nodes.samplers import linear_map as module
from spectrum_accelerate.nodes.samplers.linear_map import LinearError, known_sampler, linear_map, sampler_name
from spectrum_accelerate.nodes.samplers.table import SAMPLERS
from toys import DETERMINISTIC, SAMPLINGS, sampler_object

STEPS = 12


def smooth(count, size=40, seed=0):
    """Outputs that change smoothly from evaluation to evaluation: float32 [count, size]."""
    generator = np.random.default_rng(seed)
    time = np.linspace(0, 1, count)[:, None]
    waves = [np.cos(k * time + generator.normal(size=size)) * generator.normal(size=size) for k in range(1, 5)]
    return torch.tensor(sum(waves), dtype=torch.float32)


def sigmas_of(kind):
    return comfy.samplers.calculate_sigmas(SAMPLINGS[kind], "simple", STEPS).float()


def open_loop(sampler, model_sampling, sigmas, outputs):
    """A sampler on a network whose outputs are given: what every evaluation begins with, and the end."""
    seen = []

    def model(x, sigma, **_):
        seen.append(x.clone())
        return model_sampling.calculate_denoised(sigma, outputs[len(seen) - 1].expand_as(x).clone(), x)

    start = torch.randn(1, 1, 1, outputs.shape[1], generator=torch.Generator().manual_seed(3)) * sigmas[0]
    model = module._as_samplers_see_it(model, model_sampling, sigmas)
    end = sampler.sampler_function(
        model, start, sigmas.clone(), extra_args={}, callback=None, disable=True, **sampler.extra_options
    )
    return torch.cat([*seen, end]).flatten(1)


@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_coefficients_are_what_the_sampler_does(name, kind):
    """On outputs that do not depend on the latent."""
    model_sampling, stages, sigmas = SAMPLINGS[kind], SAMPLERS[name].stages, sigmas_of(kind)
    found = linear_map(sampler_object(name), model_sampling, sigmas)
    assert len(found.levels) == len(found.coefficients) - 1 == STEPS * stages - (stages - 1)
    assert found.levels[::stages] == pytest.approx(sigmas[:-1].tolist(), rel=1e-3)
    outputs = smooth(len(found.levels))
    full = open_loop(sampler_object(name), model_sampling, sigmas, outputs).double()
    predicted = found.coefficients @ torch.cat([full[:1], outputs.double()])
    assert torch.allclose(predicted, full, rtol=1e-4, atol=1e-4 * float(full.abs().max()))


def renamed(function):
    """A sampler of ComfyUI as another pack would bring it."""

    def sample_of_another_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)

    return comfy.samplers.KSAMPLER(sample_of_another_pack)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "res_multistep", "deis", "ipndm"])
def test_a_sampler_of_another_pack_has_the_same_coefficients(name):
    function = getattr(comfy.k_diffusion.sampling, f"sample_{name}")
    own = linear_map(sampler_object(name), SAMPLINGS["flow"], sigmas_of("flow"))
    other = linear_map(renamed(function), SAMPLINGS["flow"], sigmas_of("flow"))
    assert torch.equal(own.coefficients, other.coefficients) and own.levels == other.levels


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "er_sde", "lcm"])
def test_noise_falls_out_of_the_coefficients_of_another_pack(name):
    """They are those of the same sampler with silent noise."""
    function = getattr(comfy.k_diffusion.sampling, f"sample_{name}")
    sigmas = sigmas_of("noise")

    def denoised(sigma, output, latent):
        return output

    own = module._run(sampler_object(name), SAMPLINGS["noise"], sigmas, denoised, {}, True, 0, 1.0)
    other = linear_map(renamed(function), SAMPLINGS["noise"], sigmas, denoised)
    scale = float(own.coefficients.abs().max())
    assert other.noisy and other.levels == own.levels
    assert torch.allclose(own.coefficients, other.coefficients, rtol=0, atol=2e-5 * scale)
    assert other.replaces_noise == (name == "lcm")


def test_a_sampler_that_uses_the_unguided_output_is_refused():
    function = comfy.k_diffusion.sampling.sample_euler_cfg_pp
    with pytest.raises(LinearError, match="uses the unguided output"):
        linear_map(renamed(function), SAMPLINGS["noise"], sigmas_of("noise"))


def test_a_start_of_its_own_is_no_noise():
    """A sampler that begins with a latent that it has brought."""
    start = torch.randn(1, 1, 1, 1, generator=torch.Generator().manual_seed(0))

    def brought(model, x, sigmas, **kwargs):
        return comfy.k_diffusion.sampling.sample_euler(model, x * 0 + start, sigmas, disable=True)

    own = linear_map(sampler_object("euler"), SAMPLINGS["flow"], sigmas_of("flow"))
    found = linear_map(comfy.samplers.KSAMPLER(brought), SAMPLINGS["flow"], sigmas_of("flow"))
    assert not found.noisy and torch.allclose(found.coefficients[:, 1:], own.coefficients[:, 1:], atol=1e-5)


def test_samplers_that_are_not_linear_are_refused():
    def thresholded(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma in sigmas[:-1]:
            x = model(x, sigma * x.new_ones([x.shape[0]])).clamp(-1, 1)
        return x

    def endless(model, x, sigmas, **_):
        while True:
            x = model(x, sigmas[0] * x.new_ones([x.shape[0]]))

    for function, why in ((thresholded, "not linear"), (endless, "more than")):
        with pytest.raises(LinearError, match=why):
            linear_map(comfy.samplers.KSAMPLER(function), SAMPLINGS["flow"], sigmas_of("flow"))


def test_the_random_numbers_of_a_run_stay_as_they_are():
    state = torch.random.get_rng_state()
    linear_map(renamed(comfy.k_diffusion.sampling.sample_euler_ancestral), SAMPLINGS["noise"], sigmas_of("noise"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_name_is_not_an_identity():
    """A function of another pack that is called as one of ComfyUI's own is no row of the table."""

    def sample_dpmpp_sde(model, x, sigmas, **_):
        return x

    assert known_sampler(sampler_object("dpmpp_sde")) is SAMPLERS["dpmpp_sde"]
    other = comfy.samplers.KSAMPLER(sample_dpmpp_sde)
    assert sampler_name(other) == "dpmpp_sde" and known_sampler(other) is None


@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if SAMPLERS[name].stages == 1])
def test_multistep_samplers_are_told_by_their_coefficients(name, kind):
    """As the table has it."""
    found = linear_map(sampler_object(name), SAMPLINGS[kind], sigmas_of(kind))
    assert found.multistep == SAMPLERS[name].multistep


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "heun"])
def test_random_generators_stay_as_they_are(name, monkeypatch):
    """Those of other devices, too, which torch.manual_seed would seed: s_churn draws from them."""
    monkeypatch.setattr(torch, "manual_seed", _must_not_be_called)
    before = torch.random.get_rng_state()
    function = sampler_object(name).sampler_function
    linear_map(renamed(function), SAMPLINGS["noise"], sigmas_of("noise"), lambda sigma, output, latent: output)
    assert torch.equal(torch.random.get_rng_state(), before)


def _must_not_be_called(*_):
    raise AssertionError("this seeds every device")
