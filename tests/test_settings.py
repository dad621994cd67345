"""Every widget changes the outcome as its tooltip says, and bad values are named."""

import math
from types import SimpleNamespace

import comfy.sample
import pytest
import torch
from sampling import accelerated, distance, flat, kinds, runs
from spectrum_accelerate.nodes.accelerate import SpectrumAccelerate
from spectrum_accelerate.nodes.settings import (
    BALANCED,
    BEFORE,
    CONTROLLED,
    DEFAULTS,
    GROWING,
    SETTINGS,
    Settings,
    problems,
)
from spectrum_accelerate.spectrum_core.corrector import Corrector
from spectrum_accelerate.spectrum_core.history import History
from zoo import MODELS

from demo import inprocess

FLUX = MODELS["flux"]


@pytest.fixture(scope="module")
def model():
    return FLUX.build()


def outcome(model, steps=30, **changes):
    fast = accelerated(model, **changes)
    return flat(FLUX.sample(fast, steps=steps)), runs(fast)[0]


def longest_gap(trace):
    return max(map(len, kinds(trace).split("c")))


def test_defaults_compute_at_most_fifteen_of_fifty(model):
    _, trace = outcome(model, steps=50, schedule=BALANCED)
    assert len(trace.evaluations) == 50 and trace.computed <= 15


def test_defaults_gain_something_at_eight_steps(model):
    """Distilled models: nearly half of the evaluations; four steps are too few, and that is said."""
    assert outcome(model, steps=8, schedule=BALANCED)[1].computed == 5
    assert outcome(model, steps=20, schedule=BALANCED)[1].computed == 8
    result, trace = outcome(model, steps=4, schedule=BALANCED)
    assert torch.equal(result, flat(FLUX.sample(model, steps=4)))
    assert trace.full == "too few steps: 4, of which at least 5 are computed; use more steps"


def test_schedule_places_what_is_computed(model):
    """The paper's gaps grow to the end; the balanced ones shrink toward it."""
    growing = kinds(outcome(model, schedule=GROWING, tail=0)[1]).strip("c").split("c")
    balanced = kinds(outcome(model, schedule=BALANCED, tail=0)[1]).strip("c").split("c")
    assert len(growing[-2]) > len(growing[0]) and len(balanced[-1]) < max(map(len, balanced))


def test_speedup_is_kept(model):
    for speedup in (1.5, 2.0, 2.5):
        trace = outcome(model, schedule=BALANCED, speedup=speedup)[1]
        assert trace.computed == math.floor(30 / speedup)
    assert outcome(model, schedule=BALANCED, speedup=16.0)[1].computed == math.floor(2 * math.sqrt(30))
    result, trace = outcome(model, schedule=BALANCED, speedup=1.0)
    assert torch.equal(result, flat(FLUX.sample(model, steps=30))) and "speedup is 1" in trace.summary()


def test_with_error_control_speedup_is_the_least_that_is_asked_for(model):
    """Whatever the error; 1 asks for nothing."""
    free = outcome(model, schedule=CONTROLLED, tolerance=0.001, speedup=1.0)[1]
    assert 13 < free.computed < 30 and not free.full
    for speedup in (2.5, 3.0):
        trace = outcome(model, schedule=CONTROLLED, tolerance=0.001, speedup=speedup)[1]
        assert trace.computed == math.floor(30 / speedup)


@pytest.mark.parametrize("schedule", [BALANCED, CONTROLLED])
def test_evaluations_are_computed_at_most_instead_of_what_speedup_says(model, schedule):
    changes = {"schedule": schedule, "tolerance": 0.001}
    for evaluations in (3, 9, 12):
        for speedup in (1.0, 16.0):
            assert outcome(model, evaluations=evaluations, speedup=speedup, **changes)[1].computed == evaluations
    result, trace = outcome(model, evaluations=1000, schedule=BALANCED)
    assert torch.equal(result, flat(FLUX.sample(model, steps=30))) and trace.full
    assert outcome(model, evaluations=9)[1].computed == outcome(model)[1].computed, (
        "the paper's schedule goes by itself"
    )


@pytest.mark.parametrize("evaluations", [1, 3, 9, 17])
def test_evaluations_of_a_two_stage_sampler_are_counted_not_its_steps(model, evaluations):
    """The least is three steps, of which the last has only one evaluation."""
    fast = accelerated(model, schedule=BALANCED, evaluations=evaluations)
    FLUX.sample(fast, steps=20, sampler="heun")
    assert runs(fast)[0].computed <= max(5, evaluations)


