"""Which segments of a profiled inference are its operators. Pure functions.

While profiling, the runner reads a clock before and after each operator, and marks these readings
(edgekit/runner/native/markers.h). What lies between two marks is an operator, the runtime's own
work, or the profiling itself, which is no part of an inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from edgekit.cost.emulation.counts import Segment, joined

READING, OPERATOR_OPEN, OPERATOR_CLOSE, LIBRARY, LEAVE_OUT = 9, 10, 13, 14, 15
# A segment that ends with one of these belongs to profiling.
PROFILING = (OPERATOR_OPEN, OPERATOR_CLOSE, LIBRARY, LEAVE_OUT)
# An operator, or a part of one, lies between two readings of these kinds: the runtime reads the
# clock anew before and after a kernel; a delegate reads it once between two of its operators.
AROUND_OPERATORS = ((OPERATOR_OPEN, OPERATOR_CLOSE), (LIBRARY, LIBRARY))


class Parts(NamedTuple):
    """``operators``: in order of execution, some in several parts. ``others``: what the runtime
    does between them.
    """

    operators: tuple[Segment, ...]
    others: tuple[Segment, ...]


def parts_of(segments: Sequence[Segment]) -> Parts:
    """Without profiling there are no operators: all is one other segment."""
    operators: list[Segment] = []
    others: list[Segment] = []
    marks = [0, *(segment.mark for segment in segments), 0]
    for place, segment in enumerate(segments):
        if segment.mark in PROFILING:
            continue
        # the reading is the next segment; its own mark tells its kind
        around = (marks[place], marks[place + 2])
        is_operator = segment.mark == READING and around in AROUND_OPERATORS
        (operators if is_operator else others).append(segment)
    return Parts(tuple(operators), tuple(others))


def by_row(operators: Sequence[Segment], readings: Sequence[int]) -> tuple[Segment, ...]:
    """The segment of each row of the profile; () if their numbers do not fit.

    ``readings``: of each row, after how many parts the clock was read; 0 is one part.
    """
    parts = [max(count, 1) for count in readings]
    if sum(parts) != len(operators):
        return ()
    ends = list(accumulate(parts))
    return tuple(
        joined(operators[end - count : end]) for end, count in zip(ends, parts, strict=True)
    )
