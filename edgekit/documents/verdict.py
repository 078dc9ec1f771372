"""The JSON documents that commands print (contract: edgekit/schemas/contract.schema.json)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgekit.budget import BudgetLine, BudgetName, Verdict
from edgekit.documents.base import EXIT_OF_VERDICT, Document
from edgekit.documents.measure import Emulation, OutputFidelity, Parity
from edgekit.frozen import Extensible
from edgekit.plan import Plan, Training
from edgekit.program import ProgramSummary

# What ran the float model for its accuracy: torch, or its own fp32 artifact.
Judge = Literal["torch", "artifact"]


class Accuracy(Extensible):
    """The recipe's metric, in points; None where the recipe has no ``evaluate``."""

    fp32: float | None = None
    artifact: float | None = None


class Rung(Extensible):
    """One step of the precision ladder: tried or not, taken or not, and why. ``payoff``: what
    quantizing brings against fp32 in latency on the device that was named, under ``auto``.
    ``fidelity``: of the outputs, where ``evaluate`` cannot judge a quantized artifact.
    """

    precision: str
    taken: bool
    reason: str
    drop: float | None = None
    judged_by: str | None = None
    payoff: str | None = None
    fidelity: tuple[OutputFidelity, ...] = ()


class Blame(Extensible):
    """What plain int8 loses in the weights or the activations of one layer, and what mends it.

    ``drop``: points of top-1 agreement with the float model, on calibration data, that are lost
    where only this is int8; None where the outputs are no classes. ``sqnr_db``: of the outputs
    then.
    ``regained``: the share of plain int8's divergence from the float model that goes where only
    this is not int8. ``fix``: ``range``, ``equalization`` or ``float`` (the layer is kept float);
    its costs on the target, None where unknown. ``applied``: it is in the plan.
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
    """How a model was trained. ``interrupted``: by hand, before its end."""

    interrupted: bool


class RefusedLayer(Extensible):
    """A layer that was left as it was, and why."""

    layer: str
    why: str


class CompressionStep(Extensible):
    """What the model is after a step before quantization, against the recipe's own.

    ``accuracy`` in torch, None without ``evaluate``; ``agreement``: of 100 calibration inputs, how
    many get the same class, None where outputs are no classes or there are no such inputs;
    ``sqnr_db`` of the outputs there (of the example without them), None where they are equal;
    multiply-accumulates; parameters; ``zeros``, the share of the weights that is zero. The rest is
    of the artifacts in ``precision``, without repairs: the model's file, the same as gzip packs it,
    and on the device that was named, else on this host, latency against the original's (median and
    95 % interval) and peak memory; None where it was not measured. ``widths``: layers that lost
    channels, with how many are left, and how many there were. ``training``: how it was trained,
    ``stop`` the step that was taken (0: none was better) and ``interrupted``. ``refused``: layers
    that were left as they were, each with ``why``.
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


class Relaxation(Extensible):
    """Budgets that would be met; ``verified``: by a build, not only by prediction."""

    budgets: dict[BudgetName, float]
    verified: bool


class Advice(Extensible):
    """Operators that run on slow portable kernels, of one cause: which, in which layers ('' is the
    model itself), how many calls an inference, and what to write ``instead``; None: not known.
    """

    operators: tuple[str, ...]
    layers: tuple[str, ...]
    count: int
    instead: str | None


class VerdictDocument(Document):
    """What ``build`` prints, and most of what ``check`` does. ``advice`` and ``notes`` (what was
    changed in the recipe's model before all else): build's alone.
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
    relaxations: tuple[Relaxation, ...] = ()
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def accuracy_said(self) -> str | None:
        """In words; None where it is not known."""
        found = self.accuracy
        if found.fp32 is None or found.artifact is None:
            return None
        stage = "in torch" if self.fp32_judged_by == "torch" else "as fp32 artifact"
        return f"{found.fp32:.2f} {stage}, {found.artifact:.2f} as the artifact"

    @property
    def exit_code(self) -> int:
        return EXIT_OF_VERDICT[self.verdict]


class CheckDocument(VerdictDocument):
    """What ``check`` prints: the verdict, and that of the CPU. It has no say in the verdict: what
    fails there is an error.
    """

    emulation: Emulation


Status = Literal["ok", "missing", "wrong_version", "broken", "not_needed"]
