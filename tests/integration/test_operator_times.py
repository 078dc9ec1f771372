"""bench tells the time of every layer of the recipe's model, through the real runner."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from conftest import DIGITS, documented

import edgekit
from edgekit.documents.measure import REMAINDER, BenchDocument

pytestmark = pytest.mark.runtime

# Of the example, in order of execution; where the residuals are added, the block itself.
DIGITS_LAYERS = [
    "stem.0", "blocks.0.depthwise", "blocks.0.pointwise", "blocks.0", "blocks.1.depthwise",
    "blocks.1.pointwise", "blocks.2.depthwise", "blocks.2.pointwise", "blocks.2",
    "blocks.3.depthwise", "blocks.3.pointwise", "pool", "", "head",
]  # fmt: skip

# One layer twice, and between its two uses a kernel that no delegate takes.
TWICE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.twice = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.cumsum(self.twice(self.first(x)), 1)
        return self.last(self.twice(x))

def model():
    return Net()

def example_inputs():
    return (torch.randn(1, 16),)

def calibration():
    for _ in range(8):
        yield (torch.randn(1, 16),)
"""


# What it normalizes is no convolution: it becomes one, and loses what ExecuTorch knew of it.
NORM_FIRST = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.BatchNorm2d(8)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.conv(torch.relu(self.norm(x)))
        return self.last(x)

def model():
    return Net()

def example_inputs():
    return (torch.randn(1, 3, 8, 8),)
"""


@pytest.fixture(scope="module", params=["int8", "fp32"])
def digits(request, digits_bundle, tmp_path_factory) -> BenchDocument:
    bundle = digits_bundle
    if request.param == "fp32":
        bundle = tmp_path_factory.mktemp("digits") / "fp32"
        edgekit.build(DIGITS, target="x86", precision="fp32", output=bundle)
    return edgekit.bench(bundle, runs=30)


def layers(document: BenchDocument) -> list[str]:
    """In order of execution, each once in a row; what is not known left out."""
    known = [row.layer for row in document.per_op if row.layer is not None]
    return [layer for layer, _ in groupby(known)]


def test_every_layer_of_the_digits(digits) -> None:
    assert layers(digits) == DIGITS_LAYERS
    unknown = [row.name for row in digits.per_op[:-1] if row.layer is None]
    assert all(name.startswith(("Convert", "Transpose")) for name in unknown)


def test_the_rows_add_up_to_the_profiled_inference(digits) -> None:
    whole_us = digits.profiled_ms * 1000
    assert sum(row.mean_us for row in digits.per_op) == pytest.approx(whole_us)
    assert digits.per_op[-1].name == REMAINDER
    assert 0 < digits.per_op[-1].mean_us < whole_us
    assert [row.name for row in digits.per_op].count(REMAINDER) == 1


def test_operators_of_less_than_a_microsecond_are_timed(digits) -> None:
    """XNNPACK counts whole microseconds: they are nanoseconds by the runner's own clock."""
    assert next(row.layer for row in digits.per_op if row.name == "Clamp (NC) #1") == "blocks.0"
    assert any(0 < row.mean_us < 1 for row in digits.per_op)


def test_a_layer_used_twice_across_delegates(write_recipe, tmp_path) -> None:
    bundle = tmp_path / "out"
    edgekit.build(write_recipe(TWICE), target="x86", precision="int8", output=bundle)
    document = edgekit.bench(bundle, runs=6)
    # the activation before the kernel stays an operator: there the delegate ends
    of_matrices = [layer for layer in layers(document) if layer != "twice.1"]
    assert of_matrices == ["first", "twice.0", "", "twice.0", "last"]
    (kernel,) = [row for row in document.per_op if row.name == "aten::cumsum.out"]
    assert (kernel.layer, kernel.delegated) == ("", False)
    dense = [row.layer for row in document.per_op if row.name.startswith("Fully Connected")]
    assert dense == ["first", "twice.0", "twice.0", "last"]


def test_a_normalization_of_its_own(write_recipe, tmp_path) -> None:
    edgekit.build(write_recipe(NORM_FIRST), target="x86", output=tmp_path / "out")
    document = edgekit.bench(tmp_path / "out", runs=6)
    found = [row.layer for row in document.per_op if row.name.startswith("Convolution")]
    assert found == ["stem.0", "norm", "conv", "last"]


def test_the_table_names_the_slowest_with_their_layers(digits_bundle, edgekit_command) -> None:
    done = edgekit_command("bench", str(digits_bundle), "local", "--runs", "30", "--quiet")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    assert lines[start].split() == ["layer", "operator", "time", "share"]
    assert any(line.startswith("stem.0 ") for line in lines[start + 1 : start + 11])
    assert [line.split("   ")[0] for line in lines[start + 11 : start + 14]] == [""] * 3
    assert "one inference, profiled" in lines[start + 13]
    assert lines[start + 13].endswith("100.0 %")


def test_the_document_has_layers(digits_bundle: Path) -> None:
    document = documented("bench", str(digits_bundle), "local", "--runs", "9", "--quiet")
    assert document["per_op"][2].keys() == {"name", "layer", "mean_us", "delegated"}
    assert document["per_op"][2]["layer"] == "stem.0"
