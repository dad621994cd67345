"""Where the network runs: several devices at once (ComfyUI's MultiGPU), unloaded between runs, short of memory."""

import gc
import threading
import time

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from late import late_by
from sampling import accelerated, distance, fingerprint, kinds, nearer, runs
from spectrum_accelerate.nodes.runtime.features import FeatureForecaster
from spectrum_accelerate.nodes.settings import ADAPTIVE
from spectrum_accelerate.spectrum_core.history import History
from spectrum_accelerate.spectrum_core.messages import Reason
from zoo import MODELS

import nodes

FLUX = MODELS["flux"]
STEPS = 12
SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"
MEMORY = 2 * 1024**2
TWO_DEVICES = [torch.device("cpu"), torch.device("cpu", 0)]
"""Both are the CPU, but ComfyUI tells them apart: two devices, two copies of the model, two threads."""


@pytest.fixture
def model():
    """A model that ComfyUI can load again for a second device."""
    model = FLUX.build()
    model.cached_patcher_init = (FLUX.build, ())
    return model


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: TWO_DEVICES)


@pytest.fixture
def split(monkeypatch):
    """Each conditioning in a call of its own, as it is with a device for each."""
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)


def on_two_devices(model):
    """What the MultiGPU node does."""
    import comfy.multigpu

    return comfy.multigpu.create_multigpu_deepclones(model, 2)


