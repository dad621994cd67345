"""Which evaluations are computed: the paper's index sets, and what every schedule guarantees."""

import math
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_accelerate.spectrum_core.schedule import (
    FixedInterval,
    GrowingInterval,
    Plan,
    State,
    alternating,
    balanced,
    least,
)

quick = settings(deadline=None, derandomize=True, max_examples=150)
hundredths = st.integers(0, 800).map(lambda n: n / 100)
halves = st.integers(3, 32).map(lambda n: n / 2)
totals, warmups = st.integers(1, 400), st.integers(1, 30)


@st.composite
def schedules(draw, tail=None):
    warmup, interval = draw(warmups), draw(halves | st.sampled_from([0.5, 1.0]))
    tail = draw(st.integers(0, 10)) if tail is None else tail
    if draw(st.booleans()):
        return FixedInterval(warmup, tail, interval)
    return GrowingInterval(warmup, tail, interval, draw(hundredths))


def official(steps, warmup, window, flex):
    """The official loop, as printed (Spectrum, hanjq17, HEAD f7b7841)."""
    computed, consecutive = [], 0
    for count in range(steps):
        actual = True
        if count >= warmup:
            actual = (consecutive + 1) % math.floor(window) == 0
            if actual:
                window = round(window + flex, 3)
        if actual:
            computed.append(count)
        consecutive = 0 if actual else consecutive + 1
    return computed


def simulate(schedule, total, forced):
    """What a run computes that has its own reasons to compute some evaluations."""
    state, computed = State(), []
    for index in range(total):
        if index in forced or schedule.reason(state, index, total):
            computed.append(index)
            state = schedule.step(state, index, forced=index in forced)
    return computed


@pytest.mark.parametrize(
    "growth, computed",
    [
        (0.25, [0, 1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 21, 24, 28, 32, 36, 40, 45]),
        (0.75, [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]),
        (3, [0, 1, 2, 3, 4, 6, 11, 19, 30, 44]),
        (0, [0, 1, 2, 3, *range(4, 50, 2)]),
    ],
)
def test_fifty_evaluations_of_the_paper(growth, computed):
    assert GrowingInterval(warmup=5, tail=0, interval=2, growth=growth).plan(50) == computed


@quick
@given(totals, warmups, halves, hundredths)
def test_the_growing_interval_is_the_official_loop(total, warmup, interval, growth):
    assert GrowingInterval(warmup, 0, interval, growth).plan(total) == official(total, warmup, interval, growth)


def test_an_interval_that_adds_up_to_a_whole_number_counts_as_one():
    """2 + 25 * 2.28 is 59, but not in binary."""
    assert GrowingInterval(5, 0, 2, 2.28).distance(25) == 59


@quick
@given(schedules(tail=0), st.integers(0, 40), totals)
def test_the_tail_adds_exactly_the_last_evaluations(schedule, tail, total):
    with_tail = replace(schedule, tail=tail)
    assert with_tail.plan(total) == sorted({*schedule.plan(total), *range(max(0, total - tail), total)})


@quick
@given(schedules(), totals)
def test_a_plan_is_in_order_in_range_and_starts_with_the_warm_up(schedule, total):
    plan = schedule.plan(total)
    assert plan == sorted(set(plan)) and set(plan) <= set(range(total))
    assert plan[: schedule.warmup] == list(range(min(schedule.warmup, total)))


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_first_evaluation_is_always_computed(warmup):
    assert GrowingInterval(warmup, 0, 4, 1).plan(10)[0] == 0
    assert FixedInterval(warmup, 0, 4).plan(10)[0] == 0


@quick
@given(warmups, hundredths, totals)
def test_an_interval_of_one_computes_everything(warmup, growth, total):
    for schedule in (GrowingInterval(warmup, 0, 1, growth), FixedInterval(warmup, 0, 1)):
        assert schedule.plan(total) == list(range(total))


@quick
@given(schedules(), st.integers(1, 30))
def test_a_warm_up_as_long_as_the_run_computes_everything(schedule, total):
    assert replace(schedule, warmup=total).plan(total) == list(range(total))


@pytest.mark.parametrize(
    "interval, computed",
    [(2, [0, 1, 3, 5, 7, 9, 11]), (2.5, [0, 1, 3, 6, 8, 11]), (4, [0, 1, 5, 9]), (1.5, [0, 1, 2, 4, 5, 7, 8, 10, 11])],
)
def test_a_fixed_interval_stays_and_a_fractional_one_alternates(interval, computed):
    assert FixedInterval(warmup=2, tail=0, interval=interval).plan(12) == computed


@quick
@given(schedules(), st.integers(0, 40), totals)
def test_forced_evaluations_do_not_grow_the_interval(schedule, extra, total):
    """After a forced stretch the run goes on as after a warm-up: the next is computed, distances start small."""
    last = schedule.warmup - 1 + extra
    as_warmup = replace(schedule, warmup=last + 2)
    assert simulate(schedule, total, forced=range(last + 1)) == as_warmup.plan(total)


