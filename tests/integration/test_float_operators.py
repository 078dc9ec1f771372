"""Operators without weights that stay float, clamped masks, 0-dim tensors, steps within limits."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import edgekit
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.portable.edgekit_model import Model

pytestmark = pytest.mark.runtime

HEADER = """
import torch
from torch import nn

def model():
    torch.manual_seed(1)
    return Net()
"""

DETECTOR = (
    HEADER
    + """
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)
        self.register_buffer("grid", torch.arange(16.0))
        nn.init.normal_(self.box.weight, std=0.5)
        nn.init.normal_(self.score.weight, std=2.0)
    def forward(self, y):
        box = (self.box(y).flatten(2).sigmoid() * 2 - 1 + self.grid) * 40
        return torch.cat([box, self.score(y).flatten(2).sigmoid()], 1).permute(0, 2, 1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1))
        self.head = Head()
    def forward(self, x):
        return self.head(torch.relu(self.stem(x)))

def example_inputs():
    return (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1,)

def calibration():
    random = torch.Generator().manual_seed(2)
    return [(torch.rand(1, 3, 16, 16, generator=random) * 2 - 1,) for _ in range(20)]
"""
)

ATTENTION = (
    HEADER
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.qkv, self.last = nn.Linear(4, 16), nn.Linear(16, 48), nn.Linear(16, 3)
    def forward(self, x, keep):
        x = torch.relu(self.inner(x))
        x = x - x.mean()
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = (1 - keep[:, None, :]) * torch.finfo(torch.float32).min
        return self.last((q @ k.transpose(1, 2) / 4 + mask).softmax(-1) @ v + x)

def one(length):
    keep = (torch.arange(8) < length).float()[None]
    return torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(length)), keep

def example_inputs():
    return one(5)

def calibration():
    return [one(2 + index % 7) for index in range(14)]
"""
)

