"""From the page's workflow to the server's prompt."""

import json
from pathlib import Path

import pytest

from demo.workflow import WorkflowError, find_node, to_prompt, without_node, without_outputs

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    *sorted((ROOT / "workflows").glob("*.json")),
    *sorted((ROOT / "subgraphs").glob("*.json")),
    ROOT / "demo" / "emoji_nodes" / "workflows" / "spectrum_demo.json",
]
INFO = {
    "Loader": {"input": {"required": {"name": [["a", "b"]]}}},
    "Patch": {"input": {"required": {"model": ["MODEL"], "amount": ["FLOAT", {"default": 0.5}]}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
            },
            "optional": {"scheduler": ["COMBO", {"options": ["x", "y"]}], "mask": ["MASK"]},
        }
    },
    "Save": {"output_node": True, "input": {"required": {"images": ["IMAGE"]}}},
}


def node(number, kind, inputs=(), outputs=(), values=(), mode=0):
    return {
        "id": number,
        "type": kind,
        "mode": mode,
        "inputs": [{"name": name, "type": type_, "link": link} for name, type_, link in inputs],
        "outputs": [{"name": type_, "type": type_} for type_ in outputs],
        "widgets_values": list(values),
    }


@pytest.fixture
def workflow():
    return {
        "nodes": [
            node(1, "Loader", outputs=["MODEL"], values=["a"]),
            node(2, "Patch", [("model", "MODEL", 1)], ["MODEL"], [0.25]),
            node(3, "Sampler", [("model", "MODEL", 2), ("steps", "INT", None)], ["IMAGE"], [7, "fixed", 50, "y"]),
            node(4, "Save", [("images", "IMAGE", 3)]),
            node(5, "Note", values=["hello"]),
        ],
        "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "MODEL"], [3, 3, 0, 4, 0, "IMAGE"]],
    }


def test_widgets_follow_the_schema_and_the_seeds_control_is_skipped(workflow):
    assert to_prompt(workflow, INFO) == {
        "1": {"class_type": "Loader", "inputs": {"name": "a"}},
        "2": {"class_type": "Patch", "inputs": {"model": ["1", 0], "amount": 0.25}},
        "3": {"class_type": "Sampler", "inputs": {"model": ["2", 0], "seed": 7, "steps": 50, "scheduler": "y"}},
        "4": {"class_type": "Save", "inputs": {"images": ["3", 0]}},
    }


def test_a_link_wins_over_the_widget_it_was_made_from(workflow):
    workflow["nodes"].append(node(6, "PrimitiveNode", outputs=["INT"], values=[20, "fixed"]))
    workflow["nodes"][2]["inputs"][1]["link"] = 4
    workflow["links"].append({"id": 4, "origin_id": 6, "origin_slot": 0})
    assert to_prompt(workflow, INFO)["3"]["inputs"]["steps"] == 20


def test_a_bypassed_node_and_a_reroute_pass_their_input_on(workflow):
    workflow["nodes"][1]["mode"] = 4
    workflow["nodes"].append(node(6, "Reroute", [("", "*", 2)], ["*"]))
    workflow["links"].append([4, 6, 0, 3, 0, "MODEL"])
    workflow["nodes"][2]["inputs"][0]["link"] = 4
    prompt = to_prompt(workflow, INFO)
    assert prompt["3"]["inputs"]["model"] == ["1", 0]
    assert "2" not in prompt


def test_a_widget_that_is_newer_than_the_workflow_gets_its_default(workflow):
    workflow["nodes"][1]["widgets_values"] = []
    assert to_prompt(workflow, INFO)["2"]["inputs"]["amount"] == 0.5


def test_a_missing_input_is_named(workflow):
    workflow["nodes"][1]["mode"] = 2
    with pytest.raises(WorkflowError, match=r"node 3 \(Sampler\), input model: nothing is connected"):
        to_prompt(workflow, INFO)


def test_a_missing_value_is_named(workflow):
    workflow["nodes"][2]["widgets_values"] = [7, "fixed"]
    with pytest.raises(WorkflowError, match=r"node 3 \(Sampler\), input steps: the workflow has no value"):
        to_prompt(workflow, INFO)


def test_an_unknown_node_is_named(workflow):
    workflow["nodes"][1]["type"] = "Elsewhere"
    with pytest.raises(WorkflowError, match="node 2: the server has no node 'Elsewhere'"):
        to_prompt(workflow, INFO)


def test_a_prompt_is_not_taken_for_a_workflow():
    with pytest.raises(WorkflowError, match="not a workflow"):
        to_prompt({"1": {"class_type": "Loader", "inputs": {}}}, INFO)


def test_removing_a_node_connects_its_neighbours(workflow):
    prompt = to_prompt(workflow, INFO)
    plain = without_node(prompt, "Patch")
    assert plain["3"]["inputs"]["model"] == ["1", 0]
    assert set(plain) == {"1", "3", "4"}
    assert prompt["3"]["inputs"]["model"] == ["2", 0], "the prompt itself stays as it was"


def test_removing_an_output_takes_along_what_needs_it(workflow):
    assert set(without_outputs(to_prompt(workflow, INFO), "Sampler")) == {"1", "2"}


