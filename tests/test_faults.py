"""Nothing of ours can end a run: an error at any entry of any function of ours leaves the run as if the node were not
there from that evaluation on."""

import functools
import gc
import sys
import threading
import weakref
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

import comfy.samplers
import pytest
import torch
from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException
from sampling import fingerprint, runs
from spectrum_accelerate.nodes.runtime import accelerate, failures
from spectrum_accelerate.nodes.settings import Settings
from spectrum_accelerate.spectrum_core.messages import Text
from zoo import MODELS

PACK = str(Path(__file__).resolve().parent.parent)
SHIPPED = tuple(f"{PACK}/{folder}/" for folder in ("nodes", "spectrum_core"))
FLUX = MODELS["flux"]
STEPS = 12
ERRORS = {
    "RuntimeError": RuntimeError("injected"),
    "OutOfMemoryError": OOM_EXCEPTION("injected"),
    "KeyError": KeyError("injected"),
}
OUTERMOST = "nodes/runtime/outer.py:outer_sample"
"""ComfyUI itself calls it, so that nobody could catch what it raised at its entry."""


def place(frame):
    """Where a function of ours is defined, or None."""
    code = frame.f_code
    if not code.co_filename.startswith(SHIPPED) or code.co_name.startswith("<"):
        return None
    return f"{code.co_filename[len(PACK) + 1 :]}:{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"


class Tracer:
    """Counts the entries of our functions; raises at one of them."""

    def __init__(self, where=None, entry=0, error=None, calls=()):
        self.where, self.entry, self.error, self.calls = where, entry, error, calls
        self.counts, self.fired, self.evaluation = Counter(), False, 0

    def __call__(self, frame, event, argument):
        name = place(frame)
        if event != "call" or name is None:
            return None
        self.counts[name] += 1
        if name == self.where and self.counts[name] == self.entry and not self.fired:
            self.fired, self.evaluation = True, len(self.calls)
            raise self.error
        return None

    def __enter__(self):
        # The error is raised in the tracer's own frame; the code that it stands in for is ours.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(failures, "PACK", (*failures.PACK, __file__))
        threading.settrace(self)
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(None)
        threading.settrace(None)
        self._patch.undo()


class Recorded(comfy.samplers.KSAMPLER):
    """Euler, recording what it hands to the model and what it gets."""

    def __init__(self):
        super().__init__(comfy.samplers.ksampler("euler").sampler_function)
        self.calls = []

    @contextmanager
    def recording(self):
        recorded = self

        class Outer(comfy.samplers.KSamplerX0Inpaint):
            def __call__(self, x, sigma, **options):
                given = x.clone()
                output = super().__call__(x, sigma, **options)
                recorded.calls.append((given, sigma.clone(), output.clone()))
                return output

        original, comfy.samplers.KSamplerX0Inpaint = comfy.samplers.KSamplerX0Inpaint, Outer
        try:
            yield
        finally:
            comfy.samplers.KSamplerX0Inpaint = original


