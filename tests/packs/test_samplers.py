"""Samplers of other packs are as good as ComfyUI's own (OCS, SonarEuler; RES4LYF's res_2m, res_3m, res_5s ...)."""

import itertools

import comfy.samplers
import comfy_execution.utils as utils
import pytest
import torch
from beside import STEPS, beside, latents, own, renamed, some
from sampling import runs
from spectrum_accelerate.nodes.runtime import accelerate, run
from spectrum_accelerate.nodes.samplers.table import SAMPLERS
from spectrum_accelerate.nodes.settings import Settings
from spectrum_accelerate.spectrum_core.messages import Reason, Text

from demo import inprocess

PLAIN = [n for n in comfy.samplers.KSAMPLER_NAMES if n in SAMPLERS and not SAMPLERS[n].obstacle]
DETERMINISTIC = [name for name in [*PLAIN, "uni_pc"] if name == "uni_pc" or not SAMPLERS[name].noisy]


@pytest.mark.parametrize("name", some(DETERMINISTIC, "dpmpp_2m", "heun", "uni_pc"))
def test_a_renamed_sampler_is_the_sampler(name):
    """Corrected, judged and guarded like under its own name."""
    known, other = beside(lambda: own(name), cfg=3.0), beside(lambda: renamed(name), cfg=3.0)
    assert other.trace.kinds == known.trace.kinds and other.trace.error == known.trace.error
    assert torch.equal(other.result, known.result)


