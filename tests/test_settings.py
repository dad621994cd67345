"""Every widget changes the outcome as its tooltip says, and bad values are named."""

import math
from types import SimpleNamespace

import comfy.sample
import pytest
import torch
from sampling import accelerated, distance, flat, kinds, runs
from spectrum_accelerate.nodes.accelerate import SpectrumAccelerate
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.settings import (
    ADAPTIVE,
    COMMON,
    FIXED,
    OWN,
    PAPER,
    SCHEDULE,
    Settings,
    all_settings,
    defaults,
    problems,
)
from spectrum_accelerate.spectrum_core.history import History
from spectrum_accelerate.spectrum_core.messages import Reason, Text
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


CHANGED = {
    "skip_interval": 5.0,
    "degree": 1,
    "window": 5,
    "evaluations": 13,
    "warmup": 7,
    "growth": 2.0,
    "ridge": 1.0,
    "blend": 1.0,
    "intercept": "free",
    "tail": 4,
    "target": "model output",
    "correct": False,
    "start_percent": 0.3,
    "end_percent": 0.6,
}


@pytest.mark.parametrize("schedule", list(OWN))
def test_every_widget_that_is_shown_changes_the_outcome(model, schedule):
    reference = flat(FLUX.sample(accelerated(model, **defaults(schedule)), steps=30))
    names = [setting.name for setting in all_settings(schedule) if setting is not SCHEDULE]
    assert set(names) <= set(CHANGED)
    for name in names:
        changed = FLUX.sample(accelerated(model, **defaults(schedule) | {name: CHANGED[name]}), steps=30)
        assert not torch.equal(flat(changed), reference), name


def test_schedules_differ(model):
    assert len({kinds(outcome(model, **defaults(schedule))[1]) for schedule in OWN}) == 3


def test_defaults_compute_fifteen_of_fifty_and_eight_of_twenty(model):
    for steps, computed in ((50, 15), (30, 10), (20, 8), (8, 5)):
        assert outcome(model, steps=steps, schedule=ADAPTIVE)[1].computed == computed
    result, trace = outcome(model, steps=4, schedule=ADAPTIVE)
    assert torch.equal(result, flat(FLUX.sample(model, steps=4)))
    assert str(trace.full) == ("4 steps in one call of the sampler are too few: 5 are always computed; use more steps")


