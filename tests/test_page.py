"""What a user sees: the pack in ComfyUI's real page, in Chromium, with both renderers of nodes."""

import copy
import sys
from pathlib import Path

import pytest
from frontend import NAMES, Page, chromium, read
from spectrum_accelerate.nodes.settings import ADAPTIVE, ADVANCED, COMMON, OWN, SCHEDULE

import dev
from demo.comfy_server import ROOT, ComfyServer
from demo.make_workflows import Drawing, ksampler
from demo.workflow import to_prompt

pytestmark = [pytest.mark.browser, pytest.mark.server]

ACCELERATE = "SpectrumAccelerate"
EVENT = "spectrum_accelerate.run"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A server with a newer version of the page than its own."""
    page = dev.newer_frontend(Path(sys.executable))
    with ComfyServer(tmp_path_factory.mktemp("newer"), arguments=["--front-end-root", str(page)]) as running:
        yield running


@pytest.fixture(
    scope="module",
    params=[
        ("server", False),
        ("newer", True),
        pytest.param(("server", True), marks=pytest.mark.all),
        pytest.param(("newer", False), marks=pytest.mark.all),
    ],
    ids=lambda value: f"{value[0]}-{'vue' if value[1] else 'canvas'}",
)
def opened(request, browser):
    """Pages of two versions, with both renderers."""
    name, vue = request.param
    page = Page(browser, request.getfixturevalue(name), vue=vue)
    yield page
    page.page.close()


@pytest.fixture
def page(opened):
    """The demo's workflow in the page, short."""
    opened.page.keyboard.press("Escape")
    opened.errors.clear()
    opened.load(read("spectrum_demo"))
    opened.set("KSampler", steps=12, cfg=2.0)
    opened.set("EmptySD3LatentImage", batch_size=1)
    yield opened
    assert not opened.errors


def test_the_search_finds_the_node_and_adds_it(page):
    page.command("Workspace.SearchBox.Toggle")
    page.page.keyboard.type("spectrum accelerate")
    page.page.get_by_role("dialog").get_by_text("Spectrum Accelerate", exact=True).first.wait_for()
    page.page.keyboard.press("Escape")


def test_widgets_are_in_order_with_their_defaults(page):
    page.page.evaluate(
        """kind => { app.rootGraph.clear(); const node = LiteGraph.createNode(kind)
            app.rootGraph.add(node) }""",
        ACCELERATE,
    )
    own = [f"schedule.{setting.name}" for setting in OWN[ADAPTIVE]]
    names = [*(s.name for s in COMMON), SCHEDULE.name, *own, *(s.name for s in ADVANCED)]
    shown = page.widgets(ACCELERATE)
    assert [name for name in shown if name != "spectrum_chart"] == names
    assert all(shown[setting.name] == setting.default for setting in (*COMMON, SCHEDULE, *ADVANCED))


def test_a_schedule_brings_its_own_widgets_only(page):
    for schedule, own in OWN.items():
        page.set(ACCELERATE, schedule=schedule)
        shown = [name for name in page.widgets(ACCELERATE) if name.startswith("schedule.")]
        assert shown == [f"schedule.{setting.name}" for setting in own]
        (inputs,) = [n["inputs"] for n in page.prompt().values() if n["class_type"] == ACCELERATE]
        assert inputs["schedule"] == schedule
        assert {name: inputs[name] for name in shown} == {f"schedule.{s.name}": s.default for s in own}


def test_advanced_widgets_open_on_demand(page):
    advanced = {setting.name for setting in ADVANCED}
    marked = page.page.evaluate(
        """kind => app.rootGraph.nodes.find(n => n.type == kind).widgets
            .filter(w => w.options?.advanced).map(w => w.name)""",
        ACCELERATE,
    )
    assert set(marked) == advanced
    if page.vue:
        page.select(ACCELERATE)
        number = page.page.evaluate("kind => app.rootGraph.nodes.find(n => n.type == kind).id", ACCELERATE)
        node = page.page.locator(f'[data-node-id="{number}"]')
        assert "start_percent" not in node.inner_text()
        node.get_by_test_id("advanced-inputs-button").click()
        node.get_by_text("start_percent").wait_for()
        assert all(name in node.inner_text() for name in advanced)