# what a ReLU always cuts off has no range: a step of 2^-12, and one of the product is far beyond
DEAD = (
    HEADER
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dead, self.other, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        with torch.no_grad():
            self.dead.weight.mul_(1e4)
            self.dead.bias.fill_(-1e6)
    def forward(self, x):
        return self.last(torch.relu(self.dead(x)) + self.other(x))

def example_inputs():
    return (torch.randn(1, 4, generator=torch.Generator().manual_seed(0)),)

def calibration():
    random = torch.Generator().manual_seed(2)
    return [(torch.randn(1, 4, generator=random),) for _ in range(20)]
"""
)


@pytest.fixture
def write(tmp_path):
    def write_recipe(source: str) -> Path:
        path = tmp_path / "recipe.py"
        path.write_text(source)
        return path

    return write_recipe


def outputs(recipe: Path, bundle: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of the artifact and of the float model, for all calibration inputs."""
    loaded = runpy.run_path(str(recipe))
    net = loaded["model"]().eval()
    with torch.no_grad(), Model(bundle) as model:
        pairs = [
            (model(*(tensor.numpy() for tensor in data)), net(*data).numpy())
            for data in loaded["calibration"]()
        ]
    actual, floats = zip(*pairs, strict=True)
    return np.stack(actual), np.stack(floats)


def sqnr_db(actual: np.ndarray, floats: np.ndarray) -> float:
    return float(10 * np.log10(np.square(floats).sum() / np.square(floats - actual).sum()))


def test_boxes_and_scores_in_one_output_keep_both(write, tmp_path) -> None:
    recipe, bundle = write(DETECTOR), tmp_path / "out"
    document = edgekit.build(recipe, target="x86", output=bundle)
    assert document.plan.precision == "mixed"
    kept = document.plan.float_layers
    assert "head:cat" in kept
    assert all(name.startswith("head:") for name in kept)
    assert [rung.precision for rung in document.ladder] == ["int8", "mixed"]
    assert "head:cat" in {row.layer for row in document.blame}
    layers = {row.layer: row for row in document.program.layers}
    assert all(layers[name].quantized for name in ("stem.0", "stem.2", "head.box", "head.score"))
    actual, floats = outputs(recipe, bundle)
    assert np.abs(actual - floats)[..., :4].max() < 1.0
    assert np.abs(actual - floats)[..., 4:].max() < 0.05
    moved = json.loads((bundle / "manifest.json").read_bytes())["program"]["outputs"][0]["moved"]
    boxes, scores = moved["groups"]["2"][:4], moved["groups"]["2"][4:]
    assert 0 < max(scores) < min(boxes) < 1


def test_int8_that_was_asked_for_leaves_nothing_float(write, tmp_path) -> None:
    document = edgekit.build(
        write(DETECTOR), target="x86", precision="int8", effort="quick", output=tmp_path / "out"
    )
    assert document.plan.float_layers == ()


def test_masks_and_scalars_do_not_cost_int8_its_accuracy(write, tmp_path) -> None:
    recipe, bundle = write(ATTENTION), tmp_path / "out"
    document = edgekit.build(recipe, target="x86", precision="int8", effort="quick", output=bundle)
    assert document.ladder[-1].precision == "int8"
    assert sum(row.quantized for row in document.program.layers) >= 3
    assert sqnr_db(*outputs(recipe, bundle)) > 25


def test_steps_beyond_the_kernels_are_widened(write, tmp_path) -> None:
    recipe, bundle = write(DEAD), tmp_path / "out"
    edgekit.build(recipe, target="x86", precision="int8", effort="quick", output=bundle)
    assert sqnr_db(*outputs(recipe, bundle)) > 25


def test_a_plan_names_operators(write, tmp_path) -> None:
    recipe, plan = write(DETECTOR), tmp_path / "plan.json"
    plan.write_text(json.dumps({"precision": "int8", "float_layers": ["head:cta"]}))
    with pytest.raises(SettingError, match="head:cta") as caught:
        edgekit.build(recipe, target="x86", plan=plan, output=tmp_path / "out")
    assert "head:cat" in str(caught.value.hint)


def test_a_good_int8_ships_where_fp32_cannot_be_lowered(write, tmp_path, monkeypatch) -> None:
    from edgekit.pipeline.precision import actions

    def refuse(subject, tools, plan):
        raise RuntimeFailure("fp32 cannot be lowered")

    monkeypatch.setattr(actions, "lower", refuse)
    document = edgekit.build(write(ATTENTION), target="x86", output=tmp_path / "out")
    assert document.plan.precision == "int8"
    assert "fp32 cannot be lowered" in str(document.ladder[-1].payoff)


def normal_inputs(shape: str, count: int) -> str:
    """The part of a recipe that gives inputs of one tensor."""
    return f"""
def example_inputs():
    return (torch.randn({shape}, generator=torch.Generator().manual_seed(0)),)

def calibration():
    random = torch.Generator().manual_seed(2)
    return [(torch.randn({shape}, generator=random),) for _ in range({count})]
"""


def assert_int8_is_near(recipe: Path, bundle: Path) -> None:
    document = edgekit.build(recipe, target="x86", precision="int8", effort="quick", output=bundle)
    assert document.plan.precision == "int8"
    assert document.parity.passed
    assert sqnr_db(*outputs(recipe, bundle)) > 25


@pytest.mark.parametrize("layer", ["1", "2"])
def test_a_float_convolution_of_one_dimension_may_follow_an_int8_one(write, tmp_path, layer):
    recipe = write(
        HEADER
        + """
def Net():
    return nn.Sequential(
        nn.Conv1d(3, 8, 5), nn.Conv1d(8, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.ReLU()
    )
"""
        + normal_inputs("1, 3, 40", 12)
    )
    plain = edgekit.build(recipe, target="x86", precision="int8", output=tmp_path / "int8")
    plan = tmp_path / "plan.json"
    plan.write_text(plain.plan.replaced(precision="mixed", float_layers=(layer,)).model_dump_json())
    built = edgekit.build(recipe, target="x86", plan=plan, output=tmp_path / "mixed")
    assert built.parity.passed
    assert [row.quantized for row in built.program.layers if row.layer == layer] == [0]


@pytest.mark.parametrize("layer", ["nn.Conv2d(3, 3, 3, 1, 1)", "nn.Linear(8, 8)"])
def test_a_layer_that_is_used_twice_is_int8_both_times(write, tmp_path, layer) -> None:
    recipe = write(
        HEADER
        + f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = {layer}
    def forward(self, x):
        return self.layer(torch.relu(self.layer(x)) * 4)
"""
        + normal_inputs("1, 3, 8, 8", 60)
    )
    built = edgekit.build(recipe, target="x86", precision="int8", output=tmp_path / "out")
    assert built.parity.sqnr_db is None or built.parity.sqnr_db > 40
    rows = [row for row in built.program.layers if row.layer == "layer"]
    assert [(row.quantized, row.floating) for row in rows] == [(2, 0)]


def test_a_value_may_change_its_shape_and_its_steps_at_once(write, tmp_path) -> None:
    """What is concatenated shares its steps; unsqueeze stands between them and the score's own."""
    recipe = write(
        HEADER
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.box, self.score = nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(16, 8)
    def forward(self, x):
        y = torch.relu(self.stem(x))
        return torch.cat([self.box(y).view(1, 8, 4) * 4, self.score(y).unsqueeze(-1)], -1)
"""
        + normal_inputs("1, 6", 20)
    )
    assert_int8_is_near(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    "parts", ["F.unfold(y, 3)", "F.unfold(y, 3, padding=1)", "F.pad(y, [1, 2, 0, 1]).sigmoid()"]
)
def test_a_pad_that_stays_float_may_follow_an_int8_convolution(write, tmp_path, parts) -> None:
    """F.unfold is lowered as a pad too, even as one of nothing."""
    recipe = write(
        HEADER
        + f"""
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.LazyLinear(4)
    def forward(self, x):
        y = torch.relu(self.conv(x))
        return self.head({parts}.flatten(2).mean(1))

def model():
    torch.manual_seed(1)
    net = Net()
    net(*example_inputs())
    return net
"""
        + normal_inputs("1, 3, 12, 12", 20)
    )
    assert_int8_is_near(recipe, tmp_path / "out")
