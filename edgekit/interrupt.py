"""Where an interruption must not unwind the stack.

Raising KeyboardInterrupt inside torch's tracing, or in the middle of its import, passes an
exception through C++ that is not written for it: the process aborts. There the command line
leaves at once instead; the operating system and the devices close what was open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_depth = 0


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
