"""The operators among the segments of a profiled inference."""

from __future__ import annotations

import pytest

from edgekit.cost.emulation.counts import CacheCount, Segment
from edgekit.cost.emulation.segments import by_row, parts_of

END = 12
READING, OPEN, CLOSE, LIBRARY, LEAVE_OUT = 9, 10, 13, 14, 15


def segments(*marks: int) -> list[Segment]:
    """Each with its own number of loads, by which the tests know it."""
    caches = (CacheCount(0, 0),)
    return [Segment(mark, loads, 0, caches, ()) for loads, mark in enumerate(marks)]


def places(*marks: int) -> tuple[list[int], list[int]]:
    operators, others = parts_of(segments(*marks))
    return [one.loads for one in operators], [one.loads for one in others]


def test_without_profiling_all_is_one_segment() -> None:
    assert places(END) == ([], [0])


def test_a_kernel_lies_between_its_own_two_readings() -> None:
    # start of the profile, the instruction's event, the kernel's event
    around = (LEAVE_OUT, READING, OPEN, READING, OPEN, READING, CLOSE, READING, CLOSE, READING)
    assert places(*around, LEAVE_OUT, END) == ([5], [1, 3, 7, 9, 11])


def test_a_delegates_operators_lie_between_a_librarys_readings() -> None:
    call = (READING, OPEN, READING, LIBRARY, READING, LIBRARY, READING, LIBRARY)
    # then it writes two events, which is profiling
    assert places(*call, LEAVE_OUT, LEAVE_OUT, READING, CLOSE, END) == ([4, 6], [0, 2, 10, 12])


def test_a_delegate_that_does_not_profile_is_one_operator() -> None:
    assert places(READING, OPEN, READING, CLOSE, END) == ([2], [0, 4])


@pytest.mark.parametrize("end", [(), (END,)])
def test_a_run_that_stops_early_has_no_half_operator(end: tuple[int, ...]) -> None:
    assert places(READING, OPEN, *end)[0] == []


def test_an_operator_of_several_parts_is_one_segment() -> None:
    """XNNPACK reads the clock after each part of a concatenation."""
    parts = [Segment(READING, 1, 2, (CacheCount(3, 4),), ((0, 5),)) for _ in range(4)]
    first, second, third = by_row(parts, [1, 2, 0])
    assert first == third == parts[0]
    assert second == Segment(READING, 2, 4, (CacheCount(6, 8),), ((0, 5), (0, 5)))
    assert by_row(parts, [1, 2]) == ()
    assert by_row([], []) == ()
