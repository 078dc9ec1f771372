"""A 1-D CNN over raw audio, M5 (Dai et al. 2016, arXiv:1610.00087): 8,000 samples, 35 classes."""

from common import settled, signals
from torch import nn


def stage(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv1d(inputs, outputs, kernel, stride)
    return [conv, nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]


def m5() -> nn.Module:
    layers = [*stage(1, 64, 80, 4), *stage(64, 64, 3), *stage(64, 128, 3), *stage(128, 256, 3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(256, 35))


example_inputs, calibration = signals(1, 8000)


def model() -> nn.Module:
    return settled(m5, example_inputs)
