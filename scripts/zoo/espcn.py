"""Super-resolution by sub-pixel convolution, ESPCN (Shi et al. 2016, arXiv:1609.05158): three
times, 72 to 216 pixels.
"""

from common import images, settled
from torch import nn

SCALE = 3


def espcn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(),
        nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
        nn.Conv2d(32, SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE),
    )  # fmt: skip


example_inputs, calibration = images(1, 72)


def model() -> nn.Module:
    return settled(espcn, example_inputs)
