"""The workflows that the template browser offers, the node help and the translations."""

import io
import json
import urllib.request
from itertools import combinations, product

import pytest
import torch
from frontend import NAMES, read
from PIL import Image
from spectrum_accelerate.nodes.auto import TOLERANCES, WIDGETS, chosen
from spectrum_accelerate.nodes.settings import DEFAULTS, SETTINGS, Settings

from demo import make_workflows
from demo.comfy_server import PACK, ROOT
from demo.make_workflows import DRAWERS, PAPER, Drawing
from demo.workflow import find_node, to_prompt

pytestmark = pytest.mark.server

LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
NODES = ("SpectrumAccelerate", "SpectrumReport", "SpectrumCalibrate", "SpectrumPlan", "SpectrumAuto")
SCHEDULE_OPTIONS = ("'balanced'", "'growing interval'", "'error control'")
GOALS = ("'quality'", "'fast'", "'tolerance'", "'evaluations'")
NAMES_AND_NUMBERS = ("`speedup`", "`tolerance`", "CFG", "0.5", " 4", " 5", "0.02", "2 %", "2.5 %", "1 %", "6 %")
OPTIONS = ("'free'", "'block output'", *SCHEDULE_OPTIONS, *GOALS, *NAMES_AND_NUMBERS)
COVER_LIMIT = 60_000  # bytes
NEWER_IS_HIGHER = 32  # what the newer renderer adds to a node's height at most


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


def spectrum_nodes(prompt):
    return [node["inputs"] for node in prompt.values() if node["class_type"] == "SpectrumAccelerate"]


def widget_values(inputs):
    return {name: inputs[name] for name in DEFAULTS}


def settings_of(node):
    """The settings of a Spectrum Accelerate, or of one that is told a goal."""
    inputs = node["inputs"]
    if node["class_type"] == "SpectrumAuto":
        return chosen(inputs["goal"], inputs.get(f"goal.{inputs['goal']}"))
    return Settings(**widget_values(inputs))


def test_all_are_there():
    assert sorted(DRAWERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_what_the_script_writes(server, name):
    drawing = Drawing(name, server.object_info())
    DRAWERS[name](drawing)
    assert drawing.to_dict() == read(name), f"run: python -m {make_workflows.__name__}"


@pytest.mark.parametrize("name", NAMES)
def test_values_are_inside_the_schema(info, name):
    for node in to_prompt(read(name), info).values():
        schema = info[node["class_type"]]["input"]
        entries = {**schema.get("required", {}), **schema.get("optional", {})}
        for key, value in node["inputs"].items():
            kind, options = entries[key][0], (entries[key][1:] or [{}])[0]
            where = f"{node['class_type']}.{key} = {value!r}"
            if isinstance(value, list) or str(value).endswith(".safetensors"):
                continue  # a link, or a model file that need not be on this machine
            choices = kind if isinstance(kind, list) else options.get("options")
            if kind == "COMFY_DYNAMICCOMBO_V3":
                choices = [choice["key"] for choice in choices]
            if choices:
                assert value in choices, where
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], where
                assert kind == "FLOAT" or isinstance(value, int), where
            else:
                assert isinstance(value, bool if kind == "BOOLEAN" else str), where


@pytest.mark.parametrize("name", NAMES)
def test_the_note_names_every_model_file(info, name):
    workflow = read(name)
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    values = [value for node in to_prompt(workflow, info).values() for value in node["inputs"].values()]
    files = [value for value in values if str(value).endswith(".safetensors")]
    assert files
    assert name == "spectrum_demo" or all(file in note for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_does_is_forecast_a_good_part(info, name):
    prompt = to_prompt(read(name), info)
    for node in prompt.values():
        if node["class_type"].startswith("KSampler"):
            inputs = node["inputs"]
            steps = min(inputs.get("end_at_step", inputs["steps"]), inputs["steps"]) - inputs.get("start_at_step", 0)
            settings = settings_of(prompt[inputs["model"][0]])
            assert len(settings.scheduled(torch.linspace(1, 0, steps + 1)).plan(steps)) <= 0.6 * steps


def test_the_node_has_its_defaults_except_where_a_workflow_is_about_others(info):
    for name in NAMES:
        for inputs in spectrum_nodes(to_prompt(read(name), info)):
            expected = {"spectrum_paper_settings": PAPER}.get(name, {})
            assert widget_values(inputs) == {**DEFAULTS, **expected}, name


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap_and_links_go_to_the_right(name):
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    boxes = [
        (x, y - 30, x + width, y + height + NEWER_IS_HIGHER)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in nodes.values())
    ]
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    for _, origin, _, target, *_ in workflow["links"]:
        same_column = nodes[origin]["pos"][0] == nodes[target]["pos"][0]
        both_samplers = {nodes[origin]["type"], nodes[target]["type"]} == {"KSamplerAdvanced"}
        assert nodes[origin]["pos"][0] < nodes[target]["pos"][0] or (same_column and both_samplers)


