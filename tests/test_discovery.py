"""Networks without a row: what watching a call finds in ComfyUI's own classes and in made-up ones."""

import gc
from fnmatch import fnmatch

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
import torch._dynamo.utils
from comfy_api.torch_helpers import set_torch_compile_wrapper
from sampling import accelerated, counted, distance, fingerprint, flat, kinds, nearer, runs
from spectrum_accelerate.nodes.models import discovery
from spectrum_accelerate.nodes.models.architectures import find
from spectrum_accelerate.nodes.runtime import features
from spectrum_accelerate.nodes.settings import BLOCK_OUTPUT
from torch import nn
from zoo import MODELS

FLUX = MODELS["flux"]
SETTINGS = {"warmup": 3, "tail": 1}
SCHEDULE = "cccfcfcffcfc"

SMALL = {
    "ace_step", "anima", "hunyuan_dit", "hunyuan_image", "hunyuan_video15", "hunyuan_video15_sr", "stable_audio",
    "wan21_camera", "wan21_i2v", "wan21_scail", "wan21_scail2", "wan22_animate", "wan22_dancer", "wan22_dancer_global",
    "wan22_s2v",
}  # fmt: skip
"""At this size, embedders of full size outweigh the two blocks: found if the blocks need not be half of the network."""

REFUSED = {
    "hidream_o1": "no blocks with a head",  # at this size; at its own, it needs the option in its row
    "z_image_pixel": "(difference",  # its head's first argument is not the feature
    "ltxav": "(difference",  # two heads
    "seedvr2": "Error: ",  # its head reads what the blocks have left in a cache
    "triposplat": "(difference",  # two heads
    **dict.fromkeys(("cosmos_predict2", "cosmos_predict2_i2v", "anima"), "keeps values"),  # notes that nobody reads
    **dict.fromkeys(("sd15", "sd15_inpaint", "sd15_ip2p", "sd2", "sdxl", "svd"), "no blocks with a head"),
    **dict.fromkeys(("koala_700m", "lotus_d", "sd_x4_upscaler"), "no blocks with a head"),
    **dict.fromkeys(("cascade_c", "cascade_b"), "no blocks with a head"),
}
"""Those that only the table knows."""

OTHER = {
    "chroma_radiance": (("nerf_blocks",), "nerf_final_layer_conv"),
    "pixeldit": (("pixel_blocks",), "final_layer"),
    "pid": (("pixel_blocks",), "final_layer"),
    "wan22_s2v": (("audio_injector.*",), "head"),
    "wan22_dancer": (("music_encoder", "music_injector.*"), "head"),
    "wan22_dancer_global": (("music_encoder", "music_injector.*"), "head_global"),
}
"""Found otherwise than the table has it: what else is left out, and the head."""


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """ComfyUI collects garbage for each model that it loads: half a second, of which ComfyUI itself is most."""
    FLUX.build()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def found(monkeypatch):
    """No class has a row. Gives the bypasses that looked for one."""
    looked = []

    class Spy(discovery.Discovery):
        def __init__(self, *args):
            super().__init__(*args)
            looked.append(self)

    monkeypatch.setattr(features, "find", lambda network_class: None)
    monkeypatch.setattr(features, "Discovery", Spy)
    return looked


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_accelerated_without_its_row(name, found, monkeypatch):
    """By the blocks and the head that the table has, or by the model output, with the reason; the model as before."""
    tiny = MODELS[name]
    model = tiny.build()
    before = fingerprint(model)
    if name in SMALL:
        fast = accelerated(model, **SETTINGS, target=BLOCK_OUTPUT)
        tiny.sample(fast, steps=5)
        assert runs(fast)[0].target == "model output" and "no blocks with a head" in runs(fast)[0].summary()
        monkeypatch.setattr(discovery, "SHARE", 0.01)
    fast = accelerated(model, **SETTINGS, target=BLOCK_OUTPUT)
    tiny.sample(fast, steps=5)
    (trace,) = runs(fast)
    assert fingerprint(model) == before
    assert kinds(trace) == "cccfc" and trace.self_test < 1e-6
    assert f"{type(model.model.diffusion_model).__name__} is not in the table" in trace.summary()
    if name in REFUSED:
        assert trace.target == "model output" and REFUSED[name] in str(trace.notes[-1]), trace.notes
        return

    assert trace.target == "block output" and len(trace.notes) == 1, trace.notes
    row, known = found[-1].architecture, find(type(model.model.diffusion_model))
    more, head = OTHER.get(name, ((), known.taps[0].module))
    assert [tap.module for tap in row.taps] == [head]
    known_blocks = (*known.blocks, *known.feeders, *more)
    assert all(any(fnmatch(path, pattern) for pattern in known_blocks) for path in row.blocks), row.blocks
    assert all(any(fnmatch(path, pattern) for path in row.blocks) for pattern in known.blocks), row.blocks


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def step(self, h, context):
        return h + self.narrow(torch.tanh(self.wide(h))), context

    forward = step


