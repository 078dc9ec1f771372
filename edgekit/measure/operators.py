"""Time by operator and layer, from profiled runs on a device. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.documents.measure import REMAINDER, OperatorTime
from edgekit.errors import RunnerError
from edgekit.program import Program
from edgekit.runner.client import RunReport
from edgekit.runtimes.registry import locate
from edgekit.target import RuntimeName

# A round's runs: as many as take this long, within bounds. Means of few runs of microseconds are
# those of their interruptions.
ROUND_MS = 50.0
LEAST_RUNS, MOST_RUNS = 10, 1000


def runs_of_round(timed: RunReport, most: int) -> int:
    """How often a round profiles what was timed so; ``most`` bounds it for a slow program only."""
    mean_ms = sum(timed.latencies_ms) / len(timed.latencies_ms)
    least = min(LEAST_RUNS, most)
    return max(least, min(MOST_RUNS, int(ROUND_MS / mean_ms)))


def operator_times(
    runtime: RuntimeName, program: Program, reports: Sequence[RunReport]
) -> tuple[tuple[OperatorTime, ...], float | None]:
    """The operators in order of execution, and the whole that they add up to, in ms.

    Every round counts the same. The last row is what the whole has beside the operators; where
    the runner does not tell the whole, there is neither. Raises RunnerError where the rounds are
    not of the same operators.
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


def _check_rounds(reports: Sequence[RunReport]) -> None:
    """Row by row the rounds are averaged: each must be of the same operator in all of them."""
    first, *others = [
        [(row.instruction, row.index, row.name) for row in report.profile] for report in reports
    ]
    for number, rows in enumerate(others, 2):
        if rows != first:
            raise RunnerError(
                f"profiled round {number} tells of other operators than round 1 "
                f"({len(rows)} rows and {len(first)})",
                "the runner or its model changed meanwhile: deploy the bundle again",
            )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