@pytest.fixture(scope="module")
def trained():
    """The outcome of error control on the embedded trained Flux: two pictures, 20 steps, no CFG."""
    model, noise = inprocess.embedded_model(), torch.randn((2, 16, 12, 12), generator=torch.Generator().manual_seed(0))

    def sample(on):
        with torch.inference_mode():
            return comfy.sample.sample(
                on, noise, 20, 1.0, "euler", "simple", inprocess.prompts([5, 60], [1, 2]), [], torch.zeros_like(noise),
                seed=1, disable_pbar=True,
            )  # fmt: skip

    plain = sample(model)

    def outcome(**changes):
        fast = accelerated(model, **{"schedule": CONTROLLED, "speedup": 1.0, **changes})
        return distance(sample(fast), plain), runs(fast)[0]

    return outcome


def test_a_lower_tolerance_computes_more_and_the_error_follows_it(trained):
    """The estimated one, which the trace says, and the real one, the distance to the full run."""
    tolerances = (0.01, 0.02, 0.16)
    real, traces = zip(*(trained(tolerance=tolerance) for tolerance in tolerances), strict=True)
    computed, errors = [t.computed for t in traces], [t.error for t in traces]
    assert computed[0] > computed[1] > computed[2]
    for tolerance, estimated, found in zip(tolerances, errors, real, strict=True):
        assert tolerance / 4 < estimated <= tolerance and 0.5 < estimated / found < 2
    assert trained(tolerance=0.01, schedule=BALANCED)[1].full, "with speedup 1, no other schedule forecasts"


def test_a_sampler_that_adds_noise_does_not_use_the_tolerance_and_says_so(model):
    traces = []
    for tolerance in (0.001, 1.0):
        fast = accelerated(model, schedule=CONTROLLED, tolerance=tolerance)
        FLUX.sample(fast, steps=20, sampler="euler_ancestral")
        traces.append(runs(fast)[0])
    assert kinds(traces[0]) == kinds(traces[1])
    assert all("tolerance is not used with this sampler" in t.summary() for t in traces)


def test_a_workflow_from_before_a_widget_runs_as_it_did(model, monkeypatch):
    """Prompts lack the widgets that are newer: those of the first version the schedule, later ones the correction."""
    monkeypatch.setattr(SpectrumAccelerate, "hidden", SimpleNamespace(unique_id=None), raising=False)
    corrected = []
    monkeypatch.setattr(Corrector, "computed", lambda *args: corrected.append(1))

    def run(**values):
        return flat(FLUX.sample(SpectrumAccelerate.execute(model, **values).result[0], steps=30))

    first = {name: value for name, value in DEFAULTS.items() if name not in BEFORE}
    assert torch.equal(run(**first), outcome(model, schedule=GROWING, correct=False)[0])
    for schedule in (BALANCED, GROWING):
        second = run(**first, schedule=schedule, speedup=2.0)
        assert torch.equal(second, outcome(model, schedule=schedule, speedup=2.0, correct=False)[0])
    assert not corrected
    run(**DEFAULTS)
    assert corrected


def test_degree_follows_faster_changes(model, monkeypatch):
    """A cubic history is forecast exactly from degree 3 on, and not below."""
    from spectrum_accelerate.spectrum_core.forecast import Forecaster

    points = [0.0, 1, 2, 3, 4, 6, 8]
    errors = {}
    for degree in range(1, 9):
        settings = Settings(**{**DEFAULTS, "degree": degree, "window": 64, "ridge": 0.0, "blend": 1.0})
        assert isinstance(settings.forecaster(), Forecaster)
        weights = settings.forecaster().weights(points, 10.0, 50)
        errors[degree] = abs(sum(w * p**3 for w, p in zip(weights, points, strict=True)) - 1000)
    assert min(errors[1], errors[2]) > 1 and max(errors[d] for d in (3, 4, 5, 6)) < 1e-3
    assert not torch.equal(outcome(model, degree=1)[0], outcome(model, degree=2)[0])


def test_window_is_what_is_held_and_used(model, monkeypatch):
    held = []
    push = History.push

    def spy(self, position, feature):
        push(self, position, feature)
        held.append(len(self))

    monkeypatch.setattr(History, "push", spy)
    few, many = outcome(model, window=2)[0], None
    assert max(held) == 2
    held.clear()
    many = outcome(model, window=6)[0]
    assert max(held) == 6 and not torch.equal(few, many)


