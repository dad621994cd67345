"""The workflows that the template browser offers, the node help and the translations."""

import io
import json
import re
import urllib.parse
import urllib.request
from itertools import combinations, product

import pytest
from frontend import NAMES, Page, chromium, read
from PIL import Image

from demo.comfy_server import PACK, ROOT
from demo.make_workflows import (
    BLUEPRINTS,
    CORE,
    DEMO,
    DRAWERS,
    MODELS,
    OURS,
    SUBGRAPHS,
    WORKFLOWS,
    Drawing,
    budgeted,
    compared,
    demo_inputs,
    ksampler,
    text,
    written,
)
from demo.serve import OPEN_DEMO
from demo.workflow import DYNAMIC_COMBO, choice, find_node, to_prompt

pytestmark = pytest.mark.server

LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
NODES = ("SpectrumAccelerate", "SpectrumReport", "SpectrumCompare")
TRANSLATED = (*NODES, "SpectrumAccelerateRaylight")
NAMES_AND_NUMBERS = ("`skip_interval`", "CFG")
OPTIONS = (
    "'adaptive'",
    "'paper'",
    "'fixed interval'",
    "'auto'",
    "'block output'",
    "'model output'",
    *NAMES_AND_NUMBERS,
)
COVER_LIMIT = 60_000  # bytes
NEWER_IS_HIGHER = 32  # what the newer renderer adds to a node's height at most
FILES = [*(WORKFLOWS / f"{name}.json" for name in NAMES), *sorted(BLUEPRINTS.glob("*.json")), DEMO]


def get(server, path):
    with urllib.request.urlopen(server.url + urllib.parse.quote(path), timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


def saved(file):
    return json.loads(file.read_text(encoding="utf-8"))


def graphs(workflow):
    """A workflow and its subgraphs: the nodes of each, and its links as (origin, target)."""
    yield workflow["nodes"], [(link[1], link[3]) for link in workflow["links"]]
    for graph in workflow.get("definitions", {}).get("subgraphs", []):
        yield graph["nodes"], [(link["origin_id"], link["target_id"]) for link in graph["links"]]


def nodes_of(workflow):
    return [node for nodes, _ in graphs(workflow) for node in nodes]


def entries_of(inputs, given, prefix=""):
    """The schema of each input that a prompt's node may have, with those of the choices that it made."""
    for group in ("required", "optional"):
        for name, entry in inputs.get(group, {}).items():
            yield prefix + name, entry
            if entry[0] == DYNAMIC_COMBO:
                further = choice(entry[1], given[prefix + name])
                assert further is not None, f"{prefix}{name} has no choice {given[prefix + name]!r}"
                yield from entries_of(further, given, f"{prefix}{name}.")


def test_all_are_there():
    assert sorted(DRAWERS) == NAMES
    assert sorted(SUBGRAPHS) == sorted(file.stem for file in BLUEPRINTS.glob("*.json"))


def test_files_are_what_the_script_writes(info):
    for file, content in written(info).items():
        assert text(content) == file.read_text(encoding="utf-8"), f"{file.name}: run: python dev.py workflows"


@pytest.mark.parametrize("name", [*NAMES, DEMO.stem])
def test_values_are_inside_the_schema(info, name):
    for node in to_prompt(read(name), info).values():
        entries = dict(entries_of(info[node["class_type"]]["input"], node["inputs"]))
        assert set(node["inputs"]) <= set(entries)
        for key, value in node["inputs"].items():
            kind, options = entries[key][0], (entries[key][1:] or [{}])[0]
            where = f"{node['class_type']}.{key} = {value!r}"
            if isinstance(value, list | dict) or str(value).endswith(".safetensors"):
                continue  # a link, what only the page fills in, or a model file that need not be on this machine
            choices = kind if isinstance(kind, list) else options.get("options")
            if kind == DYNAMIC_COMBO:
                continue  # `entries_of` has found the choice
            if choices:
                assert value in choices, where
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], where
                assert kind == "FLOAT" or isinstance(value, int), where
            else:
                assert isinstance(value, bool if kind == "BOOLEAN" else str), where


