"""MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601), width 256, 8 layers, 128 pixels."""

import torch
from common import images, settled
from torch import nn

WIDTH, DEPTH, PATCH, SIDE = 256, 8, 16, 8


def mlp(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.places, self.channels = mlp(SIDE**2, 128), mlp(WIDTH, 4 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MlpMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.Sequential(*[Mixer() for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patches(image).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1, keepdim=True)[:, 0])


example_inputs, calibration = images(3, SIDE * PATCH)


def model() -> nn.Module:
    return settled(MlpMixer, example_inputs)
