"""Which evaluations are computed: the paper's index sets, and what every schedule guarantees."""

import math
from dataclasses import FrozenInstanceError, replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spectrum_accelerate.spectrum_core.schedule import (
    FEWEST,
    FIRST_GAP,
    GENTLE,
    REJECTED,
    SMOOTH,
    FixedInterval,
    GrowingInterval,
    Plan,
    State,
    balanced,
    budget,
    controlled,
    least,
    measure,
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


def flow(steps, shift):
    return [shift * t / (1 + (shift - 1) * t) for t in (1 - i / steps for i in range(steps + 1))]


@quick
@given(totals, speedups, st.integers(0, 60))
def test_the_budget_is_what_was_asked_for_within_what_makes_sense(total, speedup, evaluations):
    """`evaluations` if given, at least three; else 1 / `speedup`, but `least`. Never more than there are."""
    count = budget(total, speedup, evaluations)
    if evaluations:
        assert count == min(total, max(FEWEST, evaluations))
    else:
        assert count == min(total, max(least(total), math.floor(total / speedup)))


@quick
@given(noises, speedups, st.integers(0, 60), warmups, st.integers(0, 10))
def test_a_balanced_plan_keeps_its_budget_its_warm_up_and_its_tail(times, speedup, evaluations, warmup, tail):
    total = len(times) - 1
    count = budget(total, speedup, evaluations)
    schedule = balanced(times, count, warmup, tail)
    computed = list(schedule.computed)
    assert len(computed) == count
    assert computed == sorted(set(computed)) and set(computed) <= set(range(total))
    assert schedule.plan(total) == computed, "warm-up and tail are part of the budget"
    assert schedule.warmup <= warmup and schedule.tail <= tail
    assert {*range(min(total, schedule.warmup)), *range(max(0, total - schedule.tail), total)} <= set(computed)


@pytest.mark.parametrize("warmup", [1, 3])
@pytest.mark.parametrize("steps", [28, 50, 100])
@pytest.mark.parametrize("shift", [1, 3, 8])
def test_balanced_gaps_grow_out_of_the_warm_up_and_shrink_to_the_end(steps, shift, warmup):
    """No gap is much longer than the one before: a polynomial through close points does not reach far."""
    computed = balanced(flow(steps, shift), budget(steps, 3.3), warmup, 1).computed
    gaps = [b - a for a, b in pairwise(computed)]
    assert all(b <= 3 * a for a, b in pairwise(gaps)) and gaps[0] < max(gaps)
    assert gaps[-1] < max(gaps) or shift == 1, "shifts take most of the noise away at the end"


@quick
@given(st.integers(20, 80), st.floats(1, 6), st.floats(0.25, 0.45))
def test_balanced_gaps_do_not_go_up_and_down(steps, shift, share):
    """Rounding each evaluation by itself would turn at every second one."""
    computed = balanced(flow(steps, shift), max(least(steps), round(share * steps)), 1, 1).computed
    changes = np.diff(computed, n=2)
    assert np.abs(changes).max() <= 1
    assert (np.diff(np.sign(changes[changes != 0])) != 0).sum() <= 3


@quick
@given(st.integers(8, 16), st.floats(1, 8), st.integers(4, 6), st.integers(1, 2))
def test_a_balanced_plan_is_the_best_of_all_by_its_own_measure(steps, shift, count, warmup):
    """Even distances and gaps that change little, against every choice there is of a short run."""
    times = flow(steps, shift)
    plan = balanced(times, count, warmup, 1)
    places = measure(times, plan.warmup, steps - 1)
    parts = count - plan.warmup

    def cost(computed):
        own = computed[plan.warmup - 1 :]
        uneven = np.diff(places[list(own)]) * parts - 1
        changes = np.diff(computed, n=2)[max(0, plan.warmup - 2) :] / ((steps - plan.warmup) / parts)
        return (uneven**2).sum() + SMOOTH * (changes**2).sum()

    head = tuple(range(plan.warmup))
    every = [(*head, *free, steps - 1) for free in combinations(range(plan.warmup, steps - 1), parts - 1)]
    assert cost(plan.computed) <= min(map(cost, every)) + 1e-9


def test_short_runs_are_computed_more():
    assert [least(n) for n in (4, 5, 8, 12, 20, 28, 50, 100)] == [5, 5, 5, 6, 8, 10, 14, 20]


def test_balanced_spends_where_noise_goes():
    late = balanced(flow(50, 8), 15, 1, 1).computed
    even = balanced(flow(50, 1), 15, 1, 1).computed
    assert sum(i >= 35 for i in late) > sum(i >= 35 for i in even)


def test_fifty_balanced_evaluations():
    assert balanced(flow(50, 3), 15, 1, 1).computed == (0, 3, 6, 10, 15, 20, 25, 29, 33, 37, 40, 43, 45, 47, 49)
    assert balanced(flow(50, 3), 15, 3, 1).computed == (0, 1, 2, 5, 9, 14, 19, 24, 29, 34, 38, 41, 44, 47, 49)


def test_noise_levels_that_never_change_are_spread_over_the_steps():
    computed = balanced([1.0] * 31, 10, 2, 1).computed
    gaps = [b - a for a, b in pairwise(computed)]
    assert computed[0] == 0 and len(computed) == 10 and max(gaps[1:]) <= 2 * min(gaps[1:]) + 1


@quick
@given(noises, warmups, st.integers(0, 10))
def test_the_measure_goes_from_0_at_the_end_of_the_warm_up_to_1_at_the_tail(times, warmup, tail):
    total = len(times) - 1
    first = min(warmup, total)
    end = max(first, total - tail)
    places = measure(times, first, end)
    assert len(places) == total + 1 and (np.diff(places) > 0).all()
    assert places[first - 1] == pytest.approx(0, abs=1e-9) and places[end] == pytest.approx(1)


def test_the_measure_goes_by_steps_and_noise_and_faster_at_both_ends():
    """With noise that goes evenly, nothing but the shares at the ends is uneven."""
    speed = np.diff(measure(flow(100, 1), 1, 99))[:98]
    assert speed[0] == speed.max() > 1.5 * speed.min() and speed[-1] == speed[50:].max() > 1.25 * speed.min()
    assert speed[40:60].max() < 1.05 * speed.min()
    late, even = (measure(flow(100, shift), 1, 99) for shift in (8, 1))
    assert late[50] < even[50], "high shifts leave most of the noise to the second half"


@quick
@given(st.sets(st.integers(0, 59), min_size=1), st.sets(st.integers(0, 59)))
def test_what_else_is_computed_leaves_a_plan_as_it_is(computed, forced):
    plan = Plan(1, 0, tuple(sorted(computed | {0})))
    assert simulate(plan, 60, forced) == sorted(computed | {0} | forced)


# --------------------------------------------------------------------------------------------- error control

NEVER = 10**9


def run(schedule, total, drift, late=0, forced=()):
    """What error control computes of a run, and the drifts of its gaps.

    Args:
        drift: (computed evaluation, the next one) -> by how much the latent is off at the latter.
        late: evaluations that begin before a drift is known.
        forced: evaluations that are computed for other reasons.
    """
    state, computed, drifts, waiting = State(), [], [], []
    for index in range(total):
        while waiting and waiting[0][0] + late < index:
            state = schedule.learn(state, *waiting.pop(0))
        if index in forced or schedule.reason(state, index, total):
            if computed and index > computed[-1] + 1:
                drifts.append(drift(computed[-1], index))
                waiting.append((index, drifts[-1]))
            state = schedule.step(state, index, forced=index in forced)
            assert state.due > index or index >= total - schedule.tail
            computed.append(index)
    return computed, drifts


def plant(schedule, power, size, rise):
    """A model whose latent drifts by size * rise^m * gap^power, in units of the run's measure."""
    places = schedule.places
    return lambda a, b: size * rise ** min(1, places[b]) * (places[b] - places[a]) ** power


def shortest(schedule, drift):
    """The most that a gap of one forecast evaluation drifts anywhere in the run, as a share of what it may."""
    places, end = schedule.places, len(schedule.places) - 1 - schedule.tail
    return max(
        drift(i, i + 2) / (schedule.tolerance * math.sqrt(places[i + 2] - places[i]))
        for i in range(schedule.warmup - 1, end - 1)
    )


def error(drifts):
    return math.hypot(*drifts)


powers, sizes, rises = st.floats(2, 4), st.floats(-1, 2).map(lambda n: 10**n), st.sampled_from([0.1, 0.5, 1, 3, 10])
tolerances = st.floats(-2.5, -0.7).map(lambda n: 10**n)


@quick
@given(
    st.integers(20, 100), tolerances, st.integers(1, 3), st.integers(1, 2), powers, sizes, rises, st.integers(0, 1)
)  # fmt: skip
def test_a_tolerance_that_can_be_met_is_met(total, tolerance, warmup, tail, power, size, rise, late):
    """Whether drifts grow or shrink tenfold along the run, and are known at once or an evaluation late. Where they
    change fast over few gaps it may be half above."""
    schedule = controlled(flow(total, 3), tolerance, total, warmup, tail)
    drift = plant(schedule, power, size, rise)
    assume(shortest(schedule, drift) <= 1)
    _, drifts = run(schedule, total, drift, late)
    assert error(drifts) <= 1.5 * tolerance


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("rise", [0.1, 1, 10])
@pytest.mark.parametrize("power", [2, 2.5, 3, 4])
@pytest.mark.parametrize("total", [50, 100])
def test_a_tolerance_is_made_use_of(total, power, rise, late):
    """A longer run with short gaps ends at a quarter of the tolerance to all of it, or to an eighth above where drifts
    grow tenfold and gaps shrink but by one; never learning spends blindly."""
    schedule = controlled(flow(total, 3), 0.02, total, 1, 1)
    drift = plant(schedule, power, 1, rise)
    drift = plant(schedule, power, 0.5 / shortest(schedule, drift), rise)
    computed, drifts = run(schedule, total, drift, late)
    assert 0.005 <= error(drifts) <= 0.02 * (1.125 if rise > 1 else 1)
    blind, _ = run(schedule, total, drift, NEVER)
    assert blind == schedule.plan(total) != computed


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("rise", [0.1, 1, 10])
@pytest.mark.parametrize("power", [2, 3, 4])
@pytest.mark.parametrize("total", [20, 30, 50])
def test_a_lower_tolerance_computes_more(total, power, rise, late):
    counts, errors = [], []
    middle = controlled(flow(total, 3), 0.02, total, 1, 1)
    drift = plant(middle, power, 0.2 / shortest(middle, plant(middle, power, 1, rise)), rise)
    for tolerance in (0.16, 0.08, 0.04, 0.02, 0.01, 0.005):
        schedule = controlled(flow(total, 3), tolerance, total, 1, 1)
        computed, drifts = run(schedule, total, drift, late)
        counts.append(len(computed))
        errors.append(error(drifts))
    assert counts == sorted(counts) and counts[-1] > 1.1 * counts[0] and errors[-1] < errors[0]


@pytest.mark.parametrize("warmup", [1, 2, 3, 5])
def test_the_first_gap_is_short_whatever_the_warm_up(warmup):
    schedule = controlled(flow(50, 3), 0.02, 50, warmup, 1)
    assert schedule.warmup == warmup
    assert schedule.plan(50)[warmup] == warmup - 1 + FIRST_GAP


wild = st.sampled_from([0.0, 1e-300, 1e38, math.inf, math.nan]) | st.floats(-6, 3).map(lambda n: 10**n)


@quick
@given(
    noises.filter(lambda times: len(times) > 2), st.floats(0.001, 1), st.integers(3, 60), warmups, st.integers(0, 10),
    st.lists(wild, min_size=1, max_size=20), st.sampled_from([0, 1, 3, NEVER]),
)  # fmt: skip
def test_whatever_the_errors_are_budget_warm_up_and_tail_are_kept(times, tolerance, most, warmup, tail, errors, late):
    total = len(times) - 1
    most = min(total, most)
    schedule = controlled(times, tolerance, most, warmup, tail)
    computed, _ = run(schedule, total, lambda a, b: errors[b % len(errors)], late)
    assert len(computed) <= most and schedule.warmup <= warmup and schedule.tail <= tail
    assert {*range(min(total, schedule.warmup)), *range(max(0, total - schedule.tail), total)} <= set(computed)


@quick
@given(
    st.integers(20, 100), st.sampled_from([1, 3, 8]), tolerances, st.integers(1, 3), st.integers(0, 2),
    st.lists(wild, max_size=8), st.floats(3.01, 1e9),
)  # fmt: skip
def test_an_error_far_above_what_is_allowed_halves_the_gap(total, shift, tolerance, warmup, tail, errors, times):
    schedule = controlled(flow(total, shift), tolerance, total, warmup, tail)
    places, state = schedule.places, State()
    for error in (*errors, math.nan):
        index = max(state.due, state.steps)
        assume(index < total - schedule.tail)
        state = schedule.learn(schedule.step(state, index), index, error)
    assume(index > max(schedule.warmup, state.before + 1))
    gap = places[index] - places[state.before]
    state = schedule.learn(state, index, times * tolerance * math.sqrt(gap))
    assert state.due == index + 1 or (places[state.due] + places[state.due - 1]) / 2 <= places[index] + gap / 2 + 1e-9


@pytest.mark.parametrize("late", [0, 1])
def test_what_cannot_be_met_is_computed(late):
    """Nearly everything: now and then one evaluation is forecast, to see whether that is possible by now."""
    schedule = controlled(flow(50, 3), 0.001, 50, 1, 1)
    computed, _ = run(schedule, 50, lambda a, b: 0.5, late)
    assert len(computed) >= 40 - 4 * late and max(b - a for a, b in pairwise(computed)) == 2


def test_what_cannot_be_met_with_the_budget_is_spread_as_without_control():
    schedule = controlled(flow(50, 3), 0.001, 15, 1, 1)
    computed, _ = run(schedule, 50, lambda a, b: 0.5)
    assert len(computed) == 15
    assert all(abs(a - b) <= 1 for a, b in zip(computed, balanced(flow(50, 3), 15, 1, 1).computed, strict=True))


def test_a_model_that_drifts_nowhere_is_hardly_computed():
    schedule = controlled(flow(50, 3), 0.02, 50, 1, 1)
    assert len(run(schedule, 50, lambda a, b: 0.0)[0]) <= 10


@quick
@given(st.integers(20, 100), tolerances, powers, sizes, rises, st.integers(0, 1))
def test_gaps_change_little_unless_an_error_was_far_above_what_is_allowed(total, tolerance, power, size, rise, late):
    schedule = controlled(flow(total, 3), tolerance, total, 1, 1)
    drift = plant(schedule, power, size, rise)
    computed, _ = run(schedule, total, drift, late)
    for (a, b), (c, d) in pairwise(pairwise(computed[:-1])):
        change = (d - c) - (b - a)
        assert change <= max(1, (b - a) // GENTLE)
        allowed = schedule.tolerance * math.sqrt(schedule.places[b] - schedule.places[a])
        if drift(a, b) <= REJECTED * allowed and not late:
            assert change >= -max(1, (b - a) // GENTLE)


def test_gaps_shrink_at_once_after_an_error_far_above_what_is_allowed():
    schedule = controlled(flow(50, 3), 0.02, 50, 1, 1)
    computed, _ = run(schedule, 50, lambda a, b: 0.5 if a < 20 <= b else 0.0)
    gaps = [b - a for a, b in pairwise(computed)]
    worst = next(i for i, (a, b) in enumerate(pairwise(computed)) if a < 20 <= b)
    assert gaps[worst + 1] <= gaps[worst] / 2 and gaps[worst] >= 5


def test_an_evaluation_that_is_computed_for_another_reason_leaves_the_gaps_as_they_are():
    """A feature that was not finite, say, in the middle of the run."""
    schedule = controlled(flow(50, 3), 0.02, 50, 1, 1)
    drift = plant(schedule, 2.5, 0.3, 1)
    free, _ = run(schedule, 50, drift)
    odd = next(a + 1 for a, b in pairwise(free) if a > 15 and b - a > 3)
    forced, _ = run(schedule, 50, drift, forced=[odd])
    assert odd in forced and len(forced) <= len(free) + 1


def test_an_error_that_comes_too_late_changes_nothing():
    """When the next evaluation has been computed, the gap that follows is another one."""
    schedule = controlled(flow(50, 3), 0.02, 50, 1, 1)
    state = State()
    assert schedule.learn(state, 0, 0.5) is state
    for index in (0, 2, 5):
        state = schedule.step(state, index)
    assert schedule.learn(state, 2, 0.5) is state and schedule.learn(state, 5, math.nan) is state
    assert schedule.learn(state, 5, 0.5).due == 6


def test_an_error_that_comes_late_makes_the_present_evaluation_computed_and_no_earlier_one():
    schedule = controlled(flow(50, 3), 0.02, 50, 1, 1)
    state = schedule.step(schedule.step(State(), 0), 4)
    assert state.due > 6
    state = schedule.learn(state, 4, 0.5)
    assert state.due in (5, 6) and schedule.reason(state, 6, 50) == "schedule"
    assert schedule.step(state, 6).due > 6


@quick
@given(st.integers(20, 60), st.integers(0, 20), tolerances, st.booleans())
def test_what_else_is_computed_at_the_start_does_not_lengthen_the_gaps(total, extra, tolerance, limited):
    """start_percent computes a stretch: what comes behind it is controlled as without."""
    most = budget(total, 3.3) if limited else total
    schedule = controlled(flow(total, 3), tolerance, most, 1, 1)
    drift = plant(schedule, 3, 1, 1)
    free, forced = (run(schedule, total, drift, forced=range(n))[0] for n in (0, min(extra, total // 2)))
    assert max(b - a for a, b in pairwise(forced)) <= max(b - a for a, b in pairwise(free)) + 1


def test_more_evaluations_than_announced_are_borne():
    """A sampler that asks for more gets it computed; the schedule is asked nothing it cannot answer."""
    schedule = controlled(flow(20, 3), 0.02, 20, 1, 1)
    state = State()
    for index in range(25):
        state = schedule.step(state, index, forced=True)
        assert state.due > index or index >= 19


@pytest.mark.parametrize("warmup", [1, 3])
def test_other_schedules_do_not_mind_errors(warmup):
    for schedule in (GrowingInterval(warmup, 1, 2, 0.75), FixedInterval(warmup, 1, 2), balanced(flow(50, 3), 15, 1, 1)):
        state = schedule.step(State(), 0)
        assert schedule.learn(state, 0, 9.0) is state
