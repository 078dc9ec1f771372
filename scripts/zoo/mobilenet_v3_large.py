"""MobileNetV3-Large (Howard et al. 2019, arXiv:1905.02244), 224 pixels."""

from common import images, settled
from mobilenet_v3_small import HS, RE, mobilenet_v3
from torch import nn

# kernel, expanded, output, squeeze-excite, activation, stride: table 1 of the paper
LARGE = [
    (3, 16, 16, False, RE, 1), (3, 64, 24, False, RE, 2), (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2), (5, 120, 40, True, RE, 1), (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2), (3, 200, 80, False, HS, 1), (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1), (3, 480, 112, True, HS, 1), (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2), (5, 960, 160, True, HS, 1), (5, 960, 160, True, HS, 1),
]  # fmt: skip
example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(lambda: mobilenet_v3(LARGE, 1280), example_inputs, shift=1.0)
