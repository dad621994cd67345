"""The schedules bench writes what it measured: equal evaluations side by side, refusals with their reasons."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import schedules
from _cases import Setting
from _embedded import REPORTING, TUNING
from _methods import CALIBRATING
from schedules import GENERATED, Change, candidates, magnitudes, published, scalar_path, with_lora

TINY = Setting("flux", "euler", 12, 1.0, 3.0, ())


@pytest.fixture
def cheap(monkeypatch):
    """Every table with one short setting or two."""
    monkeypatch.setattr(schedules, "TOLERATED", (TINY,))
    monkeypatch.setattr(schedules, "TOLERANCES", (0.02, 0.5))
    monkeypatch.setattr(schedules, "GUIDED", (TINY,))
    monkeypatch.setattr(schedules, "GUIDANCE", (1.0, 3.0))
    monkeypatch.setattr(schedules, "TARGETED", (TINY, Setting("missing", "euler", 12, 1.0, 3.0, ())))
    monkeypatch.setattr(schedules, "PLANNED", TINY)
    monkeypatch.setattr(schedules, "RATED", (replace(TINY, steps=20, cfg=3.0),))
    monkeypatch.setattr(schedules, "STEPS", (20,))
    monkeypatch.setattr(
        schedules,
        "CHANGES",
        (
            Change("itself", TINY, itself=True),
            Change("normal", TINY),
            Change("larger", TINY, side=16),
            Change("weights", TINY, weights=0.3),
            Change("steps", replace(TINY, steps=14)),
        ),
    )


def rows_in(text):
    """Rows of a page's tables, by section."""
    sections = {part.split("\n", 1)[0]: part for part in text.split("## ")[1:]}
    return {
        title: [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")][2:]
        for title, part in sections.items()
    }


def test_the_page_holds_what_was_measured(cheap, tmp_path):
    file = tmp_path / "schedules.md"
    file.write_text(f"# Noted\n\n{GENERATED}\nold")
    found = schedules.run(schedules.tables(), 1, file)
    text = file.read_text()
    assert text.startswith(f"# Noted\n\n{GENERATED}\n\nMeasured on") and "old" not in text
    written = rows_in(text)
    assert [len(rows) for rows in written.values()] == [len(rows) for rows in found.values()] == [2, 2, 5, 1, 1, 16]

    strict, lax = ([float(cell or "nan") for cell in row[1:]] for row in found["tolerance"])
    assert strict[1] > lax[1] >= 3, "a tolerance is paid for with evaluations"
    assert strict[3] < lax[3] and lax[6] == pytest.approx(lax[3] / 0.5, abs=0.01)
    assert strict[3] == strict[4] == strict[5], "of one picture"
    assert all(strict[2:4]) and lax[7] > 0, "estimated, measured, and balanced at as many evaluations"

    assert [row[0] for row in found["guidance"]] == [str(TINY), str(replace(TINY, cfg=3.0))]
    for _, evaluations, corrected, plain, ratio, medians, free, error in found["guidance"]:
        assert 3 <= float(evaluations) <= float(free) <= TINY.steps
        assert float(ratio) == pytest.approx(float(corrected) / float(plain), abs=0.02) and medians == ratio
        assert (error == corrected) == (free == evaluations)

    itself, normal, larger, weights, steps = found["reach"]
    for row in (itself, normal, larger, weights):
        assert row[5].startswith("planned, predicted error")
        assert float(row[4]) == pytest.approx(float(row[2]) / float(row[3]), abs=0.02)
    assert float(weights[0].rstrip(")").split("moved by ")[1]) > 0.05
    assert len({row[3] for row in (itself, normal, larger, weights)}) == 4, "four different runs"
    assert steps[2] == steps[3] == steps[4] == "" and "14" in steps[5] and "plan is not used" in steps[5]

    ((_, evaluations, block, raw, _),) = found["target"]
    assert float(evaluations) < TINY.steps and 0 < float(block) != float(raw) > 0

    ((_, evaluations, error, shares, *ratios),) = found["rates"]
    cond, uncond = map(float, shares.split(", "))
    assert int(evaluations) == 8 and len(ratios) == len(schedules.RATES) + 1
    assert abs(cond - uncond) < float(error) < cond + uncond, "both errors in one, at the same evaluations"
    assert min(map(float, ratios)) > 1, "errors at the same evaluations cancel"


def test_displacements_are_weights_of_the_outputs():
    """Known for outputs of one direction each, they hold for any others, as the closed form of those says."""
    sigmas = schedules.levels(20)
    outputs = np.arange(20.0)[:, None] * [[1.0, -2.0]]
    outputs[7] += 1
    path, own = schedules.euler_path(np.eye(20), sigmas), schedules.euler_path(outputs @ outputs.T, sigmas)
    computed = candidates(20)["balanced"]
    for corrected in (False, True):
        arguments = computed, schedules.defaults().forecaster(), corrected
        moved = path.displacements(*arguments) @ path.factor.T @ outputs
        assert np.linalg.norm(moved, axis=1) == pytest.approx(own.errors(*arguments), abs=1e-6)


def test_nothing_is_reported_that_was_chosen_on():
    assert len({schedules.SEED, CALIBRATING, TUNING, REPORTING}) == 4


def test_published_sizes_are_resampled():
    """Cumulative products; of two passes a step, one; as many steps as published give back what was published."""
    ratios = published()
    assert len(ratios) == 15 and all(values[0] == 1 for values in ratios.values())
    own = magnitudes(ratios["flux"], 28)
    assert own[1:] / own[:-1] == pytest.approx(ratios["flux"][1:])
    paired = magnitudes(ratios["qwen_image"], 40)
    assert paired[1:] / paired[:-1] == pytest.approx(ratios["qwen_image"][2::2])
    assert magnitudes(ratios["flux"], 50).max() / own.max() == pytest.approx(1, abs=0.02)


def test_the_closed_form_is_euler_on_the_sizes():
    """From pure noise to none; and what does not change is forecast exactly."""
    path = scalar_path(np.ones(20))
    assert path.map[-1].sum() == pytest.approx(-1)
    for computed in candidates(20).values():
        assert path.predicted(computed, schedules.defaults().forecaster(), True) == pytest.approx(0, abs=1e-9)


def test_schedules_compared_have_as_many_evaluations():
    chosen = candidates(50)
    assert {len(computed) for computed in chosen.values()} == {15}
    assert chosen["balanced"][0] == 0 and chosen["balanced"][-1] == 49
    assert chosen["balanced, no shares"] != chosen["balanced"] == candidates(50)["balanced"]
    assert chosen["balanced"][1] > 1 and chosen["balanced, warm-up 2"][:2] == [0, 1]
    assert chosen["growing interval"][:5] == [0, 1, 2, 3, 4]


def test_weights_change_as_by_a_lora():
    case = schedules.Case(TINY, 7, 1)
    patched = with_lora(case.model, 0.3)
    linear = [m for m in case.model.model.diffusion_model.modules() if isinstance(m, schedules.torch.nn.Linear)]
    assert len(patched.patches) == len(linear) and not case.model.patches