def test_the_demo_runs(server, info):
    prompt = to_prompt(read("spectrum_demo"), info)
    prompt[find_node(prompt, "KSampler")]["inputs"].update(steps=12, seed=20)
    prompt[find_node(prompt, "EmptySD3LatentImage")]["inputs"]["batch_size"] = 1
    outputs = server.queue(prompt)
    assert "of 12 evaluations computed" in outputs[find_node(prompt, "PreviewAny")]["text"][0]
    assert len(outputs[find_node(prompt, "SaveImage")]["images"]) == 1
    assert len(outputs[find_node(prompt, "PreviewImage")]["images"]) == 1


def test_the_template_browser_gets_workflows_and_covers(server):
    assert sorted(json.loads(get(server, "/api/workflow_templates"))[PACK]) == NAMES
    for name in NAMES:
        assert json.loads(get(server, f"/api/workflow_templates/{PACK}/{name}.json")) == read(name)
        cover = get(server, f"/api/workflow_templates/{PACK}/{name}.jpg")
        assert len(cover) <= COVER_LIMIT
        assert Image.open(io.BytesIO(cover)).format == "JPEG"


@pytest.mark.parametrize("node", NODES)
def test_the_node_help_names_every_input_and_output(server, node):
    text = get(server, f"/extensions/{PACK}/docs/{node}.md").decode()
    schema = server.object_info()[node]
    widgets = [setting.name for setting in SETTINGS] if node == NODES[0] else list(schema["input"]["required"])
    goals = [*TOLERANCES, *(setting.name for setting in WIDGETS)] if node == NODES[4] else []
    for name in [*widgets, *goals, *(schema["output_name"] if node in (NODES[1], NODES[3]) else [])]:
        assert f"`{name}`" in text, name


def inputs_of(schema):
    """All inputs of a schema with those of the choices of its dynamic combos: (name, shown as, its entry)."""
    for inputs in schema.values():
        for name, entry in inputs.items():
            yield name, name.split(".")[-1], entry
            for choice in entry[1]["options"] if entry[0] == "COMFY_DYNAMICCOMBO_V3" else ():
                nested = {
                    group: {f"{name}.{n}": e for n, e in part.items()} for group, part in choice["inputs"].items()
                }
                yield from inputs_of(nested)


def translated(schema):
    """The shape of a node's entry in nodeDefs.json, filled with the schema's own texts."""
    tips = schema.get("output_tooltips") or [None] * len(schema["output"])
    shown = {group: schema["input"].get(group, {}) for group in ("required", "optional")}
    outputs = zip(schema["output_name"], tips, strict=True)

    def entry(name, tip):
        return {"name": name, "tooltip": tip} if tip else {"name": name}

    return {
        "display_name": schema["display_name"],
        "description": schema["description"],
        # The page looks an input up by its name with "_" for each ".", those of a choice of a dynamic combo too.
        "inputs": {
            name.replace(".", "_"): entry(label, options.get("tooltip"))
            for name, label, (_, options) in inputs_of(shown)
        },
        "outputs": {str(index): entry(name, tip) for index, (name, tip) in enumerate(outputs)},
    }


def shape(value):
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else type(value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_have_exactly_the_nodes_texts(server, language):
    served = json.loads(get(server, "/i18n"))[language]["nodeDefs"]
    written = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(written) == set(NODES)
    for node in NODES:
        expected = translated(server.object_info()[node])
        assert served[node] == written[node]
        assert shape(written[node]) == shape(expected)
        assert list(written[node]["inputs"]) == list(expected["inputs"])
        if language == "en":
            assert written[node] == expected
        else:
            texts = [value["tooltip"] for value in written[node]["inputs"].values()]
            assert not set(texts) & {value["tooltip"] for value in expected["inputs"].values()}, "not translated"


def test_translations_keep_the_numbers_and_options(server):
    """A default, a limit or an option that a tooltip names is the same in every language."""
    for node, language in product(("SpectrumAccelerate", "SpectrumAuto"), LANGUAGES):
        english = translated(server.object_info()[node])["inputs"]
        written = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for name, entry in english.items():
            tip = written[node]["inputs"][name]["tooltip"]
            for option in OPTIONS:
                if option in entry["tooltip"]:
                    assert option.strip() in tip, (language, name, option)
