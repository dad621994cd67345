"""Weights in few bits: what is stored is what is loaded."""

import json
import subprocess

import pytest
import torch
from safetensors import safe_open

from demo import inprocess, weights

MOST_BYTES = 20e6


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 128), (96, 200), (32, 16, 3, 3)])
def test_a_matrix_comes_back_as_rounded(tmp_path, shape):
    weight = random(*shape)
    weights.save({"layer.weight": weight}, tmp_path / "w.safetensors")
    loaded = weights.load(tmp_path / "w.safetensors")["layer.weight"]
    expected = weights.rounded(weight, weights.best_scales(weight))
    assert loaded.shape == weight.shape and torch.allclose(loaded.float(), expected, rtol=1e-3)
    assert (loaded.float() - weight).norm() / weight.norm() < 0.15


def test_scales_are_better_than_those_of_the_largest_element():
    weight = random(64, 256)
    plain = weight.view(64, -1, weights.GROUP).abs().amax(-1) / weights.TOP
    chosen, simple = (
        (weights.rounded(weight, scales) - weight).norm() for scales in (weights.best_scales(weight), plain.half())
    )
    assert chosen < 0.95 * simple


def test_what_is_small_and_what_is_not_quantised_comes_back_in_half_precision(tmp_path):
    values = {"bias": random(64), "small": random(8, 8), "large": random(128, 64)}
    weights.save(values, tmp_path / "w.safetensors", quantise=False)
    loaded = weights.load(tmp_path / "w.safetensors")
    assert {name: value.half() for name, value in values.items()}.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], value.half()) for name, value in values.items())


def test_a_plain_file_is_read_as_it_is(tmp_path):
    from safetensors.torch import save_file

    values = {"weight": random(128, 64)}
    save_file(values, tmp_path / "w.safetensors")
    assert torch.equal(weights.load(tmp_path / "w.safetensors")["weight"], values["weight"])


def test_comfyui_reads_what_is_expanded(tmp_path):
    import comfy.sd

    weights.expand(inprocess.MODEL / "tiny_flux.safetensors", tmp_path / "tiny_flux.safetensors")
    model = comfy.sd.load_diffusion_model(str(tmp_path / "tiny_flux.safetensors"))
    assert type(model.model.diffusion_model).__name__ == "Flux"
    stored = weights.load(inprocess.MODEL / "tiny_flux.safetensors")
    loaded = model.model.diffusion_model.state_dict()
    assert all(torch.equal(loaded[name].half(), value) for name, value in stored.items())


@pytest.mark.parametrize("path", sorted(inprocess.MODEL.glob("tiny_*[tx].safetensors")), ids=lambda path: path.stem)
def test_networks_are_stored_in_four_bits(path):
    with safe_open(path, "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        bits = sum(file.get_tensor(name).nbytes for name in file.keys()) * 8  # noqa: SIM118 (no mapping)
    count = sum(value.numel() for value in weights.load(path).values())
    assert shapes and bits / count < 4.5


def test_a_clone_is_light():
    """What git keeps, without its history."""
    root = inprocess.ROOT
    if not (root / ".git").exists():
        pytest.fail("this is no clone")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    sizes = [(root / name).stat().st_size for name in names.split("\0") if name and (root / name).is_file()]
    assert sum(sizes) <= MOST_BYTES