def test_the_prompt_of_every_workflow_is_the_one_that_we_convert(page):
    info = page.server.object_info()
    for name in NAMES:
        page.load(read(name))
        unknown = page.page.evaluate(
            "() => app.rootGraph.nodes.map(n => n.type).filter(type => !(type in LiteGraph.registered_node_types))"
        )
        assert not unknown, name
        assert "missing node" not in page.text().lower(), name
        assert page.prompt() == to_prompt(read(name), info), name


CHART = """(kind, id) => app.rootGraph.nodes.find(n => n.type == kind && (!id || n.id == id))
    .widgets.find(w => w.name == "spectrum_chart").element"""


def chart(page, node=None):
    """The chart of our node: what it says, whether it is old, its tooltip and its height."""
    return page.page.evaluate(
        f"""([kind, node]) => {{ const root = ({CHART})(kind, node)
            const {{ text, old }} = root.dataset
            return {{text, old, title: root.title, height: root.clientHeight}} }}""",
        [ACCELERATE, node],
    )


def wait_for_chart(page, text, node=None, old=None):
    """Until the chart says so; `old`: and is marked as old, or is not."""
    page.page.wait_for_function(
        f"""([kind, node, text, old]) => {{ const {{ dataset }} = ({CHART})(kind, node)
            return dataset.text?.includes(text) && (old === null || dataset.old === String(old)) }}""",
        arg=[ACCELERATE, node, text, old],
        timeout=30_000,
    )


def colours(page):
    """How many pixels of the chart have the colours of computed and of forecast bars (dark or light theme), by name."""
    return page.page.evaluate(
        f"""kind => {{ const canvas = ({CHART})(kind).firstChild
            const wanted = {{"#4c8dff": "computed", "#8a9cc0": "forecast", "#2563d9": "computed, light"}}, found = {{}}
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
            for (let i = 0; i < data.length; i += 4) {{
                const hex = "#" + [0, 1, 2].map(k => data[i + k].toString(16).padStart(2, "0")).join("")
                if (data[i + 3] == 255 && hex in wanted) found[wanted[hex]] = (found[wanted[hex]] ?? 0) + 1 }}
            return found }}""",
        ACCELERATE,
    )


def run(page, seed, **values):
    page.set("KSampler", seed=seed + 10 * page.vue, **values)
    page.queue()
    page.wait("execution_success")


def test_the_plan_is_shown_before_the_first_run(page):
    page.load(dict(read("spectrum_demo"), id="3f0c6d1e-0000-4000-8000-000000000001"))
    wait_for_chart(page, "Plan: 15 of 50 computed")
    page.set("KSampler", steps=20)
    wait_for_chart(page, "Plan: 10 of 20 computed")
    page.set("KSampler", cfg=7.0)
    wait_for_chart(page, "Plan: 15 of 20 computed")
    page.set("KSampler", cfg=1.0)
    page.set(ACCELERATE, skip_interval=4.0)
    wait_for_chart(page, "Plan: 7 of 20 computed")
    page.set("KSampler", sampler_name="lcm")
    wait_for_chart(page, "Off: lcm adds noise")
    assert "cannot be extrapolated" in chart(page)["title"]


def test_a_run_is_drawn_on_the_node_and_stays(page):
    """In the saved workflow, and when that is opened again; nothing is written to another node."""
    before = chart(page)["height"]
    run(page, 300, cfg=1.5)
    wait_for_chart(page, "2.0x fewer")
    shown = chart(page)
    assert "% off" in shown["text"] and shown["old"] == "false" and shown["height"] == before > 60
    saved = page.page.evaluate("() => app.rootGraph.serialize()")
    (node,) = [n for n in saved["nodes"] if n["type"] == ACCELERATE]
    assert node["properties"]["spectrum"]["rows"][-1]["state"]["kinds"].count("c") == 6
    assert all(not isinstance(value, dict) for value in node["widgets_values"])
    others = [n for n in saved["nodes"] if n["type"] != ACCELERATE]
    assert not any("spectrum" in (n.get("properties") or {}) for n in others)
    page.load(dict(saved, id="3f0c6d1e-0000-4000-8000-000000000002"))  # which the server does not know
    wait_for_chart(page, "2.0x fewer")
    assert page.widgets(ACCELERATE)["skip_interval"] == 3.3


