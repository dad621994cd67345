"""docs/compatibility.md cannot rot: what it lacks, what differs and what is no longer recorded fails."""

import pytest
from compatibility import Compatibility, agree, parse, render
from spectrum_accelerate.nodes.samplers.table import REPLACES_NOISE
from spectrum_accelerate.spectrum_core.messages import Text, say
from spectrum_accelerate.spectrum_core.trace import Evaluation, Trace

DOCUMENT = "compatibility.md"


def trace(kinds, off=None):
    names = {"c": "computed", "f": "forecast"}
    evaluations = [Evaluation(i, 1.0 - i / 10, names[kind]) for i, kind in enumerate(kinds)]
    return Trace(len(kinds), "Flux", "heun", evaluations=evaluations, outcome="done", off=off)


RUN = trace("ccfcf")
NOISE = say(Text.SAMPLER, sampler="heun", obstacle=REPLACES_NOISE)


@pytest.fixture
def session(tmp_path):
    """A new session, writing or not."""
    return lambda write=False, version="1.0": Compatibility(tmp_path / DOCUMENT, write, version)


@pytest.fixture
def written(session, tmp_path):
    """A document with a row and a cell."""
    record = session(write=True)
    record("feature", "PAG", [RUN, RUN], 0.01234)
    record("sampler", "heun", [RUN], 0.5, column="flux")
    record("sampler", "lcm", [trace("", NOISE)], 0.0, column="flux")
    record.close(whole=True)
    return tmp_path / DOCUMENT


def test_what_is_written_is_what_was_recorded(written):
    text = written.read_text()
    assert "| PAG | Flux | heun | 3/5 + 3/5 | 0.012 |" in text
    assert "| heun | 3/5, 0.50 |" in text and "| lcm | full: noise |" in text
    assert render(parse(text), "1.0") == text


def test_the_same_again_is_accepted(session, written):
    record = session()
    record("sampler", "lcm", [trace("", NOISE)], 0.0, column="flux")
    record("sampler", "heun", [RUN], 0.6, column="flux")
    record("feature", "PAG", [RUN, RUN], 0.02)
    record.close(whole=True)


@pytest.mark.parametrize(
    ("name", "kinds", "error", "said"),
    [
        ("PAG", "ccccc", 0.0, "computed is '5/5', not '3/5 [+] 3/5'"),
        ("PAG", "ccfcf", 0.1, "error is '0.10', not '0.012'"),
        ("SAG", "ccfcf", 0.1, "computed is '3/5', not ''.*--write-compatibility"),
    ],
)
def test_what_differs_fails(session, written, name, kinds, error, said):
    with pytest.raises(pytest.fail.Exception, match=said):
        session()("feature", name, [trace(kinds)], error)


def test_what_a_whole_session_did_not_record_fails(session, written):
    record = session()
    record("feature", "PAG", [RUN, RUN], 0.012)
    record.close(whole=False)
    with pytest.raises(pytest.fail.Exception, match=r"sampler 'heun' \(flux\), sampler 'lcm' \(flux\)"):
        record.close(whole=True)


def test_a_part_of_a_session_keeps_the_rest(session, written):
    record = session(write=True)
    record("sampler", "heun", [trace("ccc")], 0.0, column="sd15")
    record.close(whole=False)
    rows = parse(written.read_text())["sampler"]
    assert rows["heun"] == {"flux": "3/5, 0.50", "sd15": "full: no step could be forecast"}
    assert rows["lcm"] == {"flux": "full: noise", "sd15": ""}
    record.close(whole=True)
    assert list(parse(written.read_text())["sampler"]) == ["heun"] and not parse(written.read_text())["feature"]


def test_another_comfyui_is_not_compared(session, written):
    record = session(version="2.0")
    record("feature", "another", [RUN], 0.9)
    record.close(whole=True)


def test_a_row_is_recorded_once(session, written):
    record = session()
    record("feature", "PAG", [RUN, RUN], 0.012)
    with pytest.raises(AssertionError, match="'PAG' is recorded twice"):
        record("feature", "PAG", [RUN, RUN], 0.012)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("7/12, 0.020", "7/12, 0.039", True),
        ("7/12, 0.020", "7/12, 0.041", False),
        ("7/12, 0.020", "8/12, 0.020", False),
        ("7/12, 1.2e-05", "7/12, 0.0", True),
        ("differs by 1.0e+00; the model output", "differs by 1.2e+00; the model output", True),
        ("0.020", "", False),
    ],
)
def test_cells_agree_up_to_near_figures(one, other, same):
    assert agree(one, other) == agree(other, one) == same
