"""The store of features: bounded, a copy, and a weighted sum as exact as its dtype allows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_accelerate.spectrum_core import history as module
from spectrum_accelerate.spectrum_core.history import History

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
CHUNK = 100
SHAPES = [(), (1,), (3, 5), (2, 4, 7), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (2, CHUNK + 3)]
WEIGHTS = (0.25, -1.5, 0.0, 2.25)


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """What is true across the border of a chunk does not depend on where it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_HOST", CHUNK)
        yield


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def features(shape, dtype=torch.float32, count=4):
    generator = torch.Generator().manual_seed(count * 7 + len(shape))
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def filled(entries, capacity=None):
    history = History(capacity or len(entries))
    for position, feature in enumerate(entries):
        history.push(position, feature)
    return history


def oracle(weights, entries):
    """The weighted sum in float64, and the sum of its terms' sizes: what rounding is relative to."""
    terms = [w * e.double() for w, e in zip(weights, entries, strict=True)]
    return sum(terms), sum(t.abs() for t in terms)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(1, 4), st.lists(st.integers(0, 9) | st.sampled_from(["discard", "clear"]), max_size=30))
def test_the_most_recent_features_are_kept_in_order(capacity, operations):
    history, model, value = History(capacity), [], 0.0
    for operation in operations:
        if operation == "clear":
            history.clear()
            model = []
        elif operation == "discard":  # the older half, so that slots become free in the middle
            position = model[len(model) // 2][0] if model else 3
            history.discard(position)
            model = [entry for entry in model if entry[0] != position]
        else:
            value += 1
            history.push(operation, torch.full((2,), value))
            model = [*model, (operation, value)][-capacity:]
        assert (len(history), history.positions) == (len(model), tuple(position for position, _ in model))
        for index, (_, expected) in enumerate(model):
            one_hot = [float(i == index) for i in range(len(model))]
            assert history.combine(one_hot).tolist() == [expected, expected]


def test_discarding_an_unknown_position_changes_nothing():
    history = filled(features((3,)))
    history.discard(99)
    assert history.positions == (0, 1, 2, 3)


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_combine_is_the_weighted_sum(shape, dtype):
    entries = features(shape, dtype)
    actual = filled(entries).combine(WEIGHTS)
    expected, size = oracle(WEIGHTS, entries)
    info = torch.finfo(dtype)
    accumulation = len(WEIGHTS) * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    tolerance = info.eps * expected.abs() + accumulation * size + info.eps * info.tiny
    assert (actual.shape, actual.dtype) == (shape, dtype)
    assert ((actual.double() - expected).abs() <= tolerance).all()


@pytest.mark.parametrize("dtype, large", [(torch.bfloat16, 2**8), (torch.float16, 2**11), (torch.float64, 2**26)])
def test_half_precision_is_summed_in_float32_and_float64_in_float64(dtype, large):
    """large + 1/2 is not a number of the next smaller precision."""
    entries = [torch.full((3,), value, dtype=dtype) for value in (large, 0.5, large)]
    assert filled(entries).combine((1, 1, -1)).tolist() == [0.5] * 3


def test_an_extrapolation_beyond_the_range_of_float16_stays_finite():
    entries = [torch.tensor([60000.0, -60000.0, 1.0], dtype=torch.float16) for _ in range(2)]
    assert filled(entries).combine((-1, 3)).tolist() == [65504.0, -65504.0, 2.0]


def test_an_entry_without_weight_is_never_read():
    entries = [torch.full((4,), math.nan), torch.ones(4)]
    assert filled(entries).combine((0, 2)).tolist() == [2.0] * 4


def test_out_is_written_in_place_and_nothing_beside_it():
    entries = features((2, 3))
    whole = torch.full((6, 3), 9.0)
    history = filled(entries)
    out = whole[2:4]
    assert history.combine(WEIGHTS, out) is out
    assert torch.equal(whole[2:4], history.combine(WEIGHTS))
    assert (whole[:2] == 9).all() and (whole[4:] == 9).all()


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_error_is_the_relative_distance_of_the_forecast_to_the_feature(shape, dtype):
    *entries, truth = features(shape, dtype, count=len(WEIGHTS) + 1)
    error = filled(entries).error(WEIGHTS, truth)
    expected = torch.linalg.vector_norm(oracle(WEIGHTS, entries)[0] - truth.double())
    assert (error.shape, error.dtype) == ((1,), torch.float32)
    assert error.item() == pytest.approx((expected / torch.linalg.vector_norm(truth.double())).item(), rel=1e-5)


@each_dtype
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, CHUNK + 1])
def test_a_feature_that_is_not_finite_has_an_error_that_is_not_finite(index, value, dtype):
    entries = features((CHUNK + 2,), dtype)
    truth = entries[-1].clone()
    truth[index] = value
    assert not math.isfinite(filled(entries).error(WEIGHTS, truth).item())


