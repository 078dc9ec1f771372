"""A temporal convolutional network (Bai et al. 2018, arXiv:1803.01271): causal dilated 1-D
convolutions, 256 steps.
"""

from common import Residual, settled, signals
from torch import nn

FEATURES, WIDTH = 16, 64


def causal(inputs: int, outputs: int, dilation: int) -> list[nn.Module]:
    pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
    return [pad, nn.Conv1d(inputs, outputs, 3, dilation=dilation), nn.ReLU()]


def tcn() -> nn.Module:
    layers: list[nn.Module] = []
    inputs = FEATURES
    for level in range(5):
        body = nn.Sequential(*causal(inputs, WIDTH, 2**level), *causal(WIDTH, WIDTH, 2**level))
        layers.append(Residual(body, None if inputs == WIDTH else nn.Conv1d(inputs, WIDTH, 1)))
        inputs = WIDTH
    return nn.Sequential(*layers, nn.Conv1d(WIDTH, 8, 1))


example_inputs, calibration = signals(FEATURES, 256)


def model() -> nn.Module:
    return settled(tcn, example_inputs)
