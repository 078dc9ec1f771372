"""Linear layers quantized dynamically, and with 4-bit weights, beside others in static int8."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit
from edgekit.errors import RuntimeFailure
from edgekit.plan import Plan

pytestmark = pytest.mark.runtime

RECIPE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.head = nn.Linear(WIDTH, 10)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, image):
        tokens = torch.relu(self.patches(image)).flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.down(torch.relu(self.up(tokens))))
        return self.head(tokens.mean(1))

def model():
    torch.manual_seed(0)
    return Net()

def images(count, seed):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

def example_inputs():
    return (images(1, 1),)

def calibration():
    return [(image[None],) for image in images(16, 2)]
"""


def recipe(folder: Path, width: int = 64, inner: int = 128) -> Path:
    path = folder / "tokens.py"
    path.write_text(RECIPE.replace("WIDTH", str(width)).replace("INNER", str(inner)))
    return path


def build(path: Path, output: Path, **plan):
    wanted = Plan.model_validate({"precision": "int8", **plan})
    return edgekit.build(path, target="x86", plan=wanted, output=output)


def model_bytes(bundle: Path) -> int:
    return (bundle / "model.pte").stat().st_size


def test_dynamic_layers_compute_in_integers_and_agree(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    static = build(path, tmp_path / "static")
    dynamic = build(path, tmp_path / "dynamic", linear="dynamic")
    assert dynamic.parity.passed
    assert dynamic.parity.float_model.sqnr_db > static.parity.float_model.sqnr_db
    linear = [row for row in dynamic.program.layers if row.layer in ("up", "down", "head")]
    assert [row.quantized > 0 and row.floating == 0 for row in linear] == [True] * 3
    assert dynamic.plan.linear == "dynamic"


def test_four_bit_weights_are_smaller_and_run(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    build(path, tmp_path / "int8", linear="dynamic")
    document = build(path, tmp_path / "int4", linear="dynamic_int4")
    assert document.parity.passed
    weights = 2 * 64 * 128 + 64 * 10
    assert model_bytes(tmp_path / "int8") - model_bytes(tmp_path / "int4") > 0.3 * weights


def test_layers_beside_them_are_still_repaired(tmp_path: Path) -> None:
    repairs = {"observer": "percentile", "equalize": 0.5, "correct": True}
    for linear in ("dynamic", "dynamic_int4"):
        document = build(recipe(tmp_path), tmp_path / linear, linear=linear, **repairs)
        assert document.parity.passed


def test_a_linear_layer_that_is_kept_float_is_float(tmp_path: Path) -> None:
    document = build(
        recipe(tmp_path), tmp_path / "b", linear="dynamic_int4", precision="mixed",
        float_layers=["head"],
    )  # fmt: skip
    layers = {row.layer: row for row in document.program.layers}
    assert layers["head"].quantized == 0
    assert layers["up"].floating == 0


def test_what_cannot_have_four_bits_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="multiple of 32"):
        build(recipe(tmp_path, 20, 50), tmp_path / "b", linear="dynamic_int4")
