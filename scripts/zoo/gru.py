"""A GRU over 24 steps of 40 features, scores at each step."""

import torch
from common import settled, signals
from torch import nn

FEATURES, WIDTH, STEPS = 40, 64, 24


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 12)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(features.transpose(1, 2))
        return self.head(states)


example_inputs, calibration = signals(FEATURES, STEPS)


def model() -> nn.Module:
    return settled(Gru, example_inputs)