@pytest.mark.parametrize("name", some(["euler_ancestral", "er_sde", "dpmpp_sde"], "er_sde"))
def test_a_renamed_sampler_that_adds_noise_is_found_out_before_the_run(name):
    """Its coefficients are what differs between two runs with the same random numbers and other units."""
    outcome = beside(lambda: renamed(name))
    assert Reason.PROBING not in {e.reason for e in outcome.trace.evaluations}
    assert outcome.trace.forecast >= outcome.trace.total // 6 and outcome.trace.target == "denoised latent"
    assert outcome.error < outcome.fewer(-(-outcome.trace.computed // (2 if name == "dpmpp_sde" else 1)))


def test_a_renamed_sampler_that_replaces_the_noise_runs_in_full():
    outcome = beside(lambda: renamed("lcm"))
    assert outcome.in_full and "replaces the noise" in outcome.trace.summary()


def multistep(start, end=0, stages=2):
    """Adams-Bashforth 2; some first and last steps are midpoint steps with several evaluations."""

    def res_like(model, x, sigmas, extra_args=None, callback=None, disable=None):
        def slope(x, sigma):
            return (x - model(x, sigma * x.new_ones(len(x)), **extra_args)) / sigma

        before, last = None, len(sigmas) - 2
        for i, (now, after) in enumerate(itertools.pairwise(sigmas)):
            d = slope(x, now)
            if i < start or last - end <= i < last:
                middle = (now + after) / 2
                there = x + (middle - now) * d
                for _ in range(stages - 2):
                    there = x + (middle - now) * slope(there, middle)
                x, before = x + (after - now) * slope(there, middle), d
            elif after == 0 or before is None:
                x, before = x + (after - now) * d, d
            else:
                ratio = (after - now) / (now - sigmas[i - 1]) / 2
                x, before = x + (after - now) * ((1 + ratio) * d - ratio * before), d
        return x

    return comfy.samplers.KSAMPLER(res_like)


@pytest.mark.parametrize("cfg", some([1.0, 3.0], 3.0))
@pytest.mark.parametrize("start, end, stages", some([(1, 0, 2), (2, 0, 2), (2, 2, 2), (2, 1, 3)], (1, 0, 2), (2, 1, 3)))
def test_steps_with_more_evaluations_are_computed_and_the_rest_is_as_without_them(start, end, stages, cfg):
    even, uneven = beside(lambda: multistep(0), cfg=cfg), beside(lambda: multistep(start, end, stages), cfg=cfg)
    extra = (start + end) * (stages - 1)
    assert len(uneven.trace.evaluations) == STEPS + extra
    assert uneven.trace.computed <= even.trace.computed + extra + start + end  # what must be computed comes on top
    # Near enough: as many plain steps are off by .08, both of these by .01 to .02.
    assert uneven.median <= 1.3 * even.median + 0.01 and uneven.trace.error is not None


def of_stages(stages):
    """A step of so many evaluations, one after the other within the step."""

    def of_a_pack(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for now, after in itertools.pairwise(sigmas):
            d = (x - model(x, now * x.new_ones(len(x)), **extra_args)) / now
            for k in range(1, stages if after > 0 else 1):
                at = now + (after - now) * k / stages
                d = ((x + (at - now) * d) - model(x + (at - now) * d, at * x.new_ones(len(x)), **extra_args)) / at
            x = x + (after - now) * d
        return x

    return comfy.samplers.KSAMPLER(of_a_pack)


@pytest.mark.parametrize("stages", some([2, 3, 5, 6], 3, 6))
def test_up_to_six_stages(stages):
    outcome = beside(lambda: of_stages(stages))
    assert outcome.trace.computed < 0.4 * len(outcome.trace.evaluations)
    assert outcome.error < 0.6 * outcome.fewer(outcome.trace.computed // stages)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_levels_padded_with_zeros(name):
    """RES4LYF's "resample" passes [0, s ..., 0, 0]."""

    def resample(model, x, sigmas, **kwargs):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) if sigmas[0] == 0 else x
        return own(name).sampler_function(model, x, sigmas[1:-1], **kwargs)

    sigmas = comfy.samplers.calculate_sigmas(
        inprocess.embedded_model().get_model_object("model_sampling"), "simple", STEPS
    )
    padded = torch.cat([torch.zeros(1), sigmas, torch.zeros(1)])
    outcome = beside(lambda: comfy.samplers.KSAMPLER(resample), sigmas=padded)
    assert len(outcome.trace.evaluations) == STEPS and outcome.trace.computed < STEPS / 2
    assert outcome.error < 0.1


def told(name, amount):
    """The network is told another noise level than the sampler's: Detail Daemon (times CFG, in mid-run)."""
    inner = own(name)

    def detail_daemon(model, x, sigmas, *, wrapped, **kwargs):
        def lied_to(x, sigma, **args):
            share = int((sigmas[:-1] - sigma[0]).abs().argmin()) / (len(sigmas) - 2)
            bump = 0.1 * amount * max(0.0, 1 - abs(share - 0.5) / 0.3)
            return model(x, sigma * max(1e-6, 1 - bump * model.inner_model.cfg), **args)

        lied_to.inner_model, lied_to.sigmas = model.inner_model, model.sigmas
        return wrapped.sampler_function(lied_to, x, sigmas, **kwargs, **wrapped.extra_options)

    return comfy.samplers.KSAMPLER(detail_daemon, extra_options={"wrapped": inner})


@pytest.mark.parametrize("name", some(["euler", "dpmpp_2m", "heun"], "euler"))
@pytest.mark.parametrize(
    "cfg, amount",
    some([(1.0, 0.1), (1.0, 1.0), (3.0, 0.1), (3.0, 0.5), (3.0, 1.0)], (1.0, 0.1), (3.0, 0.5), (3.0, 1.0)),
)
def test_a_sampler_that_tells_the_network_another_noise_level(name, cfg, amount):
    """It is forecast as often, and its correction helps."""
    load = inprocess.lumina_model  # whose pictures flip less
    alone, outcome = (
        beside(sampler, load=load, cfg=cfg) for sampler in (lambda: own(name), lambda: told(name, amount))
    )
    assert outcome.trace.computed <= 1.1 * alone.trace.computed and outcome.trace.error is not None
    uncorrected = beside(lambda: told(name, amount), load=load, cfg=cfg, correct=False)
    stages = 2 if name == "heun" else 1
    # With guidance, one of the six pictures becomes another one by a few per cent more or less of noise; and at the
    # smallest amount the correction does not pay: .038 with it, .029 without.
    assert outcome.median < (1.4 if cfg > 1 else 1.1) * uncorrected.median
    assert outcome.error < (1.5 if cfg > 1 else 1.0) * outcome.fewer((outcome.trace.computed + stages - 1) // stages)


@pytest.mark.parametrize("name", ["euler", "euler_ancestral"])
def test_a_lie_of_the_same_size_everywhere(name):
    def lying(model, x, sigmas, **kwargs):
        def lied_to(x, sigma, **args):
            return model(x, sigma * (0.95 if sigma[0] < sigmas[2] else 1.0), **args)

        lied_to.inner_model, lied_to.sigmas = model.inner_model, model.sigmas
        return own(name).sampler_function(lied_to, x, sigmas, **kwargs)

    alone, outcome = beside(lambda: own(name)), beside(lambda: comfy.samplers.KSAMPLER(lying))
    assert outcome.trace.forecast >= STEPS // 6 and outcome.median <= 1.5 * alone.median + 0.005


def test_short_runs_of_one_prompt_are_said_once(caplog, monkeypatch):
    """Packs that call a sampler once per step and tile."""
    context = utils.ExecutionContext(prompt_id="prompt", node_id="7", list_index=None)
    monkeypatch.setattr(run, "get_executing_context", lambda: context)
    fast = accelerate(inprocess.embedded_model(), Settings.of())
    sigmas = comfy.samplers.calculate_sigmas(fast.get_model_object("model_sampling"), "simple", 6)
    with caplog.at_level("INFO"):
        for pair in itertools.pairwise(sigmas):
            latents(fast, own("euler"), sigmas=torch.stack(pair))
    said = [record for record in caplog.records if record.getMessage().startswith("Spectrum")]
    assert len(runs(fast)) == 6 and len(said) == 1
    assert runs(fast)[0].off.text is Text.TOO_FEW_STEPS or "1 steps" in said[0].getMessage()