@pytest.mark.parametrize(
    "forecast, truth, error",
    [(0, 0, 0), (3, 3, 0), (0, 3, 1), (3, 0, math.inf), (0, math.nan, math.nan)],
)
def test_the_error_at_zero(forecast, truth, error):
    """Nothing forecast as nothing is right; something forecast for nothing has no finite relative error."""
    history = filled([torch.full((5,), float(forecast))])
    assert history.error([1], torch.full((5,), float(truth))).item() == pytest.approx(error, nan_ok=True)


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_a_feature_without_elements_is_a_feature(shape):
    history = filled([torch.empty(shape)] * 2)
    assert history.combine((1, 1)).shape == shape
    assert history.error((1, 1), torch.empty(shape)).item() == 0


@each_dtype
def test_nothing_grows_with_the_number_of_pushes(dtype):
    history, feature = History(3), torch.zeros((7, 11), dtype=dtype)
    history.push(0, feature)
    for position in range(1, 3):
        history.push(position, feature)
    addresses = {entry.data_ptr() for entry in history._features}
    for position in range(3, 100):
        history.push(position, feature)
        assert history.nbytes <= 3 * feature.nbytes
        assert len(history) == min(3, position + 1)
    assert {entry.data_ptr() for entry in history._features} == addresses


@pytest.mark.parametrize(
    "other",
    [torch.ones(3, 2), torch.ones(6), torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, device="meta")],
    ids=["transposed", "flat", "dtype", "device"],
)
def test_another_kind_of_feature_starts_a_new_history(other):
    history = filled(features((2, 3)))
    assert history.fits(torch.empty(2, 3)) and not history.fits(other)
    history.push(9, other)
    assert (history.positions, history.shape, history.dtype) == ((9,), other.shape, other.dtype)
    assert history.fits(other)
    assert history.combine([2]).device == other.device


def test_clear_frees_and_the_history_can_be_used_again():
    history = filled(features((2, 3)))
    history.clear()
    assert (history.nbytes, len(history), history.positions, history.fits(torch.empty(2, 3))) == (0, 0, (), False)
    history.push(4, torch.ones(5))
    assert history.positions == (4,) and history.combine([3]).tolist() == [3.0] * 5


def test_a_pushed_feature_is_a_copy():
    source = torch.ones(2, 3)
    history = filled([source])
    source.fill_(7)
    combined = history.combine([1])
    combined.fill_(8)
    assert (history.combine([1]) == 1).all()


def test_a_feature_of_a_training_graph_leaves_no_graph():
    history = filled([torch.ones(3, requires_grad=True) * 2])
    assert not history.combine([1]).requires_grad


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.transpose(0, 1),
        lambda base: base[::2, 1:],
        lambda base: base[:, None, :1].expand(6, 4, 8),
        lambda base: base.unflatten(1, (2, 4)).permute(2, 0, 1),
    ],
    ids=["transposed", "strided", "expanded", "permuted"],
)
def test_features_may_be_views(view):
    base = features((6, 8), count=3)
    entries = [view(b) for b in base]
    assert not any(e.is_contiguous() for e in entries)
    history = filled(entries[:2])
    combined = history.combine((0.5, 2))
    torch.testing.assert_close(combined, 0.5 * entries[0] + 2 * entries[1])
    expected = torch.linalg.vector_norm(combined - entries[2]) / torch.linalg.vector_norm(entries[2])
    torch.testing.assert_close(history.error((0.5, 2), entries[2]), expected.reshape(1))