class Meeting:
    """Threads wait for each other in a module, so that both are in the middle of a call at the same time."""

    def __init__(self, *modules):
        self.threads = set()
        self._barrier = threading.Barrier(len(modules))
        self._handles = [module.register_forward_pre_hook(self._meet) for module in modules]

    def _meet(self, module, args):
        self.threads.add(threading.get_ident())
        self._barrier.wait(timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


def clones(model):
    return model.get_additional_models_with_key("multigpu")


@pytest.mark.parametrize("spectrum", ["first", "last"])
@pytest.mark.parametrize("target", ["block output", "model output"])
def test_two_devices_at_once(model, two_devices, split, spectrum, target, compatibility):
    """Cond and uncond run concurrently on two copies of the model; the result is that of one device, bit by bit."""
    settings = {**SETTINGS, "target": target}
    expected = FLUX.sample(accelerated(model, **settings), steps=STEPS, cfg=3.0)
    plain = FLUX.sample(model, steps=STEPS, cfg=3.0)

    if spectrum == "first":
        fast = on_two_devices(accelerated(model, **settings))
    else:
        fast = accelerated(on_two_devices(model), **settings)
    networks = [patcher.model.diffusion_model for patcher in (fast, *clones(fast))]
    assert len(networks) == 2 and networks[0] is not networks[1]
    before = [fingerprint(patcher) for patcher in (fast, *clones(fast))]
    # The head runs at computed and at forecast evaluations (of the model output only at computed ones).
    with Meeting(*(network.final_layer.linear for network in networks)) as meeting:
        results = [FLUX.sample(fast, steps=STEPS, cfg=3.0) for _ in range(5)]
    assert len(meeting.threads) >= 2 and threading.get_ident() not in meeting.threads
    for result in results:
        assert torch.equal(result, expected)
    for trace in runs(fast)[-5:]:
        assert kinds(trace) == SCHEDULE and not trace.notes and trace.target == target
        assert trace.self_test is not None and trace.self_test < 1e-6
    assert [fingerprint(patcher) for patcher in (fast, *clones(fast))] == before
    assert torch.equal(FLUX.sample(model, steps=STEPS, cfg=3.0), plain)
    compatibility("feature", f"MultiGPU, Spectrum {spectrum}, {target}", runs(fast)[:1], distance(expected, plain))


def test_a_failed_self_test_on_one_device(model, two_devices, split, monkeypatch):
    """Only one copy's row does not hold: the other device's thread is in the middle of its own call."""
    fast = accelerated(on_two_devices(model), **SETTINGS)
    (clone,) = clones(fast)
    network = clone.model.diffusion_model
    head = network.final_layer.forward
    monkeypatch.setattr(
        network.final_layer, "forward",
        lambda x, *rest: head(x, *rest) * (1.0 if len(network.single_blocks) else 2.0),
    )  # fmt: skip
    result = FLUX.sample(fast, steps=STEPS, cfg=3.0)
    (trace,) = runs(fast)
    assert trace.outcome == "done" and torch.isfinite(result).all()
    assert 'falling back to target "model output"' in trace.summary() and trace.computed + trace.forecast == STEPS
    assert distance(result, FLUX.sample(on_two_devices(model), steps=STEPS, cfg=3.0)) < 0.5


def test_a_failure_on_one_device_ends_the_run(model, two_devices, split):
    fast = accelerated(on_two_devices(model), **SETTINGS)
    plain = FLUX.sample(model, steps=STEPS, cfg=3.0)
    (clone,) = clones(fast)
    calls = iter(range(10**6))

    def fail(module, args):
        if next(calls) == 5:
            raise ZeroDivisionError

    handle = clone.model.diffusion_model.final_layer.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        FLUX.sample(fast, steps=STEPS, cfg=3.0)
    handle.remove()
    assert runs(fast)[0].outcome == "error"
    gc.collect()
    assert not [h for h in gc.get_objects() if isinstance(h, History) and h.nbytes]
    assert torch.equal(FLUX.sample(model, steps=STEPS, cfg=3.0), plain)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_late_numbers_on_two_devices(model, two_devices, split, sampler, monkeypatch):
    """The default schedule waits for numbers of both threads: whichever answers first, the result is one device's."""
    settings = {"schedule": ADAPTIVE, "skip_interval": 3.0}
    alone = accelerated(model, **settings)
    expected = FLUX.sample(alone, steps=20, cfg=3.0, sampler=sampler)
    fast = on_two_devices(accelerated(model, **settings))
    for delay in (None, 1, 3):
        if delay is not None:
            late_by(monkeypatch, delay)
        for _ in range(2):
            assert torch.equal(FLUX.sample(fast, steps=20, cfg=3.0, sampler=sampler), expected)
    assert {(trace.kinds, trace.error) for trace in (*runs(fast), *runs(alone))} == {
        (runs(alone)[0].kinds, runs(alone)[0].error)
    }
    assert "f" in runs(alone)[0].kinds


def test_out_of_memory_on_one_device_while_the_other_keeps_its_features(model, two_devices, split, monkeypatch):
    """The features of both are let go under the other's hands; the rest is computed, as on one device."""

    def broken(patcher):
        """Out of memory in the fifth computed call, once."""
        calls = iter(range(10**6))

        def fail(module, args):
            if next(calls) == 4:
                raise torch.OutOfMemoryError("out of memory")

        return patcher.model.diffusion_model.double_blocks[0].register_forward_pre_hook(fail)

    alone = accelerated(model, **SETTINGS)
    handle = broken(model)
    FLUX.sample(alone, steps=STEPS, cfg=1.0)
    handle.remove()
    assert runs(alone)[0].notes and runs(alone)[0].kinds.endswith("ccccc")

    fast = accelerated(on_two_devices(model), **SETTINGS)
    released, push, release = threading.Event(), History.push, FeatureForecaster.release
    first = threading.get_ident()
    failing: list[int] = []

    def wait(self, *args):
        if failing and failing[0] != threading.get_ident() != first:
            assert released.wait(timeout=30)
        return push(self, *args)

    def say_so(self):
        if threading.get_ident() != first:
            failing.append(threading.get_ident())
        release(self)
        released.set()

    monkeypatch.setattr(History, "push", wait)
    monkeypatch.setattr(FeatureForecaster, "release", say_so)
    handle = broken(fast)
    result = FLUX.sample(fast, steps=STEPS, cfg=3.0)
    handle.remove()
    (trace,) = runs(fast)
    assert trace.outcome == "done" and released.is_set() and failing
    assert trace.kinds == runs(alone)[0].kinds and trace.notes == runs(alone)[0].notes
    plain = FLUX.sample(model, steps=STEPS, cfg=3.0)
    assert distance(result, plain) < distance(FLUX.sample(model, steps=trace.computed, cfg=3.0), plain)


def test_a_conditioning_that_changes_its_device(model, two_devices, split):
    """When the first prompt ends, the other moves to the first device: it is computed there until it has a history."""
    ending = nodes.ConditioningSetTimestepRange().set_range(FLUX.conditioning(5), 0.0, 0.5)[0]
    positive = ending + FLUX.conditioning(1)
    guider_fast, guider_plain = (
        custom.BasicGuider.execute(on_two_devices(m), positive).result[0]
        for m in (accelerated(model, **SETTINGS), model)
    )
    sigmas = custom.BasicScheduler.execute(model, "simple", 24, 1.0).result[0]
    sampler = custom.KSamplerSelect.execute("euler").result[0]
    noise, latent = custom.RandomNoise.execute(7).result[0], {"samples": FLUX.empty()}
    results = []
    fewer = custom.BasicScheduler.execute(model, "simple", 12, 1.0).result[0]
    for guider, levels in ((guider_fast, sigmas), (guider_plain, sigmas), (guider_plain, fewer)):
        with torch.inference_mode():
            output = custom.SamplerCustomAdvanced.execute(noise, guider, sampler, levels, latent).result[0]
        results.append(output["samples"])
    (trace,) = runs(guider_fast.model_patcher)
    reasons = [evaluation.reason for evaluation in trace.evaluations]
    assert 1 <= reasons.count(Reason.NO_HISTORY) <= 3, reasons
    moved = reasons.index(Reason.NO_HISTORY)
    assert "f" in kinds(trace)[:moved] and "f" in kinds(trace)[moved:]
    assert trace.computed <= 14 and nearer(*results)


@pytest.mark.parametrize("late", TWO_DEVICES, ids=["first device late", "second device late"])
def test_a_conditioning_that_joins_later(model, two_devices, split, late):
    """It has no history when the other device may be done forecasting: the evaluation is computed as a whole."""
    positive = nodes.ConditioningSetTimestepRange().set_range(FLUX.conditioning(5), 0.3, 1.0)[0] + FLUX.conditioning(1)
    fast = accelerated(model, **SETTINGS)
    expected = sample(fast, positive)

    def wait(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        assert options["multigpu_thread_device"] in TWO_DEVICES
        time.sleep(0.05 if str(options["multigpu_thread_device"]) == str(late) else 0.0)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    spread = on_two_devices(fast)
    spread.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, wait)
    result = sample(spread, positive)
    one, two = runs(fast)
    assert kinds(one) == kinds(two) and Reason.NO_HISTORY in [e.reason for e in two.evaluations]
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)  # one device joins two of the conditionings


