"""Which evaluations are computed: the paper's index sets, and what every schedule guarantees."""

import math
from dataclasses import FrozenInstanceError, replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_accelerate.spectrum_core.messages import Reason
from spectrum_accelerate.spectrum_core.schedule import SCHEDULES, Request, State
from spectrum_accelerate.spectrum_core.schedule.adaptive import Adaptive, steepness
from spectrum_accelerate.spectrum_core.schedule.balanced import (
    FEWEST,
    LEAST,
    SMOOTHNESS,
    Plan,
    balanced,
    budget,
    least,
    measure,
)
from spectrum_accelerate.spectrum_core.schedule.intervals import Counted, FixedInterval, GrowingInterval

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
    schedule, state = GrowingInterval(warmup=2, tail=1, interval=3, growth=0), State(due=4)
    assert [schedule.reason(state, i, 6) for i in range(6)] == [
        Reason.WARMUP, Reason.WARMUP, None, None, Reason.SCHEDULE, Reason.TAIL,
    ]  # fmt: skip


@quick
@given(schedules(), st.integers(0, 100), st.integers(0, 50), st.integers(0, 100), st.booleans())
def test_the_same_state_gives_the_same_answer(schedule, due, intervals, index, forced):
    state = Counted(due, intervals)
    answers = [(schedule.reason(state, index, 60), schedule.step(state, index, forced)) for _ in range(2)]
    assert answers[0] == answers[1] and state == Counted(due, intervals)
    assert answers[0][1].due > index


@pytest.mark.parametrize("frozen, name", [(State(), "due"), (GrowingInterval(5, 1, 2, 0.75), "growth")])
def test_neither_state_nor_schedule_can_be_changed(frozen, name):
    with pytest.raises(FrozenInstanceError):
        setattr(frozen, name, 1)


noises = st.lists(st.floats(0, 1), min_size=2, max_size=120).map(lambda levels: sorted(levels, reverse=True))
speedups = st.floats(1, 16)


def flow(steps, shift):
    return [shift * t / (1 + (shift - 1) * t) for t in (1 - i / steps for i in range(steps + 1))]


def request(total, interval=3.3, evaluations=0, **more):
    return Request(tuple(1 - i / total for i in range(total + 1)), interval, evaluations, **more)


@quick
@given(totals, speedups, st.integers(0, 60))
def test_the_budget_is_what_was_asked_for_within_what_makes_sense(total, interval, evaluations):
    """`evaluations` if given, at least three; else 1 / `interval`, but `least`. Never more than there are."""
    count = budget(request(total, interval, evaluations))
    if evaluations:
        assert count == min(total, max(FEWEST, evaluations))
    elif interval <= 1:
        assert count == total
    else:
        assert count == min(total, max(least(total, interval), math.floor(total / interval)))


@pytest.mark.parametrize("total", [20, 28, 50])
def test_a_longer_interval_computes_fewer(total):
    counts = [budget(request(total, interval)) for interval in (1.5, 2.0, 3.3, 5.0, 8.0)]
    assert all(a > b for a, b in pairwise(counts[:4])) and counts[4] <= counts[3]


@quick
@given(noises, speedups, st.integers(0, 60), warmups, st.integers(0, 10))
def test_a_balanced_plan_keeps_its_budget_its_warm_up_and_its_tail(times, speedup, evaluations, warmup, tail):
    total = len(times) - 1
    count = budget(Request(tuple(times), speedup, evaluations))
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
def test_balanced_gaps_shrink_to_the_end(steps, shift, warmup):
    """The end is where features move, whatever the noise does; a shift takes most of the noise away there, too."""
    computed = balanced(flow(steps, shift), budget(request(steps)), warmup, 1).computed
    gaps = [b - a for a, b in pairwise(computed)]
    assert gaps[-1] < max(gaps) and all(b <= a + 1 for a, b in pairwise(gaps[warmup:]))


@quick
@given(st.integers(20, 80), st.floats(1, 6), st.floats(0.25, 0.45))
def test_balanced_gaps_do_not_go_up_and_down(steps, shift, share):
    """Rounding each evaluation by itself would turn at every second one."""
    computed = balanced(flow(steps, shift), max(least(steps, 3.3), round(share * steps)), 1, 1).computed
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
        return (uneven**2).sum() + SMOOTHNESS * (changes**2).sum()

    head = tuple(range(plan.warmup))
    every = [(*head, *free, steps - 1) for free in combinations(range(plan.warmup, steps - 1), parts - 1)]
    assert cost(plan.computed) <= min(map(cost, every)) + 1e-9


def test_short_runs_are_computed_more():
    assert [least(n, 3.3) for n in (4, 5, 8, 12, 20, 28, 50, 100)] == [5, 5, 5, 6, 8, 10, 14, 20]


def test_balanced_spends_where_noise_goes():
    late = balanced(flow(50, 8), 15, 1, 1).computed
    even = balanced(flow(50, 1), 15, 1, 1).computed
    assert sum(i >= 35 for i in late) > sum(i >= 35 for i in even)


def test_fifty_balanced_evaluations():
    assert balanced(flow(50, 3), 15, 1, 1).computed == (0, 5, 10, 15, 20, 25, 29, 33, 36, 39, 42, 44, 46, 48, 49)
    assert balanced(flow(50, 3), 15, 3, 1).computed == (0, 1, 2, 7, 13, 19, 24, 29, 33, 37, 40, 43, 45, 47, 49)


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


