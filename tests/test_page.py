"""What a user sees: the pack in ComfyUI's real page, in Chromium, with both renderers of nodes."""

import pytest
from frontend import NAMES, Page, chromium, read
from spectrum_accelerate.nodes.settings import ADAPTIVE, ADVANCED, COMMON, OWN, SCHEDULE

from demo.comfy_server import ROOT
from demo.workflow import to_prompt

pytestmark = [pytest.mark.browser, pytest.mark.server]

ACCELERATE = "SpectrumAccelerate"
EVENT = "spectrum_accelerate.run"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "vue"])
def opened(request, browser, server):
    page = Page(browser, server, vue=request.param)
    yield page
    page.page.close()


@pytest.fixture
def page(opened):
    """The demo's workflow in the page, short."""
    opened.page.keyboard.press("Escape")
    opened.errors.clear()
    opened.load(read("spectrum_demo"))
    opened.set("KSampler", steps=12)
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


def test_the_prompt_of_every_workflow_is_the_one_that_we_convert(page, server):
    info = server.object_info()
    for name in NAMES:
        page.load(read(name))
        unknown = page.page.evaluate(
            "() => app.rootGraph.nodes.map(n => n.type).filter(type => !(type in LiteGraph.registered_node_types))"
        )
        assert not unknown, name
        assert "missing node" not in page.text().lower(), name
        assert page.prompt() == to_prompt(read(name), info), name


def chart(page):
    """The chart of our node: what it says, whether it is old, and its height."""
    return page.page.evaluate(
        """kind => { const node = app.rootGraph.nodes.find(n => n.type == kind)
            const root = node.widgets.find(w => w.name == "spectrum_chart").element
            return {text: root.dataset.text, old: root.dataset.old, title: root.title, height: root.clientHeight} }""",
        ACCELERATE,
    )


def wait_for_chart(page, text):
    page.page.wait_for_function(
        """([kind, text]) => app.rootGraph.nodes.find(n => n.type == kind).widgets
            .find(w => w.name == "spectrum_chart").element.dataset.text?.includes(text)""",
        arg=[ACCELERATE, text],
        timeout=30_000,
    )


def test_a_run_is_drawn_on_the_node_and_stays(page):
    """Through a change, which makes it old, and in the saved workflow."""
    before = chart(page)["height"]
    page.set("KSampler", seed=300 + page.vue, cfg=1.5)
    page.queue()
    page.wait("execution_success")
    wait_for_chart(page, "2.0x fewer")
    shown = chart(page)
    assert "off" in shown["text"] and shown["old"] == "false" and shown["height"] == before > 60
    saved = page.page.evaluate("() => app.rootGraph.serialize()")
    (node,) = [n for n in saved["nodes"] if n["type"] == ACCELERATE]
    assert node["properties"]["spectrum"]["rows"][0]["state"]["kinds"].count("c") == 6
    assert all(not isinstance(value, dict) for value in node["widgets_values"])
    others = [n for n in saved["nodes"] if n["type"] != ACCELERATE]
    assert not any("spectrum" in (n.get("properties") or {}) for n in others)
    page.load(saved)
    wait_for_chart(page, "2.0x fewer")
    page.set(ACCELERATE, skip_interval=2.0)
    page.page.wait_for_timeout(200)
    assert page.widgets(ACCELERATE)["skip_interval"] == 2.0


def test_what_is_not_accelerated_says_why_on_the_node(page):
    page.set("KSampler", seed=310 + page.vue, steps=4)
    page.queue()
    page.wait("execution_success")
    wait_for_chart(page, "off: 4 steps in one call")
    assert "use more steps" in chart(page)["title"]


@pytest.mark.parametrize("kind", [ACCELERATE, "SpectrumReport"])
def test_the_node_help_shows_our_text(page, kind):
    page.select(kind)
    page.page.get_by_test_id("info-button").click()
    for line in (ROOT / "web" / "docs" / f"{kind}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            page.page.get_by_role("heading", name=line.strip("# "), exact=True).first.wait_for()


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
