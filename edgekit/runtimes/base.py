"""The seam between edgekit and an on-device runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgekit.documents.verdict import Advice
from edgekit.errors import RunnerError
from edgekit.plan import Plan
from edgekit.program import Artifact, OutsideOperator, Program
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runner.files import RunnerFiles
from edgekit.target import Architecture

if TYPE_CHECKING:
    import torch

    from edgekit.compress.quantization.limits import StepLimits


class Located(NamedTuple):
    """The operator that a row of a profile is of: its full name, and the layer in the recipe's
    model that it computes ('' the model itself, None where that is not known).
    """

    name: str
    layer: str | None


class Runtime(Protocol):
    """``name`` and ``version``: the runtime's own."""

    name: str
    version: str

    @property
    def step_limits(self) -> StepLimits:
        """What its integer kernels take of the steps of operands and results."""
        ...

    def prepare(
        self,
        model: torch.nn.Module,
        example: Inputs,
        plan: Plan,
        calibration: Sequence[Inputs] = (),
    ) -> torch.fx.GraphModule:
        """The model as a graph with an observer wherever the runtime will round (PT2E).

        ``calibration``: a change of the graph is made only where the float outputs for these
        inputs stay what they are.
        Raises ExportError (the model's own code), RuntimeFailure (the runtime's).
        """
        ...

    def calibrate(
        self, prepared: torch.fx.GraphModule, calibration: Sequence[Inputs], progress: Progress
    ) -> None:
        """Let the observers of a prepared graph see the data. Raises RuntimeFailure."""
        ...

    def convert(
        self, prepared: torch.fx.GraphModule, example: Inputs
    ) -> torch.export.ExportedProgram:
        """A program that computes, in torch, what the artifact will. Raises RuntimeFailure."""
        ...

    def lower(self, exported: torch.export.ExportedProgram) -> Artifact:
        """Lower a float or quantized program to the runtime's file. Raises RuntimeFailure."""
        ...

    def read(self, data: bytes) -> Artifact:
        """A finished file that was lowered elsewhere. Raises RuntimeFailure where it cannot be
        read; the runner must have verified it before.
        """
        ...

    def runner_files(self, architecture: Architecture, progress: Progress) -> RunnerFiles:
        """The runner built for ``architecture``; built or fetched first where it is missing."""
        ...

    def advise(
        self, outside: Iterable[OutsideOperator], classes: Mapping[str, str]
    ) -> tuple[Advice, ...]:
        """What to write instead of the operators (operator, layer, count) that no delegate took;
        ``classes``: the name of each layer's class.
        """
        ...

    def explain(self, error: RunnerError, program: Program) -> RunnerError:
        """Why a lowered program does not run on this host, in the terms of the user's model."""
        ...

    def good_until(self) -> str:
        """Until which version of the runtime its makers promise to read the file, in words."""
        ...
