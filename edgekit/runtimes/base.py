"""The interface between edgekit and an on-device runtime.

A runtime has a folder here, a class that implements Runtime, and an entry in registry.py.
HostSupport describes what it needs on the host. It is separate, because doctor must work even if
the runtime is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from edgekit.cost.shapes import OperatorShape
from edgekit.cost.sizes import ProgramMemory
from edgekit.documents.verdict import Advice
from edgekit.errors import MissingExtraError, RunnerError, TargetError
from edgekit.plan import Plan
from edgekit.program import Artifact, OutsideOperator, Program
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runner.files import RunnerFiles
from edgekit.target import Architecture, Target
from edgekit.values import RuntimeName

if TYPE_CHECKING:
    import torch

    from edgekit.compress.quantization.limits import StepLimits
    from edgekit.compress.quantization.simulate import Simulation

    # Gives a simulation the weights of ``plan.train``, in place. Raises TrainingError.
    Train = Callable[[Simulation], None]


# Repairs of int8, as fields of a plan.
Repair = Literal["observer", "equalize", "correct", "round"]
# Why memory and latency are unknown without a device, for a runtime that does not run here.
OTHER_RUNNER = "not predicted: the device runs it by its own Python, this host by another runner"


class Located(NamedTuple):
    """The operator and the layer of a profile's row. ``layer``: the module's name in the recipe's
    model; '' is the model itself, None is unknown. ``operator``: its number in its
    instruction, as in Program.calls; None if the runtime inserted it.
    """

    name: str
    layer: str | None
    operator: int | None = None


class Selected(NamedTuple):
    """A finished file with one signature. ``note``: what was chosen and removed; None if the file
    is unchanged.
    """

    data: bytes
    note: str | None = None


@dataclass(frozen=True)
class FloatModel:
    """A float model and the data that it is quantized with.

    ``calibration``: all calibration inputs. ``fitted``: those that ranges and repairs are fitted
    to; the others judge.
    """

    model: torch.nn.Module
    example: Inputs
    calibration: Sequence[Inputs]
    fitted: Sequence[Inputs]


class Pt2e(Protocol):
    """The capability of a runtime whose integers are determined in torch, on a PT2E graph.

    Repairs, the search for sensitive layers and training in int8 change that graph's weights and
    steps, so they need it.
    """

    @property
    def step_limits(self) -> StepLimits:
        """The limits of the integer kernels for the steps of operands and results."""
        ...

    def prepare(
        self,
        model: torch.nn.Module,
        example: Inputs,
        plan: Plan,
        calibration: Sequence[Inputs] = (),
    ) -> torch.fx.GraphModule:
        """Export a model and insert an observer wherever the runtime will round.

        The graph is changed only where the float outputs for ``calibration`` stay the same.
        Raises ExportError (the model's own code), RuntimeFailure (the runtime's).
        """
        ...

    def calibrate(
        self, prepared: torch.fx.GraphModule, calibration: Sequence[Inputs], progress: Progress
    ) -> None:
        """Run the data through a prepared graph's observers. Raises RuntimeFailure."""
        ...

    def convert(
        self, prepared: torch.fx.GraphModule, example: Inputs
    ) -> torch.export.ExportedProgram:
        """The program that computes in torch what the artifact will compute.

        Raises RuntimeFailure.
        """
        ...


class Half(Protocol):
    """The capability of a runtime that computes in half precision (float16)."""

    def program(self, source: FloatModel, plan: Plan) -> torch.export.ExportedProgram:
        """The program in half precision. Its inputs and outputs stay float32, and it computes in
        torch what the artifact will.

        Raises ExportError (the model's own code), RuntimeFailure (nothing is computed in half
        precision).
        """
        ...

    def with_half_floats(
        self, quantized: torch.export.ExportedProgram, source: FloatModel
    ) -> torch.export.ExportedProgram:
        """A quantized program whose float layers compute in half precision.

        Unchanged if it has none. Raises RuntimeFailure.
        """
        ...


