"""ExecuTorch as a runtime (runtimes/base.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgekit.cost.shapes import OperatorShape
from edgekit.cost.sizes import ProgramMemory
from edgekit.documents.verdict import Advice
from edgekit.errors import RunnerError
from edgekit.plan import Plan
from edgekit.program import Artifact, OutsideOperator, Program
from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import FloatModel, Half, Pt2e, Repair, Selected
from edgekit.runtimes.executorch.host import SUPPORT
from edgekit.runtimes.executorch.wheel import VERSION
from edgekit.target import Architecture, Target
from edgekit.values import RuntimeName

if TYPE_CHECKING:
    import torch

    from edgekit.runtimes.base import Train


class ExecuTorch:
    """The runtime ExecuTorch. Raises MissingExtraError if a package is missing."""

    name: RuntimeName = "executorch"
    version = VERSION
    repairs: frozenset[Repair] = frozenset(("observer", "equalize", "correct", "round"))
    runs_here = True

    def __init__(self) -> None:
        SUPPORT.require("building for ExecuTorch")

    @property
    def pt2e(self) -> Pt2e:
        from edgekit.runtimes.executorch.quantize import XnnpackPt2e

        return XnnpackPt2e()

    @property
    def half(self) -> Half:
        from edgekit.runtimes.executorch.half_precision.program import XnnpackHalf

        return XnnpackHalf()

    def quantize(
        self, source: FloatModel, plan: Plan, train: Train | None, progress: Progress
    ) -> torch.export.ExportedProgram:
        from edgekit.runtimes.pt2e import quantize

        return quantize(self.pt2e, source, plan, train, progress)

    def reference(self, artifact: Artifact) -> None:  # noqa: ARG002
        return None

    def lower(self, exported: torch.export.ExportedProgram) -> Artifact:
        from edgekit.runtimes.executorch.lower import lower

        return lower(exported)

    def select(self, data: bytes, signature: str | None) -> Selected:  # noqa: ARG002
        return Selected(data)

    def read(self, data: bytes) -> Artifact:
        from edgekit.runtimes.executorch.lower import read

        return read(data)

    def memory_sizes(self, artifact: Artifact, architecture: Architecture) -> ProgramMemory:
        from edgekit.runtimes.executorch.memory import memory_sizes

        return memory_sizes(artifact.data, artifact.program, architecture)

    def operator_shapes(self, artifact: Artifact) -> tuple[OperatorShape, ...]:
        from edgekit.runtimes.executorch.shapes import operator_shapes

        return operator_shapes(artifact.data, artifact.program)

    def runner_files(self, architecture: Architecture, progress: Progress) -> RunnerFiles:
        from edgekit.runtimes.executorch.native import runner_files

        return runner_files(architecture, progress)

    def device_files(self, target: Target, progress: Progress) -> RunnerFiles:
        return self.runner_files(target.architecture, progress)

    def advise(
        self, outside: Iterable[OutsideOperator], classes: Mapping[str, str]
    ) -> tuple[Advice, ...]:
        from edgekit.runtimes.executorch.advice import advise

        return advise(outside, classes)

    def explain(self, error: RunnerError, program: Program) -> RunnerError:
        from edgekit.runtimes.executorch.refuse import explain_run

        return explain_run(error, program)

    def good_until(self) -> str:
        major, minor, _ = VERSION.split(".")
        return (
            f"at least {major}.{int(minor) + 1}: ExecuTorch promises to read a file with the next "
            "minor or major release (its runtime/COMPATIBILITY.md)"
        )
