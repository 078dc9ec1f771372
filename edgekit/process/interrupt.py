"""Work during which Ctrl-C must not raise an exception, and work that Ctrl-C only ends early.

A KeyboardInterrupt inside torch's tracing or import passes through C++ code that cannot handle
it: the process aborts. There the command line exits at once instead. The operating system and the
devices then clean up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_depth = 0
_stops: list[bool] = []


@contextmanager
def uninterruptible() -> Iterator[None]:
    """Mark work that needs no clean-up and that an exception would break."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def is_fragile() -> bool:
    return _depth > 0


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Mark work that the first Ctrl-C ends early, with its results so far.

    Yields a function that returns whether the work should end.
    """
    _stops.append(False)
    index = len(_stops) - 1
    try:
        yield lambda: _stops[index]
    finally:
        _stops.pop()


def takes_stop() -> bool:
    """Ask the innermost stoppable work to end. False if there is none, or it was asked before."""
    if not _stops or _stops[-1]:
        return False
    _stops[-1] = True
    return True
