"""Gaps are corrected: what a sampler was told in the end is what it had been told without them, as far as can be known.

First real samplers on toy networks for which the truth can be known exactly, then a real model.
"""

import gc
import math
import weakref

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from sampling import accelerated, distance, kinds, runs
from spectrum_accelerate.nodes.runtime import policy
from spectrum_accelerate.nodes.samplers import linear_map as solver
from spectrum_accelerate.nodes.samplers.signal import signal_for
from spectrum_accelerate.nodes.samplers.table import SAMPLERS
from spectrum_accelerate.nodes.settings import ADAPTIVE, Settings
from spectrum_accelerate.spectrum_core.corrector import (
    DATA_STD,
    ORDER,
    Corrector,
    _norms,
    _solved,
    denoiser_gain,
    polynomial,
)
from spectrum_accelerate.spectrum_core.forecast import Forecaster
from spectrum_accelerate.spectrum_core.messages import Reason
from toys import DETERMINISTIC, SAMPLINGS, sampler_object

from demo import inprocess

STRAIGHT = Forecaster(degree=1, window=2, ridge=0.0)
STEPS = 12
NOISY = [name for name, row in SAMPLERS.items() if row.noisy]
COMPUTED = (0, 1, 2, 5, 8, 10, 11)  # two points before the first gap: a parabola needs three

EXACT = 2e-6
"""Rounding; 5e-7 was the most. Of samplers that combine denoised latents (dpmpp_2m, res_multistep, unipc) too, although
the map of these never comes to rest: what a coefficient still changes by after eight steps is below rounding."""


class Toy:
    """A real sampler on a network whose outputs are a parabola in the step number along the full run, q_e, and answer
    to the latent: d_e = q_e + response_e (x_e - x_e of the full run). Of samplers that add noise, outputs are denoised
    latents, and straight lines."""

    def __init__(self, name="euler", kind="flow", answers=False, steps=STEPS, path=None):
        self.sampler, self.sampling, self.stages = sampler_object(name), SAMPLINGS[kind], SAMPLERS[name].stages
        self.steps, self.noisy = steps, SAMPLERS[name].noisy
        way = signal_for(Settings.of(), self.noisy)
        self.forecaster = way.forecaster if self.noisy else STRAIGHT
        self.sigmas = comfy.samplers.calculate_sigmas(self.sampling, "simple", steps).float()
        found = solver.linear_map(self.sampler, self.sampling, self.sigmas, way.latent)
        self.levels, self.map = found.levels, found.coefficients[:, 1:].numpy()
        scales = [1 - level if kind == "flow" else 1.0 for level in self.levels]
        gains = [a / 4 / (a * a / 4 + s * s) for s, a in zip(self.levels, scales, strict=True)]
        self.response = [(1 - kappa) / s for kappa, s in zip(gains, self.levels, strict=True)]
        self.answer = self.response if answers else [0.0] * len(self.levels)
        generator = torch.Generator().manual_seed(0)
        self.start = torch.randn(2, 4, 4, 4, generator=generator) * self.sigmas[0]
        parts = torch.randn(self.stages, 3, *self.start.shape, generator=generator)
        positions = [divmod(e, self.stages) for e in range(len(self.levels))]
        self.path = path or [
            2 * parts[stage, 0]
            + parts[stage, 1] * step / steps
            + parts[stage, 2] * (step / steps) ** 2 * (not self.noisy)
            for step, stage in positions
        ]
        self.full = self.sampled(lambda e, x: self.path[e])
        self.starts = [step * self.stages for step in range(steps)] + [len(self.levels)]

    def sampled(self, told):
        """What every evaluation begins with, and the end, of a sampler that is told `told(evaluation, latent)`."""
        seen = []

        def model(x, sigma, **_):
            seen.append(x.clone())
            output = told(len(seen) - 1, x)
            return output if self.noisy else x - sigma.reshape(-1, 1, 1, 1) * output

        end = self.sampler.sampler_function(
            solver._as_samplers_see_it(model, self.sampling, self.sigmas),
            self.start.clone(),
            self.sigmas.clone(),
            extra_args={"seed": 3},
            callback=None,
            disable=True,
            **self.sampler.extra_options,
        )
        return [*seen, end]

    def weights(self, known, step):
        return self.forecaster.weights(known, step, self.steps)

    def correction(self, response=None):
        answers = self.response if response is None else response
        order = 1 if self.noisy else ORDER

        def between(known, step):
            return polynomial(order).weights(known, step, self.steps)

        return Corrector(self.map, self.starts[:-1], answers.__getitem__, self.weights, between, order=order)

    def line(self, outputs, evaluation, computed):
        """The forecast of an output: a straight line, so that it is wrong."""
        step, stage = divmod(evaluation, self.stages)
        known = [k for k in computed if k < step]
        weights = self.weights(known, step)
        return sum(float(w) * outputs[k * self.stages + stage] for k, w in zip(known, weights, strict=True) if w)

    def accelerated(self, correction=None, computed=COMPUTED, told=None):
        """The run with gaps; the dict `told` gets what network or forecast gave, and what the sampler was told."""
        came = {}

        def output(e, x):
            if e // self.stages in computed:
                came[e] = d = self.path[e] + self.answer[e] * (x - self.full[e])
                change = correction.computed(e, d, x) if correction else None
            else:
                d = self.line(came, e, computed)
                change = correction.forecast(e, d) if correction else None
            result = d if change is None else d + change
            if told is not None:
                told[e] = (d, result)
            return result

        return self.sampled(output)


