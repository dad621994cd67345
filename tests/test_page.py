"""What a user sees: the pack in ComfyUI's real page, in Chromium, with both renderers of nodes."""

import pytest
from frontend import NAMES, Page, chromium, read
from spectrum_accelerate.nodes.settings import DEFAULTS, SETTINGS

from demo.comfy_server import ROOT
from demo.workflow import to_prompt

pytestmark = [pytest.mark.browser, pytest.mark.server]

ACCELERATE, AUTO = "SpectrumAccelerate", "SpectrumAuto"


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
    assert page.widgets(ACCELERATE) == DEFAULTS
    assert list(page.widgets(ACCELERATE)) == [setting.name for setting in SETTINGS]


def test_advanced_widgets_open_on_demand(page):
    advanced = {setting.name for setting in SETTINGS if setting.advanced}
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


def test_a_run_shows_its_progress_and_its_summary_on_the_node(page):
    page.set("KSampler", seed=300 + page.vue, cfg=1.5)
    page.queue()
    page.wait("execution_success")
    page.page.get_by_text("of 12 evaluations computed").first.wait_for()
    number = page.page.evaluate("kind => String(app.rootGraph.nodes.find(n => n.type == kind).id)", ACCELERATE)
    texts = [detail["text"] for detail in page.seen("progress_text") if detail["nodeId"] == number]
    assert texts[0] == "Spectrum █··········· 1/1"
    assert texts[-1].startswith("Spectrum: 6 of 12 evaluations computed")
    shown = page.page.evaluate("kind => app.rootGraph.nodes.find(n => n.type == kind).widgets.at(-1).value", ACCELERATE)
    assert shown == texts[-1]
    if page.vue:
        assert texts[-1] in page.page.locator(f'[data-node-id="{number}"]').inner_text().replace("\n", " ")


@pytest.fixture
def auto(page):
    """The page with the workflow that is told a goal."""
    page.load(read("spectrum_auto"))
    return page


def inputs_of_auto(page):
    (inputs,) = [node["inputs"] for node in page.prompt().values() if node["class_type"] == AUTO]
    return {name: value for name, value in inputs.items() if name not in ("model", "plan")}


@pytest.mark.parametrize(("goal", "default"), [("evaluations", 15), ("tolerance", 0.02)])
def test_a_goal_shows_its_own_input_and_only_while_it_is_chosen(auto, goal, default):
    shown = {name: value for name, value in auto.widgets(AUTO).items() if name.startswith("goal")}
    assert shown == inputs_of_auto(auto) == {"goal": "balanced"}
    auto.set(AUTO, goal=goal)
    assert inputs_of_auto(auto) == {"goal": goal, f"goal.{goal}": default}
    if auto.vue:
        auto.select(AUTO)
        number = auto.page.evaluate("kind => app.rootGraph.nodes.find(n => n.type == kind).id", AUTO)
        names = auto.page.locator(f'[data-node-id="{number}"]').get_by_text(goal, exact=True)
        names.nth(1).wait_for()  # what is chosen, and the input below
    auto.set(AUTO, goal="balanced")
    assert inputs_of_auto(auto) == {"goal": "balanced"}
    assert f"goal.{goal}" not in auto.widgets(AUTO)
    if auto.vue:
        names.first.wait_for(state="detached")


@pytest.mark.parametrize(("goal", "value"), [("evaluations", 21), ("tolerance", 0.05)])
def test_a_saved_workflow_keeps_the_value_of_its_goal(auto, goal, value):
    auto.set(AUTO, goal=goal)
    auto.set(AUTO, **{f"goal.{goal}": value})
    auto.load(auto.page.evaluate("() => app.rootGraph.serialize()"))
    assert inputs_of_auto(auto) == {"goal": goal, f"goal.{goal}": value}


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