class Runtime(Protocol):
    """``name`` and ``version`` are the runtime's own. ``repairs``: the fields of a plan that it can
    apply. ``pt2e``: None if the runtime quantizes after conversion; then there is no training in
    int8, and no search for float layers. ``half``: None if the runtime does not compute in half
    precision. ``runs_here``: whether this host runs artifacts by the runner that devices get; else
    memory and latency measured here do not apply to a device.
    """

    name: RuntimeName
    version: str
    repairs: frozenset[Repair]
    runs_here: bool

    @property
    def pt2e(self) -> Pt2e | None: ...

    @property
    def half(self) -> Half | None: ...

    def quantize(
        self, source: FloatModel, plan: Plan, train: Train | None, progress: Progress
    ) -> torch.export.ExportedProgram | Artifact:
        """Quantize by the plan. ``train`` is given if the plan trains in int8.

        A returned program is lowered next, and is its own reference: it computes in torch what the
        artifact will. A returned artifact is final: it was quantized after conversion, and nothing
        in torch computes the same integers.
        Raises ExportError (the model's own code), RuntimeFailure, RecipeError (NaN in a layer),
        TrainingError.
        """
        ...

    def reference(self, artifact: Artifact) -> Callable[[Inputs], list[torch.Tensor]] | None:
        """A function that runs an artifact of ``quantize`` by the runtime's own kernels, without
        delegates: parity compares the delegates with it. None if there are none.
        """
        ...

    def lower(self, exported: torch.export.ExportedProgram) -> Artifact:
        """Lower a float program, or a quantized one, to the runtime's file.

        Raises RuntimeFailure.
        """
        ...

    def select(self, data: bytes, signature: str | None) -> Selected:
        """A finished file with the one signature that devices run: ``signature``, or its default.

        ``signature`` is None if the runtime's files have no signatures (HostSupport).
        Raises RuntimeFailure: there is no such signature, or no default among several.
        """
        ...

    def read(self, data: bytes) -> Artifact:
        """Describe a finished file that was lowered elsewhere and verified by the runner.

        Raises RuntimeFailure if it cannot be read.
        """
        ...

    def memory_sizes(self, artifact: Artifact, architecture: Architecture) -> ProgramMemory | None:
        """The sizes of a program in the runner's memory. None if the runtime cannot tell."""
        ...

    def operator_shapes(self, artifact: Artifact) -> tuple[OperatorShape, ...] | None:
        """The operators that a program executes, in order: one for each of ``Program.calls``.
        None if the runtime cannot tell.
        """
        ...

    def runner_files(self, architecture: Architecture, progress: Progress) -> RunnerFiles:
        """The runner that runs artifacts on a host of ``architecture``. A missing one is first
        built or fetched. Raises RuntimeFailure.
        """
        ...

    def device_files(self, target: Target, progress: Progress) -> RunnerFiles:
        """The runner for a target's devices. A missing one is first built or fetched.

        Raises RuntimeFailure; TargetError: the runtime has none for such devices.
        """
        ...

    def advise(
        self, outside: Iterable[OutsideOperator], classes: Mapping[str, str]
    ) -> tuple[Advice, ...]:
        """Advice on what to write instead of operators that no delegate runs. ``classes``: the
        class of each layer.
        """
        ...

    def explain(self, error: RunnerError, program: Program) -> RunnerError:
        """``error`` with the reason why the program does not run on this host, in terms of the
        user's model.
        """
        ...

    def good_until(self) -> str:
        """The last version of the runtime that is promised to read the file, as text."""
        ...


class WheelState(NamedTuple):
    """The runtime's wheel, or wheels, that builds for an architecture need. ``command`` fetches
    those that are missing.
    """

    name: str
    is_there: bool
    detail: str
    command: str


# The statements that test what every runtime needs.
TORCH = {"torch": "import torch; torch.zeros(1).numpy()"}
COMPILER = {
    "ziglang": (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-m', 'ziglang', 'version'], check=True)"
    ),
}


@dataclass(frozen=True)
class HostSupport:
    """What a runtime needs on the host, known without importing it.

    ``extra``: the extra of edgekit that installs ``packages``. ``packages``: for each, the
    statement that tests it. ``pythons``: the Python versions that it is available for. ``glibc``:
    the oldest C library that its runner starts with. ``libraries``: those that each bundle has.
    ``suffix``: that of its files. ``has_signatures``: whether they may hold several programs, each
    with a name. ``architectures``: those of the devices that it runs on. ``fetches_own``: builds
    for this host's architecture need a fetched wheel too, not only the installed packages.
    """

    extra: str
    packages: Mapping[str, str]
    pythons: str
    glibc: str
    libraries: tuple[str, ...]
    suffix: str
    architectures: tuple[Architecture, ...]
    # The folder of the compiled runner, maybe not there yet; None if its compiler is not installed.
    runner_folder: Callable[[Architecture], Path | None]
    # Called with the versions of Python that the targets' devices have; empty if none is named.
    wheel: Callable[[Architecture, Sequence[str]], WheelState]
    fetches_own: bool = False
    has_signatures: bool = False

    def require(self, what: str) -> None:
        """Raise MissingExtraError if a package that ``what`` needs is not installed."""
        for package in self.packages:
            try:
                installed_version(package)
            except PackageNotFoundError:
                raise MissingExtraError(what, self.extra) from None

    def require_target(self, name: str, target: Target) -> None:
        """Raise TargetError if the runtime ``name`` does not run on the target's architecture."""
        if target.architecture not in self.architectures:
            raise TargetError(
                f"{name} does not run on {target.architecture}, the architecture of the target "
                f"'{target.name}': it is for {' and '.join(self.architectures)}",
                "build with --runtime tflite for a 32-bit system",
            )
