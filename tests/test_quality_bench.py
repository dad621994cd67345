"""The quality bench compares what it says: published formulas, equal numbers of evaluations, and it continues."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.settings import RAW_OUTPUT, Settings

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import quality
from _cases import SAMPLERS, Case, Setting, distances
from _foreign import differences, evenly, hicache, taylor
from _methods import METHODS, PAPER_FIT, extrapolate, official, paper_weights, tuned
from _tables import GENERATED, OURS, ratio, tables

pytestmark = pytest.mark.all  # they sample models for the sake of a bench

UNEVEN = [0, 1, 2, 5, 9, 14]
EVEN = [2, 6, 10, 14]
TINY = Setting("flux", "euler", 8, 1.0, 3.0, (5,))
GUIDED = Setting("flux", "heun", 8, 3.0, 3.0, (5,))
NAMES = {method.name: method for method in METHODS}


def forecast(weights, positions, target, function):
    return float(weights(positions, target) @ [function(p) for p in positions])


# ------------------------------------------------------------------------------------------------- formulas


def test_reuse_is_the_latest_output():
    assert taylor(0)(UNEVEN, 17).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("weights", [taylor(1), taylor(2)])
def test_taylor_is_exact_on_straight_lines_however_uneven(weights):
    assert forecast(weights, UNEVEN, 18, lambda t: 3 * t - 2) == pytest.approx(52)


@pytest.mark.parametrize("order", [1, 2])
def test_taylor_follows_its_recursion(order):
    """Factor 0 is the output, factor i + 1 the change of factor i over the latest gap; then Taylor's formula."""
    values, factors, before = np.sin(UNEVEN), [], None
    for position, value in zip(UNEVEN, values, strict=True):
        updated = [value]
        for i in range(order):
            if i < len(factors) and position > 1:
                updated.append((updated[i] - factors[i]) / (position - before))
            else:
                break
        factors, before = updated, position
    wanted = sum(factor * 3**k / math.factorial(k) for k, factor in enumerate(factors))
    assert taylor(order)(UNEVEN, 17) @ values == pytest.approx(wanted)


def test_order_2_of_taylor_has_the_right_curvature_but_the_slope_of_one_gap_before():
    """On t * t with an even distance N it is off by N times what is left to go: no interpolation, as published."""
    assert forecast(taylor(2), EVEN, 17, lambda t: t * t) == pytest.approx(17**2 - 4 * 3)


@pytest.mark.parametrize(("target", "scale"), [(15, 0.5), (17, 0.5), (16, 0.7)])
def test_hicache_is_the_hermite_formula(target, scale):
    zero, one, two = differences(EVEN, 2)
    x = scale * (target - EVEN[-1])
    wanted = zero + one * (2 * x) * scale + two * (4 * x * x - 2) * scale**2 / 2
    assert hicache(2, scale)(EVEN, target) == pytest.approx(wanted)


def test_official_spectrum_is_the_ridge_formula():
    """phi* (X'X + 0.1 I)^-1 X' with Chebyshev polynomials to degree 4, half of it; half a straight line."""
    target = 17

    def row(position):
        x = (position - 25) / 25
        return [1, x, 2 * x**2 - 1, 4 * x**3 - 3 * x, 8 * x**4 - 8 * x**2 + 1]

    design = np.array([row(p) for p in UNEVEN])
    wanted = row(target) @ np.linalg.inv(design.T @ design + 0.1 * np.eye(5)) @ design.T / 2
    step = (target - 14) / (14 - 9)
    wanted[-2:] += [-step / 2, (1 + step) / 2]
    assert paper_weights()(UNEVEN, target) == pytest.approx(wanted)


def test_official_spectrum_keeps_its_own_schedule_where_that_fits():
    own = {"schedule": "paper", "warmup": 5, "tail": 0, "skip_interval": 2.0, "growth": 0.75}
    assert official(50, 14) == official(20, 9) == own
    assert official(50, 49) is None


