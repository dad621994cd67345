"""The ten minutes of a new user: from the packed folder to a compared picture, in ComfyUI's real page."""

import io
import re

import pytest
from frontend import Page, chromium
from PIL import Image

from demo.comfy_server import DEMO_PACKS, PACK, ComfyServer
from demo.make_workflows import Drawing, demo_inputs
from demo.workflow import find_node
from tools.package import pack

pytestmark = [pytest.mark.browser, pytest.mark.server]

CONNECTED = """() => { const find = test => app.rootGraph.nodes.find(test), sampler = find(n => n.type == "KSampler")
    const both = find(n => n.subgraph), names = ["model", "positive", "negative", "latent_image", "vae"]
    const loader = find(n => n.type == "UNETLoader")
    for (const name of names) {
        const slot = both.inputs.findIndex(input => input.name == name)
        const from = {vae: [find(n => n.type == "VAELoader"), 0], model: [loader, 0]}[name] ?? (() => {
            const link = app.rootGraph.getLink(sampler.inputs.find(input => input.name == name).link)
            return [app.rootGraph.getNodeById(link.origin_id), link.origin_slot] })()
        from[0].connect(from[1], both, slot) }
    const values = {steps: 12, value: 3.0}
    for (const name in values) both.widgets.find(w => w.name == name).value = values[name] }"""
"""Wires what samples twice like the sampler that is there."""


def plain_workflow(info):
    """A user's own: loaders, prompts, sampler, picture."""
    drawing = Drawing("mine", info)
    given, vae = demo_inputs(drawing)
    drawing.column(300, "")
    (latent,) = drawing.node("KSampler", **given, seed=7, steps=12, cfg=3.0, sampler_name="euler", scheduler="simple")
    (image,) = drawing.node("VAEDecode", samples=latent, vae=vae)
    drawing.node("SaveImage", images=image)
    return drawing.to_dict()


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.all)], ids=["classic", "nodes 2.0"])
def page(request, tmp_path_factory):
    """The page of a ComfyUI into which a user has unpacked the pack."""
    packed = pack(tmp_path_factory.mktemp("unpacked here"))
    base = tmp_path_factory.mktemp("new user")
    with ComfyServer(base, packs={**DEMO_PACKS, PACK: packed}, with_pack=False) as server, chromium() as browser:
        yield Page(browser, server, vue=request.param)


def run(page):
    """Press the button, wait for the end; the pictures that were saved."""
    page.queue()
    page.wait("execution_success")
    images = [image for event in page.seen("executed") for image in (event["output"] or {}).get("images", ())]
    return [Image.open(io.BytesIO(page.server.view(i))).tobytes() for i in images if i["type"] == "output"]


def test_from_the_packed_folder_to_a_compared_picture(page):
    page.load(plain_workflow(page.server.object_info()))
    (before,) = run(page)

    # The README: right-click the sampler and choose "Accelerate this sampler". Then run.
    where = page.page.evaluate(
        """() => { const node = app.rootGraph.nodes.find(n => n.type == "KSampler"), { ds } = app.canvas
            ds.scale = 1; ds.offset[0] = 400 - node.pos[0]; ds.offset[1] = 200 - node.pos[1]
            app.canvas.setDirty(true, true)
            const at = app.canvas.canvas.getBoundingClientRect()
            return [at.left + 460, at.top + 188] }"""
    )
    page.page.wait_for_timeout(1000)
    page.page.mouse.click(*where, button="right")
    page.page.get_by_text("Accelerate this sampler").first.click()
    (after,) = run(page)
    node = "app.rootGraph.nodes.find(n => n.type == 'SpectrumAccelerate')"
    page.page.wait_for_function(f"{node}.properties.spectrum?.rows?.[0]?.state.kinds?.length == 12")
    kinds = page.page.evaluate(f"{node}.properties.spectrum.rows[0].state.kinds")
    assert 6 <= kinds.count("c") <= 9
    assert after != before

    # ... or take the subgraph Spectrum A-B from the node library, which runs both.
    page.command("Workspace.SearchBox.Toggle")
    page.page.keyboard.type("spectrum a-b")
    page.page.get_by_role("dialog").get_by_text("Spectrum A-B", exact=True).first.click()
    page.page.wait_for_function("app.rootGraph.nodes.some(n => n.subgraph)")
    page.page.mouse.click(900, 500)
    page.page.evaluate(CONNECTED)
    run(page)
    texts = [text for event in page.seen("executed") for text in (event["output"] or {}).get("text", ())]
    assert any(re.search(r"PSNR", text) for text in texts), texts
    assert not page.errors
    assert find_node(page.prompt(), "SpectrumCompare")
