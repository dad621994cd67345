"""What other packs and unusual workflows do to a run in its middle: the result is right, and the reason is said."""

import copy
import gc
import weakref

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import pytest
import torch
from comfy.model_management import OOM_EXCEPTION
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from sampling import accelerated, distance, runs
from spectrum_accelerate.nodes.runtime import accelerate, features, run
from spectrum_accelerate.nodes.settings import Settings
from spectrum_accelerate.spectrum_core import corrector
from spectrum_accelerate.spectrum_core.messages import Reason, Text
from zoo import MODELS

FLUX, SD15 = MODELS["flux"], MODELS["sd15"]
STEPS = 12


def custom(model, sampler, steps=STEPS, cfg=3.0, guider_class=comfy.samplers.CFGGuider, kind=FLUX):
    """SamplerCustomAdvanced with a guider."""
    noise = torch.randn((1, *kind.latent), generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    guider = guider_class(model)
    guider.set_conds(kind.conditioning(1), kind.conditioning(2))
    guider.set_cfg(cfg)
    with torch.inference_mode():
        result = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
    return result, guider


def alive(kind):
    """Objects of a class that the interpreter knows."""
    return [o for o in gc.get_objects() if type(o) is kind]


def held_bytes():
    return sum(history.nbytes for history in alive(features.ConditioningHistory))


def texts(trace):
    return {note.text for note in trace.notes} | ({trace.off.text} if trace.off else set())


# --- memory -----------------------------------------------------------------------------------------------------------


def test_out_of_memory_in_the_corrector_does_not_end_a_run(monkeypatch):
    calls = iter(range(100))

    def settle(self, *args, **kwargs):
        if self._gap.evaluations[0] and next(calls) == 1:
            raise OOM_EXCEPTION("out of memory")
        return original(self, *args, **kwargs)

    original = corrector.Corrector._corrected
    monkeypatch.setattr(corrector.Corrector, "_corrected", settle)
    model = FLUX.build()
    fast = accelerated(model)
    result = FLUX.sample(fast, steps=STEPS, cfg=3.0)
    trace = runs(fast)[-1]
    assert trace.outcome == "done" and Text.STOPPED in texts(trace)
    assert "memory" in trace.summary()
    stopped = trace.kinds.rindex("f")
    assert "f" in trace.kinds and set(trace.kinds[stopped + 1 :]) == {"c"}
    plain = FLUX.sample(model, steps=STEPS, cfg=3.0)
    assert distance(result, plain) < distance(FLUX.sample(model, steps=trace.computed, cfg=3.0), plain)


@pytest.mark.parametrize("index", [3, 6])
def test_out_of_memory_in_the_model_frees_our_features_and_asks_once_more(index):
    """The model's own call has no room while we hold features; without them it has."""
    model, held = FLUX.build(), []
    count = iter(range(1000))

    def full_device(module, args):
        if next(count) == index:
            held.append(held_bytes())
            raise OOM_EXCEPTION("out of memory")

    fast = accelerated(model, warmup=4)
    block = model.model.diffusion_model.double_blocks[0]
    handle = block.register_forward_pre_hook(full_device)
    result = FLUX.sample(fast, steps=STEPS, cfg=3.0)
    handle.remove()
    trace = runs(fast)[-1]
    assert held[0] > 0
    assert trace.outcome == "done" and texts(trace) & {Text.OUT_OF_MEMORY, Text.STOPPED}
    assert held_bytes() == 0
    plain = FLUX.sample(model, steps=STEPS, cfg=3.0)
    if "f" not in trace.kinds:
        assert torch.equal(result, plain)
    assert result.isfinite().all()


def test_a_device_that_stays_full_says_so():
    """Asked once more, not for ever: the error is the model's own then."""
    model = FLUX.build()
    calls = []

    def full_device(module, args):
        calls.append(1)
        raise OOM_EXCEPTION("out of memory")

    handle = model.model.diffusion_model.double_blocks[0].register_forward_pre_hook(full_device)
    with pytest.raises(OOM_EXCEPTION):
        FLUX.sample(accelerated(model), steps=STEPS)
    handle.remove()
    assert len(calls) == 2


# --- gradients --------------------------------------------------------------------------------------------------------


def test_with_gradients_on_everything_is_computed_and_nothing_is_altered():
    model = FLUX.build()
    fast = accelerate(model, Settings.of())

    def with_gradients(model, x, sigmas, extra_args=None, callback=None, disable=None, **_):
        for i in range(len(sigmas) - 1):
            with torch.enable_grad():
                denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **(extra_args or {})).detach()
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return x

    sampler = comfy.samplers.KSAMPLER(with_gradients)
    plain, _ = custom(model, sampler)
    result, _ = custom(fast, sampler)
    assert torch.equal(result, plain)
    trace = runs(fast)[-1]
    assert trace.forecast == 0 and trace.off.text is Text.GRADIENTS


