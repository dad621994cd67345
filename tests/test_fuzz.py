"""Random combinations of model, sampler, prompts, settings and failures; a plain run of the same case is the oracle.

A case is made from its number alone; one that fails runs again alone: pytest "tests/test_fuzz.py::test_case[17]"
"""

import gc
import json
import math
import random
import weakref
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import spectrum_accelerate.nodes.runtime.run as run_module
import spectrum_accelerate.nodes.samplers.linear_map as solver
import torch
from comfy.patcher_extension import WrappersMP
from sampling import accelerated, fingerprint, flat, runs
from spectrum_accelerate.nodes.samplers.table import SAMPLERS as HOW
from spectrum_accelerate.nodes.settings import TARGETS
from spectrum_accelerate.spectrum_core.forecast import INTERCEPTS
from spectrum_accelerate.spectrum_core.history import History
from spectrum_accelerate.spectrum_core.schedule import SCHEDULES
from torch.overrides import TorchFunctionMode
from zoo import MODELS

FAST, EVERYTHING = 40, 300
SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name != "dpm_adaptive"]
"""Adaptive steps get ever smaller on random weights; tests/test_sampling.py runs that sampler."""
FORECAST = [name for name in SAMPLERS if name not in HOW or not HOW[name].obstacle]
"""Those that are accelerated."""


class Boom(Exception):
    pass


FAILURES = (Boom, torch.OutOfMemoryError, comfy.model_management.InterruptProcessingException)