@pytest.mark.parametrize("schedule", list(OWN))
def test_skip_interval_is_the_knob_of_every_schedule(model, schedule):
    counts = [outcome(model, **defaults(schedule) | {"skip_interval": n})[1].computed for n in (1.5, 2.0, 3.0, 6.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    if schedule != PAPER:  # whose intervals grow
        assert counts[0] == pytest.approx(30 / 1.5, abs=2) and counts[1] == pytest.approx(30 / 2, abs=3)
    result, trace = outcome(model, **defaults(schedule) | {"skip_interval": 1.0})
    assert torch.equal(result, flat(FLUX.sample(model, steps=30)))
    assert trace.off.text is Text.NEVER and "skip_interval = 1" in trace.summary()


def test_evaluations_are_computed_at_most_instead_of_by_the_interval(model):
    for evaluations in (3, 9, 12):
        for interval in (1.0, 16.0):
            _, trace = outcome(model, schedule=ADAPTIVE, evaluations=evaluations, skip_interval=interval)
            assert trace.computed == evaluations
    result, trace = outcome(model, schedule=ADAPTIVE, evaluations=1000)
    assert torch.equal(result, flat(FLUX.sample(model, steps=30))) and trace.full


@pytest.mark.parametrize("evaluations", [1, 3, 9, 17])
def test_evaluations_of_a_two_stage_sampler_are_counted_not_its_steps(model, evaluations):
    """The least is three steps, of which the last has only one evaluation."""
    fast = accelerated(model, schedule=ADAPTIVE, evaluations=evaluations)
    FLUX.sample(fast, steps=20, sampler="heun")
    assert runs(fast)[0].computed <= max(5, evaluations)


def test_degree_follows_faster_changes():
    """A cubic history is forecast exactly from degree 3 on, and not below."""
    points = [0.0, 1, 2, 3, 4, 6, 8]
    errors = {}
    for degree in range(1, 9):
        settings = Settings.of(PAPER, degree=degree, window=64, ridge=0.0, blend=1.0)
        weights = settings.forecaster().weights(points, 10.0, 50)
        errors[degree] = abs(sum(w * p**3 for w, p in zip(weights, points, strict=True)) - 1000)
    assert min(errors[1], errors[2]) > 1 and max(errors[d] for d in (3, 4, 5, 6)) < 1e-3


def test_window_is_what_is_held(model, monkeypatch):
    held = []
    push = History.push

    def spy(self, position, feature):
        push(self, position, feature)
        held.append(len(self))

    monkeypatch.setattr(History, "push", spy)
    for window in (2, 6):
        held.clear()
        outcome(model, window=window)
        assert max(held) == window


def test_growth_widens_the_gaps(model):
    assert longest_gap(outcome(model, growth=0.0)[1]) == 1
    assert longest_gap(outcome(model, growth=0.75)[1]) < longest_gap(outcome(model, growth=3.0)[1])


def test_warmup_and_tail_are_computed(model):
    for warmup, tail in ((1, 0), (3, 1), (7, 4)):
        trace = outcome(model, warmup=warmup, tail=tail)[1]
        text = kinds(trace)
        assert text.startswith("c" * warmup + "f") and text.endswith("c" * tail)
        assert [e.reason for e in trace.evaluations].count(Reason.TAIL) == tail


def test_ridge_damps():
    """More ridge, smaller weights: noise is amplified less."""
    gains = []
    for ridge in (0.0, 0.1, 10.0):
        settings = Settings.of(PAPER, degree=4, window=64, ridge=ridge, blend=1.0)
        gains.append(abs(settings.forecaster().weights([0, 1, 2, 3, 4, 6, 8], 12, 50)).sum())
    assert gains[0] > gains[1] > gains[2]


def test_blend_goes_from_straight_line_to_polynomial():
    def weights(blend):
        settings = Settings.of(PAPER, degree=3, window=64, ridge=0.0, blend=blend)
        return settings.forecaster().weights([0, 1, 2, 4], 6, 50)

    assert weights(0.0) == pytest.approx([0, 0, -1, 2])
    assert weights(0.5) == pytest.approx((weights(0.0) + weights(1.0)) / 2)


def test_intercept_keeps_or_shrinks_a_constant():
    def total(intercept, ridge):
        settings = Settings.of(PAPER, degree=4, window=64, ridge=ridge, blend=1.0, intercept=intercept)
        return sum(settings.forecaster().weights([0, 1, 2, 3, 4, 6, 8, 11], 14, 50))

    assert total("free", 0.1) == pytest.approx(1) and total("paper", 0.1) < 0.99
    assert total("paper", 0.0) == pytest.approx(total("free", 0.0))


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
    assert Reason.BEFORE_START in reasons and Reason.AFTER_END in reasons
    assert outcome(model)[1].forecast > trace.forecast


def test_percents_that_leave_nothing_say_so(model):
    result, trace = outcome(model, steps=12, start_percent=0.98)
    assert torch.equal(result, flat(FLUX.sample(model, steps=12)))
    assert trace.off.text is Text.OUTSIDE
    assert outcome(model, steps=4, schedule=ADAPTIVE, warmup=1, start_percent=0.3)[1].off.text is Text.TOO_FEW_STEPS


@pytest.mark.parametrize(
    ("values", "cfg", "text"),
    [
        ({"evaluations": 1000}, 1.0, Text.ALL_WANTED),
        ({}, 30.0, Text.ALL_WANTED),
        ({"warmup": 12}, 1.0, Text.ALL_COMPUTED),
        ({"start_percent": 0.99}, 1.0, Text.OUTSIDE),
        ({"skip_interval": 1.0}, 1.0, Text.NEVER),
    ],
)
def test_where_all_is_computed_the_reason_is_the_one_to_change(model, values, cfg, text):
    fast = accelerate(model, Settings.of(**values))
    FLUX.sample(fast, steps=12, cfg=cfg)
    assert runs(fast)[-1].off.text is text


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup": 3},
        {"warmup": 9},
        {"tail": 6},
        {"warmup": 5, "tail": 5},
        {"start_percent": 0.3},
        {"start_percent": 0.5, "end_percent": 0.9},
        {"skip_interval": 6.0},
        {"schedule": PAPER, "warmup": 5},
        {"schedule": FIXED, "start_percent": 0.3},
    ],
    ids=lambda changes: ", ".join(f"{name}={value}" for name, value in changes.items()),
)
def test_steps_that_must_be_computed_leave_enough_for_the_rest(changes):
    """However many the widgets want computed at the ends, no gap gets so long that fewer steps would be nearer."""
    flux = inprocess.embedded_model()
    positive, negative = inprocess.prompts([3, 40], [1, 5]), inprocess.prompts([-1] * 2, [-1] * 2)
    noise = torch.randn((2, 16, 12, 12), generator=torch.Generator().manual_seed(4))

    def sample(model, steps=30):
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, steps, 2.0, "euler", "simple", positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=4,
            )  # fmt: skip

    plain, fast = sample(flux), accelerate(flux, Settings.of(**changes))
    error, trace = distance(sample(fast), plain), runs(fast)[0]
    assert trace.forecast >= 8
    assert error < distance(sample(flux, trace.computed), plain)


