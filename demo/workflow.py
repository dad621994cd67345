"""From the workflow that the page saves to the prompt that the server runs.

ComfyUI's page does this step in the browser; the demo and the tests need it without one, so that the file which a user
drags in is the very file that they run. Subgraphs and dynamic combos are resolved as the page does it; what cannot be
converted is refused by name, not guessed.
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


DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a combo whose choices have inputs of their own
PAGE_VALUES = {"IMAGECOMPARE": {"__value__": ["", ""]}}  # what the page sends for widgets that hold nothing
INPUTS, OUTPUTS = -10, -20  # ids of a subgraph's two ends, in its links


def has_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    """Whether the page shows an input as a widget; a type that it has no widget for is a socket."""
    shown = options.get("widgetType", kind)
    known = isinstance(shown, list) or shown in WIDGET_TYPES or shown == DYNAMIC_COMBO
    return known and not options.get("forceInput")


def has_control(name: str, kind: Any, options: Mapping[str, Any]) -> bool:
    """Whether the page adds a widget behind this one that changes its value after each prompt."""
    return bool(options.get("control_after_generate", kind == "INT" and name in SEEDS))


def choice(options: Mapping[str, Any], key: Any) -> Mapping[str, Any] | None:
    """The inputs of a dynamic combo's choice, by group, as in a schema; None if there is no such choice."""
    for entry in options["options"]:
        if entry["key"] == key:
            inputs: Mapping[str, Any] = entry.get("inputs", {})
            return inputs
    return None


