"""One seed, one picture: a result depends neither on when a number arrives from the device, nor on previews, nor on the
other pictures of the batch."""

import pytest
import torch
from beside import some
from late import Late, late_by, patched
from sampling import distance, runs
from spectrum_accelerate.nodes.runtime import accelerate, policy
from spectrum_accelerate.nodes.runtime.run import SamplingRun
from spectrum_accelerate.nodes.settings import Settings
from spectrum_accelerate.spectrum_core import readback
from spectrum_accelerate.spectrum_core.messages import Reason

from demo import inprocess

TRAINED = {"flux": inprocess.embedded_model, "unet": inprocess.unet_model, "lumina": inprocess.lumina_model}
EMOJI, BACKGROUNDS = [5, 14, 23], [1, 2, 0]
SETTINGS = {
    "defaults": ({}, 30, 3.0, "euler"),
    "CFG 7": ({}, 20, 7.0, "euler"),
    "no CFG, dpmpp_2m": ({}, 20, 1.0, "dpmpp_2m"),
    "evaluations": ({"evaluations": 9}, 30, 3.0, "heun"),
    "the rest computed": ({"skip_interval": 8.0}, 30, 3.5, "dpmpp_2m"),
    "noise": ({}, 20, 3.0, "euler_ancestral"),
    "paper": ({"schedule": "paper", "skip_interval": 2.0}, 30, 3.0, "euler"),
}


def draw(model, steps, cfg, sampler, pictures=(0, 1, 2), callback=None, seed=3):
    """Final latents of some pictures of a batch."""
    import comfy.sample

    noise = torch.randn((3, 16, 12, 12), generator=torch.Generator().manual_seed(seed))[list(pictures)]
    positive = inprocess.prompts([EMOJI[i] for i in pictures], [BACKGROUNDS[i] for i in pictures])
    negative = inprocess.prompts([-1] * len(pictures), [-1] * len(pictures))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, "simple", positive, negative, torch.zeros_like(noise), seed=seed,
            disable_pbar=True, callback=callback,
        )  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_late_number_changes_nothing(name, monkeypatch):
    """Numbers that arrive at once, after 1, 2, 3 others, or only when they are needed."""
    values, steps, cfg, sampler = SETTINGS[name]
    fast = accelerate(inprocess.embedded_model(), Settings.of(**values))
    at_once = draw(fast, steps, cfg, sampler)
    seen = [(runs(fast)[-1].kinds, runs(fast)[-1].error)]
    assert "f" in seen[0][0]
    for delay in (1, 2, 3):
        late_by(monkeypatch, delay)
        assert torch.equal(draw(fast, steps, cfg, sampler), at_once)
        seen.append((runs(fast)[-1].kinds, runs(fast)[-1].error))
    patched(monkeypatch, Late)
    assert torch.equal(draw(fast, steps, cfg, sampler), at_once)
    seen.append((runs(fast)[-1].kinds, runs(fast)[-1].error))
    assert len(set(seen)) == 1


def test_the_place_of_a_number_is_what_counts(monkeypatch):
    """The counterpart: a number that is used at another place does change a run in which it decides."""
    model = inprocess.embedded_model()
    fast, counted = accelerate(model, Settings.of()), accelerate(model, Settings.of(evaluations=14))
    draw(counted, 30, 3.5, "dpmpp_2m")
    monkeypatch.setattr(policy, "MAX_ESTIMATED_ERROR", runs(counted)[0].error / 2)
    draw(fast, 30, 3.5, "dpmpp_2m")
    assert Reason.ERROR_LIMIT in {e.reason for e in runs(fast)[0].evaluations}
    due = readback.Delayed.due
    monkeypatch.setattr(readback.Delayed, "due", lambda waiting, kinds: due(waiting, kinds[: kinds.rfind("c")]))
    draw(fast, 30, 3.5, "dpmpp_2m")
    assert runs(fast)[0].kinds != runs(fast)[1].kinds


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "evaluations"])  # two stages: see `Delayed`
def test_numbers_are_read_while_the_device_is_busy(name, monkeypatch):
    """Another evaluation has been submitted behind the one that a number comes from; but for one number at the start,
    from which the adaptive schedule knows the model."""
    values, steps, cfg, sampler = SETTINGS[name]
    fast, now, idle = accelerate(inprocess.embedded_model(), Settings.of(**values)), {}, set()
    begin, close = SamplingRun._begin, SamplingRun.close

    class Watched(Late):
        def __init__(self, value):
            super().__init__(value)
            self.made_in = len(now["kinds"])

        def wait(self):
            if now["open"] and "c" not in now["kinds"][self.made_in + 1 :]:
                idle.add(self.made_in)
            return super().wait()

    def begun(self, *args):
        now.update(kinds=self.trace.kinds, open=True)
        return begin(self, *args)

    def closed(self, outcome):
        now["open"] = False
        close(self, outcome)

    patched(monkeypatch, Watched)
    monkeypatch.setattr(SamplingRun, "_begin", begun)
    monkeypatch.setattr(SamplingRun, "close", closed)
    draw(fast, steps, cfg, sampler)
    assert "f" in runs(fast)[-1].kinds
    assert len(idle) <= 1 and max(idle, default=0) <= 2


def test_a_preview_changes_nothing():
    """A callback that waits for the device at every step, as a preview does."""
    fast = accelerate(inprocess.embedded_model(), Settings.of())
    without = draw(fast, 30, 3.0, "euler")
    shown = []
    assert torch.equal(
        draw(fast, 30, 3.0, "euler", callback=lambda step, denoised, x, total: shown.append(denoised.sum().item())),
        without,
    )
    assert len(shown) == 30


SAMPLERS = ["euler", "dpmpp_2m", "heun", "ipndm", "uni_pc", "res_multistep", "deis", "gradient_estimation"]


@pytest.mark.parametrize("sampler", some(SAMPLERS, "dpmpp_2m"))
@pytest.mark.parametrize("name", TRAINED)
def test_a_picture_in_a_batch_is_the_picture_alone(name, sampler):
    """With the same evaluations computed: by fixed intervals, and with the defaults where they come to the same."""
    model = TRAINED[name]()
    plain, alone = draw(model, 20, 3.0, sampler), [draw(model, 20, 3.0, sampler, [i]) for i in range(3)]
    rounding = max(distance(plain[i], alone[i][0]) for i in range(3))
    for values in ({"schedule": "fixed interval", "skip_interval": 2.5}, {}):
        fast = accelerate(model, Settings.of(**values))
        batch = draw(fast, 20, 3.0, sampler)
        kinds = runs(fast)[-1].kinds
        for i in range(3):
            single = draw(fast, 20, 3.0, sampler, [i])
            if runs(fast)[-1].kinds == kinds:
                assert distance(batch[i], single[0]) <= max(1e-5, 20 * rounding)
            else:
                assert not values  # fixed intervals are the same


def test_the_picture_that_needs_most_decides():
    """One decision for a batch: what is computed for a picture that moves little depends on a neighbour that moves
    much, but not the other way round."""
    fast = accelerate(inprocess.embedded_model(), Settings.of())
    computed = []
    for pictures in ([0], [1], [2], [0, 1, 2]):
        draw(fast, 20, 7.0, "euler", pictures)
        computed.append(runs(fast)[-1].computed)
    assert computed[-1] >= max(computed[:-1])
