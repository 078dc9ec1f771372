"""Weights that forward computes of others: stored, quantized, and run as those of plain layers."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit
from edgekit.plan import Plan

pytestmark = pytest.mark.runtime

RECIPE = """
import torch
from torch import nn
from torch.nn import functional

class Standardized(nn.Conv2d):
    def forward(self, x):
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-6) * 0.1
        return functional.conv2d(x, weight, self.bias, self.stride)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            Standardized(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), Standardized(16, 48, 3, 2),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.encode = nn.Linear(48, 32)

    def forward(self, image):
        code = torch.relu(self.encode(self.features(image)))
        return functional.linear(code, self.encode.weight.t())

def model():
    torch.manual_seed(0)
    return Net()

def images(count, seed):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))

def example_inputs():
    return (images(1, 1),)

def calibration():
    return [(image[None],) for image in images(16, 2)]
"""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_computed_weights_run_as_those_of_plain_layers(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "computed.py"
    path.write_text(RECIPE)
    wanted = Plan.model_validate({"precision": precision})
    verdict = edgekit.build(path, target="x86", plan=wanted, output=tmp_path / "bundle")
    assert verdict.parity.passed
    layers = {row.layer: row for row in verdict.program.layers}
    weighted = [layers[name] for name in ("features.0", "features.3", "encode")]
    if precision == "int8":
        assert all(row.quantized and not row.floating for row in weighted)
    assert verdict.program.outside == ()
