"""The report: text and picture of what the latest runs of a MODEL did."""

import json

import numpy as np
import pytest
import torch
from sampling import accelerated, runs
from spectrum_accelerate.nodes.plots import COMPUTED, FORECAST, SCALE, plot
from spectrum_accelerate.nodes.report import SpectrumReport, latest_runs
from zoo import MODELS

FLUX = MODELS["flux"]


@pytest.fixture(scope="module")
def sampled():
    model = accelerated(FLUX.build(), warmup=3)
    latent = {"samples": FLUX.sample(model, steps=12)}
    return model, latent


def report(model, latent):
    output = SpectrumReport.execute(model, latent)
    summary, picture = output.result
    return summary, picture, output.ui


def colours(plot):
    pixels, counts = np.unique((plot[0].numpy() * 255).round().astype(int).reshape(-1, 3), axis=0, return_counts=True)
    return {"#{:02x}{:02x}{:02x}".format(*pixel): count for pixel, count in zip(pixels, counts, strict=True)}


def test_text_picture_and_data_tell_the_same(sampled):
    summary, plot, ui = report(*sampled)
    (trace,) = runs(sampled[0])
    assert summary.startswith(trace.summary()) and trace.kinds in summary and "target block output" in summary
    assert "computed: 3 warm-up, 3 schedule, 1 tail" in summary
    assert plot.shape[0] == 1 and plot.shape[-1] == 3 and plot.min() >= 0 and plot.max() <= 1
    assert ui["text"] == (summary,) and json.loads(ui["spectrum"][0])["computed"] == trace.computed == 7
    assert colours(plot)[COMPUTED] > 1000 and colours(plot)[FORECAST] > 1000


def test_the_picture_is_large_enough_to_read(sampled):
    """Whatever there is to say."""
    for texts in ([report(*sampled)[0]], ["Spectrum: " + "a long reason " * 40]):
        picture = plot(runs(sampled[0]) if len(texts[0]) < 400 else [], texts)
        assert picture.shape[1] >= 720 and picture.shape[2] == 1280
        assert not (picture[0, :, -2 * SCALE :] != picture[0, 0, 0]).any(), "text runs out of the picture"


def test_the_picture_shows_what_was_computed(sampled):
    """More computed evaluations, more of their colour."""
    model = accelerated(FLUX.build(), warmup=9)
    plot = report(model, {"samples": FLUX.sample(model, steps=12)})[1]
    assert colours(plot)[COMPUTED] > colours(report(*sampled)[1])[COMPUTED]


def test_a_run_that_was_not_accelerated_says_why():
    model = accelerated(FLUX.build(), skip_interval=1.0)
    summary, plot, _ = report(model, {"samples": FLUX.sample(model, steps=4)})
    assert summary.startswith("Spectrum: not accelerated: skip_interval = 1")
    assert FORECAST not in {c for c, n in colours(plot).items() if n > 1000}


def test_without_a_run_or_without_the_node_it_says_so(sampled):
    fresh = accelerated(FLUX.build())
    assert "was not sampled yet" in report(fresh, sampled[1])[0]
    summary, plot, ui = report(FLUX.build(), sampled[1])
    assert "Spectrum Accelerate is bypassed" in summary and ui["spectrum"] == [] and torch.isfinite(plot).all()


def test_only_the_latest_prompts_runs_are_shown(sampled):
    model = accelerated(FLUX.build(), warmup=3)
    for _ in range(3):
        FLUX.sample(model, steps=12)
    for run, prompt in zip(runs(model), ("one", "two", "two"), strict=True):
        run.prompt = prompt
    found, reason = latest_runs(model)
    assert found == runs(model)[1:] and not reason
    assert report(model, sampled[1])[1].shape[1] > 1.5 * report(*sampled)[1].shape[1]


def test_it_is_executed_every_time():
    assert SpectrumReport.fingerprint_inputs() != SpectrumReport.fingerprint_inputs()