def test_what_has_changed_since_makes_the_run_old(page):
    run(page, 320)
    wait_for_chart(page, "2.0x fewer", old=False)
    page.set(ACCELERATE, skip_interval=2.0)
    wait_for_chart(page, "2.0x fewer", old=True)
    page.set(ACCELERATE, skip_interval=3.3)
    wait_for_chart(page, "2.0x fewer", old=False)
    page.set("KSampler", steps=14)
    wait_for_chart(page, "2.0x fewer", old=True)
    page.set("KSampler", steps=12, sampler_name="heun")
    wait_for_chart(page, "2.0x fewer", old=True)
    page.set("KSampler", sampler_name="euler")
    page.select(ACCELERATE)
    page.page.keyboard.press("Control+b")
    wait_for_chart(page, "2.0x fewer", old=True)


def test_the_chart_survives_a_reload(page):
    run(page, 330)
    wait_for_chart(page, "2.0x fewer")
    page.page.wait_for_timeout(1500)  # the page keeps its draft after a while
    page.open()
    page.page.wait_for_function("kind => app.rootGraph.nodes.some(n => n.type == kind)", arg=ACCELERATE, timeout=30_000)
    wait_for_chart(page, "2.0x fewer")


def test_a_run_is_shown_in_its_own_workflow_only(page):
    """Another tab, whose nodes have the same numbers, is shown while the run goes on; then the first one again."""
    first, second = (dict(read("spectrum_demo"), id=f"3f0c6d1e-0000-4000-8000-00000000000{n}") for n in (3, 4))
    page.load(first)
    page.set("KSampler", steps=100, seed=340 + page.vue)
    page.page.wait_for_timeout(300)
    page.queue()
    page.page.wait_for_function("() => window.seen.some(([name]) => name == 'promptQueued')")
    page.load(second)
    page.wait("execution_success")
    wait_for_chart(page, "Plan: 15 of 50 computed")
    page.load(dict(page.page.evaluate("() => app.rootGraph.serialize()"), id=first["id"]))
    wait_for_chart(page, "x fewer")


def test_a_message_for_another_node_changes_nothing(page):
    page.page.evaluate(
        """event => { const node = app.rootGraph.nodes.find(n => n.type == "KSampler")
            const state = {total: 4, kinds: "cccc", errors: [], error: null, saved: null, outcome: "done", off: null}
            const workflow = app.rootGraph.id
            const detail = {node: String(node.id), prompt: "p", workflow, sampler_node: "1", run: 1, state}
            app.api.dispatchEvent(new CustomEvent(event, {detail})) }""",
        EVENT,
    )
    saved = page.page.evaluate("() => app.rootGraph.serialize()")
    assert not any(
        "spectrum" in (node.get("properties") or {}) for node in saved["nodes"] if node["type"] != ACCELERATE
    )


def test_a_run_of_a_client_without_a_page_is_drawn_nowhere(page):
    """ComfyUI sends it to every page; the node of that number is another one."""
    page.load(dict(read("spectrum_demo"), id="3f0c6d1e-0000-4000-8000-000000000008"))
    wait_for_chart(page, "Plan")
    page.page.evaluate(
        """([event, kind]) => { const node = app.rootGraph.nodes.find(n => n.type == kind)
            const state = {total: 4, kinds: "cccc", errors: [], error: null, saved: null, outcome: "done", off: null}
            const detail = {node: String(node.id), prompt: "p", workflow: "", sampler_node: "1", run: 1, state}
            app.api.dispatchEvent(new CustomEvent(event, {detail})) }""",
        [EVENT, ACCELERATE],
    )
    page.page.wait_for_timeout(600)
    assert chart(page)["text"].startswith("Plan")


