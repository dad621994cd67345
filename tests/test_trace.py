"""What a run leaves behind: counts, one line of text, strict JSON."""

import json
import math

import pytest
from spectrum_accelerate.spectrum_core.messages import Reason, Text, say
from spectrum_accelerate.spectrum_core.trace import Evaluation, Trace

CONFLICT = say(Text.CONFLICT, other="EasyCache")
STOPPED = say(Text.STOPPED, reason=say(Text.GRADIENTS))


def trace(kinds="CCfCf", total=None, outcome="done", **values):
    """A run of computed (C), warm-up (W) and forecast (f) evaluations."""
    reasons = {"f": None, "W": Reason.WARMUP, "C": Reason.SCHEDULE}
    evaluations = [
        Evaluation(i, 1 - i / 10, "forecast" if k == "f" else "computed", reasons[k]) for i, k in enumerate(kinds)
    ]
    return Trace(total=total or len(kinds), evaluations=evaluations, outcome=outcome, **values)


def test_computed_and_forecast_evaluations_are_counted():
    assert (trace("CCfCf").computed, trace("CCfCf").forecast, trace("CCfCf").kinds) == (3, 2, "ccfcf")
    assert (trace("").computed, trace("").forecast, trace("").kinds) == (0, 0, "")


@pytest.mark.parametrize(
    "run, text",
    [
        (trace("WWffCffC", error=0.0345), "4 of 8 evaluations computed (2.0x fewer), estimated error 3.5%"),
        (trace("WfffC"), "2 of 5 evaluations computed (2.5x fewer), error not known"),
        (trace("CC", off=CONFLICT), "not accelerated: EasyCache is on the same MODEL; remove one of the two"),
        (trace("CCC"), "not accelerated: no step could be forecast"),
        (trace("", total=0), "not accelerated: no step could be forecast"),
        (trace("WCff", total=50, outcome="interrupted"), "interrupted after 4 of 50 evaluations, 2 computed"),
        (trace("W", total=50, outcome="error", off=CONFLICT), "error after 1 of 50 evaluations, 1 computed"),
        (trace("CfC", notes=[STOPPED]),
         "2 of 3 evaluations computed (1.5x fewer), error not known; stopped: gradients are on"),
    ],
)  # fmt: skip
def test_the_summary_says_in_one_line_what_happened(run, text):
    assert run.summary() == f"Spectrum: {text}"


def test_a_note_is_made_once():
    run = trace()
    for note in (STOPPED, CONFLICT, STOPPED):
        run.note(note)
    assert run.notes == [STOPPED, CONFLICT]


def test_the_time_saved_is_what_forecast_evaluations_would_have_taken():
    run = trace("CffCC")
    for evaluation, seconds in zip(run.evaluations, (9.0, 0.1, 0.2, 1.0, 1.2), strict=True):
        evaluation.seconds = seconds
    assert run.saved == pytest.approx(2 * 1.2 - 0.3)  # the first call, which loads the model, is not the usual one
    assert trace("CC").saved is None and trace("Cff").saved is None


@pytest.mark.parametrize("text", Text)
def test_every_template_is_filled_by_its_names(text):
    import string

    names = [name for _, name, _, _ in string.Formatter().parse(text.value) if name]
    message = say(text, **{name: f"<{name}>" for name in names})
    assert all(f"<{name}>" in str(message) for name in names) and "{" not in str(message)


def test_numbers_in_messages_are_short():
    assert "at most 1.25x" in str(say(Text.NOISY, sampler="s", speedup=1.25))


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_the_json_is_strict_and_says_null_where_a_number_is_not_finite():
    run = trace("WCf", error=math.inf, self_test=math.nan, settings={"ridge": math.inf, "a": 1})
    for evaluation, value in zip(run.evaluations, (math.nan, math.inf, -math.inf), strict=True):
        evaluation.drift = evaluation.feature_error = evaluation.seconds = value
    data = json.loads(run.to_json(), parse_constant=refuse)
    assert all(e["feature_error"] is e["drift"] is e["seconds"] is None for e in data["evaluations"])
    assert data["error"] is data["self_test"] is None
    assert data["settings"] == {"ridge": None, "a": 1}
    assert math.isnan(run.self_test)  # the trace itself keeps it


def test_the_json_holds_the_whole_trace():
    run = trace("WfC", total=7, error=0.5, model="Flux", sampler="euler", notes=[STOPPED], node="3")
    data = json.loads(run.to_json())
    assert (data["computed"], data["forecast"], data["kinds"], data["off"]) == (2, 1, "cfc", None)
    assert (data["total"], data["model"], data["sampler"], data["node"], data["error"]) == (
        7,
        "Flux",
        "euler",
        "3",
        0.5,
    )
    assert data["notes"] == ["stopped: gradients are on"] and data["summary"] == run.summary()
    assert [e["reason"] for e in data["evaluations"]] == ["warm-up", None, "schedule"]
    assert json.loads(trace("CC", off=CONFLICT).to_json())["off"] == str(CONFLICT)
