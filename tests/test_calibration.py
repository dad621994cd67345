"""A plan from one run: what is predicted is what happens, what is watched is not touched, and plans may be hostile."""

import base64
import gc
import json
import math
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import numpy as np
import pytest
import torch
from sampling import distance, fingerprint, kinds, runs
from spectrum_accelerate.nodes import calibrate, run, solver
from spectrum_accelerate.nodes.accelerate import SpectrumAccelerate
from spectrum_accelerate.nodes.attach import attach
from spectrum_accelerate.nodes.calibrate import SpectrumCalibrate, SpectrumPlan, calibrated, recorder
from spectrum_accelerate.nodes.path import path_of
from spectrum_accelerate.nodes.samplers import SAMPLERS
from spectrum_accelerate.nodes.settings import CONTROLLED, DEFAULTS, GROWING, RAW_OUTPUT, Settings
from spectrum_accelerate.nodes.solver import LinearError, linear_map
from spectrum_accelerate.spectrum_core import calibration as calibration_module
from spectrum_accelerate.spectrum_core.calibration import MOST_TEXT, Calibration, cheapest, improved, mean
from spectrum_accelerate.spectrum_core.correction import Correction
from spectrum_accelerate.spectrum_core.forecast import Forecaster
from spectrum_accelerate.spectrum_core.schedule import Plan, balanced, budget
from zoo import MODELS

from demo import inprocess

FLUX = MODELS["flux"]
DEFAULT = Settings(**DEFAULTS).forecaster()
FORECASTERS = (DEFAULT, Forecaster(4, 64, 0.1, 0.5, "paper"), Forecaster(1, 1, 0.0))
WIDGET = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}
DETERMINISTIC = sorted(
    name for name, row in SAMPLERS.items() if not row.obstacle and not row.noisy and not name.endswith("_cfg_pp")
)
COMPUTED = (0, 1, 2, 5, 8, 10, 11)
STEPS = 12


def sampler_object(name):
    return comfy.samplers.sampler_object(WIDGET.get(name, name))


def sampling(kind):
    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, kind):
        pass

    return Sampling()


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    pass


SAMPLINGS = {
    "flow": Flow(),
    "noise": sampling(comfy.model_sampling.EPS),
    "velocity": sampling(comfy.model_sampling.V_PREDICTION),
}


def smooth(count, size=40, seed=0):
    """Outputs that change smoothly from evaluation to evaluation: float32 [count, size]."""
    generator = np.random.default_rng(seed)
    time = np.linspace(0, 1, count)[:, None]
    waves = [np.cos(k * time + generator.normal(size=size)) * generator.normal(size=size) for k in range(1, 5)]
    return torch.tensor(sum(waves), dtype=torch.float32)


def open_loop(name, model_sampling, sigmas, outputs):
    """A sampler on a network whose outputs are given: what every evaluation begins with, and the end."""
    seen = []

    def model(x, sigma, **_):
        seen.append(x.clone())
        return model_sampling.calculate_denoised(sigma, outputs[len(seen) - 1].expand_as(x).clone(), x)

    sampler = sampler_object(name)
    start = torch.randn(1, 1, 1, outputs.shape[1], generator=torch.Generator().manual_seed(3)) * sigmas[0]
    model = solver._as_samplers_see_it(model, model_sampling, sigmas)
    end = sampler.sampler_function(
        model, start, sigmas.clone(), extra_args={}, callback=None, disable=True, **sampler.extra_options
    )
    return torch.cat([*seen, end]).flatten(1)


def forecast(outputs, computed, forecaster, stages, steps):
    """Outputs with those of the other steps put in from the computed ones."""
    result = outputs.clone()
    for evaluation in range(len(outputs)):
        step, stage = divmod(evaluation, stages)
        if step not in computed:
            known = [k for k in computed if k < step]
            weights = torch.tensor(forecaster.weights(known, step, steps), dtype=torch.float32)
            result[evaluation] = weights @ outputs[[k * stages + stage for k in known]]
    return result


