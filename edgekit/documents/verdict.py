"""The documents of build and check, with their parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgekit.budget import BudgetLine, BudgetName, Verdict
from edgekit.documents.base import EXIT_OF_VERDICT, Document
from edgekit.documents.latency import LatencyParts
from edgekit.documents.measure import Emulation, OutputFidelity, Parity
from edgekit.documents.memory import MemoryLedger
from edgekit.documents.runtimes import RuntimeCandidate
from edgekit.documents.search import SearchReport
from edgekit.frozen import Extensible, Omitted
from edgekit.plan import Factors, Plan, Training
from edgekit.program import ProgramSummary

# What ran the float model to measure its accuracy: torch, or its fp32 artifact.
Judge = Literal["torch", "artifact"]


class Accuracy(Extensible):
    """The recipe's metric, in points; None without ``evaluate`` in the recipe."""

    fp32: float | None = None
    artifact: float | None = None


class Rung(Extensible):
    """One candidate of the precision ladder. ``taken``: it was chosen. ``reason``: why or why not.

    ``payoff``: its latency relative to fp32 on the given device, with ``--precision auto``.
    ``fidelity``: of the outputs, if ``evaluate`` cannot judge a quantized artifact.
    """

    precision: str
    taken: bool
    reason: str
    drop: float | None = None
    judged_by: str | None = None
    payoff: str | None = None
    fidelity: tuple[OutputFidelity, ...] = ()


class Blame(Extensible):
    """The loss by plain int8 in the weights or activations of one layer, and its repair.

    ``drop``: points of top-1 agreement with the float model, on calibration data, lost if only
    this is int8; None if the outputs are not class scores. ``sqnr_db``: of the outputs then.
    ``regained``: the share of plain int8's divergence from the float model that disappears if only
    this is float. ``fix``: ``range``, ``equalization`` or ``float`` (the layer stays float);
    ``cost_...``: its costs on the target, None if unknown. ``applied``: it is in the plan.
    """

    layer: str
    kind: Literal["weights", "activations"]
    drop: float | None
    sqnr_db: float | None
    regained: float | None = None
    fix: str | None
    cost_latency_ms: float | None
    cost_size_mb: float | None
    cost_memory_mb: float | None = None
    applied: bool


class TrainingReport(Training):
    """The training of a model. ``interrupted``: the user ended it early."""

    interrupted: bool


class RefusedLayer(Extensible):
    """A layer that was not changed, and why."""

    layer: str
    why: str


class CompressionStep(Extensible):
    """The model after a compression step, compared with the recipe's (``..._before``).

    In torch: ``accuracy``, None without ``evaluate``; ``agreement``, the percentage of calibration
    inputs with the same class, None without class scores or such inputs; ``sqnr_db`` of the
    outputs for these inputs, else for the example, None if equal; ``macs``, the
    multiply-accumulates; ``zeros``, the share of weights that are zero.

    Of the artifacts in ``precision``, without repairs: ``model_mb``, the file; ``compressed_mb``,
    the file after gzip; on ``device``, ``latency_ratio`` (median and 95 % interval, relative to
    the original) and peak memory, None if not measured.

    ``widths``: layer -> channels after and before, for layers that lost channels. ``training``:
    its ``stop`` is the chosen step (0: none was better). ``refused``: layers that did not change.
    ``input_size``: height and width of the images from this step on, if it changed them;
    ``dropped``: the blocks that it removed; ``factors``: of each layer that it factorized. JSON has
    these three keys only where there is something.
    """

    name: str
    accuracy: float | None
    macs: int
    macs_before: int
    parameters: int
    parameters_before: int
    zeros: float
    precision: str
    model_mb: float
    model_before_mb: float
    compressed_mb: float
    compressed_before_mb: float
    latency_ratio: tuple[float, float, float] | None = None
    peak_memory_mb: float | None = None
    peak_memory_before_mb: float | None = None
    device: str = "local"
    widths: dict[str, tuple[int, int]] = Field(default_factory=dict)
    training: TrainingReport | None = None
    refused: tuple[RefusedLayer, ...] = ()
    agreement: float | None = None
    sqnr_db: float | None = None
    input_size: Omitted[tuple[int, int] | None] = None
    dropped: Omitted[tuple[str, ...] | None] = None
    factors: Omitted[dict[str, Factors] | None] = None


class Relaxation(Extensible):
    """Budgets that would be met. ``verified``: by a build, not only predicted."""

    budgets: dict[BudgetName, float]
    verified: bool


class Advice(Extensible):
    """Operators that run on slow portable kernels for one cause.

    ``layers``: '' is the model itself. ``count``: calls per inference. ``instead``: what to write
    in the model; None if unknown.
    """

    operators: tuple[str, ...]
    layers: tuple[str, ...]
    count: int
    instead: str | None


class VerdictDocument(Document):
    """The document of ``build``, and the base of that of ``check``.

    ``memory``: None if the bundle has no ledger (edgekit 0.1). ``latency``: by operator; None if it
    was not predicted so. ``runtimes``: what ``--runtime auto`` considered, the kept one first; JSON
    has no such key otherwise.
    Only from ``build``: ``advice``, and ``notes`` on changes to the recipe's model.
    """

    bundle: str
    target: str
    runtime: str
    verdict: Verdict
    budgets: tuple[BudgetLine, ...]
    accuracy: Accuracy
    fp32_judged_by: Judge = "torch"
    parity: Parity | None
    plan: Plan
    ladder: tuple[Rung, ...] = ()
    blame: tuple[Blame, ...] = ()
    compression: tuple[CompressionStep, ...] = ()
    program: ProgramSummary
    memory: MemoryLedger | None = None
    latency: LatencyParts | None = None
    search: SearchReport | None = None
    relaxations: tuple[Relaxation, ...] = ()
    runtimes: Omitted[tuple[RuntimeCandidate, ...]] = ()
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def accuracy_text(self) -> str | None:
        """The accuracy in words; None if unknown."""
        accuracy = self.accuracy
        if accuracy.fp32 is None or accuracy.artifact is None:
            return None
        stage = "in torch" if self.fp32_judged_by == "torch" else "as fp32 artifact"
        return f"{accuracy.fp32:.2f} {stage}, {accuracy.artifact:.2f} as the artifact"

    @property
    def exit_code(self) -> int:
        return EXIT_OF_VERDICT[self.verdict]


class CheckDocument(VerdictDocument):
    """The document of ``check``: the verdict and the emulated run.

    The run does not affect the verdict: if it fails, ``check`` raises an error.
    """

    emulation: Emulation


Status = Literal["ok", "missing", "wrong_version", "broken", "not_needed"]
