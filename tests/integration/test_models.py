"""Architectures unlike one another: built int8, parity passed, and what is slow is said."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

import edgekit
from edgekit.errors import ExportError
from edgekit.report.verdict import render_verdict

pytestmark = pytest.mark.runtime

ZOO = ROOT / "scripts" / "zoo"

TRANSFORMER = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, ids):
        return self.head(self.layer(self.words(ids + 1)).mean(1))

def example_inputs():
    return (torch.randint(0, 49, (1, 8)),)
"""

RECURRENT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        states, (hidden, cell) = self.lstm(x)
        return {"scores": self.head(states[:, -1]), "state": (hidden, cell)}

def example_inputs():
    return (torch.randn(1, 4, 8),)
"""

GROUPED_AND_DILATED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4), nn.ReLU(),
        )
        self.near, self.far = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 3, padding=4, dilation=4)

    def forward(self, x):
        x = self.trunk(x)
        return self.near(x), [self.far(x)]

def example_inputs():
    return (torch.randn(1, 3, 24, 24),)
"""

COMMON = """
def model():
    torch.manual_seed(0)
    return Net()

def calibration():
    for _ in range(4):
        yield example_inputs()
"""


@pytest.fixture
def built(write_recipe, tmp_path):
    def build(source: str) -> edgekit.VerdictDocument:
        recipe = write_recipe(source + COMMON)
        return edgekit.build(recipe, target="x86", precision="int8", output=tmp_path / "out")

    return build


def advice_of(document: edgekit.VerdictDocument, operator: str):
    return next(a for a in document.advice if any(operator in name for name in a.operators))


def test_a_transformer_of_token_ids(built) -> None:
    document = built(TRANSFORMER)
    assert document.parity.passed
    assert document.program.inputs[0].dtype == "int64"
    norms = advice_of(document, "native_layer_norm")
    assert norms.layers == ("layer.norm1", "layer.norm2")
    assert "mean((2, 3), keepdim=True)" in norms.instead
    attention = advice_of(document, "logical_not")
    assert attention.layers == ("layer.self_attn",)
    assert "torch.bmm" in attention.instead
    assert "AdaptiveAvgPool2d" in advice_of(document, "mean").instead


def test_an_lstm_with_its_state_as_output(built) -> None:
    document = built(RECURRENT)
    assert document.parity.passed
    assert len(document.program.outputs) == 3
    first = document.advice[0]
    assert first.layers[0] == "lstm"
    assert "split_with_sizes_copy" in " ".join(first.operators)
    assert "slices" in first.instead


def test_several_outputs_grouped_and_dilated(built) -> None:
    document = built(GROUPED_AND_DILATED)
    assert document.parity.passed
    assert document.program.outside == ()
    assert document.advice == ()
    assert len(document.program.outputs) == 2


def test_pixel_shuffle_for_a_pi(tmp_path) -> None:
    options = {"target": "rpi4", "precision": "int8", "output": tmp_path / "out"}
    document = edgekit.build(ZOO / "espcn.py", **options)
    assert document.parity.passed
    assert document.program.outside == ()
    assert document.advice == ()


def test_control_flow_in_a_layer_is_refused_with_its_line(tmp_path, capfd) -> None:
    with pytest.raises(ExportError) as caught:
        edgekit.build(ZOO / "early_exit.py", target="x86", output=tmp_path / "out")
    line = next(
        number
        for number, text in enumerate((ZOO / "early_exit.py").read_text().splitlines(), 1)
        if "if scores" in text
    )
    assert f"early_exit.py:{line}: if scores" in caught.value.message
    assert "def forward" not in capfd.readouterr().err
    assert "torch.where" in caught.value.hint


@pytest.mark.parametrize("line", ["x = x[x > 0]", "x = torch.nonzero(x)", "x = torch.unique(x)"])
def test_a_shape_that_depends_on_the_data_is_refused_with_its_line(write_recipe, tmp_path, line):
    source = f"""
class Net(nn.Module):
    def forward(self, x):
        {line}
        return x

def example_inputs():
    return (torch.rand(2, 4),)
"""
    with pytest.raises(ExportError) as caught:
        edgekit.build(write_recipe(source + COMMON), target="x86", output=tmp_path / "out")
    assert f"recipe.py:6: {line}" in caught.value.message
    assert "mask" in caught.value.hint


def test_a_build_says_what_to_write_instead(built) -> None:
    source = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))

def example_inputs():
    return (torch.rand(1, 1, 8, 8),)
"""
    document = built(source)
    (advice,) = json.loads(document.to_json())["advice"]
    assert advice["operators"] == ["aten::mean.out"]
    text = " ".join(render_verdict(document).split())
    assert "aten::mean.out in the model itself write instead: average over height" in text
