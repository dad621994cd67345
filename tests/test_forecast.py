"""One weight per history entry: the official formulas, and what extrapolation must not get wrong."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_accelerate.spectrum_core.forecast import INTERCEPTS, Forecaster
from spectrum_accelerate.spectrum_core.schedule.intervals import GrowingInterval

quick = settings(deadline=None, derandomize=True, max_examples=100)
ridges = st.just(0.0) | st.floats(1e-6, 10)
blends = st.floats(0, 1)
intercepts = st.sampled_from(INTERCEPTS)
TOTAL = 60
OFFICIAL_TOTAL = 51
"""The official code maps evaluation i to (i - 25) / 25 whatever the number of steps: as if there were 51."""


@st.composite
def histories(draw, low=1, high=12, repeat=True):
    """Positions, oldest first, uneven and (if wanted) repeating; and a target after them."""
    start = draw(st.integers(0, 10))
    gaps = draw(st.lists(st.integers(0 if repeat else 1, 6), min_size=low - 1, max_size=high - 1))
    points = [start + sum(gaps[:i]) for i in range(len(gaps) + 1)]
    return points, points[-1] + draw(st.integers(1, 8))


@st.composite
def forecasters(draw, **fixed):
    drawn = {"degree": st.integers(1, 8), "window": st.integers(1, 14), "ridge": ridges, "blend": blends,
             "intercept": intercepts}  # fmt: skip
    return Forecaster(**{name: fixed[name] if name in fixed else draw(values) for name, values in drawn.items()})


def official(points, target, features, tau, degree, ridge, blend):
    """The official formulas as they are printed (Spectrum, hanjq17, HEAD f7b7841), in float64."""

    def chebyshev(t):
        values = [1.0, tau(t)]
        while len(values) <= degree:
            values.append(2 * tau(t) * values[-1] - values[-2])
        return np.array(values[: degree + 1])

    x = np.stack([chebyshev(t) for t in points])
    coefficients = np.linalg.solve(x.T @ x + ridge * np.eye(degree + 1), x.T @ features)
    local = features[-1]
    if len(points) > 1:
        k = (target - points[-1]) / max(points[-1] - points[-2], 1e-8)
        local = features[-1] + k * (features[-1] - features[-2])
    return (1 - blend) * local + blend * chebyshev(target) @ coefficients


def lagrange(points, target):
    """Interpolating weights in exact arithmetic."""
    weights = [Fraction(1)] * len(points)
    for i, p in enumerate(points):
        for q in points[:i] + points[i + 1 :]:
            weights[i] *= Fraction(target - q, p - q)
    return np.array(weights, dtype=float)


@pytest.mark.parametrize("blend", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("degree, ridge", [(4, 0.1), (1, 0.01), (8, 3.0)])
@pytest.mark.parametrize("total", [50, 20])
@pytest.mark.parametrize("interval", ["official", "run"])
def test_the_paper_intercept_equals_the_official_formulas_on_every_evaluation(interval, total, degree, ridge, blend):
    def tau(t):
        return (t - 25) * 2 / 50 if interval == "official" else 2 * t / (total - 1) - 1

    steps = OFFICIAL_TOTAL if interval == "official" else total

    computed = GrowingInterval(warmup=1, tail=0, interval=2, growth=0.75).plan(total)
    features = np.random.default_rng(0).standard_normal((len(computed), 64))
    forecaster = Forecaster(degree, 100, ridge, blend, "paper")
    assert len(computed) < total - 1
    for target in sorted(set(range(total)) - set(computed)):
        points = [p for p in computed if p < target]
        known = features[: len(points)]
        expected = official(points, target, known, tau, degree, ridge, blend)
        actual = forecaster.weights(points, target, steps) @ known
        assert np.linalg.norm(actual - expected) <= 1e-6 * np.linalg.norm(expected), target


def test_the_official_formulas_apply_to_the_window_only():
    points, features = [0, 1, 2, 3, 4, 6, 8, 11], np.random.default_rng(1).standard_normal((8, 16))
    expected = official(points[-5:], 14, features[-5:], lambda t: (t - 25) / 25, 4, 0.1, 0.5)
    actual = Forecaster(4, 5, 0.1, 0.5, "paper").weights(points, 14, OFFICIAL_TOTAL) @ features
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@quick
@given(histories(), forecasters(intercept="free"))
def test_a_constant_feature_is_forecast_exactly_with_the_free_intercept(history, forecaster):
    weights = forecaster.weights(*history, TOTAL)
    assert abs(weights.sum() - 1) <= 1e-8 * np.abs(weights).sum()


def test_the_paper_intercept_shrinks_a_constant_feature():
    """Why there are two: it is a fact of the official formula, and the documentation gives this figure."""
    points = [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]
    paper, free = (Forecaster(4, 100, 0.1, 1.0, i).weights(points, 49, OFFICIAL_TOTAL).sum() for i in INTERCEPTS[::-1])
    assert 0.7 < paper < 0.95 and free == pytest.approx(1)


@quick
@given(histories(low=2, high=9, repeat=False), intercepts, st.sampled_from([TOTAL, 1000, 10000]))
def test_without_ridge_or_spare_points_the_weights_are_the_interpolating_ones(history, intercept, total):
    points, target = history
    shift = total - TOTAL  # to the end of a long run, where the window is a sliver of it
    points, target = [p + shift for p in points], target + shift
    forecaster = Forecaster(len(points) - 1, len(points), 0.0, 1.0, intercept)
    expected = lagrange(points, target)
    np.testing.assert_allclose(forecaster.weights(points, target, total), expected, atol=1e-8 * np.abs(expected).max())


@quick
@given(histories(low=3, repeat=False), st.integers(1, 8), st.data())
def test_polynomials_up_to_the_degree_are_exact_without_ridge(history, degree, data):
    points, target = history
    degree = min(degree, len(points) - 1)
    power = data.draw(st.integers(0, degree))
    weights = Forecaster(degree, len(points), 0.0, 1.0, "free").weights(points, target, TOTAL)
    values = np.array([((p - points[0]) / 10) ** power for p in points])
    assert abs(weights @ values - ((target - points[0]) / 10) ** power) <= 1e-8 * np.abs(weights * values).sum() + 1e-9


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_polynomials_become_exact_as_the_ridge_vanishes(intercept):
    points, target = [0, 1, 2, 3, 4, 6, 11, 19, 30], 40
    values = np.array([(p / 20) ** 3 - (p / 20) ** 2 + 0.3 for p in points])
    errors = [
        abs(Forecaster(3, 9, ridge, 1.0, intercept).weights(points, target, 50) @ values - 4.3)
        for ridge in (1e-1, 1e-4, 1e-7, 1e-10)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3 and errors[-1] < 1e-6


@quick
@given(histories(high=20), forecasters())
def test_only_the_window_has_weight(history, forecaster):
    points, target = history
    weights = forecaster.weights(points, target, TOTAL)
    assert weights.dtype == np.float64 and weights.shape == (len(points),)
    assert not weights[: -forecaster.window].any()
    np.testing.assert_array_equal(
        weights[-forecaster.window :], forecaster.weights(points[-forecaster.window :], target, TOTAL)
    )


@quick
@given(histories(), forecasters(blend=1.0, intercept="free"))
def test_the_degree_drops_to_what_the_distinct_positions_determine(history, forecaster):
    """Least squares are the smallest weights that reproduce the polynomials, and a ridge shrinks them further."""
    points, target = history
    weights = forecaster.weights(points, target, TOTAL)
    distinct = sorted(set(points[-forecaster.window :]))
    bound = np.linalg.norm(lagrange(distinct[-forecaster.degree - 1 :], target))
    assert np.linalg.norm(weights) <= bound * (1 + 1e-6)


@quick
@given(histories(), forecasters())
def test_the_weights_are_finite(history, forecaster):
    assert np.isfinite(forecaster.weights(*history, TOTAL)).all()


@pytest.mark.parametrize("points, distinct", [([3, 5], 2), ([3, 3, 5], 2), ([4, 4, 4], 1), ([1, 1, 2, 2, 4, 4], 3)])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_degree_beyond_the_points_is_the_highest_that_they_support(points, distinct, ridge):
    asked, supported = (Forecaster(d, 8, ridge).weights(points, 7, 20) for d in (8, max(1, distinct - 1)))
    np.testing.assert_allclose(asked, supported)


@quick
@given(forecasters(intercept="free"), st.integers(0, 40), st.integers(1, 9))
def test_a_single_feature_is_held(forecaster, point, ahead):
    np.testing.assert_allclose(forecaster.weights([point], point + ahead, TOTAL), [1.0])


@quick
@given(histories(low=2, high=2, repeat=False), st.integers(1, 8), blends)
def test_two_features_are_continued_in_a_straight_line_without_ridge(history, degree, blend):
    (a, b), target = history
    slope = (target - b) / (b - a)
    weights = Forecaster(degree, 8, 0.0, blend, "free").weights([a, b], target, TOTAL)
    np.testing.assert_allclose(weights, [-slope, 1 + slope], rtol=1e-9)


def test_newton_steps_over_a_repeated_position():
    weights = Forecaster(1, 8, 0.0, blend=0.0).weights([2, 4, 4], 6, 20)
    np.testing.assert_allclose(weights, [-1, 0, 2])


@quick
@given(histories(), forecasters(), blends)
def test_blend_goes_linearly_from_newton_to_the_spectral_fit(history, forecaster, blend):
    def weights(share):
        return replace(forecaster, blend=share).weights(*history, TOTAL)

    np.testing.assert_allclose(weights(blend), (1 - blend) * weights(0.0) + blend * weights(1.0), rtol=1e-9, atol=1e-9)


@quick
@given(histories(), forecasters(ridge=0.0), st.integers(1, 500))
def test_without_a_ridge_it_does_not_matter_where_the_window_stands(history, forecaster, shift):
    points, target = history
    here = forecaster.weights(points, target, TOTAL)
    there = forecaster.weights([p + shift for p in points], target + shift, TOTAL)
    np.testing.assert_allclose(there, here, atol=1e-8 * np.abs(here).max())


def test_a_forecast_from_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one computed evaluation"):
        Forecaster(2, 3, 0.0).weights([], 1, 20)
