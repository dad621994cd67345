"""The pack in a real ComfyUI server, through its HTTP and websocket interface."""

import copy
import io
import json
import time
import urllib.request

import pytest
from PIL import Image
from spectrum_accelerate.nodes.settings import BEFORE, SETTINGS

from demo.comfy_server import PACK, ROOT, PromptError, PromptInterrupted
from demo.workflow import find_node, to_prompt, without_node

WORKFLOW = ROOT / "demo" / "emoji_nodes" / "workflows" / "spectrum_demo.json"


@pytest.fixture(scope="module")
def prompt(server):
    """The demo's workflow, short: 12 steps, one picture."""
    workflow = json.loads(WORKFLOW.read_text())
    short = to_prompt(workflow, server.object_info())
    short[find_node(short, "KSampler")]["inputs"].update(steps=12, seed=1)
    short[find_node(short, "EmptySD3LatentImage")]["inputs"]["batch_size"] = 1
    return short


@pytest.fixture
def edited(prompt):
    """A function that gives the prompt with other values at one class of node."""

    def edit(class_type="SpectrumAccelerate", **values):
        changed = copy.deepcopy(prompt)
        changed[find_node(changed, class_type)]["inputs"].update(values)
        return changed

    return edit


@pytest.fixture
def plain(edited):
    """A function that gives the prompt without the node; `again` makes one that the server's cache does not know."""

    def remove(seed, again=False):
        # A denoise above 0.9999 counts as 1.
        changed = edited("KSampler", seed=seed, denoise=0.99995 if again else 1.0)
        changed[find_node(changed, "SaveImage")]["inputs"]["filename_prefix"] = "again" if again else "plain"
        return without_node(changed, "SpectrumAccelerate")

    return remove


def trace(outputs, prompt):
    (text,) = outputs[find_node(prompt, "SpectrumReport")]["spectrum"]
    return json.loads(text)


def picture(server, outputs, prompt):
    (file,) = outputs[find_node(prompt, "SaveImage")]["images"]
    return Image.open(io.BytesIO(server.view(file))).tobytes()  # the file itself holds the prompt too


def test_nodes_are_registered_with_their_widgets(server):
    info = server.object_info()
    node = info["SpectrumAccelerate"]
    assert node["display_name"] == "Spectrum Accelerate" and node["output"] == ["MODEL"]
    assert node["python_module"] == f"custom_nodes.{PACK}"
    inputs = node["input"]["required"] | node["input"]["optional"]
    assert list(inputs) == ["model", *(s.name for s in SETTINGS), "plan"]
    for setting in SETTINGS:
        _, options = inputs[setting.name]
        assert (options["default"], options["tooltip"]) == (setting.default, setting.tooltip)
    assert info["SpectrumReport"]["output"] == ["STRING", "IMAGE"]


def test_node_help_is_served(server):
    for node in ("SpectrumAccelerate", "SpectrumAuto", "SpectrumReport"):
        with urllib.request.urlopen(f"{server.url}/extensions/{PACK}/docs/{node}.md") as answer:
            assert answer.read().strip()


def test_a_workflow_is_accelerated_and_says_so(server, edited):
    changed = edited("KSampler", seed=11)
    node = find_node(changed, "SpectrumAccelerate")
    before = len(server.progress_texts(node))
    outputs = server.queue(changed)
    report = trace(outputs, changed)
    assert (report["computed"], report["total"]) == (6, 12)
    texts = server.progress_texts(node)[before:]
    assert texts[0] == "Spectrum █··········· 1/1", texts
    assert texts[-2] == "Spectrum █▁█▁▁█▁▁█▁██ 6/12"
    summary = texts[-1]
    assert summary.startswith("Spectrum: 6 of 12 evaluations computed (2.0x fewer), estimated error ")
    assert summary in server.log_text()
    text = outputs[find_node(changed, "SpectrumReport")]["text"][0]
    assert text.startswith(summary) and report["prompt"] and report["node"] == find_node(changed, "KSampler")


def test_without_the_node_the_picture_is_the_same_before_and_after(server, plain, edited):
    first = picture(server, server.queue(plain(21)), plain(21))
    fast = edited("KSampler", seed=21)
    assert picture(server, server.queue(fast), fast) != first
    assert picture(server, server.queue(plain(21, again=True)), plain(21)) == first