def off(latent, reference):
    return float((latent - reference).norm() / reference.norm())


# ---------------------------------------------------------------------------------------------------- toy networks


@pytest.mark.parametrize("answers", [False, True], ids=["ignores the latent", "answers to it"])
@pytest.mark.parametrize("kind", ["flow", "noise"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_step_begins_as_if_the_sampler_had_always_been_told_what_is_known_by_now(name, kind, answers):
    """The truth up to the latest computed step, and straight lines from there on; at the end the truth alone."""
    toy = Toy(name, kind, answers)
    got = toy.accelerated(toy.correction(toy.answer))
    for latest, following in zip(COMPUTED, [*COMPUTED[1:], STEPS], strict=True):
        known = [k for k in COMPUTED if k <= latest]
        best = toy.sampled(
            lambda e, _, known=known: toy.path[e] if e // toy.stages <= known[-1] else toy.line(toy.path, e, known)
        )
        for step in range(latest + 1, following + 1):
            assert off(got[toy.starts[step]], best[toy.starts[step]]) < EXACT, step
    assert off(got[-1], toy.full[-1]) < EXACT
    # The gaps are what it is said of, and mattered.
    assert off(toy.accelerated()[toy.starts[8]], toy.full[toy.starts[8]]) > 1e-3
    assert off(got[toy.starts[5]], toy.full[toy.starts[5]]) > 1e-3


@pytest.mark.parametrize("kind", ["flow", "noise"])
@pytest.mark.parametrize("name", [n for n in NOISY if not n.endswith(("_gpu", "_RF"))])
def test_a_sampler_that_adds_noise_ends_as_if_it_had_been_told_the_denoised_latents(name, kind):
    """The noise is the same in both runs, whatever the sampler is told."""
    toy = Toy(name, kind)
    got, plain = toy.accelerated(toy.correction(toy.answer)), toy.accelerated()
    for computed in (5, 8, 11):
        latest = toy.starts[computed + 1]
        assert (
            off(got[latest], toy.full[latest]) < 5 * EXACT < 1e-4 < off(plain[toy.starts[5]], toy.full[toy.starts[5]])
        )


def test_a_sampler_whose_coefficients_are_not_finite_is_not_corrected():
    """This one is of flows; ComfyUI calls it for no other model."""
    sampling = SAMPLINGS["noise"]
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS).float()
    with pytest.raises(solver.LinearError, match="no finite coefficients"):
        solver.linear_map(
            sampler_object("euler_ancestral_RF"), sampling, sigmas, signal_for(Settings.of(), noisy=True).latent
        )


@pytest.mark.parametrize("kind", ["flow", "noise"])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_a_network_that_answers_to_its_latent_needs_the_response(name, kind):
    """An output that was computed at a wrong latent is wrong itself; taken as it is, it does harm."""
    toy = Toy(name, kind, answers=True)
    right, none = (toy.accelerated(toy.correction(r)) for r in (toy.response, [0.0] * len(toy.response)))
    assert off(right[-1], toy.full[-1]) < EXACT < 100 * EXACT < off(none[-1], toy.full[-1])


MOST_HELD = {"euler": 12}
"""Latents that the corrector holds at most between two evaluations; 16 for any other sampler."""


@pytest.mark.parametrize("gap", [1, 2, 4, 8, 12])
@pytest.mark.parametrize("name", [*DETERMINISTIC, "euler_ancestral", "dpmpp_3m_sde", "seeds_3"])
def test_it_holds_few_latents_whatever_the_gap(name, gap):
    """All that is alive and as large as a latent is counted, but what the test itself holds."""
    steps = 5 + 3 * (gap + 1)
    toy = Toy(name, answers=not SAMPLERS[name].noisy, steps=steps)
    computed = (0, 1, *range(2, steps, gap + 1), steps - 1)
    correction, most = toy.correction(toy.answer), [0]

    def counted(function):
        def call(*args):
            change = function(*args)
            most[0] = max(most[0], len(held(correction)))
            return change

        return call

    correction.computed, correction.forecast = counted(correction.computed), counted(correction.forecast)
    toy.accelerated(correction, computed)
    assert 0 < most[0] <= MOST_HELD.get(name, 16)


@pytest.mark.parametrize("stages", [3, 4, 6])
def test_it_holds_few_latents_of_steps_with_many_evaluations(stages):
    """Runge-Kutta methods of other packs, by random coefficients."""
    steps, random = 30, torch.Generator().manual_seed(stages)
    inner, whole = torch.rand(stages, stages, generator=random).tril(-1), torch.rand(stages, generator=random)
    rows = [torch.cat([whole.repeat(step), inner[stage]]) for step in range(steps) for stage in range(stages)]
    rows.append(whole.repeat(steps))
    map = torch.stack([torch.nn.functional.pad(row, (0, steps * stages - len(row))) for row in rows]).double().numpy()

    def weights(known, step):
        return STRAIGHT.weights(known, step, steps)

    corrector = Corrector(map, range(0, steps * stages, stages), lambda e: 0.1, weights, weights)
    for evaluation in range(steps * stages):
        output = torch.randn(2, 4, 4, 4, generator=random)
        computed = evaluation // stages in (0, 1, 2, 8, 16, 29)
        change = corrector.computed(evaluation, output, output) if computed else corrector.forecast(evaluation, output)
        assert len(held(corrector)) <= 16 and (change is None or change.isfinite().all())
    assert change is not None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_system_of_a_step_is_solved_for_each_picture(count):
    generator = torch.Generator().manual_seed(count)
    coupling = torch.rand(count, count, generator=generator).double().numpy()
    factor = torch.tensor([1.0, 2.5]).reshape(2, 1, 1)
    right, otherwise = torch.randn(2, count, 2, 3, 4, generator=generator)
    found = torch.stack(_solved(coupling, factor, list(right), list(otherwise)))
    for picture in range(2):
        system = torch.eye(count) + factor[picture] * torch.tensor(coupling, dtype=torch.float32)
        expected = torch.linalg.solve(system, right[:, picture].flatten(1))
        assert torch.allclose(found[:, picture].flatten(1), expected, atol=1e-5)
    stiff = torch.stack(_solved(-torch.eye(count).numpy(), factor, list(right), list(otherwise)))
    assert torch.equal(stiff[:, 0], otherwise[:, 0]) and not torch.equal(stiff[:, 1], otherwise[:, 1])


def test_guidance_takes_from_the_gain_where_there_is_noise():
    guided = [denoiser_gain(0.8, 0.2, guidance) for guidance in (1.0, 3.0, 5.0)]
    assert guided[0] == denoiser_gain(0.8, 0.2, 0.5) == denoiser_gain(0.8, 0.2)
    assert guided[0] - guided[1] > 0 and guided[1] - guided[2] > 2 * (guided[0] - guided[1]), "ever more"
    assert denoiser_gain(0.0, 1.0, 7.0) == 1.0, "but not from a picture without noise"


@pytest.mark.parametrize("flow", [True, False])
def test_the_gain_has_the_limits_that_it_must(flow):
    scale = (lambda sigma: 1 - sigma) if flow else (lambda sigma: 1.0)
    assert denoiser_gain(0.0, 1.0) == 1.0, "without noise the latent is the picture"
    assert denoiser_gain(1e-4, scale(1e-4)) == pytest.approx(1.0, abs=1e-3)
    if flow:
        assert denoiser_gain(1.0, 0.0) == 0.0, "noise alone tells nothing"
        assert denoiser_gain(0.0, 0.0) == 1.0
    else:
        assert denoiser_gain(1e6, 1.0) == pytest.approx(0.0, abs=1e-9)
        assert denoiser_gain(DATA_STD, 1.0) == pytest.approx(0.5)
    levels = [k / 50 for k in range(1, 50)] if flow else [0.03 * 1.2**k for k in range(45)]
    # In between it is the regression of the data on what is seen of them.
    data, fresh = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    data *= DATA_STD
    for sigma in levels[::10]:
        a, seen = scale(sigma), scale(sigma) * data + sigma * fresh
        assert denoiser_gain(sigma, a) == pytest.approx(float((seen * data).mean() / (seen * seen).mean()), abs=0.01)


def test_after_a_restart_it_knows_nothing_and_holds_nothing():
    toy = Toy()
    correction = toy.correction()
    toy.accelerated(correction)
    latent = torch.ones(2, 4, 4, 4)
    assert correction.forecast(9, latent) is not None and correction.drift() is not None
    correction.restart()
    assert correction.forecast(9, latent) is None and correction.drift() is None
    assert correction.computed(10, latent, latent) is None
    correction.restart()
    gc.collect()
    held = [v for v in vars(correction).values() if isinstance(v, dict | torch.Tensor) and len(v)]
    assert not held, held


def test_what_is_not_a_number_stays_where_it_is():
    """One bad output spreads neither to the other picture of the batch nor to what is told later."""
    toy = Toy()
    correction = toy.correction()
    for e in range(STEPS):
        d = toy.path[e].clone()
        if e == 8:
            d[0] = math.nan
        change = correction.computed(e, d, d) if e in COMPUTED else correction.forecast(e, d)
        assert change is None or torch.isfinite(change[1]).all(), e
        assert change is None or torch.isfinite(change[0]).all() or e == 8, e
    correction.restart()
    for e in COMPUTED[:4]:
        change = correction.computed(e, toy.path[e], toy.path[e])
        assert change is None or torch.isfinite(change).all()


def test_a_sampler_with_a_single_last_evaluation_is_corrected_there_too():
    """heun's step down to noise level 0 has no second stage, which then cannot be judged again."""
    toy = Toy("heun")
    computed = (0, 1, 2, 4, 6, 8, 11)
    got, plain = toy.accelerated(toy.correction(toy.answer), computed), toy.accelerated(None, computed)
    assert off(got[-1], toy.full[-1]) < off(plain[-1], toy.full[-1])


# ---------------------------------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def model():
    return inprocess.embedded_model()


@pytest.fixture(autouse=True)
def uninterrupted():
    yield
    comfy.model_management.interrupt_current_processing(False)


def held(corrector):
    """All tensors of a latent's size that a corrector keeps."""
    found, todo = {}, list(vars(corrector).values())
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            found[value.data_ptr()] = value
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value
        elif type(value).__module__.startswith("spectrum_accelerate"):
            todo += vars(value).values()
    return list(found.values())


@pytest.fixture
def told(monkeypatch):
    """Weak references to all that a correction was given, gave, and held in any run."""
    refs = []
    for name, original in (("computed", Corrector.computed), ("forecast", Corrector.forecast)):

        def spy(self, *args, original=original):
            change = original(self, *args)
            refs.extend(weakref.ref(v) for v in [*args, change, *held(self)] if isinstance(v, torch.Tensor))
            return change

        monkeypatch.setattr(Corrector, name, spy)
    return refs


def noise(pictures=2):
    return torch.randn((pictures, 16, 12, 12), generator=torch.Generator().manual_seed(0))


def prompts(pictures=2):
    emoji, backgrounds = [5, 40, 17, 23, 42, 59][:pictures], [1, 2, 0, 3, 7, 4][:pictures]
    return inprocess.prompts(emoji, backgrounds), inprocess.prompts([-1] * pictures, [-1] * pictures)


def sample(model, sampler="euler", steps=20, callback=None, pictures=2, cfg=3.0):
    start = noise(pictures)
    with torch.inference_mode():
        return comfy.sample.sample(
            *(model, start, steps, cfg, sampler, "simple", *prompts(pictures), torch.zeros_like(start)),
            seed=1,
            disable_pbar=True,
            callback=callback,
        )


def both(model, **changes):
    """The MODEL with `correct` and without."""
    return [accelerated(model, schedule=ADAPTIVE, correct=correct, **changes) for correct in (True, False)]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc"])
def test_pictures_come_nearer_to_the_full_runs(model, sampler):
    """By the geometric mean: a picture that takes another turn counts as one."""
    full = sample(model, sampler, pictures=6)
    corrected, plain = both(model, evaluations=8 * (2 if sampler == "heun" else 1))
    near, far = (sample(m, sampler, pictures=6) for m in (corrected, plain))
    assert runs(corrected)[0].computed == runs(plain)[0].computed < runs(plain)[0].total
    ratios = [distance(a, c) / distance(b, c) for a, b, c in zip(near, far, full, strict=True)]
    assert math.prod(ratios) ** (1 / len(ratios)) < 0.95, ratios


def test_where_forecasts_cannot_follow_the_rest_is_computed(model, monkeypatch):
    """Unless so many evaluations were asked for. The limit is low here: with the defaults, models hardly reach it."""
    full = sample(model, cfg=8.0, pictures=4)
    counted, guarded = (
        accelerated(model, schedule=ADAPTIVE, **more) for more in ({"evaluations": 12}, {"skip_interval": 8.0})
    )
    far = distance(sample(counted, cfg=8.0, pictures=4), full)
    other = runs(counted)[0]
    monkeypatch.setattr(policy, "MAX_ESTIMATED_ERROR", other.error / 2)
    near = distance(sample(guarded, cfg=8.0, pictures=4), full)
    trace = runs(guarded)[0]
    assert [str(note) for note in trace.notes] == ["estimated error above 8 %: the remaining steps are computed"]
    assert not other.notes
    stopped = next(e.position for e in trace.evaluations if e.reason is Reason.ERROR_LIMIT)
    assert kinds(trace)[stopped:] == "c" * (20 - stopped) and kinds(trace)[:stopped] == kinds(other)[:stopped]
    assert all(e.feature_error is None for e in trace.evaluations[stopped:]), "no feature is kept any more"
    assert any(e.feature_error is not None for e in trace.evaluations[:stopped])
    assert other.computed < trace.computed < 20 and near < 0.8 * far, (near, far)


@pytest.mark.parametrize("name", ["er_sde", "euler_ancestral", "dpmpp_sde"])
@pytest.mark.parametrize("load", [inprocess.embedded_model, inprocess.unet_model], ids=["flow", "noise"])
def test_samplers_that_add_noise_come_nearer_than_with_fewer_steps(name, load):
    """By the geometric mean, as above; the most that such a sampler bears is forecast, whatever is asked for."""
    row, plain = SAMPLERS[name], load()
    full = sample(plain, name, pictures=6)
    fast = accelerated(plain, schedule=ADAPTIVE, skip_interval=4.0)
    near = sample(fast, name, pictures=6)
    (trace,) = runs(fast)
    steps = math.ceil(trace.computed / row.stages)
    assert trace.forecast > 0 and steps == math.ceil(20 / row.max_speedup)
    assert trace.error is None, "with noise it is not known"
    fewer = sample(plain, name, steps=steps, pictures=6)
    ratios = [distance(a, c) / distance(b, c) for a, b, c in zip(near, fewer, full, strict=True)]
    assert math.prod(ratios) ** (1 / len(ratios)) < 0.8, ratios


def test_correction_of_a_sampler_that_adds_noise_helps():
    model = inprocess.unet_model()
    full = sample(model, "er_sde", pictures=6)
    near, far = (sample(m, "er_sde", pictures=6) for m in both(model, skip_interval=2.0))
    ratios = [distance(a, c) / distance(b, c) for a, b, c in zip(near, far, full, strict=True)]
    assert math.prod(ratios) ** (1 / len(ratios)) < 0.85, ratios


class Changing(comfy.samplers.CFGGuider):
    """Guidance that is another at low noise, at once or little by little."""

    def __init__(self, model, cfg):
        super().__init__(model)
        self.set_conds(*prompts())
        self.at = cfg

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 (as ComfyUI has it)
        self.cfg = self.at(float(timestep[0]))
        return super().predict_noise(x, timestep, model_options, seed)


@pytest.mark.parametrize(
    "cfg",
    [
        lambda sigma: 5.0 if sigma > 0.6 else 1.5,
        lambda sigma: 1.5 if sigma > 0.6 else 5.0,
        lambda sigma: 5.0 if sigma > 0.3 else 2.0,
        lambda sigma: 1.5 if 0.4 < sigma < 0.7 else 4.0,
        lambda sigma: 1.5 + 3.5 * sigma,
    ],
    ids=["down", "up", "down late", "down and up", "little by little"],
)
def test_guidance_that_changes_does_not_make_it_worse(model, cfg):
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 20)

    def sampled(m):
        guider = Changing(m, cfg)
        with torch.inference_mode():
            return guider.sample(
                noise(), torch.zeros_like(noise()), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True,
                seed=1,
            )  # fmt: skip

    full = sampled(model)
    corrected, plain = (distance(sampled(m), full) for m in both(model))
    assert 0 < corrected <= 1.15 * plain, (corrected, plain)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_the_preview_shows_the_models_own_picture(model, sampler):
    """Not what the sampler is told, in which payments for earlier steps show; at the last step that is the result."""
    own, shown = [], {}
    fast, stages = accelerated(model, schedule=ADAPTIVE), SAMPLERS[sampler].stages

    def keep(args):
        own.append(args["denoised"].clone())
        return args["denoised"]

    watched = fast.clone()
    watched.set_model_sampler_post_cfg_function(keep)
    result = sample(watched, sampler, cfg=1.5, callback=lambda step, x0, x, total: shown.update({step: x0.clone()}))
    assert runs(watched)[0].forecast and sorted(shown) == list(range(20))
    for step in range(19):
        assert torch.allclose(shown[step], own[step * stages], atol=1e-5), step
    assert not torch.equal(shown[19], own[19 * stages]), "the last one is told what is owed"
    assert distance(model.model.process_latent_out(shown[19]), result) < 1e-5
    assert torch.equal(result, sample(fast, sampler, cfg=1.5)), "looking changes nothing"