@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_closed_form_is_what_the_sampler_does(name, kind):
    """With outputs that do not depend on the latent, open loop is closed loop: all errors are exact."""
    model_sampling, stages = SAMPLINGS[kind], SAMPLERS[name].stages
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, "simple", STEPS).float()
    coefficients, levels = linear_map(sampler_object(name), model_sampling, sigmas, stages)
    assert len(levels) == len(coefficients) - 1 and levels[::stages] == pytest.approx(sigmas[:-1].tolist(), rel=1e-3)
    outputs = smooth(len(coefficients) - 1)
    full = open_loop(name, model_sampling, sigmas, outputs)
    assert torch.allclose(
        coefficients @ torch.cat([full[:1], outputs]), full, rtol=1e-4, atol=1e-4 * float(full.abs().max())
    )
    size = float(full[-1].norm())
    gram = (outputs.double() @ outputs.double().T).numpy() / size**2
    calibration = Calibration(
        gram=(gram + gram.T) / 2,
        map=coefficients[:, 1:].double().numpy(),
        sigmas=tuple(sigmas.tolist()),
        stages=stages,
        model="Toy",
        sampler=name,
    )
    for forecaster in FORECASTERS:
        put_in = forecast(outputs, COMPUTED, forecaster, stages, STEPS)
        measured = (open_loop(name, model_sampling, sigmas, put_in) - full).norm(dim=1) / size
        predicted = calibration.errors(COMPUTED, forecaster)
        assert np.allclose(predicted, measured.numpy(), rtol=2e-2, atol=2e-5), forecaster
        assert predicted[-1] > 1e-4
    again = Calibration.from_json(calibration.to_json())
    assert np.allclose(again.errors(COMPUTED, DEFAULT), calibration.errors(COMPUTED, DEFAULT), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    "name, stages, why",
    [("euler_cfg_pp", 1, "needs more than outputs"), ("heun", 1, "more than"), ("euler", 2, "12 times, not 23")],
)
def test_samplers_that_are_not_what_they_are_taken_for_have_no_map(name, stages, why):
    sigmas = comfy.samplers.calculate_sigmas(SAMPLINGS["flow"], "simple", STEPS).float()
    with pytest.raises(LinearError, match=why):
        linear_map(sampler_object(name), SAMPLINGS["flow"], sigmas, stages)


def spread(times, speedup, warmup, tail):
    """The balanced schedule of a speed-up."""
    return balanced(times, budget(len(times) - 1, speedup), warmup, tail)


def planned(model, steps, **changes):
    """The node with a plan instead of its schedule."""
    chosen = Plan(1, 0, tuple(steps))
    fast = attach(model, Settings(**{**DEFAULTS, **changes}))
    return fast, patch.object(Settings, "scheduled", lambda *_: chosen)


def calibration_of(model, **options):
    watched = calibrated(model)
    FLUX.sample(watched, **options)
    (calibration,) = recorder(watched).runs
    return calibration


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun"])
def test_a_network_that_ignores_the_latent_errs_as_predicted(name):
    """The real run, from recording to forecasting: model output, two pictures, guidance."""
    model = FLUX.build()
    model.model.diffusion_model.img_in.weight.data.zero_()
    options = {"steps": STEPS, "cfg": 3.0, "batch": 2, "sampler": name}
    calibration = calibration_of(model, **options)
    fast, instead = planned(model, COMPUTED, target=RAW_OUTPUT, correct=False)
    with instead:
        result = FLUX.sample(fast, **options)
    assert [e.kind for e in runs(fast)[0].evaluations][:: calibration.stages].count("computed") == len(COMPUTED)
    process = model.model.process_latent_in
    full = process(FLUX.sample(model, **options))
    measured = [distance(a, b) for a, b in zip(process(result), full, strict=True)]
    assert calibration.predicted(COMPUTED, DEFAULT) == pytest.approx(np.sqrt(np.mean(np.square(measured))), rel=0.03)


# ---------------------------------------------------------------------------------------------------- trained model