def sample(model, positive, steps=24):
    noise = torch.randn((1, *FLUX.latent), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 3.0, "euler", "simple", positive, FLUX.conditioning(2), FLUX.empty(), seed=1,
            disable_pbar=True,
        )  # fmt: skip


def test_unloaded_between_runs(model):
    fast = accelerated(model, **SETTINGS)
    first = FLUX.sample(fast, steps=STEPS, cfg=3.0)
    comfy.model_management.unload_all_models()
    fast.detach()
    assert torch.equal(FLUX.sample(fast, steps=STEPS, cfg=3.0), first)
    comfy.model_management.unload_all_models()
    assert torch.equal(FLUX.sample(accelerated(model, **SETTINGS), steps=STEPS, cfg=3.0), first)
    assert [kinds(run) for run in runs(fast)] == [SCHEDULE] * 2


def with_lora(model):
    """A LoRA on block, embedder and head: under --lowvram it is applied to each weight while the layer runs."""
    rand = torch.Generator().manual_seed(9)
    weights, patches = model.model.state_dict(), {}
    for name in ("double_blocks.0.img_attn.qkv", "img_in", "final_layer.linear"):
        key = f"diffusion_model.{name}.weight"
        patches[key] = ("diff", (0.05 * torch.randn(weights[key].shape, generator=rand),))
    clone = model.clone()
    assert set(clone.add_patches(patches)) == set(patches)
    return clone


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_short_of_memory(model, monkeypatch, state, compatibility):
    """--lowvram and --novram: weights stay where they are and are patched layer by layer, at each call."""
    patched = with_lora(model)
    expected = FLUX.sample(accelerated(patched, **SETTINGS), steps=STEPS, cfg=3.0)
    comfy.model_management.unload_all_models()
    patched.detach()
    management = comfy.model_management
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", getattr(management.VRAMState, state))
    monkeypatch.setattr(management, "get_free_memory", lambda *args: MEMORY if len(args) < 2 else (MEMORY,) * 2)
    fast = accelerated(patched, **SETTINGS)
    try:
        result = FLUX.sample(fast, steps=STEPS, cfg=3.0)
        assert patched.model.model_lowvram, "some weights are patched while they are used"
        assert any(getattr(m, "weight_function", None) for m in patched.model.diffusion_model.modules())
    finally:
        monkeypatch.undo()
        fast.detach()
    assert kinds(runs(fast)[0]) == SCHEDULE and runs(fast)[0].target == "block output" and not runs(fast)[0].notes
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    assert distance(result, FLUX.sample(model, steps=STEPS, cfg=3.0)) > 1e-3, "the LoRA has an effect"
    error = distance(result, FLUX.sample(patched, steps=STEPS, cfg=3.0))
    compatibility("feature", f"LoRA, --{state.replace('_', '').lower()}", runs(fast), error)
