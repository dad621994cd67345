"""The comparison: figures that other libraries give too, a map of where, and errors that say what to connect."""

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from spectrum_accelerate.nodes.compare import SpectrumCompare, compared
from spectrum_accelerate.nodes.plots import comparison


def image(seed=0, size=(64, 48)):
    smooth = torch.rand((1, 3, 8, 6), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(smooth, size, mode="bicubic").clamp(0, 1).movedim(1, -1)


def figures(text):
    return {line.split(": ")[0]: line.split(": ")[1] for line in text.splitlines()}


def test_the_figures_are_those_of_a_known_library():
    a = image()
    b = (a + 0.03 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    _, text = compared(a, b)
    found = figures(text)
    one, two = a[0].double().numpy(), b[0].double().numpy()
    assert float(found["PSNR"].split()[0]) == pytest.approx(peak_signal_noise_ratio(one, two, data_range=1), abs=0.1)
    ssim = structural_similarity(one, two, channel_axis=-1, data_range=1, gaussian_weights=True, sigma=1.5,
                                 use_sample_covariance=False)  # fmt: skip
    assert float(found["SSIM"]) == pytest.approx(ssim, abs=0.01)
    assert float(found["relative L2"]) == pytest.approx(float((a - b).norm() / a.norm()), abs=1e-4)


def test_equal_pictures_are_identical():
    difference, text = compared(image(), image())
    assert "PSNR: identical" in text and "SSIM: 1.0000" in text and not difference.any()


def test_the_map_shows_where():
    a, b = image(), image()
    b[:, 10:20, 30:40] += 0.1
    difference, _ = compared(a, b)
    assert difference.shape == a.shape
    assert difference[0, 10:20, 30:40].mean() == pytest.approx(0.4, abs=0.01) and difference.sum() == pytest.approx(
        float(difference[:, 10:20, 30:40].sum())
    )


@pytest.mark.parametrize("shape", [(2, 4, 8, 6), (1, 16, 5, 8, 6), (1, 8, 40)])
def test_latents_of_pictures_videos_and_audio(shape):
    a = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    difference, text = compared({"samples": a}, {"samples": a * 1.1})
    assert figures(text)["relative L2"] == "0.1000" and "PSNR" not in text
    assert difference.ndim == 4 and difference.shape[-1] == 3 and float(difference.max()) <= 1


def test_of_a_video_with_sound_the_video_is_compared():
    video, sound = torch.ones(1, 4, 2, 3, 3), torch.ones(1, 4, 10)
    both = [{"samples": NestedTensor([video * scale, sound])} for scale in (1.0, 1.2)]
    assert figures(compared(*both)[1])["relative L2"] == "0.2000"


@pytest.mark.parametrize(
    "pair, why",
    [
        ((image(), {"samples": torch.zeros(1, 4, 8, 8)}), "not one of each"),
        ((image(), image(size=(32, 48))), "compare results of the same size"),
    ],
)
def test_what_cannot_be_compared_is_said(pair, why):
    with pytest.raises(ValueError, match=why):
        compared(*pair)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_node_draws_both_and_the_figures(channels):
    a = torch.rand(2, 32, 64, channels, generator=torch.Generator().manual_seed(0))
    picture = comparison({"plain": a, "accelerated": a, "difference": a[..., :1]}, "relative L2: 0\nPSNR: identical")
    assert picture.shape[2] == 1280 and picture.shape[1] > 2 * 64 and picture.min() >= 0 and picture.max() <= 1


def test_the_node_shows_it_by_itself():
    schema = SpectrumCompare.define_schema()
    assert schema.is_output_node and [i.id for i in schema.inputs] == ["plain", "accelerated"]
