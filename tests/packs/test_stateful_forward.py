"""A forward of another pack that keeps state from call to call (MagCache, First Block Cache, CacheDiT): nothing of it
may run on a forecast, since it would keep what a network without blocks gives."""

import comfy.ldm.flux.model
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from sampling import distance, nearer, runs
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.settings import RAW_OUTPUT, Settings
from spectrum_accelerate.spectrum_core.messages import Text

from demo import inprocess

STEPS = 24


def caching(model, head, start_of, forward):
    """Every second step from 6 on, the blocks' residual of the step before, by a forward on the instance."""
    network, state = model.model.diffusion_model, {}
    original = getattr(network, forward)

    def cached(*args, **kwargs):
        options = kwargs.get("transformer_options") or next(a for a in args if isinstance(a, dict) and "sigmas" in a)
        step = int((options["sample_sigmas"] - options["sigmas"][0]).abs().argmin())
        skip, seen = step > 5 and step % 2, {}

        def at_head(_, inputs):
            if skip:
                return (seen["start"] + state["residual"], *inputs[1:])
            state["residual"] = inputs[0] - seen["start"]
            return None

        hooks = [head(network).register_forward_pre_hook(at_head)]
        seen["start"] = args[0]
        if start_of(network) is not None:
            hooks.append(start_of(network).register_forward_hook(lambda m, i, o: seen.update(start=o)))
        try:
            return original(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def wrapper(apply, p):
        network.__dict__[forward] = cached
        try:
            return apply(p["input"], p["timestep"], **p["c"])
        finally:
            del network.__dict__[forward]

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def on_flux(model):
    return caching(model, lambda n: n.final_layer, lambda n: n.img_in, "forward_orig")


def on_unet(model):
    return caching(model, lambda n: n.out, lambda n: n.input_blocks[0][0] if len(n.input_blocks) else None, "_forward")


def sample(model, scheduler, cfg):
    noise = torch.randn((1, 16, 12, 12), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, STEPS, cfg, "euler", scheduler, inprocess.prompts([3], [0]), inprocess.prompts([-1], [-1]),
            torch.zeros_like(noise), seed=5, disable_pbar=True,
        )  # fmt: skip


CASES = {
    "flux": (inprocess.embedded_model, on_flux, "simple"),
    "unet": (inprocess.unet_model, on_unet, "normal"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_beside_a_cache_we_stand_down(name, cfg):
    load, cache, scheduler = CASES[name]
    model = load()
    alone = sample(cache(model), scheduler, cfg)
    both = accelerate(cache(model), Settings.of())
    assert torch.equal(sample(both, scheduler, cfg), alone)
    assert runs(both)[-1].off.text is Text.SWITCHED


def test_a_forward_that_is_replaced_for_good_does_not_run_on_forecasts(monkeypatch):
    """A patch that need not be a cache: the model output is forecast."""
    model, calls = inprocess.embedded_model(), []
    network = model.model.diffusion_model
    original = network.forward_orig
    monkeypatch.setitem(network.__dict__, "forward_orig", lambda *a, **k: calls.append(1) or original(*a, **k))
    plain = sample(model, "simple", 1.0)
    fast = accelerate(model, Settings.of())
    calls.clear()
    error = distance(sample(fast, "simple", 1.0), plain)
    trace = runs(fast)[-1]
    assert trace.target == "model output" and "another pack replaces" in trace.summary()
    assert len(calls) == trace.computed < STEPS and error < 0.1


class Nag(comfy.samplers.CFGGuider):
    """A guider that goes around ComfyUI's wrappers, and replaces the forward for its own sampling (ComfyUI-NAG)."""

    calls = 0

    def __call__(self, *args, **kwargs):
        return self.predict_noise(*args, **kwargs)

    def replaced(self, do, *args, **kwargs):
        network = self.model_patcher.model.diffusion_model
        original = network.forward

        def forward(*args, **kwargs):
            self.calls += 1
            return 1.01 * original(*args, **kwargs)

        network.__dict__["forward"] = forward
        try:
            return do(*args, **kwargs)
        finally:
            del network.__dict__["forward"]

    def sample(self, *args, **kwargs):
        return self.replaced(super().sample, *args, **kwargs)


class NagWithin(Nag):
    """The same within the run."""

    def sample(self, *args, **kwargs):
        return comfy.samplers.CFGGuider.sample(self, *args, **kwargs)

    def inner_sample(self, *args, **kwargs):
        return self.replaced(super().inner_sample, *args, **kwargs)


@pytest.mark.parametrize("kind", [Nag, NagWithin])
def test_a_guider_that_goes_around_and_replaces_the_forward(kind):
    model = inprocess.embedded_model()
    noise = torch.randn((1, 16, 12, 12), generator=torch.Generator().manual_seed(5))

    def guided(model, steps=STEPS):
        guider = kind(model)
        guider.set_conds(inprocess.prompts([3], [0]), inprocess.prompts([-1], [-1]))
        guider.set_cfg(3.0)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        with torch.inference_mode():
            sampler = comfy.samplers.ksampler("euler")
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=5), guider.calls

    plain, calls = guided(model)
    fast = accelerate(model, Settings.of())
    result, computed = guided(fast)
    trace = runs(fast)[-1]
    assert trace.target == "model output" and "another pack replaces the model's forward" in trace.summary()
    assert computed * STEPS == calls * trace.computed and trace.computed < 0.6 * STEPS
    assert nearer(result, plain, guided(model, trace.computed)[0])


def test_a_wrapper_around_the_network_does_not_run_on_forecasts():
    model, calls = inprocess.embedded_model(), []
    wrapped = model.clone()
    wrapped.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "other pack", lambda executor, *a, **k: calls.append(1) or executor(*a, **k)
    )
    fast = accelerate(wrapped, Settings.of())
    sample(fast, "simple", 1.0)
    trace = runs(fast)[-1]
    assert trace.forecast > 0 and trace.target == "model output" and "other pack" in trace.summary()
    assert len(calls) == trace.computed


class Offloaded(comfy.ldm.flux.model.Flux):
    """A subclass with an offload manager (Nunchaku's Qwen-Image), which a call without blocks derails."""

    turn = 0

    def forward_orig(self, *args, **kwargs):
        for _ in range(2):
            assert self.double_blocks, "the offload manager has nothing to load"
            self.turn += len(self.double_blocks)
        return super().forward_orig(*args, **kwargs)


class Opaque(torch.nn.Module):
    """A network whose blocks torch does not see, with a cache that each call renews (Nunchaku's Flux)."""

    def __init__(self, network):
        super().__init__()
        self.network, self.dtype, self.turn = [network], network.dtype, 0

    def forward(self, *args, **kwargs):
        self.turn += 1
        return self.network[0](*args, **kwargs)


def offloaded(network):
    network.__class__ = Offloaded
    return network


@pytest.mark.parametrize("replace", [offloaded, Opaque])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_network_class_of_another_pack_runs_only_when_it_is_computed(replace, cfg):
    model = inprocess.embedded_model()
    result = sample(accelerate(model, Settings.of(target=RAW_OUTPUT)), "simple", cfg)
    model.model.diffusion_model = network = replace(model.model.diffusion_model)
    plain = sample(model, "simple", cfg)
    each, network.turn = network.turn // STEPS, 0
    fast = accelerate(model, Settings.of())
    assert torch.equal(sample(fast, "simple", cfg), result)
    trace = runs(fast)[-1]
    assert trace.target == "model output" and f"{type(network).__name__} is another pack's" in trace.summary()
    assert network.turn == trace.computed * each and trace.forecast > STEPS / 3
    network.turn = 0
    assert torch.equal(sample(model, "simple", cfg), plain) and network.turn == STEPS * each


@pytest.mark.parametrize(
    ("key", "name"), [("rel_l1_thresh", "TeaCache"), ("magcache_thresh", "MagCache"), ("cache_dit_turbo", "CacheDiT")]
)
def test_another_accelerator_is_named(key, name):
    model = inprocess.embedded_model()
    other = model.clone()
    other.model_options["transformer_options"][key] = 0.1
    fast = accelerate(other, Settings.of())
    assert torch.equal(sample(fast, "simple", 1.0), sample(model, "simple", 1.0))
    assert str(runs(fast)[-1].off) == f"{name} is on the same MODEL; remove one of the two"
