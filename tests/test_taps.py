"""A call without blocks: exact, restored, and distrusted where the table does not hold."""

import pytest
import torch
from sampling import accelerated, distance, fingerprint, kinds, nearer, runs
from spectrum_accelerate.nodes.models import taps
from spectrum_accelerate.nodes.models.architectures import ARCHITECTURES, Architecture, Tap
from zoo import MODELS

FLUX = MODELS["flux"]
SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"
WRONG_ROWS = {
    "a head that is never passed": Architecture((Tap("txt_norm_nowhere"),), ("double_blocks", "single_blocks")),
    "a tap before the blocks": Architecture((Tap("img_in"),), ("double_blocks", "single_blocks")),
    "a tap inside the blocks": Architecture((Tap("single_blocks.0.linear2"),), ("double_blocks",)),
    "an argument that is no tensor": Architecture((Tap("final_layer", argument=7),), ("double_blocks",)),
    "some blocks forgotten, whose list the forward needs": Architecture((Tap("final_layer"),), ("img_in",)),
}


@pytest.fixture
def model():
    return FLUX.build()


@pytest.mark.parametrize("row", WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_wrong_row_falls_back_to_the_model_output(model, row, monkeypatch):
    """ComfyUI changed a class, say: no broken picture, but the target that needs no row, and a reason."""
    before, plain = fingerprint(model), FLUX.sample(model, steps=12, cfg=3.0)
    monkeypatch.setitem(ARCHITECTURES, "Flux", row)
    fast = accelerated(model, **SETTINGS)
    result = FLUX.sample(fast, steps=12, cfg=3.0)
    (trace,) = runs(fast)
    assert trace.target == "model output" and 'falling back to target "model output"' in trace.summary()
    assert trace.forecast and nearer(result, plain, FLUX.sample(model, steps=trace.computed, cfg=3.0))
    assert fingerprint(model) == before
    alone = accelerated(model, target="model output", **SETTINGS)
    FLUX.sample(alone, steps=12, cfg=3.0)
    assert trace.forecast >= runs(alone)[0].forecast - 1


def test_a_head_that_is_passed_twice_falls_back_to_the_model_output(model, monkeypatch):
    """Another pack calls the network several times in one call: which feature would be forecast?"""
    network = model.model.diffusion_model
    original = type(network).forward_orig
    monkeypatch.setattr(type(network), "forward_orig", lambda *a, **k: (original(*a, **k) + original(*a, **k)) / 2)
    fast = accelerated(model, **SETTINGS)
    result = FLUX.sample(fast, steps=12)
    (trace,) = runs(fast)
    assert trace.target == "model output" and "passes final_layer.forward more than once" in trace.summary()
    assert nearer(result, *(FLUX.sample(model, steps=steps) for steps in (12, trace.computed)))


def test_a_patch_behind_the_blocks_is_noticed(model, monkeypatch):
    """Another pack changes what happens between the last block and the head: the self-test sees it."""
    network = model.model.diffusion_model
    original = type(network).forward_orig
    state = {}

    def changed(*args, **kwargs):
        out = original(*args, **kwargs)
        return out + state["block"] if len(network.single_blocks) else out

    def remember(module, args, output):
        state["block"] = output.mean()

    handle = network.single_blocks[-1].register_forward_hook(remember)
    monkeypatch.setattr(type(network), "forward_orig", changed)
    fast = accelerated(model, **SETTINGS)
    FLUX.sample(fast, steps=12)
    handle.remove()
    (trace,) = runs(fast)
    assert trace.target == "model output" and "(difference " in trace.summary()


def test_nothing_but_the_head_runs_on_a_forecast(model):
    network = model.model.diffusion_model
    calls = {"double_blocks": 0, "single_blocks": 0, "final_layer": 0, "img_in": 0}
    handles = []
    for name in calls:
        module = getattr(network, name)
        module = module[0] if isinstance(module, torch.nn.ModuleList) else module

        def count(*_, name=name):
            calls[name] += 1

        handles.append(module.register_forward_hook(count))
    fast = accelerated(model, **SETTINGS)
    FLUX.sample(fast, steps=12)
    for handle in handles:
        handle.remove()
    computed = SCHEDULE.count("c")
    # forward hooks see module calls; the head runs on every evaluation, and once more for the self-test
    assert calls == {"double_blocks": computed, "single_blocks": computed, "final_layer": 13, "img_in": 13}


def test_attributes_are_restored_in_place(model):
    network = model.model.diffusion_model
    order = list(network._modules)
    for error in (None, KeyError("x"), KeyboardInterrupt()):
        try:
            with taps._left_out(network, "single_blocks"):
                assert len(network.single_blocks) == 0 and list(network._modules) == order
                if error:
                    raise error
        except (KeyError, KeyboardInterrupt):
            pass
        assert len(network.single_blocks) == 2 and list(network._modules) == order


def test_paths_that_a_variant_lacks_are_passed_over(model):
    with taps._left_out(model.model.diffusion_model, "no.such.blocks"):
        pass


def test_a_controlnet_enters_between_the_blocks_only(model):
    """Residuals of a ControlNet: in the computed feature, not once more on top of a forecast."""
    import comfy.controlnet

    class Residuals(comfy.controlnet.ControlBase):
        """Stands in for a trained control network, which does not exist at this size."""

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            generator = torch.Generator().manual_seed(4)
            residual = torch.randn((x_noisy.shape[0], 16, 128), generator=generator)
            return {"input": [residual, residual], "output": [residual, residual]}

        def copy(self):
            return self

        def get_models(self):
            return []

    def sample(model, steps=12):
        noise = torch.randn((1, *FLUX.latent), generator=torch.Generator().manual_seed(1))
        positive, negative = (
            [[tensor, {**extra, "control": Residuals(), "control_apply_to_uncond": True}]]
            for tensor, extra in FLUX.conditioning(1) + FLUX.conditioning(2)
        )
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, 3.0, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=1,
                disable_pbar=True,
            )  # fmt: skip

    fast = accelerated(model, **SETTINGS)
    result, plain = sample(fast), sample(model)
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE and trace.self_test == 0.0 and trace.target == "block output"
    assert distance(plain, FLUX.sample(model, steps=12, cfg=3.0)) > 0.05, "the residuals matter"
    assert nearer(result, plain, sample(model, trace.computed))
