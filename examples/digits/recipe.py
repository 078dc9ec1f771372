"""Handwritten digits, 8x8 pixels, with weights in digits.pt.

Data: scikit-learn's copy of the test set of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
TRAINING_COUNT = 1297  # the remaining 500 of 1797 are held out


class Block(nn.Module):
    """A depthwise-separable convolution, as in MobileNets, with a residual if shapes are equal."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU()
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        return self.act(x + y) if self.residual else self.act(y)


class DigitsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(24, 24), Block(24, 48, stride=2), Block(48, 48), Block(48, 96, stride=2)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(96, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.blocks(self.stem(image))).flatten(1))


def model() -> nn.Module:
    net = DigitsNet()
    net.load_state_dict(torch.load(HERE / "digits.pt", weights_only=True))
    return net


def example_inputs() -> tuple[torch.Tensor, ...]:
    return (held_out()[0][:1],)


def calibration() -> Iterable[tuple[torch.Tensor, ...]]:
    for image in train_part()[0][:100]:
        yield (image[None],)


def evaluate(predict) -> float:
    images, labels = held_out()
    return 100.0 * float((predict(images).argmax(1) == labels).float().mean())


def training() -> Iterable[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    images, labels = train_part()
    for batch in torch.randperm(len(images)).split(64):
        yield (images[batch],), labels[batch]


def train_part() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _digits()
    return images[:TRAINING_COUNT], labels[:TRAINING_COUNT]


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = _digits()
    return images[TRAINING_COUNT:], labels[TRAINING_COUNT:]


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 1, 8, 8), float32 in [-1, 1], and 1797 labels, in a fixed random order."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(data.target)[order]