def test_nothing_is_held_after_the_run(model, told):
    fast, _ = both(model)
    sample(fast, "heun", steps=12)
    gc.collect()
    assert runs(fast)[0].forecast and len(told) > 40 and not [ref for ref in told if ref() is not None]


@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_nothing_is_held_after_a_run_that_ends_early(model, told, how):
    count = iter(range(10**6))

    def end(*_):
        if next(count) >= 9:
            if how == "error":
                raise RuntimeError("stop")
            comfy.model_management.interrupt_current_processing()

    fast, _ = both(model)
    handle = model.model.diffusion_model.final_layer.register_forward_pre_hook(end)
    try:
        with pytest.raises((RuntimeError, comfy.model_management.InterruptProcessingException)):
            sample(fast)
    finally:
        handle.remove()
    gc.collect()
    assert runs(fast)[0].outcome == ("interrupted" if how == "interrupt" else "error")
    assert told and not [ref for ref in told if ref() is not None]


@pytest.mark.parametrize("load", [inprocess.embedded_model, inprocess.lumina_model, inprocess.unet_model])
def test_strong_guidance_gets_more_evaluations_and_gains_all_the_same(load):
    """At CFG 7 a third of 30 steps would be worse than 10 plain steps."""
    model = load()
    fast = accelerated(model, schedule=ADAPTIVE)
    full = sample(model, cfg=7.0, steps=30, pictures=4)
    result = sample(fast, cfg=7.0, steps=30, pictures=4)
    (trace,) = runs(fast)
    assert 18 <= trace.computed < 27
    fewer = sample(model, cfg=7.0, steps=trace.computed, pictures=4)
    ratios = [distance(a, c) / distance(b, c) for a, b, c in zip(result, fewer, full, strict=True)]
    assert math.prod(ratios) ** (1 / len(ratios)) < 0.9, ratios


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_norms_are_held_in_every_precision(dtype):
    """Single precision, of each picture, though half precision could not hold the sum."""
    found = _norms(torch.full((2, 4, 64, 64), 1000.0, dtype=dtype))
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx([128_000.0] * 2, rel=1e-3)
