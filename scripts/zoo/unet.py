"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with transposed convolutions, width 16, 128
pixels, two classes.
"""

import torch
from common import conv_norm, images, settled
from torch import nn


def double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(conv_norm(inputs, outputs, 3), conv_norm(outputs, outputs, 3))


class UNet(nn.Module):
    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            [double(a, b) for a, b in zip([3, *widths], widths, strict=False)]
        )
        self.pool = nn.MaxPool2d(2)
        pairs = [(widths[level + 1], widths[level]) for level in reversed(range(depth))]
        self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs])
        self.join = nn.ModuleList([double(a, b) for a, b in pairs])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, kept = image, []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            kept.append(x)
        for up, join, skip in zip(self.up, self.join, reversed(kept[:-1]), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)


example_inputs, calibration = images(3, 128)


def model() -> nn.Module:
    return settled(UNet, example_inputs)
