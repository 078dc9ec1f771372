"""A second runtime for tests: perceptrons, computed by NumPy, quantized after conversion.

It has no PT2E graph, so it shows what edgekit does for a runtime without repairs.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from edgekit.cost.shapes import OperatorShape
from edgekit.documents.verdict import Advice
from edgekit.errors import RunnerError, RuntimeFailure
from edgekit.plan import Plan
from edgekit.program import Artifact, Call, Kind, OutsideOperator, Program, TensorSpec
from edgekit.progress import Progress
from edgekit.runner.client import ProfileRow
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import FloatModel, HostSupport, Located, Repair, Selected, WheelState
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet
from edgekit.runtimes.registry import Entry
from edgekit.target import Architecture, Target
from edgekit.values import RuntimeName

FILE_NAME = "model.npz"
SOURCE = Path(__file__).with_name("numpy_runner.py")
RECIPE = """
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10)).eval()

def example_inputs():
    return (torch.zeros(1, 16),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 16),) for _ in range(60)]
"""
KINDS = {"linear": "linear", "relu": "relu"}


class NumpyRuntime:
    # a name that targets may list, and that has no entry of its own
    name: RuntimeName = "litert"
    version = np.__version__
    repairs: frozenset[Repair] = frozenset()
    runs_here = True
    pt2e = None
    half = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def quantize(
        self, source: FloatModel, plan: Plan, train: object, progress: Progress
    ) -> Artifact:
        assert plan.is_plain
        assert train is None
        with quiet():
            exported = export(source.model, source.example)
        return artifact_of(exported, frozenset(plan.float_layers))

    def reference(self, artifact: Artifact) -> None:
        return None

    def lower(self, exported: ExportedProgram) -> Artifact:
        return artifact_of(exported, None)

    def select(self, data: bytes, signature: str | None) -> Selected:
        return Selected(data)

    def read(self, data: bytes) -> Artifact:
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return Artifact(data, FILE_NAME, described(json.loads(str(file["program"]))))
        except Exception as error:
            raise RuntimeFailure(f"it is no program of this runtime: {error}") from error

    def runner_files(self, architecture: Architecture, progress: Progress) -> RunnerFiles:
        runner = self._folder / "runner"
        runner.write_text(f"#!{sys.executable}\n{SOURCE.read_text()}")
        runner.chmod(0o755)
        return RunnerFiles(runner, {})

    def device_files(self, target: Target, progress: Progress) -> RunnerFiles:
        return self.runner_files(target.architecture, progress)

    def advise(
        self, outside: Iterable[OutsideOperator], classes: Mapping[str, str]
    ) -> tuple[Advice, ...]:
        return ()

    def explain(self, error: RunnerError, program: Program) -> RunnerError:
        return error

    def memory_sizes(self, artifact, architecture) -> None:
        return None

    def operator_shapes(self, artifact) -> tuple[OperatorShape, ...]:
        with np.load(io.BytesIO(artifact.data), allow_pickle=False) as file:
            steps = json.loads(str(file["program"]))["steps"]
            weights = [file[step["weight"]] if "weight" in step else None for step in steps]
        width, shapes = artifact.program.inputs[0].shape[-1], []
        for index, (step, weight) in enumerate(zip(steps, weights, strict=True)):
            before, width = width, width if weight is None else weight.shape[0]
            shapes.append(
                OperatorShape(
                    kind=step["kind"],
                    precision="int8" if step["quantized"] else "fp32",
                    inputs=((1, before),),
                    outputs=((1, width),),
                    weight_bytes=0 if weight is None else weight.nbytes,
                    activation_bytes=4 * (before + width),
                    macs=0 if weight is None else weight.size,
                    delegated=True,
                    layer=step["layer"],
                    instruction=index,
                    index=0,
                )
            )
        return tuple(shapes)

    def good_until(self) -> str:
        return "any version of NumPy"


def entry(folder: Path) -> Entry:
    """For the registry."""
    host = HostSupport(
        extra="dev",
        packages={"numpy": "import numpy"},
        pythons=">=3.11",
        glibc="2.28",
        libraries=(),
        suffix=".npz",
        architectures=("x86_64", "aarch64"),
        runner_folder=lambda architecture: folder,
        wheel=lambda architecture, pythons: WheelState("numpy", True, "none needed", "true"),
    )
    return Entry(lambda: NumpyRuntime(folder), host, locate)


def locate(program: Program, rows: Iterable[ProfileRow]) -> list[Located]:
    operators = [program.operators_of(call)[0] for call in program.calls]
    return [Located(row.name, operators[row.instruction].layer, 0) for row in rows]


def artifact_of(exported: ExportedProgram, float_layers: frozenset[str] | None) -> Artifact:
    """int8 weights where ``float_layers`` is given, but for those layers."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tensors = {**exported.state_dict, **exported.constants}
    names = {
        spec.arg.name: spec.target
        for spec in exported.graph_signature.input_specs
        if spec.target is not None
    }
    steps = []
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        kind = KINDS.get(node.target.__name__.split(".")[0])
        if kind is None:
            raise RuntimeFailure(f"this runtime has no operator {node.target}")
        step: dict[str, Any] = {"kind": kind, "layer": layer_of(node), "quantized": False}
        if kind == "linear":
            weight, bias = (tensors[names[one.name]].detach().numpy() for one in node.args[1:])
            quantized = float_layers is not None and step["layer"] not in float_layers
            scale = float(np.abs(weight).max() / 127) if quantized else 1.0
            rounded = np.round(weight / scale).astype(np.int8) if quantized else weight
            arrays |= {f"w{len(steps)}": rounded, f"b{len(steps)}": bias}
            step |= {"weight": f"w{len(steps)}", "bias": f"b{len(steps)}"}
            step |= {"scale": scale, "quantized": quantized}
        steps.append(step)
    program = {
        "inputs": [tensor_of(exported, name) for name in exported.graph_signature.user_inputs],
        "outputs": [tensor_of(exported, name) for name in exported.graph_signature.user_outputs],
        "steps": steps,
    }
    file = io.BytesIO()
    np.savez(file, program=np.array(json.dumps(program)), **arrays)
    return Artifact(file.getvalue(), FILE_NAME, described(program))


def layer_of(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("",)}
    return str(list(stack.values())[-1][0]).removeprefix("L['self'].")


def tensor_of(exported: ExportedProgram, name: object) -> dict[str, Any]:
    (node,) = (node for node in exported.graph.nodes if node.name == str(name))
    shape = [int(size) for size in node.meta["val"].shape]
    return {"dtype": "float32", "shape": shape, "bytes": 4 * int(np.prod(shape))}


def described(program: dict[str, Any]) -> Program:
    kinds = sorted({(step["kind"], step["quantized"]) for step in program["steps"]})
    layers = list(dict.fromkeys(step["layer"] for step in program["steps"]))
    calls = []
    for index, step in enumerate(program["steps"]):
        kind = kinds.index((step["kind"], step["quantized"]))
        calls.append(Call(index, True, ((kind, layers.index(step["layer"])),)))
    return Program(
        inputs=_specs(program["inputs"], "input"),
        outputs=_specs(program["outputs"], "output"),
        delegates=("NumPy",),
        kinds=tuple(Kind(*kind) for kind in kinds),
        layers=tuple(layers),
        calls=tuple(calls),
        libraries=(),
        planned_bytes=0,
        housekeeping=(),
    )


def _specs(tensors: list[dict[str, Any]], name: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=f"{name}_{index}", dtype=one["dtype"], shape=tuple(one["shape"]))
        for index, one in enumerate(tensors)
    )