@pytest.mark.parametrize("name", NAMES)
def test_every_model_file_has_its_address(name):
    """In the loader, for the page's download button, and in the note."""
    workflow = read(name)
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    values = [value for node in nodes_of(workflow) for value in node["widgets_values"]]
    files = {value for value in values if str(value).endswith(".safetensors")}
    assert files
    for node in nodes_of(workflow):
        loaded = {value for value in node["widgets_values"] if value in files}
        listed = {model["name"]: model for model in node["properties"].get("models", [])}
        assert loaded == set(listed)
        for file in loaded:
            folder, address = MODELS[file]
            assert (listed[file]["directory"], listed[file]["url"]) == (folder, address)
            assert address.startswith("https://") and address.endswith("/" + file)
            assert any(f"[{file}]({address})" in note["widgets_values"][0] for note in notes)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_node_says_which_pack_it_is_from(file):
    workflow = saved(file)
    ours = {graph["id"] for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    for node in nodes_of(workflow):
        own = node["type"].startswith("Spectrum") or node["type"] in ours
        for key, value in (OURS if own else CORE).items():
            assert node["properties"][key] == value, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_the_node_has_its_defaults(info, name):
    found = [node["inputs"] for node in to_prompt(read(name), info).values() if node["class_type"] == NODES[0]]
    assert found
    for inputs in found:
        for key, (_, *rest) in entries_of(info[NODES[0]]["input"], inputs):
            if rest and "default" in rest[0]:
                assert inputs[key] == rest[0]["default"], key


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nodes_and_groups_do_not_overlap_and_links_go_to_the_right(file):
    workflow = saved(file)
    definitions = workflow.get("definitions", {}).get("subgraphs", [])
    for (listed, links), graph in zip(graphs(workflow), [workflow, *definitions], strict=True):
        nodes = {node["id"]: node for node in listed}
        boxes = [
            (x, y - 30, x + width, y + height + NEWER_IS_HIGHER)
            for (x, y), (width, height) in ((node["pos"], node["size"]) for node in listed)
        ]
        frames = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in graph["groups"])]
        for a, b in [*combinations(boxes, 2), *combinations(frames, 2)]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
        for origin, target in links:
            if origin in nodes and target in nodes:
                left, right = nodes[origin]["pos"][0], nodes[target]["pos"][0]
                assert left <= right, f"{nodes[origin]['type']} -> {nodes[target]['type']}"


def test_the_demo_runs(server, info):
    prompt = to_prompt(read(DEMO.stem), info)
    prompt[find_node(prompt, "KSampler")]["inputs"].update(steps=12, seed=20)
    prompt[find_node(prompt, "EmptySD3LatentImage")]["inputs"]["batch_size"] = 1
    outputs = server.queue(prompt)
    assert "12" in outputs[find_node(prompt, "SpectrumReport")]["text"][0]
    assert len(outputs[find_node(prompt, "SaveImage")]["images"]) == 1


