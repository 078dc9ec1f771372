"""The operators of real programs: multiply-accumulates as in torch, rows as in a profile."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from runtime_contract import lowered, quantized
from torch import nn

from edgekit.compress.pruning.channel_choice import macs_by_layer
from edgekit.cost.shapes import OperatorShape, times_by_operator
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.runner.client import RunReport, measure
from edgekit.runner.staging import staged
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.registry import RUNTIMES, locate
from edgekit.target import host_architecture

pytestmark = pytest.mark.runtime

WORK = ("convolution", "depthwise", "linear", "matmul", "transposed_convolution")


class Inverted(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.expand = nn.Sequential(nn.Conv2d(inputs, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)
        self.project = nn.Conv2d(wide, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(torch.relu(self.depthwise(self.expand(x))))
        return x + y if self.adds else y


class Upsampling(nn.Module):
    """A grouped and a transposed convolution, pooling, and a kernel that no delegate runs."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.pool(self.up(torch.relu(self.grouped(x)))), 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def convolutional() -> nn.Module:
    blocks = [Inverted(16, 24, 2), Inverted(24, 24, 1)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutional": (convolutional, (1, 3, 32, 32)),
    "upsampling": (Upsampling, (1, 8, 16, 16)),
    "perceptron": (perceptron, (1, 64)),
    "recurrent": (Recurrent, (1, 6, 16)),
    "transformer": (transformer, (1, 16, 64)),
}
# torch's hooks do not see the products of attention: two of 16 x 16 x 64 in each layer.
UNSEEN = {"transformer": 2 * 2 * 16 * 16 * 64}
PRECISIONS = ("fp32", "int8")


@pytest.fixture(scope="module", params=MODELS)
def source(request) -> FloatModel:
    make, size = MODELS[request.param]
    torch.manual_seed(0)
    data = [(torch.randn(size),) for _ in range(8)]
    return FloatModel(make().eval(), data[0], data, data)


@pytest.fixture(scope="module", params=PRECISIONS)
def artifact(request, source) -> Artifact:
    runtime = RUNTIMES["executorch"].create()
    return (lowered if request.param == "fp32" else quantized)(runtime, source)


@pytest.fixture(scope="module")
def shapes(artifact) -> tuple[OperatorShape, ...]:
    return RUNTIMES["executorch"].create().operator_shapes(artifact)


@pytest.fixture(scope="module")
def report(artifact) -> RunReport:
    files = RUNTIMES["executorch"].create().runner_files(host_architecture(), Silent())
    with staged(artifact, files) as here:
        return measure(here, runs=5, warmup=2, threads=1, profile=True)


def test_multiply_accumulates_are_those_of_the_model(request, source, shapes) -> None:
    name = request.node.callspec.params["source"]
    with torch.no_grad():
        by_layer = macs_by_layer(source.model, source.example)
    assert sum(shape.macs for shape in shapes) == sum(by_layer.values()) + UNSEEN.get(name, 0)
    for layer, macs in by_layer.items():
        if not layer.endswith("self_attn"):
            assert sum(shape.macs for shape in shapes if shape.layer == layer) == macs, layer


def test_each_operator_with_work_has_its_row(artifact, shapes, report) -> None:
    """In order: rows of one delegate never step back."""
    located = locate("executorch", artifact.program, report.profile)
    places = [
        (row.instruction, where.operator)
        for row, where in zip(report.profile, located, strict=True)
        if where.operator is not None
    ]
    assert places == sorted(places)
    assert len(places) >= 0.9 * len(report.profile)
    known = {shape.place for shape in shapes}
    assert set(places) <= known
    for shape in shapes:
        if shape.kind in WORK or not shape.delegated:
            assert places.count(shape.place) == 1, shape


def test_times_add_up_to_the_profile(artifact, shapes, report) -> None:
    located = locate("executorch", artifact.program, report.profile)
    rows = [
        (None if where.operator is None else (row.instruction, where.operator), row.mean_us / 1000)
        for row, where in zip(report.profile, located, strict=True)
    ]
    times = times_by_operator(shapes, rows, report.profiled_us / 1000)
    assert times.total_ms == pytest.approx(report.profiled_us / 1000)
    assert 0 < times.rest_ms < times.total_ms


def test_shapes_follow_each_other(artifact, shapes) -> None:
    """What an operator reads has as many values as the model's input or an earlier output."""
    seen = {prod(spec.shape) for spec in artifact.program.inputs}
    for shape in shapes:
        assert shape.outputs
        assert {prod(dims) for dims in shape.inputs} <= seen
        seen |= {prod(dims) for dims in shape.outputs}
    work = [shape for shape in shapes if shape.kind in WORK and shape.kind != "matmul"]
    assert all(shape.weight_bytes > 0 for shape in work)


class Branches(nn.Module):
    """XNNPACK runs a concatenation as a copy of each part."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 8, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([conv(x) for conv in self.convs], 1)


def test_a_concatenation_is_one_row_of_several_readings() -> None:
    runtime = RUNTIMES["executorch"].create()
    torch.manual_seed(0)
    example = (torch.randn(1, 4, 8, 8),)
    artifact = lowered(runtime, FloatModel(Branches().eval(), example, [example], [example]))
    with staged(artifact, runtime.runner_files(host_architecture(), Silent())) as here:
        rows = measure(here, runs=3, warmup=1, threads=1, profile=True).profile
    located = locate("executorch", artifact.program, rows)
    kinds = {shape.place: shape.kind for shape in runtime.operator_shapes(artifact)}
    readings = [
        row.readings
        for row, where in zip(rows, located, strict=True)
        if kinds.get((row.instruction, where.operator)) == "concatenate"
    ]
    assert readings == [3]
    assert all(row.readings == 1 for row in rows if not row.name.startswith("Copy"))
