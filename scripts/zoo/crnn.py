"""Reading a line of text (Shi et al. 2015, arXiv:1507.05717): a CNN over 32 x 96 pixels, a
bidirectional GRU over its 24 columns.
"""

import torch
from common import conv_norm, images, settled
from torch import nn


class Crnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(1, 32, 3), nn.MaxPool2d(2), conv_norm(32, 64, 3), nn.MaxPool2d(2),
            conv_norm(64, 128, 3), nn.MaxPool2d((2, 1)), conv_norm(128, 128, 3),
            nn.MaxPool2d((4, 1)),
        )  # fmt: skip
        self.gru = nn.GRU(128, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 37)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        columns = self.features(image)[:, :, 0].transpose(1, 2)
        return self.head(self.gru(columns)[0])


example_inputs, calibration = images(1, 32, 96)


def model() -> nn.Module:
    return settled(Crnn, example_inputs)