@pytest.fixture(scope="module")
def embedded():
    """The embedded model, its plan from one prompt, how to sample another six, and the distance to these six in full:
    their geometric mean, for which a picture that takes another turn counts as one."""
    model = inprocess.embedded_model(shift=3.0)

    def sample(model, emoji, seed):
        positive = inprocess.prompts(emoji, [3] * len(emoji))
        negative = inprocess.prompts([-1] * len(emoji), [-1] * len(emoji))
        noise = torch.randn((len(emoji), 16, 12, 12), generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            return comfy.sample.sample(
                *(model, noise, 20, 1.0, "euler", "simple", positive, negative, torch.zeros_like(noise)),
                seed=seed,
                disable_pbar=True,
            )

    watched = calibrated(model)
    sample(watched, [5], 11)
    others = lambda model: sample(model, [17, 40, 23, 42, 59, 3], 12)  # noqa: E731
    full = others(model)

    def error(fast):
        return float(np.exp(np.mean([math.log(distance(*pair)) for pair in zip(others(fast), full, strict=True)])))

    return model, recorder(watched), error


@pytest.fixture(scope="module")
def trained(embedded):
    """The plan of the embedded model, and the error of given steps on the other prompts."""
    model, recorded, error = embedded

    def measured(steps, correct):
        fast, instead = planned(model, steps, correct=correct)
        with instead:
            return error(fast)

    return recorded, measured


@pytest.fixture(scope="module")
def tolerated(embedded):
    """Error control at a tolerance on the other prompts, with the plan or without: trace, and error."""
    model, recorded, error = embedded
    (calibration,) = recorded.runs

    def outcome(tolerance, plan=True, **changes):
        settings = Settings(**{**DEFAULTS, "schedule": CONTROLLED, "speedup": 1.0, "tolerance": tolerance, **changes})
        fast = attach(model, settings, calibration=calibration if plan else None)
        found = error(fast)
        return runs(fast)[0], found

    return outcome


@pytest.mark.parametrize("correct", [False, True])
def test_schedules_err_as_predicted_on_other_prompts(trained, correct):
    """Up to a factor, for prediction is open loop."""
    recorded, measured = trained
    (calibration,) = recorded.runs
    generator = np.random.default_rng(1)
    schedules = [spread(recorded.times, s, 2, 1).computed for s in (1.8, 2.3, 2.9, 4.0)]
    for count in (6, 7, 8, 9, 9, 10, 11, 12):
        between = sorted(generator.choice(np.arange(2, 19), count - 3, replace=False).tolist())
        schedules.append((0, 1, *between, 19))
    found = np.array([[calibration.predicted(s, DEFAULT, correct), measured(s, correct)] for s in schedules])
    assert np.corrcoef(np.log(found).T)[0, 1] > 0.85, found


@pytest.mark.parametrize("count, correct", [(5, False), (6, False), (5, True), (6, True)])
def test_a_plan_beats_the_balanced_schedule_on_other_prompts(trained, count, correct):
    """Where gaps are long. Else they stay as they are, see below, or it may be either way (docs/quality)."""
    recorded, measured = trained
    (calibration,) = recorded.runs
    start = balanced(recorded.times, count, 1, 1)
    plan = improved(calibration, start, DEFAULT, corrected=correct)
    assert len(plan.computed) == len(start.computed)
    predicted = [calibration.predicted(steps, DEFAULT, correct) for steps in (plan.computed, start.computed)]
    assert predicted[0] < predicted[1]
    assert measured(plan.computed, correct) < measured(start.computed, correct)


@pytest.fixture
def unlimited(monkeypatch):
    """A search that may make gaps as long as it likes."""
    improved.cache_clear()
    monkeypatch.setattr(calibration_module, "LONGEST", math.inf)
    yield
    improved.cache_clear()


@pytest.mark.parametrize("correct", [False, True])
def test_a_plan_leaves_short_gaps_as_they_are(trained, correct):
    """None may grow by more than a quarter: what less even ones gain in the closed form they do not gain in a run."""
    recorded, _ = trained
    (calibration,) = recorded.runs
    start = balanced(recorded.times, 9, 1, 1)
    assert improved(calibration, start, DEFAULT, corrected=correct) == start


def test_or_else_it_would_not(trained, unlimited):
    recorded, measured = trained
    (calibration,) = recorded.runs
    start = balanced(recorded.times, 9, 1, 1)
    plan = improved(calibration, start, DEFAULT)
    assert calibration.predicted(plan.computed, DEFAULT) < 0.7 * calibration.predicted(start.computed, DEFAULT)
    assert measured(plan.computed, False) > measured(start.computed, False)


def test_a_plan_keeps_a_tolerance_on_other_prompts_and_a_lower_one_computes_more(tolerated):
    tolerances = (0.01, 0.02, 0.08)
    traces, errors = zip(*map(tolerated, tolerances), strict=True)
    for tolerance, trace, error in zip(tolerances, traces, errors, strict=True):
        assert trace.error <= tolerance and error <= tolerance
        assert trace.notes[0].startswith("planned, predicted error")
    assert traces[0].computed > traces[1].computed > traces[2].computed


def test_a_plan_computes_less_than_error_control_that_keeps_the_tolerance(tolerated):
    for tolerance in (0.06, 0.08):
        (ours, _), (theirs, _) = tolerated(tolerance), tolerated(tolerance, plan=False)
        assert ours.computed < theirs.computed and ours.error <= tolerance and theirs.error <= tolerance


@pytest.mark.parametrize(
    "tolerance, changes",
    [(0.001, {}), (0.003, {"start_percent": 0.6})],
    ids=["at most steps", "but that forecasts nothing"],
)
def test_where_no_plan_keeps_the_tolerance_error_control_does_what_it_can(tolerated, tolerance, changes):
    (ours, _), (theirs, _) = (tolerated(tolerance, plan, **changes) for plan in (True, False))
    assert ours.notes == ["the plan is not used: no plan was found that keeps the tolerance"] and not theirs.notes
    assert kinds(ours) == kinds(theirs) and ours.forecast


def test_with_a_tolerance_too_steps_outside_of_the_percents_are_planned_around(tolerated, monkeypatch):
    """A plan that does not know of them computes more."""
    percents, tolerances = {"start_percent": 0.3, "end_percent": 0.6}, (0.01, 0.02, 0.08)
    aware = [tolerated(tolerance, **percents) for tolerance in tolerances]
    monkeypatch.setattr(run, "cheapest", lambda *args: cheapest(*args[:6]))
    unaware = [tolerated(tolerance, **percents)[0] for tolerance in tolerances]
    for tolerance, (trace, error) in zip(tolerances, aware, strict=True):
        assert kinds(trace).startswith("cccccc") and kinds(trace).endswith("ccccccc") and trace.forecast
        assert trace.error <= tolerance and error <= tolerance and "planned" in trace.notes[0]
    assert sum(trace.computed for trace, _ in aware) < sum(trace.computed for trace in unaware)


# ---------------------------------------------------------------------------------------------------- search


@pytest.fixture(scope="module")
def toy():
    """Fifty steps of outputs that move late."""
    count, size = 50, 30
    generator = np.random.default_rng(2)
    late = np.linspace(0, 1, count)[:, None] ** 4
    outputs = sum(np.sin(k * 2 * late + generator.normal(size=size)) for k in range(1, 4))
    sigmas = np.linspace(1, 0, count + 1)
    return Calibration(
        gram=outputs @ outputs.T / 100,
        map=np.tril(np.ones((count + 1, count)), -1) * np.diff(sigmas),
        sigmas=tuple(sigmas.tolist()),
        stages=1,
        model="Toy",
        sampler="euler",
    )


def test_a_plan_keeps_its_number_its_beginning_and_its_tail(toy):
    start = spread(toy.sigmas, 3.3, 3, 2)
    plan = improved(toy, start, DEFAULT)
    assert len(set(plan.computed)) == len(start.computed) == 15 and list(plan.computed) == plan.plan(50)
    assert plan.computed[0] == 0 and plan.computed[-2:] == (48, 49) and plan.warmup == 1
    assert toy.predicted(plan.computed, DEFAULT) < 0.9 * toy.predicted(start.computed, DEFAULT)
    assert np.median(plan.computed) > np.median(start.computed), "where the outputs move"


def test_few_plans_are_as_good(toy, unlimited):
    """No evaluation alone could move to a better place, and no random plan is better."""
    plan = improved(toy, spread(toy.sigmas, 5, 1, 0), DEFAULT)
    residuals = calibration_module._Residuals(toy, DEFAULT)
    least = toy._cost(plan.computed, residuals, False)
    for step in set(plan.computed) - {0}:
        for other in set(range(50)) - set(plan.computed):
            assert toy._cost(sorted({*plan.computed, other} - {step}), residuals, False) >= least * (1 - 1e-5)
    generator = np.random.default_rng(0)
    for _ in range(300):
        others = generator.choice(np.arange(1, 50), len(plan.computed) - 1, replace=False).tolist()
        assert toy._cost([0, *sorted(others)], residuals, False) > least


@pytest.mark.parametrize("count, speedup", [(4, 1.5), (6, 2.0), (12, 16.0), (50, 1.1)])
def test_short_runs_and_slow_ones_have_plans_too(toy, count, speedup):
    sigmas = tuple(np.linspace(1, 0, count + 1).tolist())
    short = replace(toy, gram=toy.gram[:count, :count], map=toy.map[: count + 1, :count], sigmas=sigmas)
    start = spread(sigmas, speedup, 3, 1)
    plan = improved(short, start, DEFAULT)
    assert plan.plan(count) == list(plan.computed) and len(plan.computed) == len(start.computed)


def test_a_search_ends_where_there_is_too_much_to_try(toy, monkeypatch):
    start = spread(toy.sigmas, 3.3, 3, 1)
    monkeypatch.setattr(calibration_module, "TRIED", 50 * 100)
    plan = improved.__wrapped__(toy, start, DEFAULT)
    assert toy.predicted(plan.computed, DEFAULT) <= toy.predicted(start.computed, DEFAULT)
    assert plan.plan(50) == list(plan.computed)


@pytest.mark.parametrize("correct", [False, True])
def test_steps_that_are_computed_anyway_cost_nothing(toy, correct):
    """As start_percent and end_percent make some."""
    start, outside = spread(toy.sigmas, 5, 2, 1), frozenset(range(40, 50))
    plan = improved(toy, start, DEFAULT, outside, correct)
    elsewhere = [step for step in plan.computed if step not in outside]
    assert len(elsewhere) > len([step for step in start.computed if step not in outside])


@pytest.fixture(scope="module")
def short(toy):
    """Twenty of the fifty steps; the plan that a search begins with; and sizes of the latents."""
    kept = np.linspace(0, 49, 20).round().astype(int)
    sigmas = np.linspace(1, 0, 21)
    calibration = replace(
        toy,
        gram=toy.gram[np.ix_(kept, kept)],
        map=np.tril(np.ones((21, 20)), -1) * np.diff(sigmas),
        sigmas=tuple(sigmas.tolist()),
    )
    start = partial(balanced, calibration.sigmas, warmup=1, tail=1)
    return calibration, start, [math.hypot(1 - sigma, sigma) for sigma in calibration.sigmas[:-1]]


COUNTS = range(3, 20)
OUTSIDE = {"none": frozenset(), "first": frozenset(range(6)), "last": frozenset(range(14, 20))}


@pytest.mark.parametrize("outside", OUTSIDE.values(), ids=OUTSIDE)
def test_the_cheapest_plan_is_the_first_that_keeps_the_tolerance(short, outside):
    """Where all after the first keep it too: bisection does not see others."""
    calibration, start, sizes = short
    plans = [improved(calibration, start(count), DEFAULT, outside, True) for count in COUNTS]
    estimates = [calibration.estimated(outside.union(plan.computed), DEFAULT, sizes) for plan in plans]
    checked = set()
    for tolerance in np.geomspace(0.3, 0.002, 40):
        found = cheapest(calibration, start, COUNTS, DEFAULT, sizes, tolerance, outside)
        keeps = [estimate <= tolerance for estimate in estimates]
        assert found is None or keeps[plans.index(found)]
        if keeps == sorted(keeps):
            first = keeps.index(True) if any(keeps) else None
            forecasts = first is not None and len(outside.union(plans[first].computed)) < calibration.steps
            assert found == (plans[first] if forecasts else None)
            checked.add(first)
    assert len(checked) >= 8


@pytest.mark.parametrize("outside", OUTSIDE.values(), ids=OUTSIDE)
def test_a_lower_tolerance_never_computes_fewer(short, outside):
    calibration, start, sizes = short
    found = [cheapest(calibration, start, COUNTS, DEFAULT, sizes, t, outside) for t in np.geomspace(0.3, 0.0005, 40)]
    counts = [len(plan.computed) if plan else len(calibration.gram) for plan in found]
    assert counts == sorted(counts) and counts[0] == 3 and counts[-1] == 20


def test_what_is_computed_anyway_saves_evaluations(short):
    calibration, start, sizes = short
    alone, beside = (
        cheapest(calibration, start, COUNTS, DEFAULT, sizes, 0.02, OUTSIDE[key]) for key in ("none", "last")
    )
    assert len(set(beside.computed) - OUTSIDE["last"]) < len(set(alone.computed) - OUTSIDE["last"])


def test_a_tolerance_that_is_kept_only_where_nothing_is_forecast_has_no_plan(short):
    calibration, start, sizes = short
    assert cheapest(calibration, start, COUNTS, DEFAULT, sizes, 1e-5) is None
    assert cheapest(calibration, start, COUNTS, DEFAULT, sizes, 1e-5, frozenset(range(1, 19))) is None
    assert cheapest(calibration, start, range(3, 3), DEFAULT, sizes, 1.0) is None


def test_runs_of_a_kind_are_averaged(toy):
    other = replace(toy, gram=toy.gram * 3)
    both = mean([toy, other])
    assert both.runs == 2 and np.allclose(both.gram, toy.gram * 2)
    assert np.allclose(mean([both, toy]).gram, toy.gram * 5 / 3)


def test_a_run_that_does_not_fit_is_told_why(toy):
    fits = ("Toy", "euler", 1, toy.sigmas)
    assert toy.misfit(*fits) is None
    assert toy.misfit("Toy", "euler", 1, [s + 1e-4 for s in toy.sigmas]) is None
    assert "made for Toy, this is Flux" in toy.misfit("Flux", *fits[1:])
    assert "with the sampler euler, this is heun" in toy.misfit("Toy", "heun", 2, toy.sigmas)
    assert "50 steps, these are 30" in toy.misfit("Toy", "euler", 1, toy.sigmas[:31])
    assert "other noise levels" in toy.misfit("Toy", "euler", 1, [s**2 for s in toy.sigmas])


# ---------------------------------------------------------------------------------------------------- recorder


@pytest.fixture
def model():
    return FLUX.build()


@pytest.fixture(autouse=True)
def uninterrupted():
    yield
    comfy.model_management.interrupt_current_processing(False)


@pytest.fixture
def latents(monkeypatch):
    """Weak references to everything that recordings hold of a run."""
    held = []
    see = calibrate.Recording._see

    def spy(self, *args):
        see(self, *args)
        held.extend(weakref.ref(t) for t in (*self._outputs, *self._products, self._first, self._last, self._picture))

    monkeypatch.setattr(calibrate.Recording, "_see", spy)
    return held


@pytest.mark.parametrize("name", ["euler", "heun", "unipc", "deis"])
def test_the_recorder_only_looks(model, latents, name):
    options = {"steps": 8, "cfg": 3.0, "sampler": WIDGET.get(name, name)}
    plain, watched = FLUX.sample(model, **options), calibrated(model)
    before, keys = fingerprint(model), set(watched.model_options["transformer_options"])
    assert torch.equal(FLUX.sample(watched, **options), plain)
    assert fingerprint(model) == before and set(watched.model_options["transformer_options"]) == keys
    assert calibrate.KEY not in model.model_options.get("transformer_options", {})
    gc.collect()
    assert latents and not [ref for ref in latents if ref() is not None]
    (calibration,) = recorder(watched).runs
    assert (calibration.model, calibration.sampler, calibration.steps, calibration.cfg) == ("Flux", name, 8, 3.0)


@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_a_run_that_ends_early_leaves_nothing(model, latents, how):
    count = iter(range(10**6))

    def end(*_):
        if next(count) == 3:
            if how == "error":
                raise RuntimeError("stop")
            comfy.model_management.interrupt_current_processing()

    handle = model.model.diffusion_model.final_layer.register_forward_pre_hook(end)
    watched = calibrated(model)
    with pytest.raises((RuntimeError, comfy.model_management.InterruptProcessingException)):
        FLUX.sample(watched, steps=8)
    handle.remove()
    gc.collect()
    assert latents and not [ref for ref in latents if ref() is not None]
    assert not recorder(watched).runs and recorder(watched).reason == "the latest run did not end"
    comfy.model_management.interrupt_current_processing(False)
    FLUX.sample(watched, steps=8)
    assert len(recorder(watched).runs) == 1 and not recorder(watched).reason


@pytest.mark.parametrize(
    "name, why",
    [
        ("euler_ancestral", "adds fresh noise"),
        ("dpmpp_2m_sde", "adds fresh noise"),
        ("dpm_fast", "positions that are not one smooth path"),
        ("euler_cfg_pp", "goes by the unguided output"),
    ],
)
def test_samplers_that_cannot_be_calibrated_run_as_they_are(model, name, why):
    watched = calibrated(model)
    assert torch.equal(FLUX.sample(watched, steps=8, sampler=name), FLUX.sample(model, steps=8, sampler=name))
    assert not recorder(watched).runs and why in recorder(watched).reason


def test_what_the_outputs_do_not_explain_is_no_plan(model, monkeypatch):
    """A sampler that the table takes for deterministic, and that is not."""

    def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        generator = torch.Generator().manual_seed(0)
        for i in range(len(sigmas) - 1):
            x = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
            x = x + sigmas[i + 1] * torch.randn(x.shape, generator=generator)
        return x

    monkeypatch.setattr(comfy.samplers, "sampler_object", lambda _: comfy.samplers.KSAMPLER(sample_euler))
    watched = calibrated(model)
    FLUX.sample(watched, steps=8)
    assert not recorder(watched).runs and "unexplained" in recorder(watched).reason


def test_accelerated_and_masked_runs_are_not_recorded(model):
    both = attach(calibrated(model), Settings(**DEFAULTS))
    FLUX.sample(both, steps=8)
    assert "Spectrum Accelerate is on the same MODEL" in recorder(both).reason
    watched = calibrated(model)
    FLUX.sample(watched, steps=4, noise_mask=torch.ones(1, 1, 8, 8))
    assert "without the mask" in recorder(watched).reason


# ---------------------------------------------------------------------------------------------------- nodes


def test_the_nodes_give_plan_summary_and_plot(model, monkeypatch):
    monkeypatch.setattr(SpectrumCalibrate, "hidden", SimpleNamespace(unique_id=None), raising=False)
    watched = SpectrumCalibrate.execute(model).result[0]
    text, summary, plot = SpectrumPlan.execute(watched, {}).result
    assert text == "" and "was not sampled yet" in summary and torch.isfinite(plot).all()
    for seed in (0, 1):
        latent = {"samples": FLUX.sample(watched, steps=20, cfg=3.0, seed=seed)}
    output = SpectrumPlan.execute(watched, latent)
    text, summary, plot = output.result
    calibration = Calibration.from_json(text)
    assert calibration.runs == 2 and "20 steps, CFG 3" in summary and "from 2 runs" in summary
    assert output.ui["text"] == (summary,) and len(text) < 4000
    assert plot.shape[0] == 1 and plot.shape[-1] == 3 and plot.min() >= 0 and plot.max() <= 1
    FLUX.sample(watched, steps=20, sampler="euler_ancestral")
    assert "the latest run is not in it: the sampler euler_ancestral" in SpectrumPlan.execute(watched, latent).result[1]
    assert "bypassed" in SpectrumPlan.execute(model, latent).result[1]


# ---------------------------------------------------------------------------------------------------- hostile plans


def test_a_plan_comes_back_from_its_text(toy):
    text = toy.to_json()
    again = Calibration.from_json(text)
    assert again.to_json() == text and len(text) < 16_000
    assert np.allclose(again.gram, toy.gram, rtol=1e-6) and np.allclose(again.map, toy.map, rtol=1e-6)


def triangle(values):
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


BAD = {
    "version": ({"spectrum_plan": 2}, "version 2"),
    "version of another kind": ({"spectrum_plan": True}, "version True"),
    "more than it should hold": ({"more": 1}, "exactly"),
    "a model that is no name": ({"model": ["x"]}, "no usable model"),
    "a name with line breaks": ({"sampler": "a\nb"}, "no usable sampler"),
    "no run": ({"runs": 0}, "no usable runs"),
    "runs that are no number": ({"runs": True}, "no usable runs"),
    "many stages": ({"stages": 10**9}, "no usable stages"),
    "other stages": ({"stages": 2}, "does not belong"),
    "cfg": ({"cfg": "3"}, "no usable cfg"),
    "a cfg beyond floats": ({"cfg": 10**400}, "no usable cfg"),
    "sigmas of text": ({"sigmas": "1"}, "no usable sigmas"),
    "sigmas that are no numbers": ({"sigmas": [1, None, 0]}, "no numbers"),
    "many sigmas": ({"sigmas": [0] * 10**5}, "no usable sigmas"),
    "NaN among sigmas": ({"sigmas": [1, math.nan, *[0] * 49]}, "no numbers"),
    "sigmas that rise": ({"sigmas": [i / 50 for i in range(51)]}, "do not descend"),
    "no text": ({"gram": [1, 2]}, "does not belong"),
    "no base64": ({"gram": "§" * 100}, "does not belong"),
    "too short": ({"map": triangle(np.ones(10))}, "does not belong"),
    "NaN": ({"gram": triangle(np.full(1275, np.nan))}, "not finite"),
    "large": ({"map": triangle(np.full(1275, 1e30))}, "too large"),
    "not definite": ({"gram": triangle(np.random.default_rng(0).normal(size=1275))}, "not definite"),
    "zero": ({"gram": triangle(np.zeros(1275))}, "not definite"),
}


@pytest.mark.parametrize("changes, why", BAD.values(), ids=BAD)
def test_a_hostile_plan_is_rejected(toy, changes, why):
    with pytest.raises(ValueError, match=f"^the plan .*{why}"):
        Calibration.from_json(json.dumps({**json.loads(toy.to_json()), **changes}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 100_000, "9" * 5000, "x" * (MOST_TEXT + 1)])
def test_text_that_is_no_plan_is_rejected(text):
    with pytest.raises(ValueError, match=r"^the plan is (not the text|longer)"):
        Calibration.from_json(text)


def test_the_largest_possible_plan_is_small_enough_to_be_read(toy):
    with pytest.raises(ValueError, match=r"belong|definite"):
        sigmas = [1 - i / 256 for i in range(257)]
        data = {**json.loads(toy.to_json()), "stages": 3, "sigmas": sigmas, "gram": "A" * 300_000, "map": "A" * 300_000}
        Calibration.from_json(json.dumps(data))


@pytest.fixture
def wired(monkeypatch):
    """Both nodes on a model, the plan of one run connected: accelerate(**changes) -> MODEL."""
    for node in (SpectrumCalibrate, SpectrumAccelerate):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None), raising=False)
    model = FLUX.build()
    watched = SpectrumCalibrate.execute(model).result[0]
    text = SpectrumPlan.execute(watched, {"samples": FLUX.sample(watched, steps=20, cfg=3.0)}).result[0]
    return lambda plan=text, **changes: SpectrumAccelerate.execute(model, plan=plan, **{**DEFAULTS, **changes}).result[
        0
    ]


