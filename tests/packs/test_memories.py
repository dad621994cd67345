"""Patches and networks that remember: each step is computed (RF edit, FlowEdit and attention banks, caches)."""

import pytest
import torch
from beside import STEPS, beside, own, some
from spectrum_accelerate.spectrum_core.messages import Text


def stored_by_a_patch(model):
    """A block patch that keeps what it sees at each step, in a dictionary that it encloses."""
    bank = {}

    def patch(args, extra):
        out = extra["original_block"](args)
        bank[float(args["transformer_options"]["sigmas"][0])] = out["img"].clone()
        return out

    clone = model.clone()
    clone.set_model_patch_replace(patch, "dit", "double_block", 1)
    clone.bank = bank
    return clone


class Keeper:
    """The same as an object."""

    def __init__(self):
        self.outputs = []

    def __call__(self, args, extra):
        out = extra["original_block"](args)
        self.outputs.append(out["img"].clone())
        return out


def stored_by_an_object(model):
    clone, keeper = model.clone(), Keeper()
    clone.set_model_patch_replace(keeper, "dit", "double_block", 0)
    return clone


def stored_on_a_block(model):
    block = model.model.diffusion_model.double_blocks[0]
    forward = block.forward
    block.bank = []

    def keeping(*args, **kwargs):
        out = forward(*args, **kwargs)
        block.bank.append(out[0].clone())
        return out

    block.forward = keeping
    return model


@pytest.mark.parametrize("patched", [stored_by_a_patch, stored_by_an_object, stored_on_a_block])
@pytest.mark.parametrize("cfg", some([1.0, 3.0], 3.0))
def test_what_stores_every_step_gets_every_step(patched, cfg):
    outcome = beside(lambda: own("euler"), patched, cfg=cfg)
    assert outcome.in_full and outcome.trace.off.text is Text.BANK


@pytest.mark.parametrize("key", ["rfedit", "attn_bank"])
def test_a_known_bank_is_named(key):
    def patched(model):
        clone = model.clone()
        clone.model_options["transformer_options"][key] = {"block_map": {}}
        return clone

    outcome = beside(lambda: own("euler"), patched)
    assert outcome.in_full and outcome.trace.off.text is Text.BANK


def test_a_patch_that_keeps_its_latest_value_is_no_bank():
    latest = {}

    def patched(model):
        def patch(args, extra):
            out = extra["original_block"](args)
            latest["img"] = out["img"]
            return out

        clone = model.clone()
        clone.set_model_patch_replace(patch, "dit", "double_block", 1)
        return clone

    outcome = beside(lambda: own("euler"), patched)
    assert outcome.trace.computed < STEPS / 2 and outcome.error < 0.05 and torch.is_tensor(latest["img"])


def test_a_call_that_another_pack_answers_is_named():
    """A cache below us: every second step it gives what it has."""
    seen = {}

    def patched(model):
        def wrapper(apply, p):
            step = int((p["c"]["transformer_options"]["sample_sigmas"] - p["timestep"][0]).abs().argmin())
            if step % 2 == 0 or "output" not in seen:
                seen["output"] = apply(p["input"], p["timestep"], **p["c"])
            return seen["output"]

        clone = model.clone()
        clone.set_model_unet_function_wrapper(wrapper)
        return clone

    outcome = beside(lambda: own("euler"), patched)
    assert outcome.in_full and outcome.trace.off.text is Text.ANSWERED
