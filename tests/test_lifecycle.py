"""Success, error or cancel: the model is as before and nothing of the run is held."""

import gc
import weakref

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from sampling import accelerated, fingerprint, kinds, runs
from spectrum_accelerate.nodes.runtime.attachment import KEY
from spectrum_accelerate.spectrum_core.history import History
from spectrum_accelerate.spectrum_core.messages import Text
from zoo import MODELS

FLUX = MODELS["flux"]
STEPS = 12
SETTINGS = {"warmup": 3, "tail": 1}  # cccfcfcffcfc
COMPUTED, FORECAST = 4, 5


class Boom(Exception):
    pass


def raiser(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def at_evaluation(model, index, action):
    """A clone that calls `action` when evaluation `index` begins, inside Spectrum's own decision."""
    count = iter(range(10**6))

    def wrapper(executor, *args, **kwargs):
        if next(count) == index:
            action()
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, wrapper)
    return clone


@pytest.fixture
def model():
    return FLUX.build()


@pytest.fixture(autouse=True)
def uninterrupted():
    yield
    comfy.model_management.interrupt_current_processing(False)


@pytest.mark.parametrize("index", [0, COMPUTED, FORECAST, STEPS - 1])
@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_a_run_that_ends_early_leaves_nothing(model, index, how, monkeypatch):
    """An error in the head, or ComfyUI's interrupt from inside an operation, at a computed and at a forecast call."""
    before, plain = fingerprint(model), FLUX.sample(model, steps=STEPS, cfg=3.0)
    histories = []
    monkeypatch.setattr(
        "spectrum_accelerate.nodes.models.rows.History",
        lambda capacity: histories.append(weakref.ref(h := History(capacity))) or h,
    )
    network = model.model.diffusion_model
    handle = None

    def action():
        nonlocal handle
        if how == "interrupt":
            comfy.model_management.interrupt_current_processing()
        else:
            handle = network.final_layer.linear.register_forward_pre_hook(raiser(Boom()))

    fast = accelerated(at_evaluation(model, index, action), **SETTINGS)
    with pytest.raises((Boom, comfy.model_management.InterruptProcessingException)):
        FLUX.sample(fast, steps=STEPS, cfg=3.0)
    if handle is not None:
        handle.remove()
    comfy.model_management.interrupt_current_processing(False)

    (trace,) = runs(fast)
    assert trace.outcome == ("interrupted" if how == "interrupt" else "error")
    assert len(trace.evaluations) == index
    assert fingerprint(model) == before
    gc.collect()
    assert histories or index == 0
    assert not [ref for ref in histories if ref() is not None and ref().nbytes]
    assert torch.equal(FLUX.sample(model, steps=STEPS, cfg=3.0), plain)
    again = accelerated(model, **SETTINGS)
    FLUX.sample(again, steps=STEPS, cfg=3.0)
    assert kinds(runs(again)[0]) == "cccfcfcffcfc"


def test_no_feature_outlives_a_run(model, monkeypatch):
    seen = []
    push = History.push

    def spy(self, position, feature):
        push(self, position, feature)
        seen.append(weakref.ref(self._features[-1]))

    monkeypatch.setattr(History, "push", spy)
    FLUX.sample(accelerated(model, **SETTINGS), steps=STEPS, cfg=3.0)
    gc.collect()
    assert seen and all(ref() is None for ref in seen)


def test_the_history_is_bounded_by_the_window(model, monkeypatch):
    most = []
    push = History.push

    def spy(self, position, feature):
        push(self, position, feature)
        most.append(self.nbytes / feature.nbytes)

    monkeypatch.setattr(History, "push", spy)
    for window in (2, 5):
        most.clear()
        FLUX.sample(accelerated(model, window=window, **SETTINGS), steps=40)
        assert max(most) == window


def test_the_error_of_a_feature_is_unknown_until_one_could_be_forecast(model):
    fast = accelerated(model, schedule="adaptive")
    FLUX.sample(fast, steps=12)
    errors = [e.feature_error for e in runs(fast)[-1].evaluations if e.kind == "computed"]
    assert errors[0] is None and all(error > 0 for error in errors[2:])


def test_a_failing_forecast_is_computed_instead(model, monkeypatch):
    """Out of memory inside a forecast, say: the run goes on in full, says so, and stops forecasting."""
    plain = FLUX.sample(model, steps=STEPS, cfg=3.0)
    monkeypatch.setattr(
        "spectrum_accelerate.nodes.runtime.features.forecast_rows", raiser(torch.OutOfMemoryError("out of memory"))
    )
    fast = accelerated(model, **SETTINGS)
    # The self-test fails for the same reason: first the model output is tried, then all is computed.
    assert torch.equal(FLUX.sample(fast, steps=STEPS, cfg=3.0), plain)
    (trace,) = runs(fast)
    assert "not accelerated" in trace.summary() and "out of memory" in trace.summary()


def test_a_forecast_that_fails_later_is_computed_instead(model, monkeypatch):
    from spectrum_accelerate.nodes.runtime import features

    original, calls = features.forecast_rows, iter(range(10**6))

    def failing(*args):
        if next(calls) >= 3:
            raise torch.OutOfMemoryError("out of memory")
        return original(*args)

    monkeypatch.setattr(features, "forecast_rows", failing)
    fast = accelerated(model, **SETTINGS)
    result = FLUX.sample(fast, steps=STEPS, cfg=3.0)
    (trace,) = runs(fast)
    assert torch.isfinite(result).all() and kinds(trace) == "cccfcfccccccc"[:12]
    assert "stopped: out of memory" in trace.summary()