class Unknown(nn.Module):
    """A diffusion transformer of no table: text and 2 x 2 patches, blocks with two results, a modulation, a head."""

    __module__ = "comfy.ldm.later.model"  # it stands for the classes that ComfyUI gets later
    dtype = torch.float32

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.entrance = nn.Linear(64, width)
        self.moment = nn.Linear(1, width)
        self.trunk = nn.ModuleList(Block(width) for _ in range(depth))
        self.modulation = nn.Linear(width, width)
        self.outlet = nn.Linear(width, 64)

    def forward(self, x, timesteps, context, control=None, transformer_options=None, **kwargs):
        batch, channels, height, width = x.shape
        patches = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        h = torch.cat((context[..., :32], self.entrance(patches.flatten(3).flatten(1, 2))), dim=1)
        h = self.run_blocks(h, context)[:, context.shape[1] :]
        out = self.run_head(h, torch.tanh(self.moment(timesteps[:, None])))
        return out.reshape(patches.shape).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def run_blocks(self, h, context):
        for block in self.trunk:
            h, context = block(h, context)
        return h

    def run_head(self, h, moment):
        return self.outlet(h * (1 + 0.1 * self.modulation(moment)[:, None]))


class Renamed(Unknown):
    """Two lists, one of them in a submodule."""

    def __init__(self):
        super().__init__(depth=0)
        self.body = nn.Module()
        self.body.first, self.second = (nn.ModuleList(Block(32) for _ in range(n)) for n in (3, 2))

    def run_blocks(self, h, context):
        for block in (*self.body.first, *self.second):
            h, context = block(h, context)
        return h


class ShortSkips(Unknown):
    """Skip connections that end before the head: all of the blocks' work is in what enters it."""

    def run_blocks(self, h, context):
        skips = []
        for number, block in enumerate(self.trunk):
            h, _ = block(h if number < 2 else h + 0.3 * skips.pop(), context)
            skips.append(h)
        return h


class LongSkip(Unknown):
    """A skip connection around the head."""

    def run_blocks(self, h, context):
        self.early = h
        for block in self.trunk:
            h, context = block(h, context)
            self.early = self.early + h
        return h

    def run_head(self, h, moment):
        return super().run_head(h, moment) + 0.1 * self.early[:, 8:] @ self.outlet.weight.T


class PrefixCache(Unknown):
    """A cache of its own (Qwen-Image 2.1's of the prompt): a call fills it, one without blocks empties it."""

    def run_blocks(self, h, context):
        cache = getattr(self, "cache", {})
        known = {} if len(cache) != len(self.trunk) else cache
        self.cache = {}
        for number, block in enumerate(self.trunk):
            h, context = block(h, context)
            self.cache[number] = known.get(number, context.mean(1, keepdim=True))
        return h + 0.1 * sum(self.cache.values()).mean() if self.cache else h


class CuriousHead(Unknown):
    """A head that reads an attribute of a block."""

    def run_head(self, h, moment):
        return super().run_head(h, moment) * self.trunk[-1].wide.weight.mean().sigmoid()


class Numbered(Unknown):
    """Blocks called by their number."""

    def run_blocks(self, h, context):
        for number in range(4):
            h, context = self.trunk[number](h, context)
        return h


