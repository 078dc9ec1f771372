"""LiteRT: conversion in the recipe's layout and order, int8 after conversion, damaged files."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from runtime_contract import Many, RuntimeContract, sqnr_db

import edgekit
from edgekit.errors import EdgekitError, ParityError, RuntimeFailure
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.runner.client import Serving
from edgekit.runner.staging import staged
from edgekit.runtimes.base import FloatModel, Runtime
from edgekit.runtimes.export import export
from edgekit.runtimes.litert.flatbuffer import read_graph
from edgekit.runtimes.quiet import quiet
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs the extra litert"),
]

CNN = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x + self.mix(self.conv(x).relu())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU6())
        self.block = Block()
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))

def model():
    torch.manual_seed(0)
    return Net().eval()

def example_inputs():
    return (torch.zeros(1, 3, 17, 13),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 3, 17, 13),) for _ in range(60)]

def output_kinds():
    return ["values"]
"""


class TestLiteRT(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return RUNTIMES["litert"].create()


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return RUNTIMES["litert"].create()


def converted(runtime, model: torch.nn.Module, *inputs: torch.Tensor):
    with quiet():
        return runtime.lower(export(model.eval(), inputs))


def outputs_of(runtime, artifact, *inputs: torch.Tensor) -> list[np.ndarray]:
    files = runtime.runner_files(host_architecture(), Silent())
    with staged(artifact, files) as place, Serving(place) as serving:
        answers = serving.infer([tensor.numpy().tobytes() for tensor in inputs])
    return [
        np.frombuffer(answer, spec.dtype).reshape(spec.shape)
        for answer, spec in zip(answers, artifact.program.outputs, strict=True)
    ]


@pytest.mark.parametrize("target", ["x86", "rpi5"])
def test_a_build_in_int8(write_recipe, tmp_path, target) -> None:
    bundle = tmp_path / "bundle"
    document = edgekit.build(
        write_recipe(CNN), target=target, runtime="litert", precision="int8", output=bundle
    )
    assert document.runtime == "litert"
    assert document.parity is not None
    assert document.parity.passed
    assert "own kernels" in document.parity.reference
    assert document.parity.float_model.sqnr_db > 20
    layers = {layer.layer for layer in document.program.layers if layer.quantized}
    assert {"stem.0", "block.conv", "block.mix", "head"} <= layers
    assert document.program.outside == ()
    assert [tuple(spec.shape) for spec in document.program.inputs] == [(1, 3, 17, 13)]
    assert {spec.dtype for spec in document.program.inputs} == {"float32"}
    assert edgekit.check(bundle).verdict == "fits"  # for rpi5: on an emulated Cortex-A76
    needs = json.loads((bundle / "manifest.json").read_text())["needs"]
    assert tuple(map(int, needs["glibc"].split("."))) <= (2, 34)


def test_layers_of_a_plan_stay_float(write_recipe, tmp_path) -> None:
    document = edgekit.build(
        write_recipe(CNN), target="x86", runtime="litert",
        plan=Plan(precision="mixed", float_layers=("block.conv",)), output=tmp_path / "bundle",
    )  # fmt: skip
    counts = {layer.layer: (layer.quantized, layer.floating) for layer in document.program.layers}
    assert counts["block.conv"][0] == 0 < counts["block.conv"][1]
    assert counts["head"][1] == 0 < counts["head"][0]


def test_a_wrong_kernel_of_the_delegate_is_refused(
    write_recipe, tmp_path, monkeypatch, runtime
) -> None:
    """As if it computed with other weights than the runtime's own kernels do."""
    kind = type(runtime)
    quantize, reference, right = kind.quantize, kind.reference, []

    def wrong(self, source, *rest):
        right.append(quantize(self, source, *rest))
        model = copy.deepcopy(source.model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.flip(0))
        return quantize(self, replace(source, model=model), *rest)

    monkeypatch.setattr(kind, "quantize", wrong)
    monkeypatch.setattr(kind, "reference", lambda self, _: reference(self, right[-1]))
    recipe = write_recipe(CNN.replace("manual_seed(0)", "manual_seed(5)"))
    with pytest.raises(ParityError):
        edgekit.build(
            recipe, target="x86", runtime="litert", precision="int8", output=tmp_path / "bundle"
        )
    assert not (tmp_path / "bundle").exists()


def test_inputs_keep_their_order_and_types(runtime) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 4) for _ in range(12)]
    artifact = converted(runtime, Many(), *inputs)
    found = outputs_of(runtime, artifact, *inputs)
    for one, wanted in zip(found, Many()(*inputs), strict=True):
        np.testing.assert_allclose(one, wanted.numpy(), rtol=1e-5)