@pytest.mark.parametrize(("total", "count"), [(50, 14), (20, 6), (8, 5)])
def test_even_schedules_have_their_count(total, count):
    chosen = evenly(total, count, 3)
    assert chosen[:3] == [0, 1, 2] and len(set(chosen)) == count and chosen[-1] < total
    assert np.ptp(np.diff(chosen)[2:]) <= 1


# ------------------------------------------------------------------------------------------------- the closed loop


@pytest.fixture(scope="module")
def case():
    return Case(TINY, 7, 1)


@pytest.mark.parametrize("method", [m for m in METHODS if not m.tunes], ids=lambda method: method.name)
def test_every_method_spends_the_same_evaluations(case, method):
    result = method.run(case, 5)
    if result is None:
        assert method.name in ("fewer steps, same sampler", "Spectrum, w 0.5, on the model output")
    else:
        assert result[1] == 5 and torch.isfinite(result[0]).all()


def test_no_row_where_the_node_computes_more(case):
    assert NAMES[OURS].run(case, 2) is None and NAMES["TaylorSeer 2, our schedule"].run(case, 2) is None


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_a_threshold_is_found(case, name):
    assert NAMES[name].run(case, 5, 0.0)[1] == TINY.steps, "threshold 0 reuses nothing"
    assert NAMES[name].run(case, 5, tuned(NAMES[name], case, 5))[1] == pytest.approx(5, abs=1)


@pytest.mark.parametrize(("name", "evaluations"), [("fewer steps, euler", 9), ("TaylorSeer 2", 10), (OURS, 9)])
def test_stages_and_both_conditionings_are_counted(name, evaluations):
    """Five of eight steps of heun: the last has one evaluation, for those that compute it."""
    assert SAMPLERS["heun"].evaluations(5) == 9
    assert NAMES[name].run(Case(GUIDED, 7, 1), 5)[1] == evaluations


def test_forecasting_the_guided_output_is_what_the_node_does_with_that_target():
    """Two ways to the same: weights on the guided output, and the node on each conditioning's own."""
    case = Case(Setting("flux", "euler", 8, 3.0, 3.0, (6,)), 7, 1)
    settings = Settings.of(**{**PAPER_FIT, **official(8, 6), "target": RAW_OUTPUT, "correct": False})
    node = case.sample(accelerate(case.model, settings))
    weights = settings.forecaster().weights
    wrapper = extrapolate(case, settings.schedule_for((1.0,) * 9).plan(8), lambda known, step: weights(known, step, 8))
    assert node[1] == wrapper[1] == 6
    assert distances(wrapper[0], node[0])[0] < 1e-4


# ------------------------------------------------------------------------------------------------- the run


def test_it_continues_where_it_stopped(tmp_path, monkeypatch):
    """Nothing is sampled twice, not even when the last line was cut off; the notes above the tables stay."""
    monkeypatch.setattr(quality, "METHODS", [NAMES["fewer steps, euler"], NAMES[OURS]])
    monkeypatch.setattr(quality, "SOLVED", 4)
    store, docs = tmp_path / "store", tmp_path / "docs"
    first = quality.run([TINY], 1, quality.Store(store), docs)
    with (store / "cells.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    readme = (docs / "README.md").read_text()
    (docs / "README.md").write_text("# Noted\n" + readme[readme.index(GENERATED) :])
    monkeypatch.setattr(Case, "sample", lambda *args, **kwargs: pytest.fail("sampled again"))
    again = quality.run([TINY], 1, quality.Store(store), docs)
    assert [row.full.tolist() for row in again] == [row.full.tolist() for row in first]
    assert (docs / "README.md").read_text().startswith("# Noted\n" + GENERATED)
    (table,) = tables(again)
    assert [row.evaluations for row in table.rows] == [8, *[5] * 2]


def test_ratios_are_of_the_same_pictures():
    ours = np.array([0.1, 0.2, 0.3])
    assert ratio(ours, 2 * ours) == pytest.approx((0.5, 0.5, 0.5))
