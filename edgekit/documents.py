"""The JSON documents that commands print (contract: edgekit/schemas/contract.schema.json)."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import edgekit
from edgekit.budget import BudgetLine, Verdict
from edgekit.errors import EXIT_DONE, EXIT_ERROR, EXIT_INCONCLUSIVE, EXIT_MISSED, EdgekitError

EXIT_OF_VERDICT = {"fits": EXIT_DONE, "missed": EXIT_MISSED, "unknown": EXIT_INCONCLUSIVE}


def canonical_json(data: Any) -> bytes:
    """The one way equal data becomes equal bytes: sorted keys, no spaces, UTF-8, a last newline."""
    text = json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


class Document(BaseModel):
    """Base of all documents; ``schema`` is written without pydantic's underscore."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_: str = Field(alias="schema")
    edgekit: str = Field(default_factory=lambda: edgekit.__version__)

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)


class Agreement(BaseModel):
    """How near two sets of outputs are, the worst output counting.

    ``sqnr_db`` is the signal-to-quantization-noise ratio, None where they are bit-equal.
    """

    model_config = ConfigDict(frozen=True)

    max_abs_diff: float
    sqnr_db: float | None


class Parity(Agreement):
    """The comparison that a build or a bench stands or falls by.

    ``reference`` and ``rule`` say in words what was compared with what; ``float_model`` is
    reported beside it and never fails anything. So is ``sequence``, of a model with state: its
    outputs along the calibration inputs, states fed back, against the float model's.
    """

    passed: bool
    reference: str = ""
    rule: str = ""
    compared: int = 0
    float_model: Agreement | None = None
    sequence: Agreement | None = None


class WorstGroup(BaseModel):
    """The group of an output that is furthest from the float model: one index of an axis."""

    model_config = ConfigDict(frozen=True)

    axis: int
    index: int
    sqnr_db: float | None


class OutputFidelity(BaseModel):
    """How near one output is to the float model's, on calibration inputs that nothing was fitted
    to. ``kind``: what it was judged as; ``assumed``: the recipe does not say so.

    ``agreement``: of 100 inputs, how many get the same class, of whole numbers how many are equal;
    None for other values. ``sqnr_db``: of what varies over inputs, for the output as a whole and
    for its worst group; None where equal.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["classes", "values"]
    assumed: bool
    agreement: float | None
    sqnr_db: float | None
    worst_group: WorstGroup | None


# What ran the float model for its accuracy: torch, or its own fp32 artifact.
Judge = Literal["torch", "artifact"]


class Accuracy(BaseModel):
    """The recipe's metric, in points; None where the recipe has no ``evaluate``."""

    model_config = ConfigDict(frozen=True)

    fp32: float | None = None
    artifact: float | None = None


class Rung(BaseModel):
    """One step of the precision ladder: tried or not, taken or not, and why. ``payoff``: what
    quantizing brings against fp32 in latency on the device that was named, under ``auto``.
    ``fidelity``: of the outputs, where ``evaluate`` cannot judge a quantized artifact.
    """

    model_config = ConfigDict(frozen=True)

    precision: str
    taken: bool
    reason: str
    drop: float | None = None
    judged_by: str | None = None
    payoff: str | None = None
    fidelity: tuple[OutputFidelity, ...] = ()


class Blame(BaseModel):
    """What plain int8 loses in the weights or the activations of one layer, and what mends it.

    ``drop``: points of top-1 agreement with the float model, on calibration data, that are lost
    where only this is int8; None where the outputs are no classes. ``sqnr_db``: of the outputs
    then.
    ``regained``: the share of plain int8's divergence from the float model that goes where only
    this is not int8. ``fix``: ``range``, ``equalization`` or ``float`` (the layer is kept float);
    its costs on the target, None where unknown. ``applied``: it is in the plan.
    """

    model_config = ConfigDict(frozen=True)

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


class CompressionStep(BaseModel):
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

    model_config = ConfigDict(frozen=True, protected_namespaces=())

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
    training: dict[str, Any] | None = None
    refused: tuple[dict[str, str], ...] = ()
    agreement: float | None = None
    sqnr_db: float | None = None


class Advice(BaseModel):
    """Operators that run on slow portable kernels, of one cause: which, in which layers ('' is the
    model itself), how many calls an inference, and what to write ``instead``; None: not known.
    """

    model_config = ConfigDict(frozen=True)

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
    plan: dict[str, Any]
    ladder: tuple[Rung, ...] = ()
    blame: tuple[Blame, ...] = ()
    compression: tuple[CompressionStep, ...] = ()
    program: dict[str, Any] = {}
    relaxations: tuple[dict[str, Any], ...] = ()
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = {}

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