def test_the_report_shows_the_latest_run_only(server, edited):
    first, second = edited("KSampler", seed=31), edited("KSampler", seed=32, steps=14)
    assert trace(server.queue(first), first)["total"] == 12
    assert trace(server.queue(second), second)["total"] == 14


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"degree": 12}, ["degree", "Value 12 bigger than max of 8"]),
        ({"window": 1}, ["window", "Value 1 smaller than min of 2"]),
        ({"target": "picture"}, ["target: 'picture' not in ['block output', 'model output']"]),
        ({"start_percent": 0.9, "end_percent": 0.1}, ["start_percent = 0.9 is not below end_percent = 0.1"]),
        ({"end_percent": 1.5}, ["end_percent = 1.5: use a number from 0 to 1"]),
    ],
)
def test_bad_values_are_refused_at_the_node(server, edited, values, texts):
    with pytest.raises(PromptError, match="SpectrumAccelerate") as error:
        server.queue(edited(**values))
    assert all(text in str(error.value) for text in texts), str(error.value)


def test_a_bad_value_from_another_node_is_an_error_at_the_node(server, edited):
    changed = edited(degree=["900", 0])
    changed["900"] = {"class_type": "PrimitiveInt", "inputs": {"value": 12}}
    with pytest.raises(PromptError, match="degree = 12: use a whole number from 1 to 8") as error:
        server.queue(changed)
    assert find_node(changed, "SpectrumAccelerate") in str(error.value)


@pytest.fixture
def told(edited):
    """A function that gives the prompt with Spectrum Accelerate (Auto) instead, told a goal."""

    def tell(**inputs):
        changed = edited("KSampler", seed=61)
        node = changed[find_node(changed, "SpectrumAccelerate")]
        node.update(class_type="SpectrumAuto", inputs={"model": node["inputs"]["model"], **inputs})
        return changed

    return tell


def test_every_goal_runs_and_asks_for_what_it_says(server, told):
    goals = {
        "quality": {},
        "balanced": {},
        "fast": {},
        "tolerance": {"goal.tolerance": 0.03},
        "evaluations": {"goal.evaluations": 7},
    }
    (_, options) = server.object_info()["SpectrumAuto"]["input"]["required"]["goal"]
    assert {choice["key"] for choice in options["options"]} == set(goals)
    computed = {}
    for goal, value in goals.items():
        prompt = told(goal=goal, **value)
        report = trace(server.queue(prompt), prompt)
        assert report["total"] == 12
        computed[goal] = report["computed"]
    assert 12 > computed["quality"] > computed["fast"]
    assert computed["quality"] >= computed["balanced"] >= computed["tolerance"] >= computed["fast"]
    assert computed["evaluations"] == 7


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"goal": "evaluations", "goal.evaluations": 2}, "Value 2 smaller than min of 3: goal.evaluations"),
        ({"goal": "tolerance", "goal.tolerance": 0}, "Value 0.0 smaller than min of 0.001: goal.tolerance"),
        ({"goal": "evaluations"}, "Required input is missing: evaluations"),
        ({"goal": "best"}, "goal: use one of 'balanced', 'quality', 'fast', 'evaluations', 'tolerance'"),
    ],
)
def test_a_bad_goal_is_refused_at_the_node(server, told, inputs, text):
    with pytest.raises(PromptError, match="SpectrumAuto") as error:
        server.queue(told(**inputs))
    assert text in str(error.value)


def test_a_prompt_from_before_the_newer_widgets_is_valid(server, prompt, edited):
    """Without any of them, and without those that came last only."""
    for absent in (set(BEFORE), {"tolerance", "evaluations", "correct"}):
        changed = edited("KSampler", seed=71 + len(absent))
        inputs = changed[find_node(changed, "SpectrumAccelerate")]["inputs"]
        for name in absent:
            del inputs[name]
        assert trace(server.queue(changed), changed)["computed"] < 12


def test_a_report_beside_a_bypassed_node_says_so(server, edited):
    """Bypassing the node to compare must not break the workflow."""
    changed = without_node(edited("KSampler", seed=51), "SpectrumAccelerate")
    outputs = server.queue(changed)
    report = outputs[find_node(changed, "SpectrumReport")]
    assert report["text"][0].startswith("Spectrum: not on this MODEL: Spectrum Accelerate is bypassed")
    assert not report["spectrum"]


def test_cancel_in_the_page_ends_the_run_and_leaves_the_model_as_it_was(server, edited, plain):
    first = picture(server, server.queue(plain(41)), plain(41))
    slow = edited("KSampler", seed=41, steps=4000)
    node = find_node(slow, "SpectrumAccelerate")
    before = len(server.progress_texts(node))
    prompt_id = server.submit(slow)
    while len(server.progress_texts(node)) < before + 8:
        time.sleep(0.05)
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(prompt_id)
    assert server.progress_texts(node)[-1].startswith("Spectrum: interrupted after ")
    assert picture(server, server.queue(plain(41, again=True)), plain(41)) == first
