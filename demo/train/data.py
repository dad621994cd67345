"""The training data: composites of emoji, as latents of the embedded VAE.

The pictures are Fluent Emoji 3D (Microsoft, MIT licence), fetched once with `npm pack` and checked.
"""

import hashlib
import logging
import shutil
import subprocess
import tarfile

import numpy as np
import torch
from PIL import Image

from demo import inprocess

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
ARCHIVE = inprocess.ROOT / ".dev" / "cache" / "emoji" / "lobehub-fluent-emoji-3d-1.1.0.tgz"
SHA512 = (
    "5a5ab69554ad4e7afc043a48274a449d328ee0bb83c71a931214ef46d0f50cb4"
    "45d267bba207914232a87a10c75ee549d9069e720979c1106feb4954006de1ee"
)
EMOJI = (
    "😎😍😢😡🤖👻👾🎃💀🐱🦊🐼🐨🐯🐷🐸🐧🦉🦋🐞🐙🐬🐰🍎🍏🍊🍉🍇🍓🍒🍑🍍"
    "🥑🍔🍟🍩🎂🍭☕🚗🚍🚕🚀⛵🏠⚽🏀🏆🎈🎁👑💎☂🌻🌷🌵🌴🍄🍀⭐🌈🔥🌍❤"
)
BACKGROUNDS = ("f5f5f5", "87ceeb", "19235a", "aaf0d1", "ffb6c1", "fadc5a", "c8b4f0", "46464b")
"""Both in the order of labels.json."""
SIDE = 96
BLOCK = 8
"""Pixels of a picture's side, and of the side of what one latent position stands for."""

FRAMES, CLIP_SIDE, CLIP_SIZES = 9, 48, (24, 33)
"""Of clips: frames, pixels of a side, and sizes of the emoji from the smallest to before the largest."""

log = logging.getLogger(__name__)


def fetch() -> None:
    """Bring the package of pictures into .dev/cache, unless it is there."""
    if not ARCHIVE.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(f"npm is needed to fetch {PACKAGE}")
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s", PACKAGE)
        subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=ARCHIVE.parent, check=True, stdout=subprocess.DEVNULL)
    if hashlib.sha512(ARCHIVE.read_bytes()).hexdigest() != SHA512:
        raise RuntimeError(f"{ARCHIVE} is not the archive of {PACKAGE} that this was made with")


