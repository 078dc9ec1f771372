"""Wide ResNet-50-2 (Zagoruyko and Komodakis 2016, arXiv:1605.07146): inner layers twice as wide;
224 pixels.
"""

from common import images, settled
from resnet50 import resnet50
from torch import nn

example_inputs, calibration = images(3, 224)


def model() -> nn.Module:
    return settled(lambda: resnet50(group_width=128), example_inputs, shift=1.0)