def test_the_comparison_samples_twice_with_one_seed(server, info):
    """Its two pictures are those of two KSamplers with that seed, one of them with our node."""
    drawing = Drawing("comparison", info)
    given, vae = demo_inputs(drawing)
    drawing.column(300, "")
    images = drawing.subgraph(compared(info), vae=vae, **given)[:2]
    (fast,) = drawing.node("SpectrumAccelerate", model=given["model"])
    values = {"seed": 42, "steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    for model in (given["model"], fast):
        (latent,) = drawing.node("KSampler", **{**given, "model": model}, **values)
        images += drawing.node("VAEDecode", samples=latent, vae=vae)
    for image in images:
        drawing.node("SaveImage", images=image)
    prompt = to_prompt(drawing.to_dict(), info)
    prompt[find_node(prompt, "BasicScheduler")]["inputs"].update(steps=12, scheduler="simple")
    prompt[find_node(prompt, "PrimitiveFloat")]["inputs"]["value"] = 3.0
    outputs = server.queue(prompt)
    names = sorted((key for key, node in prompt.items() if node["class_type"] == "SaveImage"), key=int)
    pictures = [Image.open(io.BytesIO(server.view(outputs[key]["images"][0]))).tobytes() for key in names]
    assert pictures[:2] == pictures[2:]
    assert pictures[0] != pictures[1]


def test_the_sampler_with_spectrum_takes_a_samplers_place(server, info):
    drawing = Drawing("sampler", info)
    given, vae = demo_inputs(drawing)
    drawing.column(300, "")
    (latent,) = drawing.subgraph(ksampler(info), **given)
    (images,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    drawing.node("SaveImage", images=images)
    prompt = to_prompt(drawing.to_dict(), info)
    prompt[find_node(prompt, "KSampler")]["inputs"]["steps"] = 12
    outputs = server.queue(prompt)
    assert len(outputs[find_node(prompt, "SaveImage")]["images"]) == 1
    assert "12" in outputs[find_node(prompt, "SpectrumReport")]["text"][0]


def test_the_server_offers_the_blueprints(server):
    listed = json.loads(get(server, "/api/global_subgraphs"))
    ours = {entry["name"]: key for key, entry in listed.items() if PACK in str(entry["info"]["node_pack"])}
    assert sorted(ours) == sorted(SUBGRAPHS)
    for name, key in ours.items():
        entry = json.loads(get(server, f"/api/global_subgraphs/{key}"))
        assert json.loads(entry["data"]) == saved(BLUEPRINTS / f"{name}.json")


def test_the_template_browser_gets_workflows_and_covers(server):
    assert sorted(json.loads(get(server, "/api/workflow_templates"))[PACK]) == NAMES
    for name in NAMES:
        assert json.loads(get(server, f"/api/workflow_templates/{PACK}/{name}.json")) == read(name)
        cover = get(server, f"/api/workflow_templates/{PACK}/{name}.jpg")
        assert len(cover) <= COVER_LIMIT
        assert Image.open(io.BytesIO(cover)).format == "JPEG"


@pytest.mark.browser
@pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes 2.0"])
def test_the_page_opens_all_and_sends_what_we_would(server, info, vue):
    with chromium() as browser:
        page = Page(browser, server, vue=vue)
        for file in [*(WORKFLOWS / f"{name}.json" for name in NAMES), DEMO]:
            workflow = saved(file)
            page.load(workflow)
            page.page.wait_for_function("count => app.rootGraph.nodes.length == count", arg=len(workflow["nodes"]))
            assert "Missing Node" not in page.text()
            assert page.prompt() == to_prompt(workflow, info), file.stem
        assert page.errors == []


@pytest.mark.browser
def test_dev_serve_opens_the_demo(server):
    with chromium() as browser:
        page = Page(browser, server, vue=False)
        page.page.goto(server.url + OPEN_DEMO)
        page.page.wait_for_function("() => window.app?.rootGraph?.nodes.some(n => n.type == 'SpectrumDemoEmoji')")
        assert page.errors == []


@pytest.mark.parametrize("node", NODES)
def test_the_node_help_names_every_input_and_output(server, node):
    text = get(server, f"/extensions/{PACK}/docs/{node}.md").decode()
    schema = server.object_info()[node]
    shown = {group: schema["input"].get(group, {}) for group in ("required", "optional")}
    widgets = [label for _, label, _ in inputs_of(shown)]
    for name in [*widgets, *(schema["output_name"] if node != NODES[0] else [])]:
        assert f"`{name}`" in text, name


def test_the_help_has_the_prompt_of_the_node(info):
    """What a user of the API sends: the defaults."""
    text = (ROOT / "web" / "docs" / f"{NODES[0]}.md").read_text(encoding="utf-8")
    shown = json.loads(text.split("```json")[1].split("```")[0])
    drawing = Drawing("api", info)
    (model,) = drawing.node("UNETLoader", unet_name="tiny_flux.safetensors")
    (model,) = drawing.node(NODES[0], model=model)
    (latent,) = drawing.node("EmptySD3LatentImage", width=96, height=96)
    drawing.node("SpectrumReport", model=model, latent=latent)
    prompt = to_prompt(drawing.to_dict(), info)
    assert shown == prompt[find_node(prompt, NODES[0])]


@pytest.mark.parametrize("file", sorted((ROOT / "web" / "docs").glob("*.md")), ids=lambda file: file.stem)
def test_help_is_short_and_its_links_lead_somewhere(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.split()) <= 400
    for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (file.parent / target).is_file(), target
    for target in re.findall(r"\]\((https://github.com/[^)]+)\)", text):
        assert (ROOT / target.split("/blob/main/")[1]).is_file(), target
    assert file.stem not in NODES or "![" in text


def test_the_advice_has_the_nodes_own_numbers(info):
    text = (ROOT / "web" / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (none|[\d.]+x) \|$", text, re.MULTILINE)
    assert len(rows) > 4
    guided = re.findall(r"^\| (\d+), CFG (\d) \| (\d+) \| ([\d.]+x) \|$", text, re.MULTILINE)
    assert len(guided) == 3
    for steps, cfg, computed, fewer in [(s, "1", c, f) for s, c, f in rows] + guided:
        assert int(computed) == budgeted(info, int(steps), float(cfg))
        assert fewer == ("none" if computed == steps else f"{int(steps) / int(computed):.2g}x")
    assert f"{2 * budgeted(info, 10, 3.5)} of 20 are computed" in text


def inputs_of(schema):
    """All inputs of a schema with those of the choices of its dynamic combos: (name, shown as, its entry)."""
    for inputs in schema.values():
        for name, entry in inputs.items():
            yield name, name.split(".")[-1], entry
            for option in entry[1]["options"] if entry[0] == DYNAMIC_COMBO else ():
                further = option.get("inputs", {})
                yield from inputs_of({g: {f"{name}.{n}": e for n, e in part.items()} for g, part in further.items()})


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
    assert set(written) == set(TRANSLATED)
    for node in TRANSLATED:
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
    for node, language in product((NODES[0],), LANGUAGES):
        english = translated(server.object_info()[node])["inputs"]
        written = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for name, entry in english.items():
            tip = written[node]["inputs"][name]["tooltip"]
            for option in OPTIONS:
                if option in entry["tooltip"]:
                    assert option.strip() in tip, (language, name, option)
