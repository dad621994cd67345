"""Where evaluations stand on the Chebyshev interval, and the polynomials there."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_accelerate.spectrum_core.basis import SCALINGS, design, scale

quick = settings(deadline=None, derandomize=True, max_examples=60)
positions = st.lists(st.integers(0, 200), min_size=1, max_size=20)


@quick
@given(positions, st.integers(0, 200), st.integers(2, 201))
def test_run_scaling_maps_the_first_evaluation_to_minus_one_and_the_last_to_one(points, target, total):
    x, x_target = scale(points, target, total, "run")
    np.testing.assert_allclose(x, [-1 + 2 * p / (total - 1) for p in points], atol=1e-12)
    assert x_target == pytest.approx(-1 + 2 * target / (total - 1), abs=1e-12)


@quick
@given(positions, st.integers(0, 200), st.integers(1, 201))
def test_paper_scaling_is_the_official_one_whatever_the_number_of_evaluations(points, target, total):
    x, x_target = scale(points, target, total, "paper")
    np.testing.assert_allclose(x, [(p - 25) * 2 / 50 for p in points], atol=1e-12)
    assert x_target == pytest.approx((target - 25) * 2 / 50, abs=1e-12)


@quick
@given(positions, st.integers(0, 200), st.integers(1, 201))
def test_window_scaling_spans_the_fit_and_its_target(points, target, total):
    x, x_target = scale(points, target, total, "window")
    both = np.append(x, x_target)
    if len({*points, target}) > 1:
        assert (both.min(), both.max()) == pytest.approx((-1, 1))
        np.testing.assert_allclose(
            np.diff(both) * (max(*points, target) - min(*points, target)) / 2, np.diff([*points, target]), atol=1e-9
        )
    else:
        assert not both.any()


@pytest.mark.parametrize("scaling", ["run", "window"])
def test_a_run_of_one_evaluation_scales_to_the_centre(scaling):
    x, x_target = scale([0], 0, 1, scaling)
    assert (x.tolist(), x_target) == ([0.0], 0.0)


def test_an_unknown_scaling_is_named_beside_those_that_exist():
    with pytest.raises(ValueError, match=f"'unit'.*{', '.join(SCALINGS)}"):
        scale([0, 1], 2, 3, "unit")


@quick
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9), st.integers(0, 8))
def test_design_holds_the_chebyshev_polynomials_inside_and_outside_the_interval(xs, degree):
    def polynomial(m, x):
        if abs(x) <= 1:
            return math.cos(m * math.acos(x))
        return math.copysign(1, x) ** m * math.cosh(m * math.acosh(abs(x)))

    expected = [[polynomial(m, x) for m in range(degree + 1)] for x in xs]
    np.testing.assert_allclose(design(np.array(xs), degree), expected, rtol=1e-9, atol=1e-9)
