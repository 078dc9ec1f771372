"""The memory ledger against the runner's own peak, for real programs."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit
from edgekit.documents.verdict import VerdictDocument

pytestmark = pytest.mark.runtime

HEAD = """
import torch
from torch import nn
def calibration():
    generator = torch.Generator().manual_seed(2)
    shape = tuple(example_inputs()[0].shape)
    return [(torch.randn(shape, generator=generator),) for _ in range(4)]
"""
CNN = """
def model():
    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 3, 3, padding=1))
def example_inputs():
    return (torch.zeros(1, 3, 128, 128),)
"""
# In int8, each tanh is a table: its float values, 3 MB of a peak of 9, never exist.
TABLES = """
def model():
    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.Tanh(),
                         nn.Conv2d(24, 24, 3, padding=1), nn.Tanh(), nn.Conv2d(24, 3, 3, padding=1))
def example_inputs():
    return (torch.zeros(1, 3, 128, 128),)
"""
TRANSFORMER = """
def model():
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
def example_inputs():
    return (torch.zeros(1, 32, 256),)
"""
BOUND = 0.10


def build(folder: Path, source: str, precision: str) -> VerdictDocument:
    recipe = folder / "recipe.py"
    recipe.write_text(HEAD + source)
    return edgekit.build(recipe, target="x86", precision=precision, output=folder / "out")


@pytest.mark.parametrize(
    ("source", "precision"), [(CNN, "fp32"), (CNN, "int8"), (TABLES, "int8"), (TRANSFORMER, "fp32")]
)
def test_the_ledger_is_near_the_measured_peak(tmp_path, source: str, precision: str) -> None:
    document = build(tmp_path, source, precision)
    ledger = document.memory
    assert ledger is not None and ledger.measured_here_mb is not None
    assert ledger.peak_mb == pytest.approx(ledger.measured_here_mb, rel=BOUND)
    low, high = ledger.interval
    assert low <= ledger.measured_here_mb <= high
    assert edgekit.check(tmp_path / "out").memory == ledger