def test_applying_twice_uses_the_later_settings(model, caplog):
    caplog.set_level("INFO")
    twice = accelerated(accelerated(model, warmup=8), **SETTINGS)
    assert "two nodes on one MODEL" in caplog.text
    once = accelerated(model, **SETTINGS)
    assert torch.equal(FLUX.sample(twice, steps=STEPS), FLUX.sample(once, steps=STEPS))
    assert kinds(runs(twice)[0]) == "cccfcfcffcfc"


def test_the_given_model_stays_as_it_is(model):
    options = str(model.model_options)
    fast = accelerated(model)
    assert str(model.model_options) == options
    assert fast.model is model.model
    FLUX.sample(fast, steps=STEPS)
    assert str(model.model_options) == options
    assert set(fast.model_options["transformer_options"]) == {KEY}
    assert [list(kind) for kind in fast.wrappers.values() if kind] == [[KEY]]


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_spectrum_stands_down_beside_easycache(model, node, compatibility):
    import comfy_extras.nodes_easycache as easycache

    cached = getattr(easycache, node).execute(model, 0.2, 0.15, 0.95, False).result[0]
    fast = accelerated(cached, **SETTINGS)
    assert torch.equal(FLUX.sample(fast, steps=STEPS, cfg=3.0), FLUX.sample(cached, steps=STEPS, cfg=3.0))
    (trace,) = runs(fast)
    assert trace.summary() == (
        "Spectrum: not accelerated: EasyCache or LazyCache is on the same MODEL; remove one of the two"
    )
    compatibility("feature", node.removesuffix("Node"), [trace], 0.0)


def test_gradients_pass_through(model):
    """A LoRA training node samples with gradients on: nothing is captured or forecast."""
    fast = accelerated(model, **SETTINGS)
    network = model.model.diffusion_model
    calls = []
    handle = network.double_blocks[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))

    def with_gradients(executor, *args, **kwargs):
        with torch.inference_mode(False), torch.enable_grad():
            return executor(*args, **kwargs)

    fast.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, with_gradients)
    try:
        noise = torch.randn(1, *FLUX.latent)
        comfy.sample.sample(
            fast, noise, 8, 1.0, "euler", "simple", FLUX.conditioning(1), FLUX.conditioning(2),
            torch.zeros_like(noise), seed=1, disable_pbar=True,
        )  # fmt: skip
    finally:
        handle.remove()
    assert calls == [True] * 8
    assert runs(fast)[0].forecast == 0 and runs(fast)[0].off.text is Text.GRADIENTS


def test_features_that_are_not_finite_are_never_used(model, monkeypatch):
    """One NaN in one captured feature, from which the head recovers: the rest is computed."""
    network = model.model.diffusion_model
    head = network.final_layer.forward
    monkeypatch.setattr(network.final_layer, "forward", lambda x, *rest, **more: head(x.nan_to_num(), *rest, **more))
    blocks = iter(range(10**6))

    def poison(module, args, output):
        if next(blocks) == 4:  # the fifth computed evaluation, number 6
            output[0, -1, 0] = float("nan")

    handle = network.single_blocks[-1].register_forward_hook(poison)
    fast = accelerated(model, **SETTINGS)
    try:
        result = FLUX.sample(fast, steps=STEPS)
    finally:
        handle.remove()
    assert torch.isfinite(result).all()
    (trace,) = runs(fast)
    # What evaluation 6 measured acts once the next one has been computed; forecasts go on without the value.
    assert kinds(trace) == "cccfcfcffccc"
    assert "stopped: the model's features are not finite" in trace.summary()


def test_large_features_in_half_precision_are_finite(model):
    """Their norm is beyond what half precision can hold; they themselves are not."""
    half = model.clone()
    half.set_model_compute_dtype(torch.float16)
    largest = []

    def enlarge(module, args, output):
        largest.append(float(torch.linalg.vector_norm((output * 2000).float())))
        return output * 2000  # the head normalises

    handle = model.model.diffusion_model.single_blocks[-1].register_forward_hook(enlarge)
    fast = accelerated(half, warmup=1, tail=0, skip_interval=4.0)
    try:
        FLUX.sample(fast, steps=4)
    finally:
        handle.remove()
    assert min(largest) > torch.finfo(torch.float16).max
    assert kinds(runs(fast)[0]) == "cfff"


@pytest.mark.parametrize("steps, during", [(12, True), (3, False)])
def test_the_memory_compiler_is_off_while_a_run_forecasts(model, monkeypatch, steps, during):
    """A stand-in for the flag of ComfyUI 0.34 and later, which this version does not have; 3 steps are not forecast."""
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    seen = []
    watched = accelerated(model, warmup=3, tail=1)
    watched.set_model_sampler_post_cfg_function(
        lambda given: seen.append(args.disable_comfy_compiler) or given["denoised"]
    )
    FLUX.sample(watched, steps=steps)
    assert set(seen) == {during} and args.disable_comfy_compiler is False


@pytest.mark.parametrize(
    "dtype, off, passes",
    [(torch.bfloat16, 0.02, True), (torch.bfloat16, 0.2, False), (torch.float32, 0.02, False)],
)
def test_a_head_may_round_as_its_dtype_does_and_no_more(model, monkeypatch, dtype, off, passes):
    """A head alone whose output is off by so much in the self-test: a compiled one is, by rounding."""
    other = model.clone()
    other.set_model_compute_dtype(dtype)
    head, calls = model.model.diffusion_model.final_layer.forward, iter(range(10**6))

    def rounded(*args, **kwargs):
        return head(*args, **kwargs) * (1 + off * (next(calls) == 1))  # the second call is the self-test's

    monkeypatch.setattr(model.model.diffusion_model.final_layer, "forward", rounded)
    fast = accelerated(other, **SETTINGS)
    FLUX.sample(fast, steps=STEPS)
    assert (runs(fast)[0].target == "block output") == passes