class Emulation(BaseModel):
    """Whether the golden inputs were run on the CPU that the bundle is for, before any device.

    ``cpu`` is that CPU, as QEMU names it; ``processor`` what they ran on: the same, emulated by
    ``emulator``, or (emulator is None) this host's own. ``reason`` says why they were not run,
    ``hint`` how that can be changed. ``seconds`` is how long it took and no latency.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["passed", "not_checked"]
    cpu: str
    processor: str | None = None
    emulator: str | None = None
    parity: Parity | None = None
    seconds: float | None = None
    reason: str | None = None
    hint: str | None = None


class CheckDocument(VerdictDocument):
    """What ``check`` prints: the verdict, and that of the CPU. It has no say in the verdict: what
    fails there is an error.
    """

    emulation: Emulation


class LatencySummary(BaseModel):
    """Milliseconds for one inference. ``samples`` are all timed runs, in order."""

    model_config = ConfigDict(frozen=True)

    median: float
    p95: float
    mean: float
    min: float
    samples: tuple[float, ...]
    interval: tuple[float, float]


# The last row of a profile: what the runs took beside their operators.
REMAINDER = "outside the operators"


class OperatorTime(BaseModel):
    """Mean time of one operator over the profiled runs, in order of execution.

    ``layer`` is the name of the module in the recipe's model that it computes, '' the model
    itself, None where it is not known or there is none. The last row, REMAINDER, is no operator:
    what the runtime takes between them, measured as the whole less all others.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    layer: str | None
    mean_us: float
    delegated: bool


class BenchDocument(Document):
    """What ``bench`` prints.

    ``profiled_ms``: the mean of the profiled runs, less what profiling itself took; the whole
    that ``per_op`` adds up to. ``latency_ms`` is of other, unprofiled runs.
    """

    bundle: str
    target: str
    device: str
    threads: int
    latency_ms: LatencySummary
    load_ms: float
    peak_memory_mb: float
    parity: Parity | None
    per_op: tuple[OperatorTime, ...]
    profiled_ms: float | None = None
    environment: dict[str, Any]
    budgets: tuple[BudgetLine, ...]
    verdict: Verdict

    @property
    def exit_code(self) -> int:
        return EXIT_OF_VERDICT[self.verdict]


class DeployDocument(Document):
    """What ``deploy`` prints. ``path`` is what an application opens; ``changed`` is false where
    this release was the current one already.
    """

    device: str
    name: str
    release: str
    sent_bytes: int
    reused_bytes: int
    changed: bool
    path: str


class ReleaseRow(BaseModel):
    """One release on a device."""

    model_config = ConfigDict(frozen=True)

    name: str
    release: str
    current: bool
    size_mb: float


class LsDocument(Document):
    """What ``ls`` prints."""

    device: str
    bundles: tuple[ReleaseRow, ...]


class OutputFile(BaseModel):
    """An output that ``run`` wrote. ``dtype`` as the file has it."""

    model_config = ConfigDict(frozen=True)

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str


class RunDocument(Document):
    """What ``run`` prints. ``latency_ms`` is that of this one inference, without warm-up."""

    device: str
    outputs: tuple[OutputFile, ...]
    latency_ms: float


class EvalDocument(Document):
    """What ``eval`` prints. ``host_accuracy``: of the same artifact on the host, at build."""

    bundle: str
    device: str
    accuracy: float
    host_accuracy: float | None
    inferences: int
    note: str | None = None


Status = Literal["ok", "missing", "wrong_version", "broken", "not_needed"]


class Finding(BaseModel):
    """One thing that edgekit needs or can use on this host.

    ``broken``: it is there and does not work. ``not_needed``: it is not there, and nothing is
    lost. ``detail`` is the version or the place, or what is wrong; ``command`` installs or mends
    it, None where nothing is to be done or no command does it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: Status
    detail: str
    needed_for: tuple[str, ...] = ()
    command: str | None = None

    @property
    def is_fine(self) -> bool:
        return self.status in ("ok", "not_needed")


class Ability(BaseModel):
    """What this host can do with edgekit; ``lacks`` names the findings that are in the way."""

    model_config = ConfigDict(frozen=True)

    name: str
    works: bool
    lacks: tuple[str, ...]


class DoctorDocument(Document):
    """What ``doctor`` prints. ``ready``: a build for the built-in x86 target works here.
    ``commands`` are those of the findings, each once.
    """

    ready: bool
    findings: tuple[Finding, ...]
    abilities: tuple[Ability, ...]
    commands: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_DONE if self.ready else EXIT_ERROR


class CachePart(BaseModel):
    """One folder of the cache."""

    model_config = ConfigDict(frozen=True)

    name: str
    entries: int
    size_mb: float


class CacheDocument(Document):
    """What ``cache`` prints. ``parts`` is what is there now; ``freed_mb`` is None for ``show``."""

    folder: str
    parts: tuple[CachePart, ...]
    size_mb: float
    freed_mb: float | None = None


def error_document(error: EdgekitError) -> str:
    """The document of an error, for ``--json``."""
    document = {
        "schema": "edgekit.error/1",
        "edgekit": edgekit.__version__,
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)