def test_rows_that_no_run_made_are_not_shown(page):
    """A workflow is anyone's text: the page goes on, and draws the rows that can be drawn."""
    run(page, 360)
    wait_for_chart(page, "2.0x fewer")
    saved = page.page.evaluate("() => app.rootGraph.serialize()")
    (node,) = (n for n in saved["nodes"] if n["type"] == ACCELERATE)
    (good,) = node["properties"]["spectrum"]["rows"]
    wrong = [
        {"settings": 1}, {"total": 10**9}, {"errors": 3}, {"errors": ["x"]}, {"kinds": 5}, {"off": "text"},
        {"notes": [{"key": "SAMPLER"}]}, {"notes": 1}, {"error": "much"}, {"outcome": 5}, {"outcome": "constructor"},
        {"outcome": None}, {"errors": [0.1] * 20_000},
    ]  # fmt: skip
    rows = [dict(good, run=good["run"] + n, state=good["state"] | change) for n, change in enumerate(wrong, 1)]
    node["properties"]["spectrum"]["rows"] = [None, 1, {}, {"state": []}, *rows]
    page.load(dict(saved, id="3f0c6d1e-0000-4000-8000-000000000005"))
    wait_for_chart(page, "Plan: 6 of 12 computed")
    strange = {"key": "constructor", "values": {}, "plain": "text"}
    good["state"]["notes"] = [strange]
    node["properties"]["spectrum"]["rows"] = [*rows, good]
    page.load(dict(saved, id="3f0c6d1e-0000-4000-8000-000000000006"))
    wait_for_chart(page, "2.0x fewer")
    page.set(ACCELERATE, skip_interval=2.0)
    wait_for_chart(page, "2.0x fewer", old=True)


def test_a_copy_of_a_node_shows_no_run(page):
    """Not even when the workflow with both is opened again."""
    run(page, 370)
    wait_for_chart(page, "2.0x fewer")
    saved = page.page.evaluate("() => app.rootGraph.serialize()")
    (node,) = (n for n in saved["nodes"] if n["type"] == ACCELERATE)
    copied = copy.deepcopy(node) | {"id": saved["last_node_id"] + 1, "pos": [0, -400]}
    for slot in copied["inputs"]:
        slot["link"] = None
    for slot in copied["outputs"]:
        slot["links"] = []
    saved["nodes"].append(copied)
    page.load(dict(saved, last_node_id=copied["id"], id="3f0c6d1e-0000-4000-8000-000000000007"))
    wait_for_chart(page, "2.0x fewer", node["id"])
    assert "fewer" not in chart(page, copied["id"])["text"]


def test_a_run_is_undone_once(page):
    """What the page asks for after an undo is no change that ends the redo."""
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    page.load(dict(read("spectrum_demo"), id="3f0c6d1e-0000-4000-8000-000000000009"))
    page.set("KSampler", steps=12, cfg=2.0)
    page.set("EmptySD3LatentImage", batch_size=1)
    check = f"() => ({tracker}.checkState ?? {tracker}.captureCanvasState).call({tracker})"
    page.page.evaluate(check)
    run(page, 380)
    wait_for_chart(page, "2.0x fewer")
    page.page.evaluate(check)
    page.command("Comfy.Undo")
    page.page.wait_for_timeout(1000)
    before = page.page.evaluate(f"() => {tracker}.redoQueue.length")
    page.page.evaluate(check)
    assert before == page.page.evaluate(f"() => {tracker}.redoQueue.length") > 0


def test_what_is_not_accelerated_says_why_on_the_node(page):
    run(page, 310, steps=4)
    wait_for_chart(page, "Off: 4 steps are too few")
    assert "use more steps" in chart(page)["title"]


def test_samplers_of_one_prompt_are_rows(page):
    page.page.evaluate(
        """kind => { const graph = app.rootGraph, find = type => graph.nodes.find(n => n.type == type)
            const first = find("KSampler"), second = LiteGraph.createNode("KSampler")
            const sink = LiteGraph.createNode("SaveLatent")
            graph.add(second); graph.add(sink)
            find(kind).connect(0, second, 0)
            for (const slot of [1, 2])
                graph.getNodeById(graph.getLink(first.inputs[slot].link).origin_id).connect(0, second, slot)
            first.connect(0, second, 3); second.connect(0, sink, 0)
            second.widgets.find(w => w.name == "steps").value = 10
            second.widgets.find(w => w.name == "cfg").value = 3
            second.widgets.find(w => w.name == "denoise").value = 0.5 }""",
        ACCELERATE,
    )
    page.queue()
    page.wait("execution_success")
    wait_for_chart(page, "|")
    assert chart(page)["text"].count("x fewer") == 2


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("zoom", [1.0, 0.6])
def test_bars_are_seen_in_each_theme_and_zoom(page, theme, zoom):
    page.page.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    run(page, 350 + int(10 * zoom) + 30 * (theme == "light"))
    wait_for_chart(page, "2.0x fewer")
    page.scale(zoom)
    page.page.wait_for_timeout(1200)
    found = colours(page)
    page.page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert found.get("computed, light" if theme == "light" else "computed", 0) > 500, found


