"""The GPU's benchmark runs here with small models: every part is there, what does not depend on the device holds."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEEDS = ("flux", "sdxl")
PARTS = {"identity", "synchronisation", "sdxl_evaluations", "flux_sum"}
LONG = ("flux_evaluations", "wan_sum", "wan", "qwen", "compile")


def measured(out, *parts):
    """What `dev.py bench gpu --size tiny` writes: the measurements, and the page."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["COMFYUI_PATH"], str(ROOT)])}
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--size", "tiny", "--out", out, "--parts", *parts]
    done = subprocess.run(command, cwd=ROOT, env=variables, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The parts that take seconds."""
    return measured(tmp_path_factory.mktemp("gpu"), *sorted(PARTS), *SPEEDS)


def test_every_part_was_measured(results):
    found, page = results
    assert set(found["parts"]) == PARTS | set(SPEEDS)
    assert not [name for name, part in found["parts"].items() if "error" in part]
    assert "Not measured yet on a GPU" in page


def test_one_seed_is_one_picture(results):
    identity = results[0]["parts"]["identity"]
    assert identity["repeated"] and identity["preview"] and identity["plain_repeated"]
    (kinds,) = identity["kinds"]
    assert "f" in kinds


@pytest.mark.parametrize("name", SPEEDS)
def test_the_methods_compute_as_many_evaluations(results, name):
    """Ours, EasyCache and fewer steps are compared at equal numbers, and nothing fell back to a full run."""
    full, *runs = results[0]["parts"][name]["runs"]
    assert full["evaluations"] == full["steps"] and full["efficiency"] == 1
    ours, fewer, less, fewest, cache = runs
    assert [run["method"] for run in runs] == ["ours", "fewer steps", "ours", "fewer steps", "EasyCache"]
    assert ours["evaluations"] == fewer["evaluations"] == cache["evaluations"] == 4
    assert less["evaluations"] == fewest["evaluations"] == 3
    assert all(run["finite"] and math.isfinite(run["efficiency"]) and run["efficiency"] > 0 for run in runs)
    assert all(run["target"] == "block output" and run["self_test"] < 1e-5 for run in (ours, less))


def test_a_forecast_costs_little(results):
    parts = results[0]["parts"]
    assert 0 < parts["sdxl_evaluations"]["forecast_of_plain"] < 0.5
    assert parts["flux_sum"]["of_copy_bandwidth"] > 0


@pytest.mark.all
def test_the_longer_parts(tmp_path):
    """Other models; graphs are compiled once."""
    found, _ = measured(tmp_path, *LONG)
    parts = found["parts"]
    assert set(parts) == set(LONG) and not [name for name, part in parts.items() if "error" in part]
    assert parts["compile"]["ours"]["compiled_at"] == [] and parts["compile"]["plain"]["graphs"] > 0
    assert 0 < parts["flux_evaluations"]["forecast_of_plain"] < 0.5 and parts["wan_sum"]["of_copy_bandwidth"] > 0
    for name in ("wan", "qwen"):
        assert [run["evaluations"] for run in parts[name]["runs"]] == [10, 4, 4, 3, 3, 4]


@pytest.mark.all
def test_the_real_server_and_the_trained_models(tmp_path):
    """What a GPU runs besides; parts that are measured later join those before."""
    found, _ = measured(tmp_path, "server")
    server = found["parts"]["server"]
    assert server["demo"]["repeated"] and server["demo"]["plain_repeated"] and 0 < server["demo"]["relative_l2"] < 0.1
    assert server["large"]["computed"] < server["large"]["steps"] and server["large"]["finite"]
    found, page = measured(tmp_path, "trained")
    assert set(found["parts"]) == {"server", "trained"} and "The real server" in page
    assert len(found["parts"]["trained"]) == 3
    assert all("f" in run["kinds"] and run["relative_l2"] < 0.1 for run in found["parts"]["trained"].values())
