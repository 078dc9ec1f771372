"""A net with an early exit: control flow that depends on its data, which no fixed graph has.

edgekit refuses it, and names the line.
"""

import torch
from common import Classifier, conv_norm, images, settled
from torch import nn


class EarlyExit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_norm(3, 16, 3, 2), conv_norm(16, 32, 3, 2)
        self.exit, self.head = Classifier(16, 10), Classifier(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        scores = self.exit(x)
        if scores.softmax(1).max() > 0.9:
            return scores
        return self.head(self.second(x))


example_inputs, calibration = images(3, 32)


def model() -> nn.Module:
    return settled(EarlyExit, example_inputs)
