"""tflite-runtime as a runtime (runtimes/base.py): LiteRT's files, run by the device's Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.litert.runtime import LiteRT
from edgekit.runtimes.tflite.wheel import VERSION, libraries, with_wheel
from edgekit.target import Architecture, Target
from edgekit.values import TFLITE_PYTHONS, RuntimeName

if TYPE_CHECKING:
    import torch

    from edgekit.runtimes.base import Train

RUNNER = Path(__file__).parent / "device" / "runner.py"


class TFLite(LiteRT):
    """The runtime tflite-runtime. Raises MissingExtraError if a package of LiteRT is missing."""

    name: RuntimeName = "tflite"
    version = VERSION
    runs_here = False

    def quantize(
        self, source: FloatModel, plan: Plan, train: Train | None, progress: Progress
    ) -> Artifact:
        return _checked(super().quantize(source, plan, train, progress))

    def lower(self, exported: torch.export.ExportedProgram) -> Artifact:
        return _checked(super().lower(exported))

    def read(self, data: bytes) -> Artifact:
        return _checked(super().read(data))

    def memory_sizes(self, artifact: Artifact, architecture: Architecture) -> None:  # noqa: ARG002
        """The device's Python and NumPy take most of the memory, and their versions differ."""
        return

    def device_files(self, target: Target, progress: Progress) -> RunnerFiles:
        """With a wheel for each Python of the target that has one. A newer Python needs the
        system's own tflite_runtime.
        """
        wheels = libraries(target.architecture, with_wheel(target.pythons), progress)
        return RunnerFiles(RUNNER, wheels, target.pythons or TFLITE_PYTHONS)


def _checked(artifact: Artifact) -> Artifact:
    """Without delegates: those that were seen are LiteRT's on this host. tflite-runtime 2.14
    computes int8 by its own kernels, and its XNNPACK takes other float operators.
    """
    from edgekit.runtimes.tflite.checks import checked

    program = artifact.program.replaced(delegates=())
    return replace(artifact, data=checked(artifact.data), program=program)