class WorkflowError(Exception):
    """A workflow that cannot be converted; the message names the node and the input."""


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Json]:
    """Convert a saved workflow to a prompt of the HTTP API.

    Args:
        workflow: what the page saves (nodes, links, definitions of subgraphs).
        object_info: the server's answer to GET /object_info.

    Returns:
        {node id: {"class_type", "inputs"}} of every node that an output node needs. Links are [node id, slot]. The id
        of a node in a subgraph is "id of the subgraph's node:its own id".

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
    """One conversion.

    Attributes:
        nodes: by id; those in subgraphs too. Their links are names in `links`.
        links: name -> id of the node that it comes from and its slot. Where that is the input end of the subgraph of
            node X, the id is "X:-10"; the output end's links are in `ends`.
        ends: (id of a subgraph's node, output slot) -> name of the link that arrives there.
    """

    def __init__(self, workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> None:
        if "nodes" not in workflow:
            raise WorkflowError("no `nodes`: not a workflow as the page saves it (perhaps already a prompt?)")
        self.info = object_info
        self.subgraphs = {graph["id"]: graph for graph in workflow.get("definitions", {}).get("subgraphs", [])}
        self.nodes: dict[str, Json] = {}
        self.links: dict[str, tuple[str, int]] = {}
        self.ends: dict[tuple[str, int], str] = {}
        self._read(workflow, "")
        self.prompt: dict[str, Json] = {}

    def _read(self, graph: Mapping[str, Any], scope: str) -> None:
        """Take over the nodes and links of a graph; `scope` is "X:" in the subgraph of node X."""
        for link in graph.get("links", []):
            if isinstance(link, Mapping):
                number, origin, slot = link["id"], link["origin_id"], link["origin_slot"]
                target, place = link.get("target_id"), link.get("target_slot", 0)
            else:
                number, origin, slot, target, place = link[:5]
            self.links[f"{scope}{number}"] = (f"{scope}{origin}", slot)
            if target == OUTPUTS:
                self.ends[scope[:-1], place] = f"{scope}{number}"
        for node in graph["nodes"]:
            inputs = [
                {**entry, "link": None if entry.get("link") is None else f"{scope}{entry['link']}"}
                for entry in node.get("inputs", [])
            ]
            self.nodes[f"{scope}{node['id']}"] = {**node, "inputs": inputs}
            if node["type"] in self.subgraphs:
                self._read(self.subgraphs[node["type"]], f"{scope}{node['id']}:")

    def convert(self) -> dict[str, Json]:
        """Convert every output node, and with it all that it needs."""
        for node_id, node in self.nodes.items():
            plain = node["type"] not in self.subgraphs and node["type"] not in COMMENTS | {"Reroute", "PrimitiveNode"}
            if plain and self._runs(node_id) and self._schema(node_id).get("output_node"):
                self._add(node_id)
        return self.prompt

    def _runs(self, node_id: str) -> bool:
        """Whether neither the node nor a subgraph that it is in is muted or bypassed."""
        parts = node_id.split(":")
        around = (":".join(parts[: depth + 1]) for depth in range(len(parts)))
        return all(self.nodes[name].get("mode", 0) not in (MUTED, BYPASSED) for name in around)

    def _schema(self, node_id: str) -> Mapping[str, Any]:
        kind = self.nodes[node_id]["type"]
        if kind not in self.info:
            raise WorkflowError(f"node {node_id}: the server has no node {kind!r}; is its node pack installed?")
        schema: Mapping[str, Any] = self.info[kind]
        return schema

    def _add(self, node_id: str) -> None:
        """Convert one node, and before it what it needs, so that the prompt reads from model to picture."""
        if node_id in self.prompt:
            return
        node, schema = self.nodes[node_id], self._schema(node_id)
        saved = {entry["name"]: entry for entry in node["inputs"]}
        names: dict[str, bool] = {}  # whether each is required
        values: dict[str, Any] = {}
        stored = node.get("widgets_values") or []
        where = f"node {node_id} ({node['type']})"
        if isinstance(stored, Mapping):
            names = dict(self._input_names(schema["input"]))
            values = {name: stored[name] for name in names if name in stored}
        else:
            self._read_widgets(schema["input"], "", list(stored), saved, names, values, where)
        inputs: Json = {}
        for name, required in names.items():
            link = saved.get(name, {}).get("link")
            origin = self._origin(link, node_id, name) if link is not None else None
            value = self._resolve(*origin) if origin is not None else None
            if value is not None:
                inputs[name] = value
            elif name in values:
                inputs[name] = values[name]
            elif required:
                raise WorkflowError(f"{where}, input {name}: nothing is connected to it")
        self.prompt[node_id] = {"class_type": node["type"], "inputs": inputs}

    @staticmethod
    def _input_names(inputs: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
        for group in ("required", "optional"):
            for name in inputs.get(group, {}):
                yield name, group == "required"

    def _read_widgets(
        self,
        inputs: Mapping[str, Any],
        prefix: str,
        rest: list[Any],
        saved: Mapping[str, Json],
        names: dict[str, bool],
        values: dict[str, Any],
        where: str,
    ) -> None:
        """Fill `names` and `values`: widgets are saved as a bare list, in the order of the schema, `rest` of it here.

        What a dynamic combo's choice brings follows the combo at once, under the name "combo.input".
        """
        for short, required in self._input_names(inputs):
            entry = inputs["required" if required else "optional"][short]
            kind, options = entry[0], (entry[1] if len(entry) > 1 else {})
            name = prefix + short
            names[name] = required
            if isinstance(kind, str) and kind.startswith(("COMFY_DYNAMIC", "COMFY_AUTOGROW")) and kind != DYNAMIC_COMBO:
                raise WorkflowError(f"{where}, input {name}: inputs of a changing number ({kind}) need the page")
            converted = "widget" in saved.get(name, {})
            if isinstance(kind, str) and kind in PAGE_VALUES:
                values[name] = PAGE_VALUES[kind]
                continue
            if not has_widget(kind, options) and not (converted and not options.get("forceInput")):
                continue
            if rest:
                values[name] = rest.pop(0)
                if has_control(short, kind, options) and rest:
                    rest.pop(0)  # "fixed", "randomize", ...: only the page acts on it
            elif "default" in options:
                values[name] = options["default"]  # the node got this widget after the workflow was saved
            elif required and saved.get(name, {}).get("link") is None:
                raise WorkflowError(f"{where}, input {name}: the workflow has no value for it")
            if kind == DYNAMIC_COMBO and name in values:
                further = choice(options, values[name])
                if further is None:
                    raise WorkflowError(f"{where}, input {name}: there is no choice {values[name]!r}")
                self._read_widgets(further, f"{name}.", rest, saved, names, values, where)

    def _origin(self, link: str, node_id: str, name: str) -> tuple[str, int] | None:
        """Where a link comes from, also through the ends of subgraphs; None where nothing is connected outside."""
        if link not in self.links:
            raise WorkflowError(f"node {node_id}, input {name}: its link {link} is not in the workflow")
        origin, slot = self.links[link]
        if not origin.endswith(f":{INPUTS}"):
            return origin, slot
        around = origin.removesuffix(f":{INPUTS}")
        outside = self.subgraphs[self.nodes[around]["type"]]["inputs"][slot]["name"]
        for entry in self.nodes[around]["inputs"]:
            if entry["name"] == outside and entry["link"] is not None:
                return self._origin(entry["link"], around, outside)
        return None

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
        link: str | None
        if node["type"] == "Reroute" or node.get("mode", 0) == BYPASSED:
            passed = self._passed_on(node, slot)
            link, name = (passed.get("link"), passed["name"]) if passed else (None, "")
        elif node["type"] in self.subgraphs:
            link, name = self.ends.get((node_id, slot)), f"output {slot}"
        else:
            self._add(node_id)
            return [node_id, slot]
        origin = self._origin(link, node_id, name) if link is not None else None
        return self._resolve(*origin) if origin is not None else None

    @staticmethod
    def _passed_on(node: Json, slot: int) -> Json | None:
        """The input that a bypassed node hands to this output: that at the same place, else the first of its type."""
        inputs: list[Json] = node["inputs"]
        if node["type"] == "Reroute":
            return inputs[0] if inputs else None
        wanted = node["outputs"][slot]["type"]
        same_place = inputs[slot : slot + 1]
        return next((entry for entry in [*same_place, *inputs] if entry["type"] in (wanted, "*")), None)
