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
    def __init__(self, channels: int, kinds: int) -> None:
        super().__init__()
        self.box = nn.Sequential(conv(channels, 64, 3), conv(64, 64, 3), nn.Conv2d(64, BOX, 1))
        self.kind = nn.Sequential(
            conv(channels, kinds, 3), conv(kinds, kinds, 3), nn.Conv2d(kinds, CLASSES, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.box(x), self.kind(x)], 1)


class Yolo(nn.Module):
    """``width``: channels of the first layer; 16 is the nano model, 32 the small one."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        c2, c3, c4, c5 = (width * factor for factor in (2, 4, 8, 16))
        self.stem = nn.Sequential(conv(3, width, 3, 2), conv(width, c2, 3, 2), Csp(c2, c2, 1))
        self.stage3 = nn.Sequential(conv(c2, c3, 3, 2), Csp(c3, c3, 2))
        self.stage4 = nn.Sequential(conv(c3, c4, 3, 2), Csp(c4, c4, 2))
        self.stage5 = nn.Sequential(conv(c4, c5, 3, 2), Csp(c5, c5, 1), Sppf(c5))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.top4, self.top3 = Csp(c4 + c5, c4, 1, False), Csp(c3 + c4, c3, 1, False)
        self.down4, self.bottom4 = conv(c3, c3, 3, 2), Csp(c3 + c4, c4, 1, False)
        self.down5, self.bottom5 = conv(c4, c4, 3, 2), Csp(c4 + c5, c5, 1, False)
        self.heads = nn.ModuleList([Head(each, max(CLASSES, c3)) for each in (c3, c4, c5)])

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
    return settled(Yolo, example_inputs, shift=1.0)
