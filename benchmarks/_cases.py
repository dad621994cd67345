"""What the quality bench samples: trained models, settings, pictures; and how evaluations and distances are counted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from demo import inprocess

inprocess.boot()

import comfy.sample  # noqa: E402  (only after boot)
import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from _counting import counted  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A trained model of the repository.

    Attributes:
        load: shift of the flow -> MODEL.
        file: its weights, in demo/model.
    """

    load: Callable[[float], Any]
    file: str


MODELS: dict[str, Model] = {
    "flux": Model(lambda shift: inprocess.embedded_model(shift), "tiny_flux.safetensors"),
    "unet": Model(lambda shift: inprocess.unet_model(), "tiny_unet.safetensors"),
    "lumina": Model(lambda shift: inprocess.lumina_model(shift), "tiny_lumina.safetensors"),
}


def present() -> dict[str, Model]:
    """The models whose weights are there."""
    return {name: model for name, model in MODELS.items() if (inprocess.MODEL / model.file).exists()}


@dataclass(frozen=True)
class Sampler:
    """One of ComfyUI's samplers with its options."""

    function: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    stages: int = 1
    stochastic: bool = False

    def build(self) -> Any:
        return comfy.samplers.ksampler(self.function, self.options)

    def steps(self, evaluations: int) -> int:
        """Steps that this many evaluations allow, the last one having one evaluation; at least 1."""
        return max(1, (evaluations + self.stages - 1) // self.stages)

    def evaluations(self, steps: int) -> int:
        return steps * self.stages - (self.stages - 1)


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler("euler"),
    "dpmpp_2m": Sampler("dpmpp_2m"),
    "AB2": Sampler("ipndm_v", {"max_order": 2}),  # exact on uneven steps; ipndm's own order 2 assumes even ones
    "ipndm": Sampler("ipndm"),
    "heun": Sampler("heun", stages=2),
    "euler_ancestral": Sampler("euler_ancestral", stochastic=True),
}


@dataclass(frozen=True)
class Setting:
    """One way of sampling a model, and how many of its steps the methods compute.

    Attributes:
        counts: computed steps, the first one the node's default speed-up.
    """

    model: str
    sampler: str
    steps: int
    cfg: float
    shift: float
    counts: tuple[int, ...]

    def __str__(self) -> str:
        guided = f"CFG {self.cfg:g}" if self.cfg != 1 else "no CFG"
        shift = "" if self.model == "unet" else f", shift {self.shift:g}"
        return f"{self.model}, {self.sampler}, {self.steps} steps, {guided}{shift}"


class Case:
    """Some pictures of a setting: prompts with their noises, drawn from a seed."""

    def __init__(self, setting: Setting, seed: int, batch: int) -> None:
        generator = np.random.default_rng(seed)
        names = inprocess.labels()
        emoji = generator.choice(len(names["emoji"]), batch, replace=False).tolist()
        backgrounds = generator.integers(len(names["bg"]), size=batch).tolist()
        self.setting, self.seed, self.batch = setting, seed, batch
        self.positive = inprocess.prompts(emoji, backgrounds)
        self.negative = inprocess.prompts([-1] * batch, [-1] * batch)
        self.noise = torch.randn((batch, 16, 12, 12), generator=torch.Generator().manual_seed(seed))

    @cached_property
    def model(self) -> Any:
        return MODELS[self.setting.model].load(self.setting.shift)

    def sigmas(self, steps: int) -> torch.Tensor:
        """Noise levels of scheduler simple, [steps + 1]."""
        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "simple", steps)

    def sample(
        self, model: Any = None, steps: int | None = None, sampler: Sampler | None = None
    ) -> tuple[torch.Tensor, float]:
        """Final latents [batch, 16, 12, 12] and evaluations of the network for each picture."""
        model = model or self.model
        with torch.inference_mode(), counted(self.model.model.diffusion_model) as rows:
            latents = comfy.sample.sample_custom(
                model,
                self.noise,
                self.setting.cfg,
                (sampler or SAMPLERS[self.setting.sampler]).build(),
                self.sigmas(steps or self.setting.steps),
                self.positive,
                self.negative,
                torch.zeros_like(self.noise),
                disable_pbar=True,
                seed=self.seed,
            )
        return latents, sum(rows) / (self.batch * (1 if self.setting.cfg == 1 else 2))


def distances(latents: torch.Tensor, reference: torch.Tensor) -> Array:
    """Relative L2 distance of each picture's latent to its reference: [batch]."""
    return ((latents - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)).double().numpy()


def decode(vae: Any, latents: torch.Tensor) -> NDArray[np.float32]:
    """Pictures [batch, height, width, 3] from 0 to 1."""
    with torch.inference_mode():
        return vae.decode(latents).clamp(0, 1).float().numpy()


def likeness(pictures: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[Array, Array]:
    """PSNR in dB (at most 120) and SSIM of each picture: [batch], [batch]."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # a machine with a GPU may lack it

    pairs = list(zip(reference, pictures, strict=True))
    with np.errstate(divide="ignore"):
        psnr = [min(120.0, peak_signal_noise_ratio(a, b, data_range=1)) for a, b in pairs]
    return np.array(psnr), np.array([structural_similarity(a, b, data_range=1, channel_axis=-1) for a, b in pairs])