def sampled(model, sampler=None):
    """The final latent of a run, and what its sampler saw."""
    sampler = sampler or Recorded()
    noise = torch.randn((2, *FLUX.latent), generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(FLUX.conditioning(1), FLUX.conditioning(2))
    guider.set_cfg(3.0)
    with torch.inference_mode(), sampler.recording():
        result = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
    return result, sampler.calls, guider


class Replayed(comfy.samplers.KSAMPLER):
    """Asks the model at the latents of another run."""

    def __init__(self, calls):
        self._asked = calls
        self.calls = []
        self.recording = nullcontext
        super().__init__(self._run)

    def _run(self, model, x, sigmas, extra_args=None, **_):
        for latent, sigma, _output in self._asked:
            self.calls.append((latent, sigma, model(latent, sigma, **(extra_args or {})).clone()))
        return x


@functools.cache
def entries():
    """Entries of each of our functions in a run without a fault."""
    fast = accelerate(FLUX.build(), Settings.of())
    sampled(fast)  # what is imported or cached once is done
    with Tracer() as tracer:
        sampled(fast)
    assert len(tracer.counts) > 60
    return {name: count for name, count in tracer.counts.items() if name != OUTERMOST}


def cases(per_function):
    """(function, entry, error): entries from the first to the last, the errors in turn."""
    found = []
    for name, count in sorted(entries().items()):
        chosen = {round(1 + (count - 1) * i / max(1, per_function - 1)) for i in range(per_function)}
        found += [(name, entry) for entry in sorted(chosen)]
    return [(name, entry, list(ERRORS)[i % len(ERRORS)]) for i, (name, entry) in enumerate(found)]


@functools.cache
def reference():
    """A model, its fingerprint, the plain result and the accelerated one."""
    model = FLUX.build()
    return model, fingerprint(model), sampled(model)[0], sampled(accelerate(model, Settings.of()))[0]


def check(name, entry, kind):
    """A run with one fault: it ends; from some evaluation on it is the plain model's; nothing of it is left."""
    model, before, plain, accelerated = reference()
    fast = accelerate(model, Settings.of())
    gc.collect()
    gc.disable()
    try:
        recorded = Recorded()
        with Tracer(name, entry, ERRORS[kind].with_traceback(None), recorded.calls) as tracer:
            result, calls, guider = sampled(fast, recorded)
        fault = tracer.evaluation
        guider = weakref.ref(guider)
        ERRORS[kind].__traceback__ = ERRORS[kind].__context__ = None
        assert guider() is None, "the guider is alive"
    finally:
        gc.enable()
    assert tracer.fired
    assert result.isfinite().all()
    trace = runs(fast)[-1] if runs(fast) else None
    told = set() if trace is None else {note.text for note in trace.notes} | ({trace.off.text} if trace.off else set())
    if not told:
        assert torch.equal(result, plain) or torch.equal(result, accelerated)
    elif not told <= {Text.FALLBACK, Text.UNCORRECTED}:  # after these, the run goes on with less
        _, again, _ = sampled(model, Replayed(calls))
        same = [torch.equal(a[2], b[2]) for a, b in zip(calls, again, strict=True)]
        assert all(same[fault + 1 :]), f"altered after evaluation {fault}: {same}"
        assert trace.off is None or torch.equal(result, plain)
    assert torch.equal(sampled(model)[0], plain), "the plain model has changed"
    assert fingerprint(model) == before


def test_the_fault_that_is_looked_for_is_one():
    """An error in the model itself still ends the run, and an interrupt interrupts."""
    model = FLUX.build()
    for error in (RuntimeError("the model's own"), InterruptProcessingException()):
        handle = model.model.diffusion_model.final_layer.register_forward_pre_hook(_raiser(error))
        with pytest.raises(type(error)):
            sampled(accelerate(model, Settings.of()))
        handle.remove()


def _raiser(error):
    def hook(*_):
        raise error

    return hook


def test_a_fault_when_the_run_is_over_keeps_its_picture():
    """It is not sampled a second time."""
    _, _, _, accelerated = reference()
    for name in ("SamplingRun.close", "Measurements.finish", "Progress.send"):
        (where,) = (entry for entry in entries() if entry.endswith((f":{name}", f":{name.split('.')[1]}")) and
                    f"{name.split('.')[0].removeprefix('Sampling').lower()}" in entry.lower())  # fmt: skip
        fast, recorded = accelerate(FLUX.build(), Settings.of()), Recorded()
        with Tracer(where, entries()[where], RuntimeError("injected"), recorded.calls) as tracer:
            result, calls, _ = sampled(fast, recorded)
        assert tracer.fired and tracer.evaluation == len(calls) == STEPS
        assert torch.equal(result, accelerated)
        if name != "SamplingRun.close":
            assert runs(fast)[-1].outcome == "done"


def test_a_fault_at_a_sample_of_entries_ends_no_run():
    """One entry of every sixth function; the rest with --all."""
    chosen = cases(1)[::6]
    assert len(chosen) >= 15
    for case in chosen:
        try:
            check(*case)
        except Exception as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error


@pytest.mark.all
@pytest.mark.parametrize("part", range(6))
def test_a_fault_at_any_entry_ends_no_run(part):
    """Entries from the first to the last of every function."""
    chosen = cases(4)[part::6]
    assert len(chosen) >= 45
    for case in chosen:
        try:
            check(*case)
        except Exception as error:
            raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
