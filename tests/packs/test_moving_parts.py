"""Packs that hand the network a part of the latent: static parts are forecast, parts that move are computed
(AnimateDiff-Evolved's contexts, Tiled Diffusion, SpotDiffusion)."""

import pytest
import torch
from beside import beside, own, some
from spectrum_accelerate.spectrum_core.messages import Reason, Text


def step_of(p):
    return int((p["c"]["transformer_options"]["sample_sigmas"] - p["timestep"][0]).abs().argmin())


def windows(moving):
    """Two windows of two pictures each."""

    def wrapper(apply, p):
        count = len(p["input"])
        order = torch.arange(count).roll(step_of(p) if moving else 0)
        output = torch.zeros_like(p["input"])
        for window in order.split(count // 2):
            own = {k: v[window] if torch.is_tensor(v) and len(v) == count else v for k, v in p["c"].items()}
            output[window] = apply(p["input"][window], p["timestep"][window], **own)
        return output

    return wrapper


def shifted(moving):
    """The canvas is moved around."""

    def wrapper(apply, p):
        k = 2 * (step_of(p) % 5) if moving else 2
        return apply(p["input"].roll(k, -1), p["timestep"], **p["c"]).roll(-k, -1)

    return wrapper


def tiles(moving):
    """Two overlapping tiles."""

    def wrapper(apply, p):
        at = 2 + 2 * (step_of(p) % 3) if moving else 4
        total, weight = torch.zeros_like(p["input"]), torch.zeros_like(p["input"])
        for part in (slice(0, 8), slice(at, at + 8 if at <= 4 else 12)):
            total[..., part] += apply(p["input"][..., part], p["timestep"], **p["c"])
            weight[..., part] += 1
        return total / weight.clamp_min(1)

    return wrapper


def patched(wrapper):
    def with_wrapper(model):
        clone = model.clone()
        clone.set_model_unet_function_wrapper(wrapper)
        return clone

    return with_wrapper


@pytest.mark.parametrize("kind", [windows, shifted, tiles])
def test_parts_that_stay_are_forecast(kind):
    outcome = beside(lambda: own("euler"), patched(kind(moving=False)))
    assert outcome.trace.computed < len(outcome.trace.evaluations) / 2
    assert not {Reason.MOVED, Reason.NO_HISTORY} & {e.reason for e in outcome.trace.evaluations}
    assert outcome.error < outcome.fewer()


@pytest.mark.parametrize("kind", [windows, shifted, tiles])
@pytest.mark.parametrize("name", some(["euler", "euler_ancestral"], "euler"))
def test_parts_that_move_are_computed(kind, name):
    outcome = beside(lambda: own(name), patched(kind(moving=True)))
    assert outcome.in_full
    assert kind is tiles or outcome.trace.off.text is Text.MOVING


def test_a_part_that_moves_once_is_computed_once():
    def wrapper(apply, p):
        k = 2 if step_of(p) < 12 else 6
        return apply(p["input"].roll(k, -1), p["timestep"], **p["c"]).roll(-k, -1)

    outcome = beside(lambda: own("euler"), patched(wrapper))
    assert [e.reason for e in outcome.trace.evaluations].count(Reason.MOVED) <= 1
    assert outcome.trace.off is None and outcome.trace.computed < 16
    assert outcome.error < outcome.fewer()