def graphs_of(saved):
    """A workflow and its subgraphs: name, nodes, links as lists, ids of the two ends."""
    yield saved["nodes"], saved["links"], {}
    for graph in saved.get("definitions", {}).get("subgraphs", []):
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        ends = {-10: graph["inputs"], -20: graph["outputs"]}
        yield graph["nodes"], [[link[key] for key in keys] for link in graph["links"]], ends


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_workflow_of_the_pack_is_well_formed(file):
    saved = json.loads(file.read_text(encoding="utf-8"))
    for listed, links, ends in graphs_of(saved):
        nodes = {entry["id"]: entry for entry in listed}
        assert len(nodes) == len(listed), "an id is used twice"
        for number, origin, slot, target, place, _ in links:
            arrives = ends[target][place]["linkIds"] if target in ends else [nodes[target]["inputs"][place]["link"]]
            leaves = ends[origin][slot]["linkIds"] if origin in ends else nodes[origin]["outputs"][slot]["links"]
            assert number in arrives, f"link {number}"
            assert number in leaves, f"link {number}"


def test_the_only_node_of_a_class_is_found(workflow):
    prompt = to_prompt(workflow, INFO)
    assert find_node(prompt, "Sampler") == "3"
    with pytest.raises(WorkflowError, match="0 nodes of class Nothing"):
        find_node(prompt, "Nothing")


CHOICES = [{"key": "auto", "inputs": {}}, {"key": "own", "inputs": {"required": {"crf": ["FLOAT", {"default": 23.0}]}}}]
DYNAMIC = {
    "Save": {
        "output_node": True,
        "input": {"required": {"codec": ["COMFY_DYNAMICCOMBO_V3", {"options": CHOICES}], "name": ["STRING", {}]}},
    }
}


@pytest.mark.parametrize(
    "values, inputs",
    [
        (["auto", "x"], {"codec": "auto", "name": "x"}),
        (["own", 30.0, "x"], {"codec": "own", "codec.crf": 30.0, "name": "x"}),
    ],
)
def test_what_a_choice_brings_follows_it(values, inputs):
    assert to_prompt({"nodes": [node(1, "Save", values=values)], "links": []}, DYNAMIC)["1"]["inputs"] == inputs


def test_a_choice_of_another_version_is_refused():
    with pytest.raises(WorkflowError, match="codec: there is no choice 'newer'"):
        to_prompt({"nodes": [node(1, "Save", values=["newer", "x"])], "links": []}, DYNAMIC)


@pytest.fixture
def nested():
    """Loader -> subgraph (Patch -> subgraph (Sampler)) -> Save; the patch's amount and the steps are inputs outside."""
    inner = {
        "id": "inner",
        "inputs": [{"name": "model"}, {"name": "steps"}],
        "nodes": [node(3, "Sampler", [("model", "MODEL", 1), ("steps", "INT", 2)], ["IMAGE"], [7, "fixed", 50, "y"])],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 3, "target_slot": 0},
            {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 3, "target_slot": 1},
            {"id": 3, "origin_id": 3, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    outer = {
        "id": "outer",
        "inputs": [{"name": "amount"}, {"name": "model"}],
        "nodes": [
            node(2, "Patch", [("model", "MODEL", 2), ("amount", "FLOAT", 1)], ["MODEL"], [0.25]),
            node(3, "inner", [("model", "MODEL", 3), ("steps", "INT", None)], ["IMAGE"]),
        ],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 2, "target_slot": 1},
            {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 2, "target_slot": 0},
            {"id": 3, "origin_id": 2, "origin_slot": 0, "target_id": 3, "target_slot": 0},
            {"id": 4, "origin_id": 3, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    return {
        "nodes": [
            node(1, "Loader", outputs=["MODEL"], values=["a"]),
            node(2, "outer", [("model", "MODEL", 1), ("amount", "FLOAT", None)], ["IMAGE"]),
            node(4, "Save", [("images", "IMAGE", 2)]),
        ],
        "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 4, 0, "IMAGE"]],
        "definitions": {"subgraphs": [inner, outer]},
    }


def test_subgraphs_are_unpacked(nested):
    sampler = {"model": ["2:2", 0], "seed": 7, "steps": 50, "scheduler": "y"}
    assert to_prompt(nested, INFO) == {
        "1": {"class_type": "Loader", "inputs": {"name": "a"}},
        "2:2": {"class_type": "Patch", "inputs": {"model": ["1", 0], "amount": 0.25}},
        "2:3:3": {"class_type": "Sampler", "inputs": sampler},
        "4": {"class_type": "Save", "inputs": {"images": ["2:3:3", 0]}},
    }


def test_what_is_connected_outside_a_subgraph_wins(nested):
    nested["nodes"].append(node(6, "PrimitiveNode", outputs=["FLOAT"], values=[0.75, "fixed"]))
    nested["nodes"][1]["inputs"][1]["link"] = 4
    nested["links"].append([4, 6, 0, 2, 1, "FLOAT"])
    assert to_prompt(nested, INFO)["2:2"]["inputs"]["amount"] == 0.75


def test_an_output_node_in_a_muted_subgraph_does_not_run(nested):
    nested["definitions"]["subgraphs"][1]["nodes"].append(node(9, "Save", [("images", "IMAGE", 4)]))
    assert "2:9" in to_prompt(nested, INFO)
    nested["nodes"][1]["mode"] = 2
    nested["nodes"].pop()
    assert to_prompt(nested, INFO) == {}