class InPlace(Unknown):
    """A head that works in place."""

    def run_head(self, h, moment):
        return self.outlet.forward(self.polish(h)) + 0 * moment.mean()

    def __init__(self):
        super().__init__()
        self.polish = nn.Hardtanh(inplace=True)


class Twice(Unknown):
    """A head that is passed twice."""

    def run_head(self, h, moment):
        return super().run_head(h, moment) + super().run_head(0.5 * h, moment)


class OtherMethod(Unknown):
    """Blocks that are not called as modules."""

    def run_blocks(self, h, context):
        for block in self.trunk:
            h, context = block.step(h, context)
        return h


class Sequence(Unknown):
    """Blocks that are no list."""

    def __init__(self):
        super().__init__(depth=0)
        self.sequence = nn.Sequential(*(nn.Linear(32, 32) for _ in range(9)))

    def run_blocks(self, h, context):
        return self.sequence(h)


class Minority(Unknown):
    """Blocks that hold less than half of the parameters."""

    def __init__(self):
        super().__init__(depth=1)
        self.unused = nn.Linear(256, 256)


def made_up(network):
    """A model of ComfyUI around a made-up network."""
    model = FLUX.build()
    torch.manual_seed(5)
    model.model.diffusion_model = network().eval().requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Unknown, "trunk, then outlet"),
        (Renamed, "body.first, second, then outlet"),
        (ShortSkips, "trunk, then outlet"),
        (InPlace, "trunk, then polish"),
        (LongSkip, "keeps values from call to call"),
        (PrefixCache, "keeps values from call to call"),
        (CuriousHead, "(IndexError"),
        (Numbered, "(IndexError"),
        (Twice, "(difference"),
        (OtherMethod, "no blocks with a head"),
        (Sequence, "no blocks with a head"),
        (Minority, "no blocks with a head"),
    ],
)
def test_a_made_up_network(network, expected):
    model = made_up(network)
    before, plain = fingerprint(model), FLUX.sample(model, steps=12, cfg=3.0)
    fast = accelerated(model, **SETTINGS)
    result = FLUX.sample(fast, steps=12, cfg=3.0)
    (trace,) = runs(fast)
    assert kinds(trace) == SCHEDULE and expected in trace.summary(), trace.summary()
    assert trace.target == ("block output" if "then" in expected else "model output")
    assert nearer(result, plain, FLUX.sample(model, steps=trace.computed, cfg=3.0))
    assert torch.equal(FLUX.sample(fast, steps=12, cfg=3.0), result), "the second run differs"
    assert fingerprint(model) == before
    assert torch.equal(FLUX.sample(model, steps=12, cfg=3.0), plain)


def test_looking_costs_no_evaluation(found):
    """The watched call is the run's own first one, its feature is the first entry, and forecasts run no block."""
    model = FLUX.build()
    fast = accelerated(model, **SETTINGS)
    with counted(model.model.diffusion_model.img_in) as calls:
        FLUX.sample(fast, steps=12)
    assert len(calls) == 13, "one a step, and one without blocks for the self-test"
    model.model.diffusion_model = Unknown().requires_grad_(False)
    with counted(model.model.diffusion_model.trunk[0]) as calls:
        FLUX.sample(fast, steps=12)
    assert len(calls) == SCHEDULE.count("c")


@pytest.mark.parametrize("name", ["flux", "z_image", "hunyuan_video", "minimax_h3"])
def test_the_result_is_that_of_the_table(name, found, monkeypatch):
    """Bit by bit: the first call's feature is not lost to looking."""
    tiny = MODELS[name]
    model = tiny.build()
    result = tiny.sample(accelerated(model, **SETTINGS), steps=12, cfg=3.0)
    monkeypatch.undo()
    assert found and torch.equal(flat(result), flat(tiny.sample(accelerated(model, **SETTINGS), steps=12, cfg=3.0)))


def test_the_model_output_is_forecast_without_looking(found):
    fast = accelerated(FLUX.build(), target="model output", **SETTINGS)
    FLUX.sample(fast, steps=12)
    assert not found and kinds(runs(fast)[0]) == SCHEDULE and not runs(fast)[0].notes