class Composites:
    """Endless composites: an emoji of random size at a random place on a background of random shade.

    Args:
        sizes: smallest and largest side of the emoji, in pixels.
        grid: places are multiples of this many pixels. On multiples of 8, where latents are, a small network learns
            shapes much faster: it need not know them at every offset within its patches.
    """

    def __init__(self, sizes: tuple[int, int] = (68, 88), grid: int = 1) -> None:
        self._sizes, self._grid = sizes, grid
        fetch()
        names = inprocess.labels()
        assert (len(EMOJI), len(BACKGROUNDS)) == (len(names["emoji"]), len(names["bg"]))
        with tarfile.open(ARCHIVE) as archive:
            members = set(archive.getnames())
            self._pictures = []
            for emoji in EMOJI:
                plain, styled = (f"package/assets/{ord(emoji):04x}{suffix}.webp" for suffix in ("", "-fe0f"))
                file = archive.extractfile(plain if plain in members else styled)
                picture = Image.open(file).convert("RGBA")
                self._pictures.append(picture.resize((128, 128), Image.Resampling.LANCZOS))
        self._colours = [np.array(list(bytes.fromhex(colour))) for colour in BACKGROUNDS]
        self._encode = BlockEncoder()

    def picture(self, emoji: int, background: int, random: np.random.Generator) -> Image.Image:
        """One composite."""
        colour = np.clip(self._colours[background] * random.uniform(0.88, 1.04), 0, 255).astype(int)
        canvas = Image.new("RGB", (SIDE, SIDE), tuple(colour.tolist()))
        size = int(random.integers(self._sizes[0], self._sizes[1] + 1))
        place = (self._grid * random.integers(0, (SIDE - size) // self._grid + 1, 2)).tolist()
        shape = self._pictures[emoji].resize((size, size), Image.Resampling.BILINEAR)
        canvas.paste(shape, tuple(place), shape)
        return canvas

    def batch(self, size: int, random: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Latents [size, 16, 12, 12] as the network sees them, and the rows of their emoji and of their backgrounds."""
        emoji, backgrounds = random.integers(len(EMOJI), size=size), random.integers(len(BACKGROUNDS), size=size)
        return self.latents(emoji, backgrounds, random), emoji, backgrounds

    def latents(self, emoji: np.ndarray, backgrounds: np.ndarray, random: np.random.Generator) -> torch.Tensor:
        """Latents [size, 16, 12, 12] of composites of these emoji and backgrounds."""
        pairs = zip(emoji, backgrounds, strict=True)
        pixels = np.stack([np.asarray(self.picture(int(e), int(b), random)) for e, b in pairs])
        return self._encode(torch.from_numpy(pixels))

    def means(self, count: int = 8) -> dict[str, torch.Tensor]:
        """Mean latents of all composites with an emoji ("emoji", [64, 16, 12, 12]) or a background ("bg", [8, ...])."""
        random = np.random.default_rng(0)
        backgrounds = np.repeat(np.arange(len(BACKGROUNDS)), count)
        of_each = [self.latents(np.full(len(backgrounds), e), backgrounds, random) for e in range(len(EMOJI))]
        latents = torch.stack(of_each).unflatten(1, (len(BACKGROUNDS), count))
        return {"emoji": latents.mean((1, 2)), "bg": latents.mean((0, 2))}


class Clips(Composites):
    """Endless clips: an emoji that moves from one random place to another, at constant speed."""

    def latents(self, emoji: np.ndarray, backgrounds: np.ndarray, random: np.random.Generator) -> torch.Tensor:
        """Latents [size, 16, FRAMES, 6, 6]."""
        pairs = zip(emoji, backgrounds, strict=True)
        pixels = np.stack([self.clip(int(e), int(b), random) for e, b in pairs])
        return (
            self._encode(torch.from_numpy(pixels).flatten(0, 1)).unflatten(0, (-1, FRAMES)).movedim(1, 2).contiguous()
        )

    def clip(self, emoji: int, background: int, random: np.random.Generator) -> np.ndarray:
        """Bytes [FRAMES, 48, 48, 3]."""
        colour = np.clip(self._colours[background] * random.uniform(0.88, 1.04), 0, 255).astype(int)
        size = int(random.integers(*CLIP_SIZES))
        shape = self._pictures[emoji].resize((size, size), Image.Resampling.BILINEAR)
        start, end = random.integers(0, CLIP_SIDE - size + 1, (2, 2))
        frames = []
        for part in np.linspace(0, 1, FRAMES):
            canvas = Image.new("RGB", (CLIP_SIDE, CLIP_SIDE), tuple(colour.tolist()))
            canvas.paste(shape, tuple(np.rint(start + part * (end - start)).astype(int).tolist()), shape)
            frames.append(np.asarray(canvas))
        return np.stack(frames)


class BlockEncoder:
    """The embedded VAE's encoder and ComfyUI's scaling of Flux latents, as one matrix.

    That encoder is a linear transform of each block of 8 x 8 pixels, written into convolutions of ninety milliseconds
    per picture. The matrix is read off the encoder itself, and compared with it.
    """

    def __init__(self) -> None:
        import comfy.latent_formats

        encode, scaling = inprocess.embedded_vae().first_stage_model.float().encode, comfy.latent_formats.Flux()
        inputs = 3 * BLOCK * BLOCK
        with torch.inference_mode():
            probes = torch.cat([torch.zeros(1, inputs), torch.eye(inputs)]).reshape(-1, 3, BLOCK, BLOCK)
            answers = scaling.process_in(encode(probes * 2 - 1)).flatten(1)
            self._offset, self._matrix = answers[0].clone(), (answers[1:] - answers[0]).clone()
            test = torch.randint(256, (1, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            expected = scaling.process_in(encode(test.movedim(-1, 1) / 255 * 2 - 1))
        torch.testing.assert_close(self(test), expected, rtol=1e-4, atol=1e-4)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bytes [n, side, side, 3] -> latents [n, 16, side / 8, side / 8]."""
        count, places = len(pixels), pixels.shape[1] // BLOCK
        blocks = pixels.reshape(count, places, BLOCK, places, BLOCK, 3).permute(0, 1, 3, 5, 2, 4).flatten(3)
        return (blocks / 255 @ self._matrix + self._offset).movedim(-1, 1).contiguous()