@dataclass(frozen=True)
class Case:
    """Everything that a run is made from."""

    number: int
    model: str
    sampler: str
    scheduler: str
    steps: int
    denoise: float
    cfg: float
    batch: int
    regions: tuple[str, ...]  # of each positive prompt
    settings: dict[str, Any] = field(hash=False)
    failure: type[BaseException] | None
    moment: float  # part of the plain run's operations after which it fails
    unknown: bool  # no table knows the sampler

    @classmethod
    def make(cls, number: int) -> "Case":
        rand = random.Random(number)
        model = rand.choice(list(MODELS))
        flat_picture = len(MODELS[model].latent) == 3 and not MODELS[model].more_latents
        start, end = sorted(rand.sample(range(21), 2))
        schedule = rand.choice(list(SCHEDULES))
        return cls(
            number=number,
            model=model,
            sampler=rand.choice(SAMPLERS if rand.random() < 0.2 else FORECAST),
            scheduler=rand.choice(comfy.samplers.KSampler.SCHEDULERS),
            steps=rand.randint(1, 20) if rand.random() < 0.2 else rand.randint(8, 20),
            denoise=rand.choice((1.0, 1.0, 0.7, 0.3)),
            cfg=rand.choice((1.0, 3.0)),
            batch=1 if MODELS[model].one_by_one else rand.choice((1, 1, 2)),
            regions=tuple(
                rand.choice(("", "area", "mask")) if flat_picture and rand.random() < 0.5 else ""
                for _ in range(rand.choice((1, 1, 2, 3)))
            ),
            settings={
                "degree": rand.randint(1, 8),
                "window": rand.randint(2, 12),
                "skip_interval": rand.choice((1.0, 1.5, 2.0, 2.0, 3.0, 6.0)),
                "growth": rand.choice((0.0, 0.25, 0.75, 3.0)),
                "warmup": rand.randint(1, 5),
                "tail": rand.randint(0, 2),
                "ridge": rand.choice((0.0, 0.1, 1.0)),
                "blend": rand.choice((0.0, 0.5, 1.0)),
                "intercept": rand.choice(INTERCEPTS),
                "target": rand.choice(TARGETS),
                "start_percent": start / 20 if rand.random() < 0.15 else 0.0,
                "end_percent": end / 20 if rand.random() < 0.15 else 1.0,
                "schedule": schedule,
                "evaluations": rand.choice((0, 0, 0, 1, 5, 9, 1000)),
                "correct": rand.random() < 0.7,
            },
            failure=rand.choice(FAILURES) if rand.random() < 0.4 else None,
            moment=rand.random(),
            unknown=rand.random() < 0.15,
        )

    def positive(self) -> list[list[Any]]:
        """The prompts, each in its region: the left or right half, or everything."""
        tiny, conditioning = MODELS[self.model], []
        height, width = tiny.latent[-2:]
        for index, region in enumerate(self.regions):
            ((embedding, extras),) = tiny.conditioning(self.number + 10 + index)
            if region == "area":
                extras["area"] = (height, width // 2, 0, width // 2 * (index % 2))
            elif region == "mask":
                extras["mask"] = torch.zeros(1, height * 8, width * 8)
                extras["mask"][..., : width * 4] = 1.0
            conditioning.append([embedding, extras])
        return conditioning

    def sample(self, model: Any) -> torch.Tensor:
        """One run, as KSampler does it."""
        tiny = MODELS[self.model]
        latent = tiny.empty(self.batch)
        noise = comfy.sample.prepare_noise(latent, self.number)
        with torch.inference_mode():
            result = comfy.sample.sample(
                model, noise, self.steps, self.cfg, self.sampler, self.scheduler, self.positive(),
                tiny.conditioning(self.number + 1), latent, denoise=self.denoise, seed=self.number, disable_pbar=True,
            )  # fmt: skip
        return flat(result)


class Operations(TorchFunctionMode):
    """Count the operations on tensors; fail at one of them."""

    def __init__(self, failure: BaseException | None = None, at: int = -1) -> None:
        super().__init__()
        self.count, self._failure, self._at = 0, failure, at

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self._at and self._failure is not None:
            raise self._failure
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", autouse=True)
def forget_the_models():
    yield
    tiny_model.cache_clear()


@cache
def tiny_model(name: str) -> tuple[Any, Any]:
    """A model and what it must look like after every case."""
    model = MODELS[name].build()
    return model, fingerprint(model)


def outcome(case: Case, model: Any, operations: Operations) -> torch.Tensor | type[BaseException]:
    """The result of a run, or the class of what it raised. Tracebacks, which hold on to everything, go at once."""
    try:
        with operations:
            return case.sample(model)
    except (Exception, comfy.model_management.InterruptProcessingException) as error:
        return type(error)


def same(a: Any, b: Any) -> bool:
    """Whether two outcomes are equal; a diverging run is NaN in both."""
    if isinstance(a, type) or isinstance(b, type):
        return a is b
    return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def check(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = tiny_model(case.model)
    counting = Operations()
    plain = outcome(case, model, counting)

    evaluations, alive = [], []
    push, init = History.push, run_module.SamplingRun.__init__

    def spy(self, *args):
        push(self, *args)
        alive.append(weakref.ref(self._features[-1]))

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        alive.append(weakref.ref(self))

    def count(executor, *args, **kwargs):
        evaluations.append(1)
        return executor(*args, **kwargs)

    monkeypatch.setattr(History, "push", spy)
    monkeypatch.setattr(run_module.SamplingRun, "__init__", remember)
    if case.unknown:
        monkeypatch.setattr(run_module, "known_sampler", lambda sampler: None)
        monkeypatch.setattr(solver, "known_sampler", lambda sampler: None)
    fast = accelerated(model, **case.settings)
    fast.add_wrapper(WrappersMP.PREDICT_NOISE, count)
    failure = case.failure("injected") if case.failure else None
    result = outcome(case, fast, Operations(failure, 1 + int(case.moment * counting.count)))
    del failure

    if isinstance(result, type):
        assert result in (case.failure, plain), f"raised {result}"
    elif not isinstance(plain, type) and plain.isfinite().all():
        assert result.isfinite().all()

    if alive and any(ref() is not None for ref in alive):
        gc.collect()
        assert not [ref() for ref in alive if ref() is not None], "something of the run is still alive"
    for trace in runs(fast):
        text = json.loads(trace.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert text["computed"] + text["forecast"] == len(trace.evaluations) == len(text["evaluations"])
        assert [e.position for e in trace.evaluations] == list(range(len(trace.evaluations)))
        assert len(trace.evaluations) <= max(len(evaluations), 0) and trace.summary()
        assert all(math.isfinite(e.sigma) for e in trace.evaluations)
        assert trace.outcome == "error" or all(e.seconds is not None for e in trace.evaluations)
        if isinstance(result, type):
            interrupt = result is comfy.model_management.InterruptProcessingException
            assert trace.outcome == ("interrupted" if interrupt else "error")
        else:
            # Out of memory outside of any call, with features held: the run began again without them.
            again = case.failure is torch.OutOfMemoryError and trace.outcome == "error" and same(result, plain)
            assert trace.outcome == "done" or again
            assert trace.full or again or len(trace.evaluations) == len(evaluations)
            if not trace.forecast and case.failure is None:
                assert same(result, plain), f"nothing was forecast, but the result differs: {trace.summary()}"
    assert fingerprint(model) == before
    if case.failure or case.number % 4 == 0:
        assert same(outcome(case, model, Operations()), plain), "the plain model differs afterwards"


@pytest.mark.parametrize(
    "number", [*range(FAST), *(pytest.param(n, marks=pytest.mark.all) for n in range(FAST, EVERYTHING))]
)
def test_case(number, monkeypatch):
    """Only what was injected reaches the user, the trace is consistent, and nothing of the run is left behind."""
    case = Case.make(number)
    try:
        check(case, monkeypatch)
    except BaseException as error:
        raise AssertionError(f"{error}\n{case}") from error