def test_skip_interval_trades_speed(model):
    counts = [outcome(model, skip_interval=n)[1].computed for n in (1.5, 2.0, 3.0, 6.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    result, trace = outcome(model, skip_interval=1.0)
    assert torch.equal(result, flat(FLUX.sample(model, steps=30))) and "skip_interval is 1" in trace.summary()


def test_growth_widens_the_gaps(model):
    assert longest_gap(outcome(model, growth=0.0)[1]) == 1
    assert longest_gap(outcome(model, growth=0.75)[1]) < longest_gap(outcome(model, growth=3.0)[1])


def test_warmup_and_tail_are_computed(model):
    for warmup, tail in ((1, 0), (3, 1), (7, 4)):
        trace = outcome(model, warmup=warmup, tail=tail)[1]
        text = kinds(trace)
        assert text.startswith("c" * warmup + "f") and text.endswith("c" * tail)
        assert [e.reason for e in trace.evaluations].count("tail") == tail


def test_ridge_damps(model):
    """More ridge, smaller weights: noise is amplified less."""
    gains = []
    for ridge in (0.0, 0.1, 10.0):
        settings = Settings(**{**DEFAULTS, "degree": 4, "window": 64, "ridge": ridge, "blend": 1.0})
        weights = settings.forecaster().weights([0, 1, 2, 3, 4, 6, 8], 12, 50)
        gains.append(abs(weights).sum())
    assert gains[0] > gains[1] > gains[2]
    assert not torch.equal(outcome(model, ridge=0.0, window=6)[0], outcome(model, ridge=1.0, window=6)[0])


def test_blend_goes_from_straight_line_to_polynomial(model):
    def weights(blend, degree):
        values = {**DEFAULTS, "degree": degree, "window": 64, "ridge": 0.0, "blend": blend}
        return Settings(**values).forecaster().weights([0, 1, 2, 4], 6, 50)

    assert weights(0.0, 3) == pytest.approx([0, 0, -1, 2])
    assert weights(0.5, 3) == pytest.approx((weights(0.0, 3) + weights(1.0, 3)) / 2)
    # degree 2 through three points differs from the straight line through the last two
    assert not torch.equal(
        outcome(model, degree=2, window=3, blend=0.0)[0], outcome(model, degree=2, window=3, blend=1.0)[0]
    )


def test_intercept_keeps_or_shrinks_a_constant(model):
    def total(intercept, ridge):
        values = {**DEFAULTS, "degree": 4, "window": 64, "ridge": ridge, "blend": 1.0, "intercept": intercept}
        return sum(Settings(**values).forecaster().weights([0, 1, 2, 3, 4, 6, 8, 11], 14, 50))

    assert total("free", 0.1) == pytest.approx(1) and total("paper", 0.1) < 0.99
    assert total("paper", 0.0) == pytest.approx(total("free", 0.0))
    changed = {"ridge": 1.0, "window": 6}
    assert not torch.equal(
        outcome(model, intercept="free", **changed)[0], outcome(model, intercept="paper", **changed)[0]
    )


def test_target_chooses_what_is_held(model, monkeypatch):
    sizes = {}
    for target in ("block output", "model output"):
        most = []
        push = History.push
        monkeypatch.setattr(
            History, "push", lambda self, p, f, push=push, most=most: (push(self, p, f), most.append(self.nbytes))[0]
        )
        trace = outcome(model, target=target)[1]
        monkeypatch.undo()
        assert trace.target == target and trace.forecast and trace.self_test == 0.0
        sizes[target] = max(most)
    assert sizes["model output"] < sizes["block output"] / 1.9


def test_start_and_end_percent_bound_the_forecasts(model):
    trace = outcome(model, start_percent=0.4, end_percent=0.8)[1]
    sampling = model.get_model_object("model_sampling")
    start, end = sampling.percent_to_sigma(0.4), sampling.percent_to_sigma(0.8)
    assert all(end <= e.sigma <= start for e in trace.evaluations if e.kind == "forecast") and trace.forecast
    reasons = [e.reason for e in trace.evaluations]
    assert "before start_percent" in reasons and "after end_percent" in reasons
    assert outcome(model)[1].forecast > trace.forecast


def test_percents_that_leave_nothing_say_so(model):
    result, trace = outcome(model, steps=12, start_percent=0.98)
    assert torch.equal(result, flat(FLUX.sample(model, steps=12)))
    assert trace.full == "no step to forecast lies between start_percent = 0.98 and end_percent = 1"


def test_the_history_has_room_for_what_will_be_computed_and_no_more(model, monkeypatch):
    most = []
    push = History.push
    monkeypatch.setattr(History, "push", lambda self, p, f: (push(self, p, f), most.append(self.nbytes / f.nbytes)))
    trace = outcome(model, window=64, warmup=3, start_percent=0.2)[1]
    assert max(most) == trace.computed < 30


BAD = [
    ("degree", 0), ("degree", 9), ("degree", 2.5), ("degree", "two"), ("degree", True), ("window", 1), ("window", 65),
    ("skip_interval", 0.5), ("skip_interval", 17), ("skip_interval", math.nan), ("growth", -1), ("growth", 9),
    ("warmup", 0), ("tail", -1), ("ridge", math.inf), ("ridge", -0.1), ("blend", 1.5), ("intercept", "mine"),
    ("target", "latents"), ("target", 3), ("start_percent", -0.1), ("end_percent", 1.1), ("schedule", "error"),
    ("speedup", 0.9), ("tolerance", 0.0), ("tolerance", 1.5), ("tolerance", math.nan), ("tolerance", True),
    ("evaluations", -1), ("evaluations", 1001), ("evaluations", 9.0), ("correct", 1), ("correct", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named_with_what_would_work(name, value):
    with pytest.raises(ValueError) as error:
        Settings(**{**DEFAULTS, name: value})
    assert str(error.value).startswith(f"Spectrum Accelerate: {name} = {value!r}: use ")


def test_percents_in_the_wrong_order_are_named():
    (text,) = problems({**DEFAULTS, "start_percent": 0.7, "end_percent": 0.3})
    assert text == "Spectrum Accelerate: start_percent = 0.7 is not below end_percent = 0.3: nothing would be forecast"


def test_error_control_without_the_correction_is_an_error_that_says_so():
    assert BEFORE["correct"] is False, "a prompt with error control names it"
    text = "Spectrum Accelerate: schedule = 'error control' needs correct = true: the corrector sees the errors"
    assert problems({**DEFAULTS, "schedule": CONTROLLED, "correct": False}) == [text]
    with pytest.raises(ValueError) as error:
        Settings(**{**DEFAULTS, "schedule": CONTROLLED, "correct": False})
    assert str(error.value) == text
    assert not problems({**DEFAULTS, "schedule": CONTROLLED}) and not problems({**DEFAULTS, "correct": False})
    assert not problems({"schedule": CONTROLLED, "correct": None}), "a linked input is judged when it arrives"


def test_linked_inputs_are_judged_when_they_arrive():
    assert SpectrumAccelerate.validate_inputs(start_percent=None, end_percent=0.5) is True
    assert SpectrumAccelerate.validate_inputs(start_percent=0.0, end_percent=1.0) is True
    assert "not below" in SpectrumAccelerate.validate_inputs(start_percent=0.5, end_percent=0.5)


def test_schema_has_the_widgets_in_the_promised_order():
    schema = SpectrumAccelerate.define_schema()
    assert schema.node_id == "SpectrumAccelerate" and schema.display_name == "Spectrum Accelerate"
    names = [i.id for i in schema.inputs]
    assert names == [
        "model", "degree", "window", "skip_interval", "growth", "warmup", "tail", "ridge", "blend", "intercept",
        "target", "start_percent", "end_percent", "schedule", "speedup", "tolerance", "evaluations", "correct", "plan",
    ]  # fmt: skip
    advanced = [i.id for i in schema.inputs if getattr(i, "advanced", None)]
    assert advanced == [*names[7:13], "evaluations", "correct"]
    newer = names[names.index("schedule") :]
    assert [i.id for i in schema.inputs if i.optional] == newer, "a workflow may be older than they are"
    assert {name: type(value) for name, value in BEFORE.items()} == {n: type(DEFAULTS[n]) for n in newer[:-1]}
    assert all(i.tooltip for i in schema.inputs) and all(s.problem(s.default) is None for s in SETTINGS)


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_error_control_leaves_short_runs_alone(steps):
    """A forecast could only be judged when there is nothing left to be made good."""
    times = [1 - step / steps for step in range(steps + 1)]
    settings = Settings(**{**DEFAULTS, "schedule": CONTROLLED, "speedup": 1.0, "tolerance": 1.0})
    assert settings.scheduled(times).plan(steps) == list(range(steps))