# --- calls of another kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["cond_or_uncond", "uuids"])
def test_conditionings_that_contradict_each_other_are_computed(change):
    """Another pack edits the options of the call in an outer wrapper."""
    model = FLUX.build()

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        changed = {**transformer_options, change: [*transformer_options[change], transformer_options[change][0]]}
        return executor(x, t, c_concat, c_crossattn, control, changed, **kwargs)

    changed = model.clone()
    changed.add_wrapper(WrappersMP.APPLY_MODEL, wrapper)
    fast = accelerated(changed)
    assert torch.equal(FLUX.sample(fast, steps=STEPS, cfg=3.0), FLUX.sample(changed, steps=STEPS, cfg=3.0))
    assert runs(fast)[-1].off.text is Text.ROWS


def test_a_call_without_identities_is_one_history():
    model = FLUX.build()

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        kept = {k: v for k, v in transformer_options.items() if k != "uuids"}
        return executor(x, t, c_concat, c_crossattn, control, kept, **kwargs)

    changed = model.clone()
    changed.add_wrapper(WrappersMP.APPLY_MODEL, wrapper)
    fast = accelerated(changed)
    result = FLUX.sample(fast, steps=STEPS, cfg=1.0)
    assert runs(fast)[-1].forecast > 0
    assert torch.equal(result, FLUX.sample(accelerated(model), steps=STEPS, cfg=1.0))


def lcm_upscale():
    return SamplerLCMUpscale.execute(2.0, 4, "bilinear")[0]


def progressive(switch):
    """Half the resolution until a step, then all of it."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        full, x = x.shape, torch.nn.functional.avg_pool2d(x, 2)
        for i in range(len(sigmas) - 1):
            if i == switch:
                x = torch.nn.functional.interpolate(x, full[2:])
            denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **(extra_args or {}))
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return x

    return comfy.samplers.KSAMPLER(sample)


def side_evaluations():
    """A look at half the resolution besides, each step."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(len(sigmas) - 1):
            sigma = sigmas[i] * x.new_ones([x.shape[0]])
            model(torch.nn.functional.avg_pool2d(x, 2), sigma, **(extra_args or {}))
            x = x + (x - model(x, sigma, **(extra_args or {}))) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        return x

    return comfy.samplers.KSAMPLER(sample)


@pytest.mark.parametrize(
    "sampler",
    [lcm_upscale, lambda: progressive(2), lambda: progressive(8), side_evaluations],
    ids=["LCMUpscale", "early", "late", "side"],
)
def test_a_sampler_that_changes_the_size_of_the_latent_runs(sampler):
    model = SD15.build()
    torch.manual_seed(0)
    plain, _ = custom(model, sampler(), kind=SD15)
    fast = accelerate(model, Settings.of())
    torch.manual_seed(0)
    result, _ = custom(fast, sampler(), kind=SD15)
    trace = runs(fast)[-1]
    assert trace.outcome == "done"
    if trace.forecast == 0:
        assert torch.equal(result, plain)
        assert trace.off is not None
    else:
        assert distance(result, plain) < 0.1


def test_options_copied_in_a_guidance_function():
    """Some packs deepcopy model_options during sampling; a run's wrappers are in them."""
    model = FLUX.build()

    def copying(args):
        copied = copy.deepcopy(args["model_options"])
        assert copied["transformer_options"]["wrappers"]
        return args["conds_out"]

    changed = model.clone()
    changed.set_model_sampler_pre_cfg_function(copying)
    fast = accelerated(changed)
    assert torch.equal(FLUX.sample(fast, steps=STEPS, cfg=3.0), FLUX.sample(accelerated(model), steps=STEPS, cfg=3.0))
    assert runs(fast)[-1].forecast > 0


class Counting(comfy.samplers.CFGGuider):
    """Counts its calls, and switches guidance off at each fifth of them."""

    def __init__(self, model):
        super().__init__(model)
        self.current_step, self.seen = 0, []

    def predict_noise(self, *args, **kwargs):
        self.current_step += 1
        self.seen.append(self.current_step)
        scale, self.cfg = self.cfg, 1.0 if self.current_step % 5 == 0 else self.cfg
        try:
            return super().predict_noise(*args, **kwargs)
        finally:
            self.cfg = scale


def test_a_guider_that_counts_its_calls_counts_each_evaluation_once():
    model = FLUX.build()
    fast = accelerated(model, warmup=3)
    _, guider = custom(fast, comfy.samplers.ksampler("euler"), steps=20, guider_class=Counting)
    assert runs(fast)[-1].forecast > 0
    assert guider.current_step == 20


def test_a_conditioning_that_begins_late_is_computed_and_counted_once():
    """Uncond returns after an evaluation without guidance: its history is too old, and the evaluation begins again."""
    model = FLUX.build()
    fast = accelerated(model, warmup=3)
    _, guider = custom(fast, comfy.samplers.ksampler("euler"), steps=20, guider_class=Counting)
    trace = runs(fast)[-1]
    assert any(e.reason is Reason.NO_HISTORY for e in trace.evaluations)
    assert len(trace.evaluations) == 20 and max(guider.seen) == 20


