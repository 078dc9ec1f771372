"""Latency of a program on a core, from what one inference does. Pure functions.

core_ms = cycles / clock; memory_ms = bytes to and from DRAM / bandwidth. One thread overlaps the
two in part: (core^1.5 + memory^1.5)^(2/3). Four threads share the cycles and wait for the one
memory: core / 4 + memory. Two and three threads lie between, linear in 1 / threads. The exponent,
the bandwidths and the intervals come from 139 published latencies (docs/benchmarks.md, "Latency
without a device").
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from edgekit.cost.cores import CoreModel
from edgekit.runner.client import ProfileRow

OVERLAP = 1.5
FULL_SHARING = 4
# Published over predicted latency lies in these for >= 90 % of the published rows.
ONE_THREAD, FOUR_THREADS = (0.75, 1.4), (0.7, 1.7)
# No published latency exists for 2 or 3 threads, or for more than 4.
OTHER_THREADS = (0.65, 1.85)

# The time that several threads may need to start and join at an operator. It is not predicted, but
# the interval includes it: it decides the latency of very small models.
JOIN_MS = 0.005


class Work(NamedTuple):
    """What one warm inference does on one core. ``serial_cycles``: those of ``cycles`` that other
    threads cannot share.
    """

    instructions: int
    cycles: float
    dram_bytes: int
    serial_cycles: float = 0.0


class OperatorWork(NamedTuple):
    """``row``: the operator as a profile names it; its time means nothing."""

    row: ProfileRow
    work: Work


class InferenceWork(NamedTuple):
    """``operators``: in order of execution; what the runtime does between them is only in
    ``whole``. Empty if unknown.
    """

    whole: Work
    operators: tuple[OperatorWork, ...] = ()

    @property
    def outside_cycles(self) -> float:
        """Those of kernels outside the delegates: at most, if the operators are unknown."""
        if not self.operators:
            return self.whole.cycles
        return sum(one.work.cycles for one in self.operators if not one.row.delegated)


class Factors(NamedTuple):
    """The ends of an interval, relative to the predicted value."""

    low: float
    high: float


def latency_ms(work: Work, core: CoreModel, clock_ghz: float, threads: int) -> float:
    parallel_ms = (work.cycles - work.serial_cycles) / (clock_ghz * 1e6)
    serial_ms = work.serial_cycles / (clock_ghz * 1e6)
    memory_ms = work.dram_bytes / (core.dram_gb_s * 1e6)
    return combined_ms(parallel_ms, serial_ms, memory_ms, threads)


def combined_ms(parallel_ms: float, serial_ms: float, memory_ms: float, threads: int) -> float:
    """The latency with ``threads`` threads of the two times that one core takes, and of memory."""
    if threads >= FULL_SHARING:
        return parallel_ms / threads + serial_ms + memory_ms
    one = (parallel_ms + serial_ms) ** OVERLAP + memory_ms**OVERLAP
    alone = float(one ** (1 / OVERLAP))
    shared = parallel_ms / FULL_SHARING + serial_ms + memory_ms
    part = (1 / threads - 1 / FULL_SHARING) / (1 - 1 / FULL_SHARING)
    return shared + (alone - shared) * part


def latency_by_operator(
    work: InferenceWork, value_ms: float, core: CoreModel, clock_ghz: float, threads: int
) -> tuple[ProfileRow, ...]:
    """The operators with their parts of the predicted latency ``value_ms`` of the whole.

    Each one's own latency by the same formula, and that of the rest; all of them scaled to add up
    to the whole, because what one operator overlaps with memory is not what all of them together
    do. Kernels outside the delegates run on one thread.
    """
    if not work.operators:
        return ()
    alone = []
    for row, one in work.operators:
        serial = one if row.delegated else one._replace(serial_cycles=one.cycles)
        alone.append(latency_ms(serial, core, clock_ghz, threads))
    rest = latency_ms(_without_operators(work), core, clock_ghz, threads)
    scale = value_ms / (sum(alone) + rest)
    return tuple(
        replace(one.row, mean_us=own * scale * 1000)
        for one, own in zip(work.operators, alone, strict=True)
    )


def _without_operators(work: InferenceWork) -> Work:
    parts = [one.work for one in work.operators]
    return Work(
        instructions=work.whole.instructions - sum(part.instructions for part in parts),
        cycles=max(work.whole.cycles - sum(part.cycles for part in parts), 0.0),
        dram_bytes=work.whole.dram_bytes - sum(part.dram_bytes for part in parts),
    )


def interval_factors(threads: int) -> Factors:
    known = {1: ONE_THREAD, FULL_SHARING: FOUR_THREADS}
    return Factors(*known.get(threads, OTHER_THREADS))


def interval_ms(
    value_ms: float, factors: Factors, threads: int, operators: int
) -> tuple[float, float]:
    joins_ms = JOIN_MS * operators if threads > 1 else 0.0
    return value_ms * factors.low, value_ms * factors.high + joins_ms
