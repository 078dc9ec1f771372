"""What edgekit relies on of every runtime: a class of tests that each runtime's tests inherit.

A subclass has a fixture ``runtime`` and a marker, and may add what its runtime alone promises:

    @pytest.mark.runtime
    class TestExecuTorch(RuntimeContract):
        @pytest.fixture(scope="class")
        @classmethod
        def runtime(cls) -> Runtime:
            return ExecuTorch()
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.device.local import LocalTransport
from edgekit.errors import RuntimeFailure
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.runner.client import BAD_ARGUMENTS, BAD_PROGRAM, Installed, Serving, measure
from edgekit.runner.files import RunnerFiles
from edgekit.runner.staging import staged
from edgekit.runtimes.base import FloatModel, Runtime
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture

INT8 = Plan(precision="int8")


def perceptron() -> FloatModel:
    """Small enough for every runtime, wide enough for int8."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    data = [(torch.randn(1, 16),) for _ in range(40)]
    return FloatModel(model, data[0], data, data)


def lowered(runtime: Runtime, source: FloatModel) -> Artifact:
    with quiet():
        return runtime.lower(export(source.model, source.example))


def quantized(runtime: Runtime, source: FloatModel, plan: Plan = INT8) -> Artifact:
    with quiet():
        program = runtime.quantize(source, plan, None, Silent())
        return program if isinstance(program, Artifact) else runtime.lower(program)


def sqnr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    noise = float(((found - wanted) ** 2).mean())
    return 10 * np.log10(float((wanted**2).mean()) / max(noise, 1e-20))


