"""Builds the native runner from the project's own source, once for each content of its parts."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from edgekit.cache import cache_folder, content_key, folder_once
from edgekit.errors import RuntimeFailure
from edgekit.progress import Progress
from edgekit.runtimes.base import RunnerFiles
from edgekit.runtimes.executorch import describe
from edgekit.runtimes.executorch.wheel import VERSION, wheel_folder
from edgekit.target import Architecture

GLIBC = "2.28"
SHARED_SOURCE = Path(__file__).parents[2] / "runner" / "native"
ENGINE_SOURCE = Path(__file__).parent / "native"
LIBRARIES = (
    *describe.BASE_LIBRARIES,
    describe.XNNPACK_LIBRARY,
    describe.KERNEL_LIBRARY,
    describe.QUANTIZED_LIBRARY,
)
FLAGS = (
    "-O2", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-s",
    "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL",
)  # fmt: skip


def runner_files(architecture: Architecture, progress: Progress) -> RunnerFiles:
    """The runner for ``architecture`` and the wheel's libraries it may load.

    Raises RuntimeFailure: the wheel cannot be had, or the compiler failed.
    """
    wheel = wheel_folder(architecture, progress)
    folder = cache_folder() / "runners" / _key(architecture)
    if not folder.is_dir():
        with progress.stage(f"compiling the native runner for {architecture} (once)"):
            folder_once(folder, lambda draft: _compile(architecture, wheel, draft / "runner"))
    libraries = {name: wheel / "lib" / name for name in LIBRARIES}
    return RunnerFiles(folder / "runner", libraries)


def _sources() -> list[Path]:
    return sorted([*SHARED_SOURCE.glob("*.[ch]*"), *ENGINE_SOURCE.glob("*.[ch]*")])


@cache
def _key(architecture: Architecture) -> str:
    """What goes into the runner. The wheel's headers and libraries are pinned by its version."""
    parts = [architecture, GLIBC, VERSION, version("ziglang"), *FLAGS]
    sources = [part for path in _sources() for part in (path.name.encode(), path.read_bytes())]
    return content_key([part.encode() for part in parts] + sources)[:32]


def _compile(architecture: Architecture, wheel: Path, output: Path) -> None:
    include = wheel / "include"
    command = [
        sys.executable, "-m", "ziglang", "c++", "-target", f"{architecture}-linux-gnu.{GLIBC}",
        *FLAGS, f"-I{SHARED_SOURCE}", f"-I{include}",
        f"-I{include / 'executorch/runtime/core/portable_type/c10'}",
        *(str(path) for path in _sources() if path.suffix == ".cpp"),
        f"-L{wheel / 'lib'}", "-lexecutorch", "-lexecutorch_threadpool",
        "-Wl,-rpath,$ORIGIN/lib", "-o", str(output),
    ]  # fmt: skip
    # zig keeps what it compiles of its own libraries; its default place is outside our cache.
    caches = {
        "ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(output.parent.parent / "zig"),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | caches
    )
    if done.returncode != 0 or not output.is_file():
        raise RuntimeFailure(
            f"the native runner for {architecture} could not be compiled:\n{done.stderr.strip()}",
            "is the ziglang package complete (pip install --force-reinstall ziglang)?",
        )
    output.chmod(0o755)