@pytest.mark.parametrize("module", ["double_blocks", "final_layer"])
@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_a_watched_call_that_ends_early_leaves_nothing(found, module, how):
    model = FLUX.build()
    before, plain = fingerprint(model), FLUX.sample(model, steps=5)
    inner = getattr(model.model.diffusion_model, module)
    inner = inner[0] if isinstance(inner, nn.ModuleList) else inner
    error = comfy.model_management.InterruptProcessingException if how == "interrupt" else ZeroDivisionError

    def fail(*_):
        raise error

    fast = accelerated(model, **SETTINGS)
    handle = inner.register_forward_pre_hook(fail)
    with pytest.raises(error):
        FLUX.sample(fast, steps=5)
    handle.remove()
    (trace,) = runs(fast)
    assert trace.outcome == ("interrupted" if how == "interrupt" else "error") and not trace.notes
    assert fingerprint(model) == before
    assert torch.equal(FLUX.sample(model, steps=5), plain)


def test_nothing_of_a_watch_outlives_the_run(found):
    model = FLUX.build()
    FLUX.sample(accelerated(model, **SETTINGS), steps=5)
    found.clear()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, discovery.Watch | discovery.Discovery)]


def test_out_of_memory_for_the_first_feature(monkeypatch):
    """The call that is watched goes on, and the head is not known."""
    network = made_up(Unknown).model.diffusion_model
    inputs = torch.ones(1, *FLUX.latent), torch.ones(1), torch.ones(1, 8, 64)
    plain = network(*inputs)

    def fail(_):
        raise torch.OutOfMemoryError("out of memory")

    for clone in (torch.Tensor.clone, fail):
        monkeypatch.setattr(torch.Tensor, "clone", clone)
        watch = discovery.Watch(network)
        with watch.watching():
            assert torch.equal(network(*inputs), plain)
        assert (watch.feature is None) == (clone is fail)


def test_split_conditionings(found, monkeypatch):
    """The first conditioning's call is watched; the second's is captured by the row that it found."""
    fast = accelerated(FLUX.build(), **SETTINGS)
    joined = FLUX.sample(fast, steps=12, cfg=3.0)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    split = FLUX.sample(fast, steps=12, cfg=3.0)
    assert [kinds(trace) for trace in runs(fast)] == [SCHEDULE] * 2
    assert distance(split, joined) < 1e-3


def test_two_devices_look_for_themselves(found, monkeypatch):
    """ComfyUI's MultiGPU: a copy of the model and a thread for each device."""
    import comfy.multigpu

    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: devices)
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda self, device: 0)
    model = FLUX.build()
    model.cached_patcher_init = (FLUX.build, ())
    expected = FLUX.sample(accelerated(model, **SETTINGS), steps=12, cfg=3.0)
    found.clear()
    fast = comfy.multigpu.create_multigpu_deepclones(accelerated(model, **SETTINGS), 2)
    result = FLUX.sample(fast, steps=12, cfg=3.0)
    trace = runs(fast)[-1]
    assert len(found) == 2 and kinds(trace) == SCHEDULE
    assert trace.target == "block output" and len(trace.notes) == 1
    assert torch.equal(result, expected)


@pytest.mark.parametrize("key", ["diffusion_model", "diffusion_model.trunk.0"])
def test_a_compiled_network_is_watched_uncompiled(key):
    """Watching compiles nothing, and nothing is compiled again because of it."""
    model = made_up(Unknown)
    before, eager = fingerprint(model), FLUX.sample(accelerated(model, **SETTINGS), steps=12)
    fast = accelerated(model, **SETTINGS)
    set_torch_compile_wrapper(model=fast, backend="eager", options={}, keys=[key])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    for _ in range(2):
        result = FLUX.sample(
            fast, steps=12, callback=lambda *_: graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        )
        trace = runs(fast)[-1]
        assert kinds(trace) == SCHEDULE and trace.target == "block output" and len(trace.notes) == 1, trace.summary()
        assert trace.self_test < 1e-5 and distance(result, eager) < 1e-3
    assert graphs[1] > 0 and len(set(graphs[1:])) == 1, graphs
    torch._dynamo.reset()
    assert fingerprint(model) == before