class Many(torch.nn.Module):
    """Twelve inputs, each with a weight of its own: their order shows in the outputs."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = inputs[0]
        for place, one in enumerate(inputs[1:], 2):
            total = total + place * one
        return total, inputs[11] * inputs[2]


class RuntimeContract:
    @pytest.fixture(scope="class")
    @classmethod
    def source(cls) -> FloatModel:
        return perceptron()

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, runtime: Runtime, source: FloatModel) -> Artifact:
        return lowered(runtime, source)

    @pytest.fixture(scope="class")
    @classmethod
    def int8(cls, runtime: Runtime, source: FloatModel) -> Artifact:
        return quantized(runtime, source)

    def files(self, runtime: Runtime) -> RunnerFiles:
        """The runner that the tests run here."""
        return runtime.runner_files(host_architecture(), Silent())

    @pytest.fixture
    def here(self, runtime: Runtime, artifact: Artifact) -> Iterator[Installed]:
        with staged(artifact, self.files(runtime)) as place:
            yield place

    def outputs(self, runtime: Runtime, artifact: Artifact, source: FloatModel) -> np.ndarray:
        with staged(artifact, self.files(runtime)) as place, Serving(place) as serving:
            rows = [
                np.frombuffer(serving.infer([one.numpy().tobytes()])[0], np.float32)
                for (one,) in source.calibration
            ]
        return np.stack(rows)

    def wanted(self, source: FloatModel) -> np.ndarray:
        with torch.no_grad():
            return np.stack([source.model(one)[0].numpy() for (one,) in source.calibration])

    def test_a_float_artifact_computes_what_the_model_does(self, runtime, source, artifact) -> None:
        found, wanted = self.outputs(runtime, artifact, source), self.wanted(source)
        assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
        assert artifact.program.float_operators > 0
        assert artifact.program.quantized_operators == 0

    def test_an_int8_artifact_is_near_the_model_and_smaller(
        self, runtime, source, artifact, int8
    ) -> None:
        assert sqnr_db(self.outputs(runtime, int8, source), self.wanted(source)) >= 20
        assert int8.program.quantized_operators > 0
        assert len(int8.data) < len(artifact.data)

    def test_a_quantized_program_is_the_reference_of_its_artifact(self, runtime, source) -> None:
        with quiet():
            program = runtime.quantize(source, INT8, None, Silent())
        if isinstance(program, Artifact):
            assert runtime.pt2e is None
            return
        module = program.module()
        with torch.no_grad():
            reference = np.stack([module(one)[0].numpy() for (one,) in source.calibration])
        found = self.outputs(runtime, runtime.lower(program), source)
        assert sqnr_db(found, reference) >= 20

    def test_layers_of_the_plan_stay_float(self, runtime, source, int8) -> None:
        plan = Plan(precision="mixed", float_layers=("2",))
        mixed = quantized(runtime, source, plan)
        assert 0 < mixed.program.quantized_operators < int8.program.quantized_operators

    def test_half_precision_is_near_the_model_and_smaller(self, runtime, source, artifact) -> None:
        if runtime.half is None:
            return
        plan = Plan(precision="fp16")
        half, again = (runtime.lower(runtime.half.program(source, plan)) for _ in range(2))
        assert half.data == again.data
        assert len(half.data) < len(artifact.data)
        assert {spec.dtype for spec in (*half.program.inputs, *half.program.outputs)} == {"float32"}
        assert sqnr_db(self.outputs(runtime, half, source), self.wanted(source)) >= 40
        kinds = [(shape.precision, shape.macs > 0) for shape in runtime.operator_shapes(half)]
        assert ("fp16", True) in kinds
        assert ("fp32", True) not in kinds

    def test_float_layers_of_mixed_may_be_in_half_precision(self, runtime, source) -> None:
        if runtime.half is None:
            return
        plan = Plan(precision="mixed", float_layers=("2",))
        with quiet():
            program = runtime.quantize(source, plan, None, Silent())
        mixed = runtime.lower(runtime.half.with_half_floats(program, source))
        assert sqnr_db(self.outputs(runtime, mixed, source), self.wanted(source)) >= 20
        precisions = [shape.precision for shape in runtime.operator_shapes(mixed) if shape.macs]
        assert sorted(precisions) == ["fp16", "int8"]

    def test_equal_inputs_give_equal_bytes(self, runtime, source, artifact, int8) -> None:
        assert lowered(runtime, source).data == artifact.data
        assert quantized(runtime, source).data == int8.data

    def test_a_finished_file_is_described_like_its_artifact(self, runtime, artifact, int8) -> None:
        for one in (artifact, int8):
            found = runtime.read(one.data)
            assert found.file_name == one.file_name
            for side in ("inputs", "outputs"):
                found_specs, specs = getattr(found.program, side), getattr(one.program, side)
                assert [(s.dtype, s.shape) for s in found_specs] == [
                    (s.dtype, s.shape) for s in specs
                ]
            assert found.program.libraries == one.program.libraries

    @pytest.mark.parametrize("data", [b"", b"nonsense" * 100])
    def test_a_file_that_is_no_program_is_an_error(self, runtime, data) -> None:
        with pytest.raises(RuntimeFailure):
            runtime.read(data)

    def test_the_registry_knows_its_files(self, runtime, artifact) -> None:
        host = RUNTIMES[runtime.name].host
        assert Path(artifact.file_name).suffix == host.suffix
        assert host.runner_folder(host_architecture()) is not None
        assert runtime.good_until()
        assert runtime.advise([], {}) == ()

    def test_the_runner_tells_what_the_program_says(self, here, artifact) -> None:
        report = measure(here, runs=3, warmup=1, threads=1)
        (given,), (found,) = report.inputs, report.outputs
        assert given.shape == artifact.program.inputs[0].shape
        assert found.shape == artifact.program.outputs[0].shape
        assert len(report.latencies_ms) == 3
        assert report.peak_memory_mb > 0
        assert report.load_ms > 0

    def test_each_row_of_a_profile_has_an_operator(self, runtime, here, artifact) -> None:
        rows = measure(here, runs=3, warmup=1, threads=1, profile=True).profile
        located = RUNTIMES[runtime.name].locate(artifact.program, rows)
        assert len(located) == len(rows) > 0
        assert {where.layer for where in located} & {"0", "2"}

    def test_each_operator_has_a_shape(self, runtime, artifact, int8) -> None:
        for one, precision in ((artifact, "fp32"), (int8, "int8")):
            shapes = runtime.operator_shapes(one)
            program = one.program
            assert [(shape.place, shape.layer) for shape in shapes] == [
                ((call.instruction, index), operator.layer)
                for call in program.calls
                for index, operator in enumerate(program.operators_of(call))
            ]
            linear = [shape for shape in shapes if shape.kind == "linear"]
            assert [(s.inputs, s.outputs, s.macs) for s in linear] == [
                (((1, 16),), ((1, 32),), 16 * 32),
                (((1, 32),), ((1, 10),), 32 * 10),
            ]
            assert {shape.precision for shape in linear} == {precision}
            assert all(shape.weight_bytes >= shape.macs for shape in linear)

    def test_a_wrong_input_leaves_the_runner_serving(self, here, source) -> None:
        data = source.example[0].numpy().tobytes()
        with Serving(here) as serving:
            before = serving.infer([data])
            with pytest.raises(RuntimeFailure):
                serving.infer([data[:-4]])
            assert serving.infer([data]) == before
            assert serving.stats().peak_memory_mb > 0

    def test_the_runner_ends_with_the_protocols_codes(self, here) -> None:
        assert self.code(here, "--runs", "nonsense") == BAD_ARGUMENTS
        broken = Path(here.model).with_name("broken" + here.model.suffix)
        broken.write_bytes(b"nonsense" * 100)
        damaged = Installed(LocalTransport(), here.runner, here.runner.with_name(broken.name))
        assert self.code(damaged) == BAD_PROGRAM

    def code(self, at: Installed, *options: str) -> int:
        done = subprocess.run(at.command(*options), capture_output=True, text=True, check=False)
        assert done.stderr.startswith("edgekit-runner: ") or "\nedgekit-runner: " in done.stderr
        return done.returncode

    def test_describe_prints_the_document_alone(self, here) -> None:
        done = subprocess.run(here.command("--describe"), capture_output=True, check=True)
        assert json.loads(done.stdout)["schema"] == "edgekit.runner/1"