def test_the_chart_speaks_the_users_language(page):
    page.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    try:
        page.page.wait_for_timeout(2000)  # some pages open the workflow again, as it was loaded
        run(page, 360, steps=4)
        wait_for_chart(page, "未加速\uff1a4 步太少")
        assert "请使用更多步数" in chart(page)["title"]
    finally:
        page.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")


def test_a_right_click_and_a_run_accelerate_a_plain_workflow(page):
    """What the README promises a new user."""
    page.page.evaluate(
        """kind => { const g = app.rootGraph, find = type => g.nodes.find(n => n.type == type), ds = app.canvas.ds
            g.remove(find(kind))
            const sampler = find("KSampler")
            find("ModelSamplingAuraFlow").connect(0, sampler, 0)
            ds.scale = 1; ds.offset[0] = 400 - sampler.pos[0]; ds.offset[1] = 200 - sampler.pos[1]
            app.canvas.setDirty(true, true) }""",
        ACCELERATE,
    )
    entry = page.page.get_by_text("Accelerate this sampler").first
    for _ in range(10):  # a busy page draws the sampler at its new place after a while
        page.page.wait_for_timeout(1000)
        page.page.mouse.click(460, 188, button="right")
        page.page.wait_for_timeout(500)
        if entry.is_visible():
            break
        page.page.keyboard.press("Escape")
    entry.click()
    wait_for_chart(page, "Plan: 6 of 12 computed")
    run(page, 370)
    wait_for_chart(page, "2.0x fewer", old=False)


def with_a_subgraph(info):
    """The demo's model, sampled by the blueprint "KSampler with Spectrum"."""
    drawing = Drawing("in a subgraph", info)
    drawing.column(300, "")
    (model,) = drawing.node("UNETLoader", unet_name="tiny_flux.safetensors")
    (positive,) = drawing.node("SpectrumDemoEmoji", emoji="ghost", background="navy")
    (negative,) = drawing.node("SpectrumDemoEmoji", emoji="nothing", background="nothing")
    (latent,) = drawing.node("EmptySD3LatentImage", width=96, height=96)
    drawing.column(300, "")
    (latent,) = drawing.subgraph(ksampler(info), model=model, positive=positive, negative=negative, latent_image=latent)
    drawing.column(300, "")
    drawing.node("SaveLatent", samples=latent)
    return drawing.to_dict()


def test_a_closed_subgraph_shows_the_chart_under_its_node(page):
    page.load(with_a_subgraph(page.server.object_info()))
    page.page.evaluate(
        """() => { window.drawn = []; const host = app.rootGraph.nodes.find(n => n.subgraph)
            host.widgets.find(w => w.name == "steps").value = 12 }"""
    )
    before = page.page.evaluate("() => app.rootGraph.nodes.find(n => n.subgraph).serialize().size")
    page.queue()
    page.wait("execution_success")
    inner = """() => [...app.rootGraph.nodes.find(n => n.subgraph).subgraph.nodes]
        .find(n => n.type == "SpectrumAccelerate").properties.spectrum?.rows?.[0]?.state.kinds"""
    page.page.wait_for_function(inner)
    if page.vue:
        page.page.locator('.spectrum-hanging[data-text*="x fewer"]').wait_for()
    else:
        page.page.wait_for_timeout(1000)  # the next tick finds the subgraph's node, then the canvas draws it
        below = page.page.evaluate(
            """() => { const host = app.rootGraph.nodes.find(n => n.subgraph), ds = app.canvas.ds
                app.canvas.draw(true, true)
                const x = (host.pos[0] + ds.offset[0]) * ds.scale
                const y = (host.pos[1] + host.size[1] + 6 + ds.offset[1]) * ds.scale
                const ratio = app.canvas.canvas.width / app.canvas.canvas.clientWidth
                const data = app.canvas.canvas.getContext("2d").getImageData(x * ratio, y * ratio,
                    host.size[0] * ds.scale * ratio, 72 * ds.scale * ratio).data
                let blue = 0
                for (let i = 0; i < data.length; i += 4)
                    blue += data[i] == 76 && data[i + 1] == 141 && data[i + 2] == 255
                return blue }"""
        )
        assert below > 200
    assert page.page.evaluate("() => app.rootGraph.nodes.find(n => n.subgraph).serialize().size") == before
    saved = page.page.evaluate("() => app.rootGraph.serialize()")
    (host,) = [node for node in saved["nodes"] if node["type"] == saved["definitions"]["subgraphs"][0]["id"]]
    assert "spectrum" not in host["properties"]


