"""What a run leaves behind: counts, one line of text, strict JSON."""

import json
import math

import pytest
from spectrum_accelerate.spectrum_core.trace import Evaluation, Trace


def trace(kinds="CCfCf", total=None, errors=(), drifts=(), **values):
    """A run of computed (C), warm-up (W) and forecast (f) evaluations."""
    evaluations = [
        Evaluation(i, 1 - i / 10, "forecast" if k == "f" else "computed", "warm-up" if k == "W" else "schedule")
        for i, k in enumerate(kinds)
    ]
    for evaluation, error in zip(evaluations, errors, strict=False):
        evaluation.error = error
    for evaluation, drift in zip(evaluations, drifts, strict=False):
        evaluation.drift = drift
    return Trace(total=total or len(kinds), evaluations=evaluations, **values)


def test_computed_and_forecast_evaluations_are_counted():
    assert (trace("CCfCf").computed, trace("CCfCf").forecast) == (3, 2)
    assert (trace("").computed, trace("").forecast) == (0, 0)


@pytest.mark.parametrize(
    "run, text",
    [
        (trace("WWffCffC"), "4 of 8 evaluations computed (2.0x fewer)"),
        (trace("WfffC", errors=[None, None, None, None, 0.16]),
         "2 of 5 evaluations computed (2.5x fewer), estimated error 2.80%"),
        (trace("CfC", not_accelerated="EasyCache is on"), "not accelerated: EasyCache is on"),
        (trace("CCC"), "not accelerated: no evaluation could be forecast"),
        (trace("", total=0), "not accelerated: no evaluation could be forecast"),
        (trace("WCff", total=50, outcome="interrupted"), "interrupted after 4 of 50 evaluations, 2 computed"),
        (trace("W", total=50, outcome="error", not_accelerated="x"), "error after 1 of 50 evaluations, 1 computed"),
        (trace("CfC", notes=["no row", "stopped"]), "2 of 3 evaluations computed (1.5x fewer); no row; stopped"),
        (trace("CC", not_accelerated="why", notes=["a"]), "not accelerated: why; a"),
    ],
)  # fmt: skip
def test_the_summary_says_in_one_line_what_happened(run, text):
    assert run.summary() == f"Spectrum: {text}"


def test_a_note_is_made_once():
    run = trace()
    for text in ("a", "b", "a"):
        run.note(text)
    assert run.notes == ["a", "b"]


@pytest.mark.parametrize(
    "kinds, errors, mean",
    [
        ("CCCC", [9.0, 9.0, 0.1, 0.3], 0.0),  # nothing was forecast
        ("CfC", [None, None, 0.4], 0.4 / 4 / 3),
        ("CffCC", [None, None, None, 0.9, 0.5], 0.9 * (1 + 4) / 9 / 5),
        ("CfCff", [None, None, 0.4], 0.4 / 4 * (1 + 1 + 4) / 5),  # beyond the last computed one, as before it
        ("CfCfC", [None, None, 0.4, None, math.nan], 0.4 / 4 / 5),
        ("CfC", [0.5, None, None], 0.0),
        ("CfC", [None, None, math.inf], None),
        ("", [], None),
    ],
)
def test_the_error_is_the_mean_over_all_evaluations(kinds, errors, mean):
    assert trace(kinds, errors=errors).error == (None if mean is None else pytest.approx(mean))


@pytest.mark.parametrize(
    "kinds, drifts, error",
    [
        ("CfCffC", [None, None, 0.03, None, None, 0.04], 0.05),
        ("CfCfC", [None, None, 0.02, None, None], 0.02),  # the guidance changed: the second gap was not corrected
        ("CfCfC", [None, None, 0.02, None, math.nan], 0.02),
        ("CfCfC", [None, None, math.inf, None, 0.03], 0.03),
        ("CfC", [None, None, 0.0], 0.0),
        ("CfC", [None, None, math.nan], 0.4 / 4 / 3),
        ("CfC", [None, None, None], 0.4 / 4 / 3),
    ],
)
def test_where_gaps_are_corrected_the_error_is_the_root_of_the_sum_of_squares_of_their_drifts(kinds, drifts, error):
    """Else, and where no drift is finite, it comes from what forecasts were off by."""
    run = trace(kinds, errors=[None, None, 0.4], drifts=drifts)
    assert run.error == pytest.approx(error)
    assert run.summary().endswith(f", estimated error {error:.2%}")


def test_the_timeline_has_one_character_per_evaluation():
    assert trace("CCfC", total=6).timeline() == "██▁█··"
    assert trace("", total=3).timeline() == "···"
    assert trace("Cf", total=2).timeline() == "█▁"
    assert trace("CfC", total=2).timeline() == "█▁█"  # a sampler that asks for more than it announced


def test_the_json_is_strict_and_says_null_where_a_number_is_not_finite():
    run = trace("WCf", errors=[math.nan, math.inf, -math.inf], self_test=math.nan)
    run.settings = {"ridge": math.inf, "a": 1}
    run.evaluations[0].seconds = math.inf
    for evaluation, drift in zip(run.evaluations, (math.nan, math.inf, -math.inf), strict=True):
        evaluation.drift = drift

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    data = json.loads(run.to_json(), parse_constant=refuse)
    assert [e["error"] for e in data["evaluations"]] == [e["drift"] for e in data["evaluations"]] == [None] * 3
    assert data["error"] is None
    assert data["self_test"] is data["evaluations"][0]["seconds"] is None
    assert data["settings"] == {"ridge": None, "a": 1}
    assert math.isnan(run.self_test)  # the trace itself keeps what it was told


def test_the_json_holds_the_whole_trace():
    run = trace("WfC", total=7, errors=[None, None, 0.5], model="Flux", sampler="euler", notes=["ä"], node="3")
    run.settings = {"degree": 2, "blend": 0.5, "intercept": "free"}
    data = json.loads(run.to_json())
    derived = {name: data.pop(name) for name in ("computed", "forecast", "error")}
    assert derived == {"computed": 2, "forecast": 1, "error": pytest.approx(0.5 / 4 / 3)}
    evaluations = [Evaluation(**values) for values in data.pop("evaluations")]
    assert Trace(**data, evaluations=evaluations) == run
    assert json.loads(trace("CfC", drifts=[None, None, 0.03]).to_json())["evaluations"][2]["drift"] == 0.03