def test_inference_mode_changes_nothing():
    *entries, truth = features((4, 5), count=5)
    with torch.inference_mode():
        inside = filled(entries, capacity=3)
        results = inside.combine(WEIGHTS[1:]), inside.error(WEIGHTS[1:], truth)
    outside = filled(entries, capacity=3)
    assert torch.equal(results[0], outside.combine(WEIGHTS[1:]))
    assert torch.equal(results[1], outside.error(WEIGHTS[1:], truth))


@each_dtype
def test_no_method_waits_for_a_value(dtype):
    """Tensors of the meta device have no values: whoever looked at one would fail."""
    feature = torch.empty((4, 6), dtype=dtype, device="meta")
    history = filled([feature] * 5, capacity=3)
    assert history.combine((1, -1, 1)).device.type == "meta"
    assert history.error((1, -1, 1), feature).shape == (1,)
    history.discard(3)
    assert history.fits(feature) and len(history) == 2


def test_there_is_room_for_the_features_of_several_conditionings():
    history = filled(features((2, 3), torch.float16))
    room = history.empty(3)
    assert (room.shape, room.dtype) == ((6, 3), torch.float16)
    assert history.empty(3, reuse=room) is room
    for other in (room[:4], room.float(), room.to("meta")):
        again = history.empty(3, reuse=other)
        assert (again.shape, again.dtype, again.device) == (room.shape, room.dtype, room.device)


@pytest.mark.parametrize(
    "use",
    [
        lambda h: h.combine([]),
        lambda h: h.error([], torch.ones(2, 3)),
        lambda h: h.empty(1),
        lambda h: h.dtype,
    ],
    ids=["combine", "error", "empty", "dtype"],
)
@pytest.mark.parametrize("emptied", [False, True])
def test_an_empty_history_is_refused(use, emptied):
    history = History(3)
    if emptied:
        history.push(0, torch.ones(2, 3))
        history.discard(0)
    assert not history.fits(torch.ones(2, 3))
    with pytest.raises(ValueError, match="the history is empty"):
        use(history)


def test_weights_that_do_not_match_the_entries_are_refused():
    with pytest.raises(ValueError, match="2 weights for 4 features"):
        filled(features((3,))).combine((1, 2))


@each_dtype
@pytest.mark.parametrize("pictures", [1, 2, 4])
def test_each_picture_has_an_error_of_its_own(dtype, pictures):
    """As if its rows were alone, however the sum is cut into pieces."""
    *entries, truth = features((4, CHUNK + 3), dtype, count=len(WEIGHTS) + 1)
    errors = filled(entries).error(WEIGHTS, truth, pictures)
    assert errors.shape == (pictures,)
    for picture in range(pictures):
        rows = slice(picture * 4 // pictures, (picture + 1) * 4 // pictures)
        alone = filled([entry[rows] for entry in entries]).error(WEIGHTS, truth[rows])
        torch.testing.assert_close(errors[picture], alone[0])


def test_memory_is_allocated_when_it_is_first_needed():
    history, feature = History(5), torch.ones(4, 4)
    held = []
    for position in range(7):
        history.push(position, feature)
        held.append(history.nbytes // feature.nbytes)
    assert held == [1, 2, 3, 4, 5, 5, 5]


def test_what_is_not_finite_is_no_part_of_a_forecast():
    """It is said by `error`, which comes later; until then nothing of it spreads."""
    entries = features((3, 4), count=2)
    entries[1][0, 0], entries[1][2, 1] = float("nan"), float("inf")
    combined = filled(entries).combine((-1.0, 2.0))
    assert combined.isfinite().all()
    clean = entries[1].nan_to_num(nan=0.0, posinf=0.0)
    torch.testing.assert_close(combined, 2 * clean - entries[0])