def test_the_reasons_are_said():
    schedule, state = GrowingInterval(warmup=2, tail=1, interval=3, growth=0), State(due=4, steps=1)
    assert [schedule.reason(state, i, 6) for i in range(6)] == ["warm-up", "warm-up", None, None, "schedule", "tail"]


@quick
@given(schedules(), st.integers(0, 100), st.integers(0, 50), st.integers(0, 100), st.booleans())
def test_the_same_state_gives_the_same_answer(schedule, due, steps, index, forced):
    state = State(due, steps)
    answers = [(schedule.reason(state, index, 60), schedule.step(state, index, forced)) for _ in range(2)]
    assert answers[0] == answers[1] and state == State(due, steps)
    assert answers[0][1].due > index


@pytest.mark.parametrize("frozen, name", [(State(), "due"), (GrowingInterval(5, 1, 2, 0.75), "growth")])
def test_neither_state_nor_schedule_can_be_changed(frozen, name):
    with pytest.raises(FrozenInstanceError):
        setattr(frozen, name, 1)


noises = st.lists(st.floats(0, 1), min_size=2, max_size=120).map(lambda levels: sorted(levels, reverse=True))
speedups = st.floats(1, 16)


@quick
@given(noises, speedups, warmups, st.integers(0, 10))
def test_a_balanced_plan_keeps_its_budget_its_warm_up_and_its_tail(times, speedup, warmup, tail):
    total = len(times) - 1
    schedule = balanced(times, speedup, warmup, tail)
    computed = list(schedule.computed)
    assert len(computed) == min(total, max(least(total), math.floor(total / speedup)))
    assert computed == sorted(set(computed)) and set(computed) <= set(range(total))
    assert schedule.plan(total) == computed, "warm-up and tail are part of the budget"
    assert schedule.warmup <= warmup and schedule.tail <= tail
    assert {*range(min(total, schedule.warmup)), *range(max(0, total - schedule.tail), total)} <= set(computed)


def flow(steps, shift):
    return [shift * t / (1 + (shift - 1) * t) for t in (1 - i / steps for i in range(steps + 1))]


@pytest.mark.parametrize("steps", [28, 50, 100])
@pytest.mark.parametrize("shift", [1, 3, 8])
def test_balanced_gaps_grow_out_of_the_warm_up_and_shrink_to_the_end(steps, shift):
    """No gap is much longer than the one before: a polynomial through close points does not reach far."""
    computed = balanced(flow(steps, shift), 3.3, 3, 1).computed
    gaps = [b - a for a, b in pairwise(computed)]
    widest = gaps.index(max(gaps))
    assert all(b <= 4 * a for a, b in pairwise(gaps)) and 0 < widest < len(gaps) - 1
    assert gaps[-1] < max(gaps) or shift == 1, "most of the noise goes late where the shift is high"


def test_short_runs_are_computed_more():
    assert [least(n) for n in (4, 5, 8, 12, 20, 28, 50, 100)] == [5, 5, 5, 6, 8, 10, 14, 20]


def test_balanced_spends_where_noise_goes():
    late = balanced(flow(50, 8), 3.3, 3, 1).computed
    even = balanced(flow(50, 1), 3.3, 3, 1).computed
    assert sum(i >= 35 for i in late) > sum(i >= 35 for i in even)


def test_fifty_balanced_evaluations():
    assert balanced(flow(50, 3), 3.3, 3, 1).computed == (0, 1, 2, 5, 9, 14, 19, 24, 29, 33, 37, 41, 44, 47, 49)


def test_noise_levels_that_never_change_are_spread_over_the_steps():
    assert balanced([1.0] * 31, 3, 2, 1).computed[0] == 0 and len(balanced([1.0] * 31, 3, 2, 1).computed) == 10


@quick
@given(st.sets(st.integers(0, 59), min_size=1), st.sets(st.integers(0, 59)))
def test_what_else_is_computed_leaves_a_plan_as_it_is(computed, forced):
    plan = Plan(1, 0, tuple(sorted(computed | {0})))
    assert simulate(plan, 60, forced) == sorted(computed | {0} | forced)


@quick
@given(totals, st.floats(1, 2), warmups, st.integers(0, 10))
def test_alternating_never_forecasts_twice_in_a_row(total, speedup, warmup, tail):
    computed = alternating(total, speedup, warmup, tail).plan(total)
    assert all(b - a <= 2 for a, b in pairwise(computed))
    assert len(computed) >= total / speedup and {0, total - 1} <= set(computed)
    assert {*range(min(total, warmup)), *range(max(0, total - tail), total)} <= set(computed)


def test_twelve_alternating_evaluations():
    assert alternating(12, 1.25, 3, 1).plan(12) == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    assert alternating(12, 2, 3, 1).plan(12) == [0, 1, 2, 4, 6, 8, 10, 11]