class Around(comfy.samplers.CFGGuider):
    """Reaches predict_noise without PREDICT_NOISE wrappers, as NAG's guider does."""

    def __call__(self, *args, **kwargs):
        return self.predict_noise(*args, **kwargs)


class Elsewhere(comfy.samplers.CFGGuider):
    """Asks the model without any method of a guider that could be followed."""

    def __call__(self, x, timestep, model_options={}, seed=None):  # noqa: B006 (as in ComfyUI)
        conds = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *conds, self.cfg, model_options=model_options, seed=seed
        )


def test_a_guider_that_goes_around_the_wrappers_is_accelerated():
    model = FLUX.build()
    fast = accelerated(model)
    usual, _ = custom(fast, comfy.samplers.ksampler("euler"))
    result, guider = custom(fast, comfy.samplers.ksampler("euler"), guider_class=Around)
    assert torch.equal(result, usual)
    assert runs(fast)[-1].kinds == runs(fast)[-2].kinds and "f" in runs(fast)[-1].kinds
    assert "predict_noise" not in vars(guider)


def test_a_guider_that_cannot_be_followed_is_computed_and_said():
    model = FLUX.build()
    fast = accelerated(model)
    plain, _ = custom(model, comfy.samplers.ksampler("euler"), guider_class=Elsewhere)
    result, _ = custom(fast, comfy.samplers.ksampler("euler"), guider_class=Elsewhere)
    assert torch.equal(result, plain)
    assert runs(fast)[-1].off.text is Text.UNSEEN


# --- what is left -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["done", "error"])
def test_nothing_is_alive_without_the_garbage_collector(outcome):
    model = FLUX.build()
    fast = accelerate(model, Settings.of())
    gc.collect()
    gc.disable()
    try:
        if outcome == "error":
            handle = model.model.diffusion_model.final_layer.register_forward_pre_hook(_fail)
            with pytest.raises(ZeroDivisionError):
                custom(fast, comfy.samplers.ksampler("euler"))
            handle.remove()
            left = alive(features.FeatureForecaster)
        else:
            _, guider = custom(fast, comfy.samplers.ksampler("euler"))
            guider = weakref.ref(guider)
            assert guider() is None
            left = alive(features.FeatureForecaster)
    finally:
        gc.enable()
    assert not left


def test_a_run_that_starts_again_draws_the_same_noise(monkeypatch):
    """From each device's generator. There is no such device here: what torch says of them stands in for two."""
    states, restored, drawn = [torch.ones(3), torch.zeros(3)], [], []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    monkeypatch.setattr(run, "_unguided", None)  # a fault of ours that nothing catches but the start of the run

    def noisy(network, x, sigmas, extra_args=None, **_):
        drawn.append(torch.randn(3))
        return network(x, sigmas[:1], **(extra_args or {}))

    custom(accelerate(FLUX.build(), Settings.of()), comfy.samplers.KSAMPLER(noisy))
    assert restored == [states] and len(drawn) == 4, "twice on coefficients, twice in earnest"
    assert torch.equal(drawn[2], drawn[3])


class EverySecond(comfy.samplers.KSAMPLER):
    """A sampler class that gives ComfyUI's own function other noise levels."""

    def sample(self, model_wrap, sigmas, *args, **kwargs):
        return super().sample(model_wrap, torch.cat([sigmas[:-1:2], sigmas[-1:]]), *args, **kwargs)


@pytest.mark.parametrize("name", ["sample_euler", "sample_dpmpp_2m"])
def test_a_sampler_class_with_a_way_of_its_own_is_no_row_of_the_table(name):
    model = FLUX.build()
    fast = accelerate(model, Settings.of())
    sampler = EverySecond(getattr(comfy.k_diffusion.sampling, name))
    result, plain = (custom(m, sampler, steps=20)[0] for m in (fast, model))
    assert torch.equal(result, plain)
    assert texts(runs(fast)[-1]) == {Text.OFF_LEVELS}


def test_a_run_without_a_step_is_left_alone(caplog, monkeypatch):
    """SplitSigmas at step 0 leaves one level."""
    model = FLUX.build()
    fast = accelerate(model, Settings.of())
    sampler, sigmas = comfy.samplers.sampler_object("euler"), comfy.samplers.calculate_sigmas
    monkeypatch.setattr(comfy.samplers, "calculate_sigmas", lambda *args: sigmas(*args)[:1])
    result, plain = (custom(m, sampler)[0] for m in (fast, model))
    assert torch.equal(result, plain) and not caplog.records


def test_noise_levels_in_double_precision_are_corrected(monkeypatch):
    sigmas = comfy.samplers.calculate_sigmas
    monkeypatch.setattr(comfy.samplers, "calculate_sigmas", lambda *args: sigmas(*args).double())
    fast = accelerate(FLUX.build(), Settings.of())
    custom(fast, comfy.samplers.sampler_object("euler"))
    trace = runs(fast)[-1]
    assert "f" in trace.kinds and trace.error is not None and not texts(trace)


def _fail(*_):
    raise ZeroDivisionError