def test_a_plan_is_used_where_it_fits(wired):
    planned, plain = wired(correct=False, evaluations=7), wired(plan="", correct=False, evaluations=7)
    for model in (planned, plain):
        FLUX.sample(model, steps=20, cfg=3.0)
    ours, theirs = runs(planned)[0], runs(plain)[0]
    assert ours.computed == theirs.computed and kinds(ours) != kinds(theirs)
    assert "planned, predicted error" in ours.summary() and "plan" not in theirs.summary()


@pytest.mark.parametrize(
    "changes, options, why",
    [
        ({}, {"steps": 21}, "it was made for 20 steps, these are 21"),
        ({}, {"sampler": "heun"}, "it was made with the sampler euler, this is heun"),
        ({}, {"sampler": "ddpm"}, "it was made with the sampler euler, this is ddpm"),
        ({}, {"scheduler": "beta"}, "it was made for other noise levels"),
        ({"schedule": GROWING}, {}, "it needs the schedule 'balanced'"),
    ],
)
def test_a_plan_that_does_not_fit_is_left_aside_and_says_why(wired, changes, options, why):
    model = wired(**changes)
    FLUX.sample(model, **{"steps": 20, **options})
    (trace,) = runs(model)
    assert f"the plan is not used: {why}" in trace.summary() and trace.forecast


