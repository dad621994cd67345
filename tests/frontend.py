"""The real page of ComfyUI in Chromium, and the pack's workflows, for the tests of what a user sees there."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, sync_playwright
from playwright.sync_api import Page as BrowserPage

from demo.comfy_server import ROOT, ComfyServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = """() => !!(window.app?.vueAppReady && window.app?.rootGraphInternal
    && window.LiteGraph?.registered_node_types?.KSampler)"""
EVENTS = ["executed", "execution_success", "execution_error", "promptQueued"]
# What the page says about itself: user files that do not exist yet, calls to the internet that the server forbids, and
# the refusal of a prompt, which it also shows.
HARMLESS = (
    "404 (Not Found)",
    "ComfyApp graph accessed before initialization",
    "Content Security Policy",
    "400 (Bad Request)",
    "Prompt execution failed",
    "Request failed with status code 404",
)
NAMES = sorted(file.stem for file in (ROOT / "workflows").glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """A workflow of the pack, or the demo's, as the page saved it."""
    folder = ROOT / "workflows" if name in NAMES else ROOT / "demo" / "emoji_nodes" / "workflows"
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


class Page:
    """One page, with one of the two renderers of nodes.

    Attributes:
        vue: whether nodes are drawn by the newer renderer ("Nodes 2.0").
        errors: what the console and uncaught exceptions said.

    Args:
        browser: from `chromium`.
        server: whose page.
        vue: see above.
        settings: of the page, without "Comfy." and with "_" for ".".
    """

    def __init__(self, browser: Browser, server: ComfyServer, vue: bool, **settings: Any) -> None:
        self.vue = vue
        self.errors: list[str] = []
        self.server = server
        for name, value in {"VueNodes_Enabled": vue, "Locale": "en", "ColorPalette": "dark", **settings}.items():
            address = f"{server.url}/api/settings/Comfy.{name.replace('_', '.')}"
            request = urllib.request.Request(address, json.dumps(value).encode(), {"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=30).close()
        self.page: BrowserPage = browser.new_page(viewport={"width": 1280, "height": 800})
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def open(self) -> None:
        """Load the page, as at first or again."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(READY, timeout=60_000)
        self.page.evaluate(
            """names => { window.seen = []; for (const name of names)
                app.api.addEventListener(name, event => window.seen.push([name, event.detail])) }""",
            EVENTS,
        )

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(text in message.text for text in HARMLESS):
            self.errors.append(message.text)

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow, as dropping its file does."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def command(self, name: str) -> None:
        """Run one of the page's commands."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def prompt(self) -> dict[str, Any]:
        """What the page would send to the server, by node id: {"class_type", "inputs"}."""
        nodes = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in nodes.items()}

    def widgets(self, kind: str) -> dict[str, Any]:
        """Name to value of the widgets of the only node of a class, in the order that they stand in."""
        pairs = self.page.evaluate(
            "kind => app.rootGraph.nodes.find(n => n.type == kind).widgets.map(w => [w.name, w.value])", kind
        )
        return dict(pairs)

    def set(self, kind: str, **values: Any) -> None:
        """Set widgets of the only node of a class, as its user would."""
        self.page.evaluate(
            """([kind, values]) => { const node = app.rootGraph.nodes.find(n => n.type == kind)
                for (const [name, value] of Object.entries(values)) {
                    const widget = node.widgets.find(w => w.name == name)
                    widget.value = value
                    widget.callback?.(value, app.canvas, node) } }""",
            [kind, values],
        )

    def scale(self, zoom: float) -> None:
        """Zoom to a scale, with our node in view."""
        self.page.evaluate(
            """zoom => { const { ds, graph } = app.canvas
                const node = graph.nodes.find(n => n.type == "SpectrumAccelerate")
                ds.scale = zoom; ds.offset[0] = 200 / zoom - node.pos[0]; ds.offset[1] = 150 / zoom - node.pos[1]
                app.canvas.setDirty(true, true) }""",
            zoom,
        )

    def select(self, kind: str) -> None:
        """Select the only node of a class and show it large."""
        self.page.evaluate("kind => app.canvas.selectNode(app.rootGraph.nodes.find(n => n.type == kind))", kind)
        self.command("Comfy.Canvas.FitView")

    def queue(self) -> None:
        """Press the button that queues the prompt."""
        self.page.evaluate("window.seen.length = 0")
        self.page.get_by_test_id("queue-button").click()

    def wait(self, event: str, timeout: float = 60.0) -> None:
        """Wait until the server has sent an event since the last `queue`."""
        self.page.wait_for_function(
            "event => window.seen.some(([name]) => name == event)", arg=event, timeout=timeout * 1000
        )

    def seen(self, event: str) -> list[Any]:
        """The details of these events since the last `queue`."""
        return self.page.evaluate("event => window.seen.filter(([name]) => name == event).map(([, d]) => d)", event)

    def text(self) -> str:
        """All visible text."""
        return self.page.inner_text("body")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine; without one the test fails and says what to install."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"needs one of {', '.join(BROWSERS)} on the PATH; `dev.py test` installs it where it may")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
