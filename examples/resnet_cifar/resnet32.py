"""ResNet-32 on CIFAR-10."""

from __future__ import annotations

from cifar10 import calibration, evaluate, example_inputs, input_sizes, trained, training
from torch import nn

__all__ = ["calibration", "evaluate", "example_inputs", "input_sizes", "model", "training"]


def model() -> nn.Module:
    return trained(32)
