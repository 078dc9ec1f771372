"""Builds the native runner from the project's own source; the result is cached by its inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from edgekit.cache import cache_folder, content_key, make_folder_once
from edgekit.errors import RuntimeFailure
from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.executorch import describe
from edgekit.runtimes.executorch.wheel import VERSION, installed_folder, wheel_folder
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
COMPILE = (
    "-O2", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics",
    "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-ffunction-sections",
    "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL",
)  # fmt: skip
LINK = (
    "-O2", "-s", "-Wl,--gc-sections", "-lexecutorch", "-lexecutorch_threadpool",
    "-Wl,-rpath,$ORIGIN/lib",
)  # fmt: skip


def runner_files(architecture: Architecture, progress: Progress) -> RunnerFiles:
    """The runner for ``architecture``, and the wheel's libraries that it may load.

    Raises RuntimeFailure: the wheel cannot be fetched, or the compiler failed.
    """
    wheel = wheel_folder(architecture, progress)
    folder = runner_folder(architecture)
    if not folder.is_dir():
        with progress.stage(f"compiling the native runner for {architecture} (once)"):
            make_folder_once(folder, lambda draft: _compile(architecture, wheel, draft / "runner"))
    libraries = {name: wheel / "lib" / name for name in LIBRARIES}
    return RunnerFiles(folder / "runner", libraries)


def runner_folder(architecture: Architecture) -> Path:
    """The folder of the compiled runner, which may not exist yet.

    Raises PackageNotFoundError: ziglang is not installed.
    """
    return cache_folder() / "runners" / _key(architecture)


def _sources() -> list[Path]:
    """All source files by name: the linker's order must not depend on the folder."""
    paths = [*SHARED_SOURCE.glob("*.[ch]*"), *ENGINE_SOURCE.glob("*.[ch]*")]
    return sorted(paths, key=lambda path: path.name)


@cache
def _key(architecture: Architecture) -> str:
    """A digest of the runner's inputs; the version stands for the wheel's headers and libraries."""
    parts = [architecture, GLIBC, VERSION, version("ziglang"), *COMPILE, *LINK]
    sources = [part for path in _sources() for part in (path.name.encode(), path.read_bytes())]
    return content_key([part.encode() for part in parts] + sources)[:32]


def _compile(architecture: Architecture, wheel: Path, output: Path) -> None:
    """Compile and link without a C++ library, which our source does not need. The runner is a tenth
    as large, and zig need not build that library.
    """
    target = ("-target", f"{architecture}-linux-gnu.{GLIBC}")
    include = wheel / "include"
    # -isystem: no warnings about the vendor's headers
    headers = (
        f"-I{SHARED_SOURCE}", "-isystem", str(include),
        "-isystem", str(include / "executorch/runtime/core/portable_type/c10"),
        # assertions in headers contain their path: without folders, equal sources give equal bytes
        *(f"-ffile-prefix-map={folder}=." for folder in (SHARED_SOURCE, ENGINE_SOURCE, include)),
    )  # fmt: skip
    objects = []
    for source in (path for path in _sources() if path.suffix == ".cpp"):
        objects.append(output.with_name(f"{source.stem}.o"))
        _zig("c++", *target, *COMPILE, *headers, "-c", str(source), "-o", str(objects[-1]))
    _zig("cc", *target, *map(str, objects), f"-L{wheel / 'lib'}", *LINK, "-o", str(output))
    for path in objects:
        path.unlink()
    output.chmod(0o755)


def _zig(*arguments: str) -> None:
    # zig caches its own compiled libraries, by default outside our cache
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")}
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeFailure(
            f"the native runner could not be compiled:\n{done.stderr.strip()}",
            "reinstall the compiler: pip install --force-reinstall ziglang",
        )


def missing_kernels(names: set[str]) -> set[str]:
    """The kernels (``aten::sort.values``) that no library registers: it would contain the name."""
    folder = installed_folder() / "lib"
    missing = set(names)
    for library in LIBRARIES:
        if not missing:
            break  # do not read megabytes of libraries without need
        data = (folder / library).read_bytes()
        missing = {name for name in missing if name.encode() + b"\0" not in data}
    return missing
