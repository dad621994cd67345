"""What the pack uses of ComfyUI exists; with --all, the core of the suite also runs in older versions of it."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sampling import accelerated, kinds, nearer, runs
from spectrum_accelerate.nodes.models.architectures import ARCHITECTURES, Architecture, Tap
from zoo import MODELS

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server")
OLDER = ("0.24.0", "0.18.2")
CORE = (
    *("tests/test_versions.py", "tests/test_settings.py", "tests/test_report.py", "tests/test_lifecycle.py"),
    *("tests/test_sampling.py", "tests/test_threads.py"),
    *(f"tests/test_architectures.py::test_architecture[{name}]" for name in (
        *("flux", "flux_kontext", "hunyuan_video", "sd35", "qwen_image", "lumina2", "z_image", "cosmos_predict2"),
        *("sd15", "sdxl", "cascade_c", "wan21_t2v", "wan22_i2v", "wan21_vace", "ltxv", "ltxav", "ace_step"),
    )),
)  # fmt: skip
"""What runs in each older version: these architectures and nodes it has."""

NOT_THERE_YET = {
    "0.24.0": (),
    "0.18.2": ("guidance_that_pauses", "prompt_cache", "two_devices", "device", "self_test_on_one"),
}
"""Tests of what a version does not have: CFGOverride, HiDream-O1, devices at once."""

OBJECTS = {
    "comfy.model_patcher.ModelPatcher": (
        "clone", "model", "model_options", "load_device", "get_model_object",
        "add_wrapper_with_key", "remove_wrappers_with_key",
    ),
    "comfy.patcher_extension.WrapperExecutor": ("class_obj", "__call__"),
    "comfy.samplers.CFGGuider": ("model_options", "model_patcher"),
    "comfy.samplers.KSAMPLER": ("sampler_function",),
    "comfy.model_base.BaseModel": ("diffusion_model",),
    "comfy.model_sampling.ModelSamplingDiscrete": ("percent_to_sigma",),
    "comfy.model_sampling.ModelSamplingDiscreteFlow": ("percent_to_sigma",),
    "comfy_execution.utils.ExecutionContext": ("node_id", "prompt_id"),
}  # fmt: skip
"""Attributes of objects that ComfyUI hands over: no import tells of them."""

OPTIONS = ("cond_or_uncond", "uuids", "patches", "patches_replace", "context_window", "transformer_options")
"""Entries of options that the core fills in."""


def used(source: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """Line, dotted name and keywords of everything that a file takes from ComfyUI."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                if root in COMFYUI:
                    names[alias.asname or root] = alias.name if alias.asname else root
                    found.append((node.lineno, alias.name, ()))
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in COMFYUI:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.append((node.lineno, f"{node.module}.{alias.name}", ()))

    def dotted(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
            return f"{owner}.{node.attr}"
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            found.append((node.lineno, name, ()))
        elif isinstance(node, ast.Call) and (name := dotted(node.func)):
            found.append((node.lineno, name, tuple(keyword.arg for keyword in node.keywords if keyword.arg)))
    return found


def resolve(name: str) -> object:
    """What a dotted name stands for: modules are imported, the rest are attributes."""
    value: object = importlib.import_module(name.split(".")[0])
    path = name.split(".")[0]
    for part in name.split(".")[1:]:
        path += f".{part}"
        if not hasattr(value, part):
            if not isinstance(value, ModuleType):
                raise AttributeError(path)
            try:
                importlib.import_module(path)
            except ModuleNotFoundError:
                raise AttributeError(path) from None
        value = getattr(value, part)
    return value


def missing(source: str) -> list[str]:
    """What of ComfyUI a file uses that this ComfyUI does not have."""
    problems = []
    for line, name, keywords in used(source):
        try:
            value = resolve(name)
        except AttributeError as error:
            problems.append(f"line {line}: {error} does not exist")
            continue
        if keywords:
            parameters = inspect.signature(value).parameters  # type: ignore[arg-type]
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                problems += [f"line {line}: {name} takes no {word!r}" for word in keywords if word not in parameters]
    return problems


FILES = sorted((ROOT / "nodes").rglob("*.py"))


@pytest.mark.parametrize("file", [ROOT / "__init__.py", *FILES], ids=lambda file: file.name)
def test_every_symbol_exists(file):
    assert not missing(file.read_text())


def test_the_files_do_use_comfyui():
    names = {name for file in FILES for _, name, _ in used(file.read_text())}
    assert {"comfy_api.latest.io.ComfyNode", "comfy.patcher_extension.WrappersMP.APPLY_MODEL"} <= names


def test_a_missing_symbol_is_named():
    source = (
        "import comfy.no_such_module\n"
        "from comfy.patcher_extension import WrappersMP, no_such_function\n"
        "from comfy_api.latest import io as renamed\n"
        "WrappersMP.NO_SUCH_WRAPPER\n"
        "renamed.Schema(node_id='a', no_such_option=1)\n"
        "comfy.model_patcher.create_model_options_clone\n"
    )
    assert missing(source) == [
        "line 1: comfy.no_such_module does not exist",
        "line 2: comfy.patcher_extension.no_such_function does not exist",
        "line 4: comfy.patcher_extension.WrappersMP.NO_SUCH_WRAPPER does not exist",
        "line 5: comfy_api.latest.io.Schema takes no 'no_such_option'",
    ]


@pytest.mark.parametrize(("owner", "attribute"), [(o, a) for o, names in OBJECTS.items() for a in names])
def test_every_attribute_of_handed_over_objects_exists(owner, attribute):
    assert any(attribute in file.read_text() for file in FILES) or attribute == "__call__", "no longer used"
    value = resolve(owner)
    assert isinstance(value, type)
    written = any(
        f"self.{attribute}" in inspect.getsource(base)
        for base in value.__mro__
        if base.__module__ in sys.modules and base.__module__.startswith("comfy")
    )
    assert written or hasattr(value, attribute), f"{owner} has no {attribute}"


@pytest.mark.parametrize("entry", OPTIONS)
def test_every_entry_of_the_options_is_still_filled_in(entry):
    assert any(f'"{entry}"' in file.read_text() for file in FILES), "no longer used"
    comfy = Path(str(resolve("comfy.samplers").__file__)).parent
    files = [comfy / name for name in ("samplers.py", "context_windows.py", "model_patcher.py", "model_base.py")]
    assert any(f'"{entry}"' in file.read_text() for file in files if file.is_file())


@pytest.mark.parametrize(
    "row",
    [
        Architecture((Tap("final_layer", 0, "no_such_method"),), ("double_blocks", "single_blocks")),
        Architecture((Tap("no_such_module"),), ("double_blocks", "single_blocks")),
        Architecture((Tap("final_layer"),), ("no_such_blocks", "nor_such")),
    ],
    ids=["method", "module", "blocks"],
)
def test_a_row_of_another_version_falls_back_to_the_model_output(row, monkeypatch):
    """Where a version's class lacks what the table names, the run says so and goes on."""
    monkeypatch.setitem(ARCHITECTURES, "Flux", row)
    model = MODELS["flux"].build()
    fast = accelerated(model, warmup=3, tail=1)
    result, plain, fewer = (MODELS["flux"].sample(m, steps=s) for m, s in ((fast, 12), (model, 12), (model, 7)))
    assert nearer(result, plain, fewer)
    (trace,) = runs(fast)
    assert kinds(trace) == "cccfcfcffcfc" and trace.target == "model output" and len(trace.notes) == 1


@pytest.mark.all
@pytest.mark.parametrize("version", OLDER)
def test_older_comfyui(version, tmp_path):
    """The core of the suite in an older ComfyUI; `python dev.py test --all` has fetched its source."""
    comfyui = ROOT / ".dev" / f"comfyui-{version}"
    assert (comfyui / "main.py").is_file(), f"{comfyui} is missing: call python dev.py test --all"
    left_out = " and ".join(f"not {name}" for name in ("older_comfyui", *NOT_THERE_YET[version]))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *CORE, "-k", left_out, "-p", "no:cacheprovider", "--tb=short"],
        cwd=ROOT, env={**os.environ, "COMFYUI_PATH": str(comfyui)}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
