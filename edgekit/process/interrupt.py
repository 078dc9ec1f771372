"""Where an interruption must not unwind the stack, and where it only ends what is going on.

Raising KeyboardInterrupt inside torch's tracing, or in the middle of its import, passes an
exception through C++ that is not written for it: the process aborts. There the command line
leaves at once instead; the operating system and the devices close what was open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_depth = 0
_stops: list[bool] = []


@contextmanager
def fragile() -> Iterator[None]:
    """Work that leaves nothing to clean up, and that an exception from outside would break."""
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
    """Work that the first Ctrl-C ends early, keeping what it has: was it asked to?"""
    _stops.append(False)
    index = len(_stops) - 1
    try:
        yield lambda: _stops[index]
    finally:
        _stops.pop()


def takes_stop() -> bool:
    """Ask the innermost such work to end. False: there is none, or it was asked before."""
    if not _stops or _stops[-1]:
        return False
    _stops[-1] = True
    return True
