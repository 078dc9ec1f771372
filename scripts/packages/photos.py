"""Typical inputs: crops of the photographs that scikit-image brings, tones, and words."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

Photos = tuple[torch.Tensor, ...]

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
FACE = (90, 0, 300, 190)  # left, top, right, bottom of the astronaut's surroundings


def _folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"


@cache
def _photo(name: str) -> torch.Tensor:
    pixels = np.asarray(Image.open(_folder() / name).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def photo(generator: torch.Generator, size: int, name: str | None = None) -> torch.Tensor:
    """A random square crop, [1, 3, size, size] in 0 to 1, mirrored half of the time."""
    pixels = _photo(name or PHOTOS[_whole(generator, len(PHOTOS))])
    height, width = pixels.shape[-2:]
    side = int(min(height, width) * (0.4 + 0.6 * _number(generator)))
    top, left = _whole(generator, height - side + 1), _whole(generator, width - side + 1)
    return _turned(generator, pixels[:, :, top : top + side, left : left + side], size)


def face(generator: torch.Generator, size: int) -> torch.Tensor:
    """A crop around a face, of another place and size each time, in -1 to 1 as MTCNN takes it."""
    left, top, right, bottom = FACE
    side = 90 + _whole(generator, 100)
    x, y = (
        left + _whole(generator, right - left - side),
        top + _whole(generator, bottom - top - side),
    )
    pixels = _photo("astronaut.png")[:, :, y : y + side, x : x + side]
    return _turned(generator, pixels, size) * 2 - 1


def _turned(generator: torch.Generator, pixels: torch.Tensor, size: int) -> torch.Tensor:
    resized = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return resized.flip(3) if _number(generator) < 0.5 else resized


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """By mean and deviation of ImageNet."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    return (pixels - mean) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def tone(generator: torch.Generator, length: int, rate: int = 16000) -> torch.Tensor:
    """A note with harmonics and some noise, [1, length], zero mean and deviation 1."""
    hertz = 60 * 2 ** (4 * _number(generator))
    time = torch.arange(length) / rate
    overtones = range(1, 2 + _whole(generator, 6))
    phase = 2 * math.pi * _number(generator)
    wave = sum(torch.sin(2 * math.pi * hertz * k * time + phase * k) / k for k in overtones)
    wave = wave + 0.1 * _number(generator) * torch.randn(length, generator=generator)
    return ((wave - wave.mean()) / wave.std())[None]


def spectrogram(generator: torch.Generator, bands: int, frames: int) -> torch.Tensor:
    """A log-mel picture of Whisper's range, [1, bands, frames]: slow patterns over noise."""
    coarse = torch.randn(1, 1, bands // 8, frames // 60, generator=generator)
    moving = functional.interpolate(coarse, (bands, frames), mode="bilinear")[0]
    noise = 0.2 * torch.randn(1, bands, frames, generator=generator)
    return (moving + noise).clamp(-1.0, 1.5)


def words(generator: torch.Generator, vocabulary: int, length: int) -> Photos:
    """Token ids and their mask, [1, length] each: the rest is padding."""
    count = 6 + _whole(generator, length - 5)
    ids = torch.randint(1000, vocabulary, (1, length), generator=generator)
    mask = (torch.arange(length) < count).long()[None]
    return ids * mask, mask


def _number(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _whole(generator: torch.Generator, end: int) -> int:
    return int(torch.randint(0, end, (), generator=generator))
