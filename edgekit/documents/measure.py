"""Comparisons and measurements: parity, fidelity, latency, operators; the document of bench."""

from __future__ import annotations

from typing import Literal

from edgekit.budget import BudgetLine, Verdict
from edgekit.documents.base import EXIT_OF_VERDICT, Document
from edgekit.documents.environment import MeasuredEnvironment
from edgekit.frozen import Extensible


class Agreement(Extensible):
    """The agreement of two sets of outputs: that of the worst output.

    ``sqnr_db``: the signal-to-quantization-noise ratio; None if bit-equal.
    """

    max_abs_diff: float
    sqnr_db: float | None


class Parity(Agreement):
    """The comparison that decides whether a build or a bench fails.

    ``reference`` and ``rule``: the comparison in words. The others are information only.
    ``float_model``: agreement with the float model. ``sequence``: for a model with state,
    agreement with the float model along the calibration inputs, with states fed back.
    """

    passed: bool
    reference: str = ""
    rule: str = ""
    compared: int = 0
    float_model: Agreement | None = None
    sequence: Agreement | None = None


class WorstGroup(Extensible):
    """The group (one index of an axis) of an output that differs most from the float model."""

    axis: int
    index: int
    sqnr_db: float | None


class OutputFidelity(Extensible):
    """The agreement of one output with the float model's, on held-out calibration inputs.

    ``kind``: how it was judged; ``assumed``: the recipe does not define the kind. ``agreement``:
    the percentage of inputs with the same class, or of equal whole numbers; None for other values.
    ``sqnr_db``: relative to the variance over inputs, of the output and of its worst group; None
    if equal.
    """

    name: str
    kind: Literal["classes", "values"]
    assumed: bool
    agreement: float | None
    sqnr_db: float | None
    worst_group: WorstGroup | None


class Emulation(Extensible):
    """The run of the golden inputs on the CPU that the bundle is for, without a device.

    ``cpu``: that CPU, by QEMU's name. ``processor``: the CPU that ran them: ``cpu``, emulated by
    ``emulator``, or this host's (``emulator`` is None). ``reason``: why they were not run;
    ``hint``: what to do about it. ``seconds``: the time of the check, not a latency.
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
    """Milliseconds for one inference. ``samples``: all timed runs, in order."""

    median: float
    p95: float
    mean: float
    min: float
    samples: tuple[float, ...]
    interval: tuple[float, float]


# The last row of a profile: the time that belongs to no operator.
REMAINDER = "outside the operators"


class OperatorTime(Extensible):
    """Mean time of one operator over the profiled runs, in order of execution.

    ``layer``: the module of the recipe's model that it computes; '' for the model itself; None if
    unknown or none. The last row, REMAINDER, is the total time less that of all operators.
    """

    name: str
    layer: str | None
    mean_us: float
    delegated: bool


class BenchDocument(Document):
    """The document of ``bench``.

    ``profiled_ms``: the mean of the profiled runs, without the time of profiling itself; the sum
    of ``per_op``. ``latency_ms``: of other runs, without profiling. ``peak_memory_mb``: resident
    and swapped out; ``swapped_mb``: the latter alone, None if the bundle's runner does not report
    it.
    """

    bundle: str
    target: str
    device: str
    threads: int
    latency_ms: LatencySummary
    load_ms: float
    peak_memory_mb: float
    swapped_mb: float | None = None
    parity: Parity | None
    per_op: tuple[OperatorTime, ...]
    profiled_ms: float | None = None
    environment: MeasuredEnvironment
    budgets: tuple[BudgetLine, ...]
    verdict: Verdict

    @property
    def exit_code(self) -> int:
        return EXIT_OF_VERDICT[self.verdict]