def accelerated_by_menu(page, kind, graph="app.rootGraph"):
    page.page.evaluate(
        f"""kind => {{ const node = {graph}.nodes.find(n => n.type == kind)
            app.collectNodeMenuItems(node).find(item => item?.content == "Accelerate this sampler").callback() }}""",
        kind,
    )


def test_the_menu_inserts_the_node_before_a_sampler(page):
    """Also inside a subgraph, where the MODEL comes from outside; a sampler that has the node is not offered it."""
    expected = page.prompt()
    page.page.evaluate("kind => { const g = app.rootGraph; g.remove(g.nodes.find(n => n.type == kind)) }", ACCELERATE)
    page.page.evaluate(
        """() => { const find = type => app.rootGraph.nodes.find(n => n.type == type)
            find("ModelSamplingAuraFlow").connect(0, find("KSampler"), 0) }"""
    )
    accelerated_by_menu(page, "KSampler")
    prompt = page.prompt()
    (key,) = [key for key, node in prompt.items() if node["class_type"] == ACCELERATE]
    (sampler,) = [node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler"]
    assert sampler["model"] == [key, 0]
    (old,) = [node["inputs"] for node in expected.values() if node["class_type"] == ACCELERATE]
    assert prompt[key]["inputs"] == old
    offered = """() => app.rootGraph.nodes.filter(n => app.collectNodeMenuItems(n)
        .some(item => item?.content == "Accelerate this sampler")).map(n => n.type)"""
    assert page.page.evaluate(offered) == []

    workflow = with_a_subgraph(page.server.object_info())
    page.load(workflow)
    inside = "app.rootGraph.nodes.find(n => n.subgraph).subgraph"
    page.page.evaluate(
        f"""kind => {{ const g = {inside}; g.remove(g.nodes.find(n => n.type == kind))
            const sampler = g.nodes.find(n => n.type == "KSampler")
            g.inputs.find(input => input.type == "MODEL").connect(sampler.inputs[0], sampler) }}""",
        ACCELERATE,
    )
    accelerated_by_menu(page, "KSampler", inside)
    (sampler,) = [node["inputs"] for node in page.prompt().values() if node["class_type"] == "KSampler"]
    accelerate = page.prompt()[sampler["model"][0]]
    assert accelerate["class_type"] == ACCELERATE
    assert page.prompt()[accelerate["inputs"]["model"][0]]["class_type"] == "UNETLoader"


@pytest.mark.parametrize(
    "language, file",
    [
        ("en", f"{ACCELERATE}.md"),
        ("en", "SpectrumReport.md"),
        ("ja", f"{ACCELERATE}/ja.md"),
        ("fa", "SpectrumReport/fa.md"),
    ],
)
def test_the_node_help_shows_our_text(page, language, file):
    page.page.evaluate("name => app.extensionManager.setting.set('Comfy.Locale', name)", language)
    page.page.wait_for_timeout(1500)  # the page is drawn anew
    try:
        page.select(file.partition("/")[0].removesuffix(".md"))
        page.page.get_by_test_id("info-button").click()
        page.page.wait_for_function(
            "() => [...document.images].some(i => i.src.includes('/docs/images/') && i.naturalWidth > 100)"
        )
        for line in (ROOT / "web" / "docs" / file).read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                page.page.get_by_role("heading", name=line.strip("# "), exact=True).first.wait_for()
    finally:
        page.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")


def test_a_bad_value_is_explained_in_the_page(page):
    page.set(ACCELERATE, start_percent=0.9, end_percent=0.1)
    page.queue()
    page.page.get_by_text("View details").first.click()
    page.page.get_by_label("Info for Spectrum Accelerate - start_percent").click()
    page.page.get_by_text("start_percent = 0.9 is not below end_percent = 0.1").first.wait_for()


def test_the_template_browser_offers_every_workflow(page):
    page.command("Comfy.BrowseTemplates")
    for name in NAMES:
        page.page.get_by_text(name, exact=True).first.wait_for()
    page.page.keyboard.press("Escape")
