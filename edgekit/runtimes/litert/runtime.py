"""LiteRT as a runtime (runtimes/base.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from edgekit.cost.shapes import OperatorShape
from edgekit.cost.sizes import ProgramMemory
from edgekit.documents.verdict import Advice
from edgekit.errors import RunnerError
from edgekit.plan import Plan
from edgekit.program import Artifact, OutsideOperator, Program
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import FloatModel, Repair, Selected
from edgekit.runtimes.litert.host import SUPPORT
from edgekit.runtimes.litert.wheel import VERSION
from edgekit.target import Architecture, Target
from edgekit.values import RuntimeName

if TYPE_CHECKING:
    import torch

    from edgekit.runtimes.base import Train


class LiteRT:
    """The runtime LiteRT. Raises MissingExtraError if a package is missing."""

    name: RuntimeName = "litert"
    version = VERSION
    # those that act on the float model, its ranges, or the quantized file's biases
    repairs: frozenset[Repair] = frozenset(("observer", "equalize", "correct"))
    runs_here = True
    pt2e = None
    half = None

    def __init__(self) -> None:
        SUPPORT.require("building for LiteRT")

    def quantize(
        self, source: FloatModel, plan: Plan, train: Train | None, progress: Progress
    ) -> Artifact:
        from edgekit.runtimes.litert.quantize import quantize

        assert train is None  # the pipeline refuses it: there is no PT2E graph
        return quantize(source, plan, progress)

    def reference(self, artifact: Artifact) -> Callable[[Inputs], list[torch.Tensor]]:
        from edgekit.runtimes.litert.interpreter import reference

        return reference(artifact.data)

    def lower(self, exported: torch.export.ExportedProgram) -> Artifact:
        from edgekit.runtimes.litert.lower import lower

        return lower(exported)

    def select(self, data: bytes, signature: str | None) -> Selected:
        from edgekit.runtimes.litert.edits.signatures import select

        return select(data, signature)

    def read(self, data: bytes) -> Artifact:
        from edgekit.runtimes.litert.lower import read

        return read(data)

    def memory_sizes(self, artifact: Artifact, architecture: Architecture) -> ProgramMemory | None:
        from edgekit.runtimes.litert.flatbuffer import read_graph
        from edgekit.runtimes.litert.memory import memory_sizes

        graph = read_graph(artifact.data)
        return memory_sizes(len(artifact.data), graph, artifact.program, architecture)

    def operator_shapes(self, artifact: Artifact) -> tuple[OperatorShape, ...]:
        from edgekit.runtimes.litert.flatbuffer import read_graph
        from edgekit.runtimes.litert.shapes import operator_shapes

        return operator_shapes(read_graph(artifact.data), artifact.program)

    def runner_files(self, architecture: Architecture, progress: Progress) -> RunnerFiles:
        from edgekit.runtimes.litert.native import runner_files

        return runner_files(architecture, progress)

    def device_files(self, target: Target, progress: Progress) -> RunnerFiles:
        return self.runner_files(target.architecture, progress)

    def advise(
        self,
        outside: Iterable[OutsideOperator],  # noqa: ARG002
        classes: Mapping[str, str],  # noqa: ARG002
    ) -> tuple[Advice, ...]:
        return ()

    def explain(self, error: RunnerError, program: Program) -> RunnerError:  # noqa: ARG002
        return error

    def good_until(self) -> str:
        return "any later version: LiteRT reads all .tflite files of version 3"
