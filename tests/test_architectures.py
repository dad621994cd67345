"""Every row of the table, on ComfyUI's own class, through ComfyUI's own sampler."""

import pytest
import torch
from sampling import accelerated, distance, fingerprint, flat, kinds, runs
from spectrum_accelerate.nodes.architectures import ARCHITECTURES, find
from zoo import MODELS

SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"


def _network_class(name):
    return type(MODELS[name].build().model.diffusion_model)


def test_every_row_of_the_table_has_a_tiny_model():
    tested = {base.__name__ for model in MODELS.values() for base in _network_class(model.name).__mro__}
    assert not set(ARCHITECTURES) - tested


@pytest.mark.parametrize("name", MODELS)
def test_architecture(name, compatibility):
    """Never-skip is exact, the self-test is exact, the schedule is kept, and the plain model is as before."""
    tiny = MODELS[name]
    model = tiny.build()
    before = fingerprint(model)
    plain = tiny.sample(model, steps=12, cfg=3.0)

    never = accelerated(model, skip_interval=1.0, **SETTINGS)
    assert torch.equal(flat(tiny.sample(never, steps=12, cfg=3.0)), flat(plain))

    fast = accelerated(model, **SETTINGS)
    first = tiny.sample(fast, steps=12, cfg=3.0)
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE, trace.summary()
    assert trace.target == "block output", trace.notes
    assert trace.self_test is not None and trace.self_test < 1e-6
    assert 0 < distance(first, plain) < 1

    assert torch.equal(flat(tiny.sample(fast, steps=12, cfg=3.0)), flat(first)), "the second run differs"
    assert torch.equal(flat(tiny.sample(model, steps=12, cfg=3.0)), flat(plain)), "the plain model differs afterwards"
    assert fingerprint(model) == before
    compatibility("model", name, [trace], distance(first, plain))


@pytest.mark.parametrize("name", MODELS)
def test_model_output_target(name, compatibility):
    """The target that needs no row works on the same models."""
    tiny = MODELS[name]
    model = tiny.build()
    fast = accelerated(model, target="model output", **SETTINGS)
    result = tiny.sample(fast, steps=12, cfg=1.0)
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE and trace.self_test < 1e-6 and not trace.notes
    error = distance(result, tiny.sample(model, steps=12, cfg=1.0))
    assert 0 < error < 1
    compatibility("model", name, [trace], error, column="model output")


@pytest.mark.parametrize("name", MODELS)
def test_split_and_joined_conditionings_agree(name, monkeypatch):
    """ComfyUI splits cond and uncond when memory is short: the same histories, so the same result."""
    import comfy.model_patcher

    tiny = MODELS[name]
    model = tiny.build()
    fast = accelerated(model, **SETTINGS)
    joined, plain_joined = (tiny.sample(m, steps=8, cfg=3.0) for m in (fast, model))
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    split, plain_split = (tiny.sample(m, steps=8, cfg=3.0) for m in (fast, model))
    assert [kinds(run) for run in runs(fast)] == [SCHEDULE[:7] + "c"] * 2
    # Some models themselves give other results for other batches (by rounding, or ACE-Step 1.5's tokenizer).
    assert distance(split, joined) < max(1e-3, 3 * distance(plain_split, plain_joined))


def test_a_subclass_inherits_its_parents_row():
    parent = _network_class("flux")
    assert find(type("Renamed", (parent,), {})) is ARCHITECTURES["Flux"]
    assert find(torch.nn.Linear) is None
