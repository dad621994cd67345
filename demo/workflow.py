"""From the workflow that the page saves to the prompt that the server runs.

ComfyUI's page does this step in the browser; the demo and the tests need it without one, so that the file which a user
drags in is the very file that they run. Ordinary nodes only: what cannot be converted is refused by name, not guessed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]

MUTED, BYPASSED = 2, 4  # LiteGraph's modes; a muted node does not run, a bypassed one passes its inputs on
COMMENTS = {"Note", "MarkdownNote"}
# Types that the page shows as widgets. COMBO is also written as the list of its options.
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
SEEDS = {"seed", "noise_seed"}  # the page gives these a control widget even where the schema does not ask for it


def is_socket(options: Mapping[str, Any]) -> bool:
    """Whether an input of a type that has widgets is to have none; a widget that the page does not know is none."""
    return bool(options.get("forceInput")) or options.get("widgetType", "STRING") not in WIDGET_TYPES


class WorkflowError(Exception):
    """A workflow that cannot be converted; the message names the node and the input."""


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Json]:
    """Convert a saved workflow to a prompt of the HTTP API.

    Args:
        workflow: what the page saves (nodes and links; no subgraphs).
        object_info: the server's answer to GET /object_info.

    Returns:
        {node id: {"class_type", "inputs"}} of every node that an output node needs. Links are [node id, slot].

    Raises:
        WorkflowError: for an unknown node, a missing input, or something that only the page can resolve.
    """
    return _Converter(workflow, object_info).convert()


def without_node(prompt: Mapping[str, Json], class_type: str) -> dict[str, Json]:
    """The same prompt without the nodes of a class: who used their output 0 gets what they got as `model`.

    Nodes that used any other output of theirs would be left without an input, so that is refused.
    """
    result = copy.deepcopy(dict(prompt))
    for node_id in [key for key, node in result.items() if node["class_type"] == class_type]:
        source = result.pop(node_id)["inputs"].get("model")
        for key, node in result.items():
            for name, value in node["inputs"].items():
                if isinstance(value, list) and value[0] == node_id:
                    if value[1] != 0 or source is None:
                        raise WorkflowError(f"node {key}, input {name}: needs the removed node {node_id}")
                    node["inputs"][name] = source
    return result


def without_outputs(prompt: Mapping[str, Json], class_type: str) -> dict[str, Json]:
    """The same prompt without the nodes of a class, and without all that needs them."""
    result = copy.deepcopy(dict(prompt))
    removed = {key for key, node in result.items() if node["class_type"] == class_type}
    while removed:
        for key in removed:
            del result[key]
        removed = {
            key
            for key, node in result.items()
            if any(isinstance(value, list) and value[0] not in result for value in node["inputs"].values())
        }
    return result


def find_node(prompt: Mapping[str, Json], class_type: str) -> str:
    """The id of the only node of this class."""
    found = [key for key, node in prompt.items() if node["class_type"] == class_type]
    if len(found) != 1:
        raise WorkflowError(f"the prompt has {len(found)} nodes of class {class_type}, not one")
    return found[0]


class _Converter:
    def __init__(self, workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> None:
        if "nodes" not in workflow:
            raise WorkflowError("no `nodes`: not a workflow as the page saves it (perhaps already a prompt?)")
        self.info = object_info
        self.nodes: dict[str, Json] = {str(node["id"]): node for node in workflow["nodes"]}
        self.subgraphs = {graph["id"] for graph in workflow.get("definitions", {}).get("subgraphs", [])}
        self.links: dict[int, tuple[str, int]] = {}  # link id -> node id and slot that it comes from
        for link in workflow.get("links", []):
            if isinstance(link, Mapping):
                self.links[link["id"]] = (str(link["origin_id"]), link["origin_slot"])
            else:
                self.links[link[0]] = (str(link[1]), link[2])
        self.prompt: dict[str, Json] = {}

    def convert(self) -> dict[str, Json]:
        """Convert every output node, and with it all that it needs."""
        for node_id, node in self.nodes.items():
            if self._runs(node) and node["type"] not in COMMENTS | {"Reroute", "PrimitiveNode"}:
                schema = self._schema(node_id)
                if schema.get("output_node"):
                    self._add(node_id)
        return self.prompt

    @staticmethod
    def _runs(node: Json) -> bool:
        return node.get("mode", 0) not in (MUTED, BYPASSED)

    def _schema(self, node_id: str) -> Mapping[str, Any]:
        kind = self.nodes[node_id]["type"]
        if kind in self.subgraphs:
            raise WorkflowError(f"node {node_id} is a subgraph; unpack it in the page before saving")
        if kind not in self.info:
            raise WorkflowError(f"node {node_id}: the server has no node {kind!r}; is its node pack installed?")
        schema: Mapping[str, Any] = self.info[kind]
        return schema

    def _add(self, node_id: str) -> None:
        """Convert one node, and before it what it needs, so that the prompt reads from model to picture."""
        if node_id in self.prompt:
            return
        node, schema = self.nodes[node_id], self._schema(node_id)
        saved = {entry["name"]: entry for entry in node.get("inputs", [])}
        values = self._widget_values(node_id, node, schema, saved)
        inputs: Json = {}
        for name, required in self._input_names(schema):
            link = saved.get(name, {}).get("link")
            value = self._resolve(*self._origin(link, node_id, name)) if link is not None else None
            if value is not None:
                inputs[name] = value
            elif name in values:
                inputs[name] = values[name]
            elif required:
                raise WorkflowError(f"node {node_id} ({node['type']}), input {name}: nothing is connected to it")
        self.prompt[node_id] = {"class_type": node["type"], "inputs": inputs}

    @staticmethod
    def _further_inputs(options: Mapping[str, Any], chosen: Any) -> bool:
        """Whether what is chosen in a dynamic combo has inputs of its own."""
        choices = {choice["key"]: choice.get("inputs", {}) for choice in options["options"]}
        return any(choices.get(chosen, {"unknown": True}).values())

    @staticmethod
    def _input_names(schema: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
        for group in ("required", "optional"):
            for name in schema["input"].get(group, {}):
                yield name, group == "required"

    def _widget_values(
        self, node_id: str, node: Json, schema: Mapping[str, Any], saved: Mapping[str, Json]
    ) -> dict[str, Any]:
        """What the widgets hold, by input name: they are saved as a bare list, in the order of the schema."""
        stored = node.get("widgets_values") or []
        if isinstance(stored, Mapping):
            return {name: stored[name] for name, _ in self._input_names(schema) if name in stored}
        values: dict[str, Any] = {}
        rest = list(stored)
        for name, required in self._input_names(schema):
            entry = schema["input"]["required" if required else "optional"][name]
            kind, options = entry[0], (entry[1] if len(entry) > 1 else {})
            if kind == "COMFY_DYNAMICCOMBO_V3" and rest and not self._further_inputs(options, rest[0]):
                kind = "COMBO"
            if isinstance(kind, str) and kind.startswith(("COMFY_DYNAMIC", "COMFY_AUTOGROW")):
                where = f"node {node_id} ({node['type']}), input {name}"
                raise WorkflowError(f"{where}: inputs that change with a choice ({kind}) need the page")
            if is_socket(options) or not (
                isinstance(kind, list) or kind in WIDGET_TYPES or "widget" in saved.get(name, {})
            ):
                continue
            if rest:
                values[name] = rest.pop(0)
                controlled = options.get("control_after_generate", kind == "INT" and name in SEEDS)
                if controlled and rest:
                    rest.pop(0)  # "fixed", "randomize", ...: only the page acts on it
            elif "default" in options:
                values[name] = options["default"]  # the node got this widget after the workflow was saved
            elif required and saved.get(name, {}).get("link") is None:
                raise WorkflowError(f"node {node_id} ({node['type']}), input {name}: the workflow has no value for it")
        return values

    def _origin(self, link: int, node_id: str, name: str) -> tuple[str, int]:
        if link not in self.links:
            raise WorkflowError(f"node {node_id}, input {name}: its link {link} is not in the workflow")
        return self.links[link]

    def _resolve(self, node_id: str, slot: int) -> Any:
        """What an output stands for: a link of the prompt, a value, or None where nothing arrives."""
        if node_id not in self.nodes:
            raise WorkflowError(f"a link comes from node {node_id}, which is not in the workflow")
        node = self.nodes[node_id]
        if node.get("mode", 0) == MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or []
            if not values:
                raise WorkflowError(f"node {node_id} (PrimitiveNode): it holds no value")
            return values[0]
        if node["type"] == "Reroute" or node.get("mode", 0) == BYPASSED:
            passed = self._passed_on(node, slot)
            if passed is None or passed.get("link") is None:
                return None
            return self._resolve(*self._origin(passed["link"], node_id, passed["name"]))
        self._add(node_id)
        return [node_id, slot]

    @staticmethod
    def _passed_on(node: Json, slot: int) -> Json | None:
        """The input that a bypassed node hands to this output: that at the same place, else the first of its type."""
        inputs: list[Json] = node.get("inputs", [])
        if node["type"] == "Reroute":
            return inputs[0] if inputs else None
        wanted = node["outputs"][slot]["type"]
        same_place = inputs[slot : slot + 1]
        return next((entry for entry in [*same_place, *inputs] if entry["type"] in (wanted, "*")), None)