def test_steps_outside_of_the_percents_are_computed_besides(wired):
    model = wired(start_percent=0.2)
    FLUX.sample(model, steps=20)
    (trace,) = runs(model)
    assert kinds(trace).startswith("ccccc") and trace.forecast and "planned" in trace.summary()


def test_text_that_is_no_plan_stops_the_node(wired):
    with pytest.raises(ValueError, match="the plan is not the text that Spectrum Plan gives"):
        wired(plan="{}")


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2", "dpmpp_2m"])
def test_with_correction_the_closed_form_is_what_the_corrected_sampler_does(name):
    """Outputs that ignore the latent; heun's last step lacks a stage, which then is not judged again."""
    stages = SAMPLERS[name].stages
    sigmas = comfy.samplers.calculate_sigmas(SAMPLINGS["flow"], "simple", STEPS).float()
    coefficients, levels = linear_map(
        sampler_object(name), SAMPLINGS["flow"], sigmas, stages, path_of(Settings(**DEFAULTS), noisy=False).told
    )
    outputs, shape = smooth(len(levels)), (1, 1, 1, -1)
    map_ = coefficients[:, 1:].double().numpy()
    forecaster = Forecaster(1, 2, 0.0)
    correction = Correction(
        map_, stages, lambda _: 0.0, lambda known, step: forecaster.weights(known, step, STEPS), held=2
    )

    def told(accelerated):
        seen = []

        def model(x, sigma, **_):
            e = len(seen)
            seen.append(x.clone())
            step, stage = divmod(e, stages)
            d, change = outputs[e].reshape(shape), None
            if accelerated and step in COMPUTED:
                change = correction.computed(e, d, x)
            elif accelerated:
                known = [k for k in COMPUTED if k < step]
                weights = torch.tensor(forecaster.weights(known, step, STEPS), dtype=torch.float32)
                d = (weights @ outputs[[k * stages + stage for k in known]]).reshape(shape)
                change = correction.forecast(e, d)
            return x - sigma.reshape(-1, 1, 1, 1) * (d if change is None else d + change)

        clothed = solver._as_samplers_see_it(model, SAMPLINGS["flow"], sigmas)
        start = torch.ones(1, 1, 1, outputs.shape[1])
        end = sampler_object(name).sampler_function(
            clothed, start, sigmas.clone(), extra_args={}, callback=None, disable=True,
            **sampler_object(name).extra_options,
        )  # fmt: skip
        return torch.cat([*seen, end]).flatten(1)

    full = told(False)
    size = float(full[-1].norm())
    gram = (outputs.double() @ outputs.double().T).numpy() / size**2
    calibration = Calibration((gram + gram.T) / 2, map_, tuple(sigmas.tolist()), stages, "Toy", name)
    measured = ((told(True) - full).norm(dim=1) / size).numpy()
    predicted = calibration.errors(COMPUTED, forecaster, corrected=True)
    starts = [step * stages for step in COMPUTED] + [len(levels)]  # in between, only the computed ones are exact
    assert np.allclose(predicted[starts], measured[starts], rtol=5e-2, atol=5e-5)
    assert predicted[-1] < 0.5 * calibration.errors(COMPUTED, forecaster)[-1]
