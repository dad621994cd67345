"""The pack in a real ComfyUI server, through its HTTP and websocket interface."""

import copy
import io
import itertools
import json
import math
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image
from spectrum_accelerate.nodes.settings import ADVANCED, COMMON, OWN

from demo.comfy_server import PACK, ROOT, PromptError, PromptInterrupted
from demo.workflow import find_node, to_prompt, without_node

EVENT = "spectrum_accelerate.run"
WORKFLOW = ROOT / "demo" / "emoji_nodes" / "workflows" / "spectrum_demo.json"


@pytest.fixture(scope="module")
def prompt(server):
    """The demo's workflow, short: 12 steps, one picture."""
    workflow = json.loads(WORKFLOW.read_text())
    short = to_prompt(workflow, server.object_info())
    short[find_node(short, "KSampler")]["inputs"].update(steps=12, seed=1, cfg=2.0)
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
    inputs = node["input"]["required"] | node["input"].get("optional", {})
    assert list(inputs) == ["model", *(s.name for s in COMMON), "schedule", *(s.name for s in ADVANCED)]
    for setting in (*COMMON, *ADVANCED):
        _, options = inputs[setting.name]
        assert (options["default"], options["tooltip"]) == (setting.default, setting.tooltip)
    assert [choice["key"] for choice in inputs["schedule"][1]["options"]] == list(OWN)
    assert info["SpectrumReport"]["output"] == ["STRING", "IMAGE"] and info["SpectrumReport"]["output_node"]
    assert info["SpectrumCompare"]["output"] == ["IMAGE", "STRING"] and info["SpectrumCompare"]["output_node"]


def test_node_help_is_served(server):
    for node in ("SpectrumAccelerate", "SpectrumReport", "SpectrumCompare"):
        with urllib.request.urlopen(f"{server.url}/extensions/{PACK}/docs/{node}.md") as answer:
            assert answer.read().strip()


def messages(server, node, since=0):
    """The chart's messages of a node."""
    found = server.messages_of(EVENT)[since:]
    return [data for data in found if data["node"] == node]


def test_a_workflow_is_accelerated_and_says_so(server, edited):
    changed = edited("KSampler", seed=11)
    node = find_node(changed, "SpectrumAccelerate")
    before = len(server.messages_of(EVENT))
    outputs = server.queue(changed)
    report = trace(outputs, changed)
    assert (report["computed"], report["total"]) == (6, 12)
    states = [message["state"] for message in messages(server, node, before)]
    last = states[-1]
    assert last["outcome"] == "done" and last["kinds"] == report["kinds"] and last["total"] == 12
    assert all(last["kinds"].startswith(state["kinds"]) for state in states)
    assert last["error"] == pytest.approx(report["error"], rel=1e-3) and last["off"] is None
    assert report["summary"].startswith("Spectrum: 6 of 12 evaluations computed (2.0x fewer), estimated error ")
    assert report["summary"] in server.log_text()
    text = outputs[find_node(changed, "SpectrumReport")]["text"][0]
    assert text.startswith(report["summary"])
    assert report["prompt"] and report["node"] == find_node(changed, "KSampler")


def test_messages_come_at_most_ten_times_a_second(server, edited):
    changed = edited("KSampler", seed=17, steps=60)
    node = find_node(changed, "SpectrumAccelerate")
    with server._news:
        before = len(server.messages)
    server.queue(changed)
    sent = [m for m in server.messages[before:] if m["type"] == EVENT and m["data"]["node"] == node]
    assert len(sent) > 2
    # The last one is sent whatever the time; half of the interval is left for the way here.
    waits = [b["time"] - a["time"] for a, b in itertools.pairwise(sent[:-1])]
    assert min(waits) > 0.05 and (sent[-1]["time"] - sent[0]["time"]) / 0.1 + 2 >= len(sent)
    state = sent[-1]["data"]["state"]
    assert len(state["errors"]) == len(state["kinds"]) == 60
    known = [error for error in state["errors"] if error is not None]
    assert known[-1] == state["error"]