def test_the_history_has_room_for_what_will_be_computed_and_no_more(model, monkeypatch):
    most = []
    push = History.push
    monkeypatch.setattr(History, "push", lambda self, p, f: (push(self, p, f), most.append(self.nbytes / f.nbytes)))
    trace = outcome(model, window=64, warmup=3, start_percent=0.2)[1]
    assert max(most) == trace.computed < 30


BAD = [
    (ADAPTIVE, "degree", 0), (ADAPTIVE, "degree", 9), (ADAPTIVE, "degree", 2.5), (ADAPTIVE, "degree", "two"),
    (ADAPTIVE, "degree", True), (ADAPTIVE, "window", 1), (ADAPTIVE, "window", 65), (ADAPTIVE, "skip_interval", 0.5),
    (FIXED, "skip_interval", 17), (PAPER, "skip_interval", math.nan), (PAPER, "growth", -1), (PAPER, "growth", 9),
    (ADAPTIVE, "warmup", 0), (ADAPTIVE, "tail", -1), (PAPER, "ridge", math.inf), (PAPER, "ridge", -0.1),
    (PAPER, "blend", 1.5), (PAPER, "intercept", "mine"), (ADAPTIVE, "target", "latents"), (ADAPTIVE, "target", 3),
    (ADAPTIVE, "start_percent", -0.1), (ADAPTIVE, "end_percent", 1.1), (ADAPTIVE, "evaluations", -1),
    (ADAPTIVE, "evaluations", 1001), (ADAPTIVE, "evaluations", 9.0), (ADAPTIVE, "correct", 1),
    (ADAPTIVE, "correct", "yes"), (ADAPTIVE, "schedule", "error"), (ADAPTIVE, "schedule", 3),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "name", "value"), BAD)
def test_bad_values_are_named_with_what_would_work(schedule, name, value):
    with pytest.raises(ValueError) as error:
        Settings(**{**defaults(schedule), name: value})
    assert str(error.value).startswith(f"Spectrum Accelerate: {name} = {value!r}: use ")


def test_percents_in_the_wrong_order_are_named():
    (text,) = problems({**defaults(), "start_percent": 0.7, "end_percent": 0.3})
    assert text == "Spectrum Accelerate: start_percent = 0.7 is not below end_percent = 0.3: nothing would be forecast"


def test_linked_inputs_are_judged_when_they_arrive():
    assert SpectrumAccelerate.validate_inputs(start_percent=None, end_percent=0.5) is True
    assert SpectrumAccelerate.validate_inputs(start_percent=0.0, end_percent=1.0) is True
    assert "not below" in SpectrumAccelerate.validate_inputs(start_percent=0.5, end_percent=0.5)


def test_the_schema_has_the_widgets_in_the_promised_order():
    schema = SpectrumAccelerate.define_schema()
    assert schema.node_id == "SpectrumAccelerate" and schema.display_name == "Spectrum Accelerate"
    assert [i.id for i in schema.inputs] == [
        "model", "skip_interval", "degree", "window", "schedule", "tail", "target", "correct", "start_percent",
        "end_percent",
    ]  # fmt: skip
    assert [i.id for i in schema.inputs if getattr(i, "advanced", None)] == [
        "tail", "target", "correct", "start_percent", "end_percent",
    ]  # fmt: skip
    assert all(i.tooltip for i in schema.inputs) and schema.not_idempotent
    (schedule,) = [i for i in schema.inputs if i.id == "schedule"]
    own = {option.key: [i.id for i in option.inputs] for option in schedule.options}
    assert own == {name: [s.name for s in settings] for name, settings in OWN.items()}
    assert list(own) == ["adaptive", "paper", "fixed interval"]


def test_tooltips_are_short():
    for schedule in OWN:
        for setting in all_settings(schedule):
            assert len(setting.tooltip.split()) <= 30, setting.name
            assert setting.problem(setting.default) is None


def test_the_node_passes_its_values_on(model, monkeypatch):
    monkeypatch.setattr(SpectrumAccelerate, "hidden", SimpleNamespace(unique_id="5"), raising=False)
    common = {s.name: s.default for s in COMMON}
    later = {"tail": 1, "target": "auto", "correct": True, "start_percent": 0.0, "end_percent": 1.0}

    def attached(**schedule):
        values = {**common, "schedule": schedule, **later}
        return SpectrumAccelerate.execute(model, **values).result[0].model_options["transformer_options"]["spectrum"]

    assert attached(schedule=ADAPTIVE, evaluations=0, warmup=1).settings == Settings.of()
    paper = attached(schedule=PAPER, growth=3.0, warmup=5, ridge=0.1, blend=0.5, intercept="paper")
    assert paper.settings == Settings.of(PAPER, growth=3.0) and paper.node == "5"
    with pytest.raises(ValueError, match="schedule: use one of 'adaptive', 'paper', 'fixed interval'"):
        SpectrumAccelerate.execute(model, schedule=None, **common, **later)
