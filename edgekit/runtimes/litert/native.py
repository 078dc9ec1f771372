"""LiteRT's part of the native runner, and the library that it loads."""

from __future__ import annotations

from pathlib import Path

from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.litert.wheel import VERSION, WHEEL
from edgekit.runtimes.native_runner import Engine
from edgekit.target import Architecture

# Of the runner. The library needs 2.34 on aarch64, whatever the name of its wheel says, and the
# bundle's manifest names what its files need.
GLIBC = "2.28"
LIBRARY = "libLiteRt.so"
ENGINE = Engine(source=Path(__file__).parent / "native", glibc=GLIBC, version=VERSION)


def runner_files(architecture: Architecture, progress: Progress) -> RunnerFiles:
    """The runner for ``architecture``, and the wheel's library.

    Raises RuntimeFailure: the wheel cannot be fetched, or the compiler failed.
    """
    wheel = WHEEL.folder(architecture, progress)
    runner = ENGINE.runner(architecture, wheel, progress)
    return RunnerFiles(runner, {LIBRARY: wheel / LIBRARY})
