"""A detector in the shape of YOLOv8-small with the usual single output: 84 numbers (centre, size
and classes) for each of 8400 places; 640 pixels.
"""

import torch
from common import images, settled
from torch import nn
from yolo_nano import BOX, Yolo

SIZE, STRIDES, BINS = 640, (8, 16, 32), BOX // 4


class Decoded(nn.Module):
    """Boxes in pixels, and scores. A side's distance is the mean of its bins."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Yolo(width=32)
        self.register_buffer("bins", torch.arange(BINS).float())
        grids = [SIZE // stride for stride in STRIDES]
        centres = [centres_of(grid) * SIZE / grid for grid in grids]
        self.register_buffer("centres", torch.cat(centres, 1))
        scales = [torch.full((grid * grid,), SIZE / grid) for grid in grids]
        self.register_buffer("scales", torch.cat(scales))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = torch.cat([x.flatten(2) for x in self.body(image).values()], 2)[0]
        sides = maps[:BOX].reshape(4, BINS, -1).permute(0, 2, 1).softmax(2)
        distances = (sides * self.bins).sum(2) * self.scales
        low, high = self.centres - distances[:2], self.centres + distances[2:]
        return torch.cat([(low + high) / 2, high - low, maps[BOX:].sigmoid()])[None]


def centres_of(grid: int) -> torch.Tensor:
    """Horizontal and vertical places of a grid's cells, in cells: [2, grid * grid]."""
    at = torch.arange(grid) + 0.5
    return torch.stack([at.repeat(grid), at.repeat_interleave(grid)])


example_inputs, calibration = images(3, SIZE)


def model() -> nn.Module:
    return settled(Decoded, example_inputs, shift=1.0)
