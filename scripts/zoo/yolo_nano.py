"""A detector in the shape of YOLOv8-nano: CSP blocks, a feature pyramid, three outputs of boxes
and classes at strides 8, 16 and 32; 320 pixels.
"""

import torch
from common import Residual, conv_norm, images, settled
from torch import nn

CLASSES, BOX = 80, 64


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return conv_norm(inputs, outputs, kernel, stride, activation=nn.SiLU)


class Csp(nn.Module):
    """Half of the channels through bottlenecks, all stages joined."""

    def __init__(self, inputs: int, outputs: int, count: int, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.first = conv(inputs, outputs)
        bodies = [nn.Sequential(conv(half, half, 3), conv(half, half, 3)) for _ in range(count)]
        self.blocks = nn.ModuleList([Residual(b) if residual else b for b in bodies])
        self.last = conv((2 + count) * half, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Three poolings in a row, joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = conv(channels, channels // 2), conv(channels * 2, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.box = nn.Sequential(conv(channels, 64, 3), conv(64, 64, 3), nn.Conv2d(64, BOX, 1))
        self.kind = nn.Sequential(conv(channels, 80, 3), conv(80, 80, 3), nn.Conv2d(80, CLASSES, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.box(x), self.kind(x)], 1)


class YoloNano(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), Csp(32, 32, 1))
        self.stage3 = nn.Sequential(conv(32, 64, 3, 2), Csp(64, 64, 2))
        self.stage4 = nn.Sequential(conv(64, 128, 3, 2), Csp(128, 128, 2))
        self.stage5 = nn.Sequential(conv(128, 256, 3, 2), Csp(256, 256, 1), Sppf(256))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.top4, self.top3 = Csp(384, 128, 1, False), Csp(192, 64, 1, False)
        self.down4, self.bottom4 = conv(64, 64, 3, 2), Csp(192, 128, 1, False)
        self.down5, self.bottom5 = conv(128, 128, 3, 2), Csp(384, 256, 1, False)
        self.heads = nn.ModuleList([Head(64), Head(128), Head(256)])

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        c3 = self.stage3(self.stem(image))
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        p4 = self.top4(torch.cat([self.up(c5), c4], 1))
        p3 = self.top3(torch.cat([self.up(p4), c3], 1))
        n4 = self.bottom4(torch.cat([self.down4(p3), p4], 1))
        n5 = self.bottom5(torch.cat([self.down5(n4), c5], 1))
        found = [head(x) for head, x in zip(self.heads, (p3, n4, n5), strict=True)]
        return {"stride8": found[0], "stride16": found[1], "stride32": found[2]}


example_inputs, calibration = images(3, 320)


def model() -> nn.Module:
    return settled(YoloNano, example_inputs, shift=1.0)