def test_whole_numbers_keep_their_types(runtime) -> None:
    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 8)

        def forward(self, ids: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.head(torch.cumsum(self.table(ids) + x, 1))
            return y.softmax(-1), torch.topk(y, 3, -1)[1]

    torch.manual_seed(0)
    model, inputs = Tokens().eval(), (torch.randint(0, 50, (1, 7)), torch.randn(1, 7, 16))
    artifact = converted(runtime, model, *inputs)
    assert [spec.dtype for spec in artifact.program.inputs] == ["int64", "float32"]
    assert artifact.program.outputs[1].dtype == "int64"
    probabilities, places = outputs_of(runtime, artifact, *inputs)
    with torch.no_grad():
        wanted = model(*inputs)
    np.testing.assert_allclose(probabilities, wanted[0].numpy(), atol=1e-6)
    assert (places == wanted[1].numpy()).all()
    outside = {one.operator for one in artifact.program.summary().outside}
    assert {"CUMSUM", "TOPK_V2", "EMBEDDING_LOOKUP"} <= outside
    assert "FULLY_CONNECTED" not in outside
    shapes = runtime.operator_shapes(artifact)
    assert {shape.layer for shape in shapes if shape.kind == "linear"} == {"head"}


def test_weights_have_a_scale_for_each_channel(runtime) -> None:
    """One step for all lost 80 points of MobileNetV2."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 4, 1)).eval()
    data = [(torch.randn(1, 3, 8, 8),) for _ in range(20)]
    source = FloatModel(model, data[0], data, data)
    for per_channel in (True, False):
        plan = Plan(precision="int8", per_channel=per_channel)
        graph = read_graph(runtime.quantize(source, plan, None, Silent()).data)
        weights = [one for one in graph.tensors if one.dtype == "int8" and one.constant_bytes > 32]
        # one scale for the tensor is told, several are not
        assert [one.quantization is None for one in weights] == [per_channel] * 2


class Heads(torch.nn.Module):
    """Two outputs, of which one is used further; heads of a detector with equal names inside."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.stem = torch.nn.Linear(8, 16)
        self.cls = torch.nn.ModuleList([torch.nn.Linear(16, 4)])
        self.reg = torch.nn.ModuleList([torch.nn.Linear(4, 6)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.cls[0](self.stem(x).relu())
        scores = scores * self.factor if self.factor != 1 else scores
        return scores, self.reg[0](scores)


def source_of(model: torch.nn.Module, *shape: int) -> FloatModel:
    torch.manual_seed(3)
    data = [(torch.randn(*shape),) for _ in range(40)]
    return FloatModel(model.eval(), data[0], data, data)


def test_an_output_that_is_used_further_stays_int8_inside(runtime) -> None:
    torch.manual_seed(0)
    source = source_of(Heads(factor=100.0), 1, 8)
    artifact = runtime.quantize(source, Plan(precision="int8"), None, Silent())
    assert artifact.program.float_operators == 0
    found = outputs_of(runtime, artifact, *source.example)
    with torch.no_grad():
        for one, wanted in zip(found, source.model(*source.example), strict=True):
            assert sqnr_db(one, wanted.numpy()) > 20


def test_one_of_two_heads_with_equal_names_inside_stays_float(runtime) -> None:
    source = source_of(Heads(), 1, 8)
    plan = Plan(precision="mixed", float_layers=("reg.0",))
    summary = runtime.quantize(source, plan, None, Silent()).program.summary()
    counts = {layer.layer: (layer.quantized, layer.floating) for layer in summary.layers}
    assert counts["reg.0"][0] == 0 < counts["reg.0"][1]
    assert counts["cls.0"][1] == 0 < counts["cls.0"][0]


def test_a_float_layer_without_an_operator_is_refused(runtime) -> None:
    plan = Plan(precision="mixed", float_layers=("nowhere",))
    with pytest.raises(RuntimeFailure, match="nowhere"):
        runtime.quantize(source_of(Heads(), 1, 8), plan, None, Silent())


@pytest.mark.parametrize(
    "outputs",
    [lambda x: (x * 2, x), lambda x: (x + 1, x.relu(), x + 1)],
    ids=["an input", "a result twice"],
)
def test_outputs_that_the_runner_would_not_fill(runtime, outputs) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return outputs(x)

    x = torch.randn(1, 4)
    try:
        artifact = converted(runtime, Net(), x)
    except RuntimeFailure as error:
        assert "output" in error.message
        return
    for one, wanted in zip(outputs_of(runtime, artifact, x), Net()(x), strict=True):
        np.testing.assert_allclose(one, wanted.numpy(), rtol=1e-6)


def test_a_wrong_conversion_is_refused_in_int8_too(runtime) -> None:
    class Hash(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = ((x * 1000).long() * 3000000019) % 1000003
            return self.head(x) + wide.float()[:, :4]

    with pytest.raises(RuntimeFailure, match="converter"):
        runtime.quantize(source_of(Hash(), 1, 8), Plan(precision="int8"), None, Silent())


def test_int8_of_each_row_is_refused(write_recipe, tmp_path) -> None:
    plan = Plan(precision="int8", linear="dynamic")
    with pytest.raises(EdgekitError, match="dynamic"):
        edgekit.build(
            write_recipe(CNN), target="x86", runtime="litert", plan=plan,
            output=tmp_path / "bundle",
        )  # fmt: skip


def test_a_model_that_the_converter_does_not_take(write_recipe, tmp_path) -> None:
    recipe = write_recipe(
        """
def model():
    return lambda_net()

class lambda_net(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]

def example_inputs():
    return (torch.randn(1, 4, 4),)
"""
    )
    with pytest.raises(RuntimeFailure, match=r"LiteRT|svd"):
        edgekit.build(
            recipe, target="x86", runtime="litert", precision="fp32", output=tmp_path / "b"
        )
    assert not (tmp_path / "b").exists()


def test_a_finished_file_becomes_a_bundle(write_recipe, tmp_path) -> None:
    edgekit.build(
        write_recipe(CNN), target="x86", runtime="litert", precision="int8",
        output=tmp_path / "first",
    )  # fmt: skip
    file = tmp_path / "first" / "model.tflite"
    document = edgekit.build(file, target="x86", output=tmp_path / "again")
    assert document.runtime == "litert"
    assert (tmp_path / "again" / "model.tflite").read_bytes() == file.read_bytes()
    for what in (tmp_path / "again", file):
        measured = edgekit.bench(what, "local", runs=5)
        assert measured.latency_ms.median > 0


def test_damaged_files_end_in_an_error(runtime, tmp_path) -> None:
    """Truncated, with flipped bits, with absurd numbers: nothing ends this process."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    good = converted(runtime, model, torch.zeros(1, 3, 6, 6)).data
    dice, read = random.Random(0), 0
    for turn in range(60):
        data = bytearray(good)
        if turn % 3 == 0:
            del data[dice.randrange(len(data)) :]
        elif turn % 3 == 1:
            for _ in range(1 + turn % 7):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        else:
            place = dice.randrange(8, len(data) - 4)
            data[place : place + 4] = dice.choice([b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0" * 4])
        try:
            runtime.read(bytes(data))
            assert turn % 3, "a truncated file was read"
            read += 1
        except RuntimeFailure:
            pass
    assert read < 40  # of what was changed in place, some is only a weight


def test_max_pooling_with_padding_in_int8(runtime) -> None:
    """The converter pads with minus infinity, which has no step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(3, 2, padding=1), torch.nn.Conv2d(8, 4, 1)
    ).eval()  # fmt: skip
    source = source_of(model, 1, 3, 18, 18)
    artifact = runtime.quantize(source, Plan(precision="int8"), None, Silent())
    found = outputs_of(runtime, artifact, *source.fitted[0])
    with torch.no_grad():
        assert sqnr_db(found[0], model(*source.fitted[0]).numpy()) > 25


def test_the_bytes_of_large_constants_that_the_quantizer_stores_behind_the_file(runtime) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))
    artifact = runtime.quantize(source_of(model, 1, 64), Plan(precision="int8"), None, Silent())
    products = [one for one in runtime.operator_shapes(artifact) if one.kind == "linear"]
    assert [one.macs for one in products] == [64 * 128, 128 * 8]
    assert [one.weight_bytes for one in products] == [64 * 128 + 4 * 128, 128 * 8 + 4 * 8]


def unequal() -> torch.nn.Module:
    """Channels of the inner activation have ranges from 1 to 1000."""
    torch.manual_seed(0)
    first, norm, last = (
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.BatchNorm2d(16),
        torch.nn.Conv2d(16, 8, 3),
    )
    factors = torch.logspace(0, 3, 16)
    with torch.no_grad():
        norm.weight.mul_(factors)
        last.weight.div_(factors[None, :, None, None])
    return torch.nn.Sequential(first, norm, torch.nn.ReLU(), last).eval()


def quality_db(runtime, source: FloatModel, **plan: Any) -> float:
    artifact = runtime.quantize(source, Plan(precision="int8", **plan), None, Silent())
    found = np.stack([outputs_of(runtime, artifact, *one)[0] for one in source.fitted[:8]])
    with torch.no_grad():
        wanted = np.stack([source.model(*one).numpy() for one in source.fitted[:8]])
    return sqnr_db(found, wanted)


def test_equalization_of_the_float_model(runtime) -> None:
    source = source_of(unequal(), 1, 3, 12, 12)
    weights = [one.clone() for one in source.model.state_dict().values()]
    plain = quality_db(runtime, source)
    assert quality_db(runtime, source, equalize=0.5) > plain + 6
    after = source.model.state_dict().values()
    assert all(torch.equal(one, two) for one, two in zip(weights, after, strict=True))


def test_ranges_by_an_observer(runtime) -> None:
    """One pixel of 17,000 takes most of the range, unless it is cut off."""
    source = source_of(torch.nn.Conv2d(3, 8, 1), 1, 3, 12, 12)
    source.fitted[-1][0][0, 0, 0, 0] = 1000.0
    plain = quality_db(runtime, source)
    assert quality_db(runtime, source, observer="percentile") > plain + 6


def test_bias_correction_restores_the_mean_of_every_channel(runtime) -> None:
    source = source_of(unequal(), 1, 3, 12, 12)

    def shift(**plan: Any) -> float:
        artifact = runtime.quantize(source, Plan(precision="int8", **plan), None, Silent())
        found = np.mean([outputs_of(runtime, artifact, *one)[0] for one in source.fitted], (0, 1))
        with torch.no_grad():
            wanted = np.mean([source.model(*one).numpy() for one in source.fitted], (0, 1))
        return float(np.abs(found.mean((1, 2)) - wanted.mean((1, 2))).max())

    assert shift(correct=True) < 0.5 * shift()


def test_a_build_repairs_int8_where_it_loses(write_recipe, tmp_path) -> None:
    source = """
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3))
    factors = torch.logspace(0, 3, 16)
    with torch.no_grad():
        net[1].weight.mul_(factors)
        net[3].weight.div_(factors[None, :, None, None])
    return net.eval()

def example_inputs():
    return (torch.zeros(1, 3, 12, 12),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 3, 12, 12),) for _ in range(60)]
"""
    document = edgekit.build(
        write_recipe(source), target="x86", runtime="litert", output=tmp_path / "bundle"
    )
    assert document.plan.precision == "int8"
    assert document.plan.equalize is not None
    assert [rung.precision for rung in document.ladder] == ["int8", "int8 repaired"]


def test_devices_may_differ_where_float_operators_lie_between_int8_layers(
    write_recipe, tmp_path
) -> None:
    source = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.body(x)[:, 0])

def model():
    torch.manual_seed(0)
    return Net().eval()

def example_inputs():
    return (torch.zeros(1, 12, 32),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 12, 32),) for _ in range(40)]
"""
    document = edgekit.build(
        write_recipe(source), target="rpi4", runtime="litert", precision="int8", effort="quick",
        output=tmp_path / "bundle",
    )  # fmt: skip
    (output,) = document.program.outputs
    assert output.moved is not None
    assert output.moved.whole >= output.quantization.scale
    assert edgekit.check(tmp_path / "bundle").emulation.status == "passed"


def test_large_constants_survive_corrections_of_the_file(runtime) -> None:
    """The quantizer stores those of 256 KiB and more behind the flatbuffer."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(600, 600), torch.nn.Linear(600, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            inner = self.first(x)
            return inner, self.last(inner)

    torch.manual_seed(0)
    source = source_of(Net(), 1, 600)
    artifact = runtime.quantize(source, Plan(precision="int8"), None, Silent())
    found = outputs_of(runtime, artifact, *source.example)
    with torch.no_grad():
        for one, wanted in zip(found, source.model(*source.example), strict=True):
            assert sqnr_db(one, wanted.numpy()) > 20
