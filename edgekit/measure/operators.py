"""Time by operator and layer, from profiled runs on a device. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edgekit.budget import Figure
from edgekit.cost.shapes import OperatorShape, OperatorTimes, times_by_operator
from edgekit.documents.latency import CostSource, LatencyParts, OperatorLatency
from edgekit.documents.measure import REMAINDER, OperatorTime
from edgekit.errors import RunnerError
from edgekit.program import Program
from edgekit.runner.client import ProfileRow, RunReport
from edgekit.runtimes.base import Located
from edgekit.runtimes.registry import locate
from edgekit.values import RuntimeName

# A round has as many runs as take this long, within bounds. The mean of a few runs of microseconds
# would mostly show interruptions.
ROUND_MS = 50.0
LEAST_RUNS, MOST_RUNS = 10, 1000


def runs_of_round(timed: RunReport, most: int) -> int:
    """The number of profiled runs in a round, from the latencies in ``timed``. For a slow program
    it is at most ``most``.
    """
    mean_ms = sum(timed.latencies_ms) / len(timed.latencies_ms)
    least = min(LEAST_RUNS, most)
    return max(least, min(MOST_RUNS, int(ROUND_MS / mean_ms)))


def operator_times(
    runtime: RuntimeName, program: Program, reports: Sequence[RunReport]
) -> tuple[tuple[OperatorTime, ...], float | None]:
    """The operators in order of execution, and their total time in ms.

    All rounds have equal weight. The last row is the time outside the operators. Without a total
    from the runner, that row is missing and the total is None. Raises RunnerError if the rounds
    have different operators.
    """
    _check_rounds(reports)
    rows = reports[0].profile
    times = [
        OperatorTime(
            name=where.name,
            layer=where.layer,
            mean_us=_mean([report.profile[index].mean_us for report in reports]),
            delegated=row.delegated,
        )
        for index, (row, where) in enumerate(zip(rows, locate(runtime, program, rows), strict=True))
    ]
    wholes = [report.profiled_us for report in reports if report.profiled_us is not None]
    if not wholes:
        return tuple(times), None
    between = _mean(wholes) - sum(row.mean_us for row in times)
    times.append(OperatorTime(name=REMAINDER, layer=None, mean_us=between, delegated=False))
    return tuple(times), _mean(wholes) / 1000


def mean_rows(reports: Sequence[RunReport]) -> tuple[list[ProfileRow], float]:
    """The rows of several profiled runs with their mean times, and the mean of the whole in ms.

    Raises RunnerError if the runs have different operators.
    """
    _check_rounds(reports)
    rows = [
        replace(row, mean_us=_mean([report.profile[index].mean_us for report in reports]))
        for index, row in enumerate(reports[0].profile)
    ]
    wholes = [report.profiled_us for report in reports if report.profiled_us is not None]
    total_us = _mean(wholes) if wholes else sum(row.mean_us for row in rows)
    return rows, total_us / 1000


def timed_shapes(
    runtime: RuntimeName,
    program: Program,
    shapes: Sequence[OperatorShape],
    rows: Sequence[ProfileRow],
    total_ms: float,
) -> OperatorTimes:
    """The time of each operator of ``shapes``, from a profile or a prediction of the program."""
    found = _shapes_of(locate(runtime, program, rows), shapes, rows)
    timed = [
        (shape.place if shape else None, row.mean_us / 1000)
        for shape, row in zip(found, rows, strict=True)
    ]
    return times_by_operator(shapes, timed, total_ms)


def latency_parts(
    operators: Iterable[OperatorLatency], whole: Figure, method: CostSource
) -> LatencyParts:
    """The latency ``whole``, divided into its operators and the rest."""
    rows = tuple(operators)
    return LatencyParts(
        source=whole.source,
        method=method,
        latency_ms=whole.value,
        interval=whole.interval,
        operators=tuple(_rounded(row, whole.value) for row in rows),
        rest_ms=round(whole.value - sum(row.latency_ms for row in rows), 6),
    )


def profiled_rows(
    runtime: RuntimeName,
    program: Program,
    shapes: Sequence[OperatorShape] | None,
    rows: Sequence[ProfileRow],
) -> Iterator[OperatorLatency]:
    """The rows of a profile. ``shapes``: None if the runtime cannot tell them."""
    where = locate(runtime, program, rows)
    for row, place, shape in zip(rows, where, _shapes_of(where, shapes or (), rows), strict=True):
        yield OperatorLatency(
            layer=place.layer,
            kind=shape.kind if shape else place.name,
            precision=shape.precision if shape else None,
            latency_ms=row.mean_us / 1000,
        )


def calibrated_rows(times: OperatorTimes) -> Iterator[OperatorLatency]:
    """The operators of a prediction by a calibration, but those that are fused into others."""
    for shape, latency_ms in times.operators:
        if latency_ms > 0:
            yield OperatorLatency(
                layer=shape.layer,
                kind=shape.kind,
                precision=shape.precision,
                latency_ms=latency_ms,
            )


def _rounded(row: OperatorLatency, whole_ms: float) -> OperatorLatency:
    share = round(row.latency_ms / whole_ms, 5)
    return row.replaced(latency_ms=round(row.latency_ms, 6), share=share)


def _shapes_of(
    located: Sequence[Located], shapes: Sequence[OperatorShape], rows: Sequence[ProfileRow]
) -> list[OperatorShape | None]:
    """The operator of each row; None if the runtime inserted it."""
    at = {shape.place: shape for shape in shapes}
    return [
        None if where.operator is None else at.get((row.instruction, where.operator))
        for row, where in zip(rows, located, strict=True)
    ]


def _check_rounds(reports: Sequence[RunReport]) -> None:
    """Raise RunnerError unless each row has the same operator in all rounds: rows are averaged."""
    first, *others = [
        [(row.instruction, row.index, row.name) for row in report.profile] for report in reports
    ]
    for number, rows in enumerate(others, 2):
        if rows != first:
            raise RunnerError(
                f"profiled round {number} has other operators than round 1 "
                f"({len(rows)} rows and {len(first)})",
                "the runner or its model was changed in the meantime: deploy the bundle again",
            )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
