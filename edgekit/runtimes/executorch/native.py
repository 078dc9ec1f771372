"""ExecuTorch's part of the native runner, and the libraries that it may load."""

from __future__ import annotations

from pathlib import Path

from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.executorch import describe
from edgekit.runtimes.executorch.wheel import VERSION, WHEEL
from edgekit.runtimes.native_runner import Engine
from edgekit.target import Architecture

GLIBC = "2.28"
LIBRARIES = (
    *describe.BASE_LIBRARIES,
    describe.XNNPACK_LIBRARY,
    describe.KERNEL_LIBRARY,
    describe.QUANTIZED_LIBRARY,
)
ENGINE = Engine(
    source=Path(__file__).parent / "native",
    glibc=GLIBC,
    version=VERSION,
    include=("include", "include/executorch/runtime/core/portable_type/c10"),
    compile=(
        "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL",
    ),
    link=("-lexecutorch", "-lexecutorch_threadpool"),
)  # fmt: skip


def runner_files(architecture: Architecture, progress: Progress) -> RunnerFiles:
    """The runner for ``architecture``, and the wheel's libraries that it may load.

    Raises RuntimeFailure: the wheel cannot be fetched, or the compiler failed.
    """
    wheel = WHEEL.folder(architecture, progress)
    runner = ENGINE.runner(architecture, wheel, progress)
    return RunnerFiles(runner, {name: wheel / "lib" / name for name in LIBRARIES})


def missing_kernels(names: set[str]) -> set[str]:
    """The kernels (``aten::sort.values``) that no library registers: it would contain the name."""
    folder = WHEEL.installed_folder() / "lib"
    missing = set(names)
    for library in LIBRARIES:
        if not missing:
            break  # do not read megabytes of libraries without need
        data = (folder / library).read_bytes()
        missing = {name for name in missing if name.encode() + b"\0" not in data}
    return missing
