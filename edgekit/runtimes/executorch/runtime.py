"""The ExecuTorch side of the runtime seam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from edgekit.documents.verdict import Advice
from edgekit.errors import MissingExtraError, RunnerError
from edgekit.plan import Plan
from edgekit.program import Artifact, OutsideOperator, Program
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.executorch.wheel import VERSION
from edgekit.target import Architecture

if TYPE_CHECKING:
    import torch

    from edgekit.compress.quantization.limits import StepLimits


class ExecuTorch:
    name = "executorch"
    version = VERSION

    def __init__(self) -> None:
        for package in ("torch", "executorch", "torchao", "ziglang"):
            try:
                installed_version(package)
            except PackageNotFoundError:
                raise MissingExtraError("building for ExecuTorch", "executorch") from None

    @property
    def step_limits(self) -> StepLimits:
        from edgekit.runtimes.executorch.limits import STEP_LIMITS

        return STEP_LIMITS

    def prepare(
        self,
        model: torch.nn.Module,
        example: Inputs,
        plan: Plan,
        calibration: Sequence[Inputs] = (),
    ) -> torch.fx.GraphModule:
        from edgekit.runtimes.executorch.quantize import prepare

        return prepare(model, example, plan, calibration)

    def calibrate(
        self, prepared: torch.fx.GraphModule, calibration: Sequence[Inputs], progress: Progress
    ) -> None:
        from edgekit.runtimes.executorch.quantize import calibrate

        calibrate(prepared, calibration, progress)

    def convert(
        self, prepared: torch.fx.GraphModule, example: Inputs
    ) -> torch.export.ExportedProgram:
        from edgekit.runtimes.executorch.quantize import convert

        return convert(prepared, example)

    def lower(self, exported: torch.export.ExportedProgram) -> Artifact:
        from edgekit.runtimes.executorch.lower import lower

        return lower(exported)

    def read(self, data: bytes) -> Artifact:
        from edgekit.runtimes.executorch.lower import read

        return read(data)

    def runner_files(self, architecture: Architecture, progress: Progress) -> RunnerFiles:
        from edgekit.runtimes.executorch.native import runner_files

        return runner_files(architecture, progress)

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