def ask(server, path, data=None):
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(server.url + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def test_a_page_that_comes_later_gets_the_last_messages(server, edited):
    """Those of its workflow; a client that sends none gets its messages while it runs, and nobody later."""
    changed = edited("KSampler", seed=18)
    node = find_node(changed, "SpectrumAccelerate")
    server.queue(changed)
    assert messages(server, node)[-1]["workflow"] == ""
    changed = edited("KSampler", seed=20)
    extra = {"extra_pnginfo": {"workflow": {"id": "mine"}}}
    sent = server._post("/prompt", {"prompt": changed, "client_id": server.client_id, "extra_data": extra})
    server.wait(sent["prompt_id"])
    last = messages(server, node)[-1]
    assert last["workflow"] == "mine" and last["state"]["outcome"] == "done"
    assert ask(server, "/spectrum_accelerate/runs?workflow=mine") == [last]
    assert ask(server, "/spectrum_accelerate/runs?workflow=other") == ask(server, "/spectrum_accelerate/runs") == []


def test_whatever_a_client_sends_as_its_workflow_the_run_is_accelerated(server, edited):
    """It is sampled once, and belongs to no workflow."""
    for seed, workflow in enumerate(("a text", [1], {"id": [2]}), 30):
        changed = edited("KSampler", seed=seed)
        extra = {"extra_pnginfo": {"workflow": workflow}}
        sent = server._post("/prompt", {"prompt": changed, "client_id": server.client_id, "extra_data": extra})
        server.wait(sent["prompt_id"])
        last = messages(server, find_node(changed, "SpectrumAccelerate"))[-1]
        assert last["prompt"] == sent["prompt_id"] and last["workflow"] == ""
        assert last["state"]["outcome"] == "done" and "f" in last["state"]["kinds"] and not last["state"]["notes"]


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "ddim"])
def test_the_plan_of_a_run_is_known_before_it(server, edited, sampler):
    changed = edited("KSampler", seed=19, steps=20, sampler_name=sampler, cfg=3.0)
    inputs = changed[find_node(changed, "SpectrumAccelerate")]["inputs"]
    values = {name.split(".")[-1]: value for name, value in inputs.items() if name != "model"}
    asked = {"values": values, "steps": 20, "sampler": sampler, "cfg": 3.0}
    kinds = ask(server, "/spectrum_accelerate/plan", asked)["kinds"]
    report = trace(server.queue(changed), changed)
    assert len(kinds) == 20 and kinds.count("c") == report["computed"]
    guided = ask(server, "/spectrum_accelerate/plan", asked | {"cfg": 7.0})["kinds"]
    assert guided.count("c") > kinds.count("c"), "strong guidance needs more"
    off = ask(server, "/spectrum_accelerate/plan", asked | {"sampler": "lcm"})["off"]
    assert off["key"] == "SAMPLER" and off["values"]["sampler"] == "lcm" and "lcm" in off["plain"]
    values = {"values": {"degree": 99}}, {"values": {"unknown": 1}}
    for wrong in ({"steps": 0}, {"steps": "many"}, {"steps": math.inf}, {"cfg": "much"}, *values):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(server, "/spectrum_accelerate/plan", asked | wrong)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(server, "/spectrum_accelerate/plan", [asked])


def test_two_nodes_with_equal_settings_are_two_nodes(server, edited):
    """A copied node, with a sampler of its own: each shows its own runs."""
    changed = edited("KSampler", seed=12)
    node, sampler = find_node(changed, "SpectrumAccelerate"), find_node(changed, "KSampler")
    changed["901"] = copy.deepcopy(changed[node])
    changed["902"] = copy.deepcopy(changed[sampler])
    changed["902"]["inputs"].update(model=["901", 0], seed=13)
    changed["903"] = {"class_type": "SpectrumReport", "inputs": {"model": ["901", 0], "latent": ["902", 0]}}
    before = len(server.messages_of(EVENT))
    server.queue(changed)
    assert messages(server, node, before) and messages(server, "901", before)
    assert {m["sampler_node"] for m in messages(server, "901", before)} == {"902"}


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
        ({"target": "picture"}, ["target: 'picture' not in ['auto', 'block output', 'model output']"]),
        ({"schedule": "best"}, ["schedule", "use one of 'adaptive', 'paper', 'fixed interval'"]),
        ({"schedule.evaluations": -1}, ["schedule.evaluations"]),
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
    before = len(server.messages_of(EVENT))
    prompt_id = server.submit(slow)
    while len(messages(server, node, before)) < 4:
        time.sleep(0.05)
    server.interrupt()
    with pytest.raises(PromptInterrupted):
        server.wait(prompt_id)
    assert messages(server, node, before)[-1]["state"]["outcome"] == "interrupted"
    assert picture(server, server.queue(plain(41, again=True)), plain(41)) == first
