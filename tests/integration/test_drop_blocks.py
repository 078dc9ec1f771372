"""Residual blocks removed by flag: chosen, compensated, reported, and repeated by the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgekit
from edgekit.errors import EdgekitError, SettingError
from edgekit.plan import DropBlocks, Plan

pytestmark = pytest.mark.runtime

RESIDUAL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        with torch.no_grad():
            self.body[2].weight.mul_(gain)
            self.body[2].bias.mul_(gain)

    def forward(self, x):
        return torch.relu(x + self.body(x))

def model():
    torch.manual_seed(0)
    blocks = [Block(gain) for gain in (1.0, 0.01, 2.0)]
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )

def example_inputs():
    return (torch.rand(1, 1, 12, 12),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 1, 12, 12),) for _ in range(40)]

def output_kinds():
    return ("values",)
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("residual") / "residual.py"
    path.write_text(RESIDUAL)
    return path


def test_the_block_that_does_least_goes_and_the_plan_repeats_it(
    recipe: Path, tmp_path: Path
) -> None:
    options = {"target": "x86", "precision": "fp32", "effort": "quick"}
    document = edgekit.build(recipe, drop_blocks=1, output=tmp_path / "first", **options)
    step = document.compression[0]
    assert (step.name, step.dropped) == ("drop_blocks", ("2",))
    assert step.parameters < step.parameters_before and step.macs < step.macs_before
    assert step.sqnr_db is not None and step.sqnr_db > 20
    plan = document.plan.drop_blocks
    assert plan is not None and plan.blocks == ("2",) and plan.count is None
    again = edgekit.build(recipe, target="x86", plan=document.plan, output=tmp_path / "second")
    first, second = (
        json.loads(Path(one.bundle, "manifest.json").read_bytes()) for one in (document, again)
    )
    assert first == second


def test_what_cannot_be_removed_says_so(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="at most 3"):
        edgekit.build(recipe, target="x86", drop_blocks=4, output=tmp_path / "b")
    plan = Plan(precision="fp32", drop_blocks=DropBlocks(blocks=("7",)))
    with pytest.raises(SettingError, match="7"):
        edgekit.build(recipe, target="x86", plan=plan, output=tmp_path / "b")
    plan = Plan(precision="fp32", drop_blocks=DropBlocks(blocks=("6",)))
    with pytest.raises(EdgekitError, match="6"):
        edgekit.build(recipe, target="x86", plan=plan, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()