def test_the_measure_goes_by_steps_and_noise_and_faster_at_the_end():
    """With noise that goes evenly, nothing but the share at the end is uneven."""
    speed = np.diff(measure(flow(100, 1), 1, 99))[:98]
    assert speed[-1] == speed.max() > 1.5 * speed.min() and speed[:60].max() < 1.1 * speed.min()
    late, even = (measure(flow(100, shift), 1, 99) for shift in (8, 1))
    assert late[50] < even[50], "high shifts leave most of the noise to the second half"


@quick
@given(st.sets(st.integers(0, 59), min_size=1), st.sets(st.integers(0, 59)))
def test_what_else_is_computed_leaves_a_plan_as_it_is(computed, forced):
    plan = Plan(1, 0, tuple(sorted(computed | {0})))
    assert simulate(plan, 60, forced) == sorted(computed | {0} | forced)


@pytest.mark.parametrize("guidance", [1.0, 3.0, 5.0, 7.0])
@pytest.mark.parametrize("total", [20, 30, 50])
def test_every_interval_changes_something(total, guidance):
    """A user who lowers it gets a nearer picture, whatever the guidance asks for."""
    wanted = [budget(request(total, interval, guidance=guidance)) for interval in (1.0, 1.5, 2.0, 3.3, 7.0)]
    inner = [count for count in wanted if LEAST < count < total]
    assert wanted == sorted(wanted, reverse=True) and len(set(inner)) == len(inner) >= 3


@pytest.mark.parametrize("total", [12, 20, 50])
@pytest.mark.parametrize("max_speedup", [1.25, 1.5, 2.0])
def test_a_sampler_with_a_limit_has_a_long_warm_up(total, max_speedup):
    plan = Plan.build(request(total, 16.0, max_speedup=max_speedup))
    assert len(plan.computed) == max(math.ceil(total / max_speedup), budget(request(total, 16.0)))
    assert plan.warmup == max(2, len(plan.computed) // 3)


# ------------------------------------------------------------------------------------------------- adaptive


def follow(schedule, total, change, lag=1, forced=()):
    """What a run computes whose output changes by `change(a, b)` between computed steps; numbers act `lag` later."""
    state, computed, waiting = State(), [], []
    for index in range(total):
        while waiting and waiting[0][0] + lag <= index:
            state = schedule.learn(state, *waiting.pop(0))
        if index in forced or schedule.reason(state, index, total):
            if computed:
                waiting.append((index, computed[-1], change(computed[-1], index)))
            state = schedule.step(state, index, forced=index in forced)
            computed.append(index)
    return computed


def moving(times, k):
    """A model of latents k times as large as the noise: how its output changes, see `steepness`."""
    own = [2.6 * t / ((1 - t) * k + t) for t in times]
    return lambda a, b: own[a] - own[b]


changes, forced_steps = st.floats(0, 60), st.sets(totals)


@quick
@given(
    noises, speedups, st.integers(0, 60), warmups, st.integers(0, 10), st.lists(changes, min_size=1), st.sets(totals)
)
def test_whatever_is_measured_budget_warm_up_and_tail_are_kept(
    times, interval, evaluations, warmup, tail, found, forced
):
    total = len(times) - 1
    wanted = Request(tuple(times), interval, evaluations, warmup=warmup, tail=tail)
    schedule, numbers = Adaptive.build(wanted), iter(found * (total + 1))
    computed = follow(schedule, total, lambda a, b: next(numbers))
    assert len(computed) == budget(wanted)
    assert {*range(min(total, schedule.warmup)), *range(max(0, total - schedule.tail), total)} <= set(computed)
    other = follow(schedule, total, lambda a, b: found[0], forced=forced)
    assert {f for f in forced if f < total} <= set(other)


@pytest.mark.parametrize("total", [20, 30, 50])
@pytest.mark.parametrize("k", [1, 3, 7.5, 15])
def test_the_budget_is_spent_where_the_model_moves(total, k):
    """Steep models are computed densely at the start; calm ones as `balanced` would."""
    times = tuple(flow(total, 3))
    wanted = Request(times, 3.3)
    computed = follow(Adaptive.build(wanted), total, moving(times, k))
    assert computed[:2] == [0, 1] and computed[-1] == total - 1 and len(computed) == budget(wanted)
    calm = follow(Adaptive.build(wanted), total, moving(times, 1))
    early, usual = (sum(i < total // 3 for i in steps) for steps in (computed, calm))
    assert early > usual if k >= 7.5 and total > 20 else early >= usual
    if k > 1:  # the longest gap, in the model's own time, is shorter than with what fits a calm one
        own = np.array([t / ((1 - t) * k + t) for t in times])
        assert np.diff(own[computed[1:]]).min() >= np.diff(own[calm[1:]]).min()


def test_what_one_model_is_measured_as_is_what_it_is():
    for shift in (1, 3, 6):
        for total in (20, 50):
            times = tuple(flow(total, shift))
            for k in (1, 3, 7.5):
                change = moving(times, k)(0, 1)
                assert steepness(times, 0, 1, change) == pytest.approx(k, rel=0.35)
    assert steepness((1.0, 1.0, 0.0), 0, 1, 5.0) == 1.0, "no noise was taken away"


def test_numbers_that_come_at_their_place_only_change_what_is_behind_it():
    times = tuple(flow(30, 3))
    schedule = Adaptive.build(Request(times, 3.0))
    calm, steep = (follow(schedule, 30, moving(times, k)) for k in (1, 12))
    assert calm[:2] == steep[:2] == [0, 1] and calm != steep
    assert follow(schedule, 30, moving(times, 12)) == steep


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_is_one_class_with_a_name(name):
    schedule = SCHEDULES[name].build(request(30, 3.0, growth=0.5))
    assert SCHEDULES[name].name == name and schedule.unsuitable(30) is None
    assert SCHEDULES[name].build(request(4, 3.0, warmup=3)).unsuitable(4) is not None
