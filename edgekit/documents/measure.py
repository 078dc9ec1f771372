"""What was compared and measured: parity, fidelity, latency, operators; what bench prints."""

from __future__ import annotations

from typing import Literal

from edgekit.budget import BudgetLine, Verdict
from edgekit.documents.base import EXIT_OF_VERDICT, Document
from edgekit.documents.environment import MeasuredEnvironment
from edgekit.frozen import Extensible


class Agreement(Extensible):
    """How near two sets of outputs are, the worst output counting.

    ``sqnr_db`` is the signal-to-quantization-noise ratio, None where they are bit-equal.
    """

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


class WorstGroup(Extensible):
    """The group of an output that is furthest from the float model: one index of an axis."""

    axis: int
    index: int
    sqnr_db: float | None


class OutputFidelity(Extensible):
    """How near one output is to the float model's, on calibration inputs that nothing was fitted
    to. ``kind``: what it was judged as; ``assumed``: the recipe does not say so.

    ``agreement``: of 100 inputs, how many get the same class, of whole numbers how many are equal;
    None for other values. ``sqnr_db``: of what varies over inputs, for the output as a whole and
    for its worst group; None where equal.
    """

    name: str
    kind: Literal["classes", "values"]
    assumed: bool
    agreement: float | None
    sqnr_db: float | None
    worst_group: WorstGroup | None


class Emulation(Extensible):
    """Whether the golden inputs were run on the CPU that the bundle is for, before any device.

    ``cpu`` is that CPU, as QEMU names it; ``processor`` what they ran on: the same, emulated by
    ``emulator``, or (emulator is None) this host's own. ``reason`` says why they were not run,
    ``hint`` how that can be changed. ``seconds`` is how long it took and no latency.
    """

    status: Literal["passed", "not_checked"]
    cpu: str
    processor: str | None = None
    emulator: str | None = None
    parity: Parity | None = None
    seconds: float | None = None
    reason: str | None = None
    hint: str | None = None


class LatencySummary(Extensible):
    """Milliseconds for one inference. ``samples`` are all timed runs, in order."""

    median: float
    p95: float
    mean: float
    min: float
    samples: tuple[float, ...]
    interval: tuple[float, float]


# The last row of a profile: what the runs took beside their operators.
REMAINDER = "outside the operators"


class OperatorTime(Extensible):
    """Mean time of one operator over the profiled runs, in order of execution.

    ``layer`` is the name of the module in the recipe's model that it computes, '' the model
    itself, None where it is not known or there is none. The last row, REMAINDER, is no operator:
    what the runtime takes between them, measured as the whole less all others.
    """

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
    environment: MeasuredEnvironment
    budgets: tuple[BudgetLine, ...]
    verdict: Verdict

    @property
    def exit_code(self) -> int:
        return EXIT_OF_VERDICT[self.verdict]
