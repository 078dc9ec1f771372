"""Looks after programs that tests start on the other side of a connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# How long a thing may take that takes a moment, on a machine that does nothing else.
LIMIT_S = 30.0


def patience_s(limit_s: float = LIMIT_S) -> float:
    """The limit on this machine, as busy as it is now: emulated devices share its processors."""
    return limit_s * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def running(mark: str) -> list[int]:
    """The processes whose command line holds ``mark``; our own aside."""
    found = []
    for pid in _processes():
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            if mark in line.decode(errors="replace"):
                found.append(pid)
    return found


def holding(path: str) -> list[int]:
    """The processes that have this file open, ours aside."""
    found = set()
    for pid in _processes():
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if str(entry.readlink()) == path:
                        found.add(pid)
    return sorted(found)


def _processes() -> list[int]:
    """All but our own. glob would fail where one ends meanwhile."""
    names = [entry.name for entry in Path("/proc").iterdir()]
    return [int(name) for name in names if name.isdigit() and int(name) != os.getpid()]


def until(condition: Callable[[], object], what: str) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < patience_s(), what
        time.sleep(0.05)


def gone(mark: str) -> None:
    until(lambda: not running(mark), f"{mark} still runs")


def sleeper(mark: str) -> list[str]:
    """A program that another one waits for, and that does not die of SIGTERM or SIGHUP."""
    script = 'trap "" TERM HUP; sh -c "trap \\"\\" TERM HUP; while sleep 1; do :; done" "$0"; true'
    return ["sh", "-c", script, mark]
