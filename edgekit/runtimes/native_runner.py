"""Builds native runners from the project's own source; each is cached by its inputs.

A runner is the source that all runtimes share (edgekit/runner/native) and a runtime's engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekit.cache import cache_folder, content_key, make_folder_once
from edgekit.errors import RuntimeFailure
from edgekit.progress import Progress
from edgekit.target import Architecture

SHARED_SOURCE = Path(__file__).parents[1] / "runner" / "native"
COMPILE = (
    "-O2", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics",
    "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-ffunction-sections",
)  # fmt: skip
LINK = ("-O2", "-s", "-Wl,--gc-sections", "-Wl,-rpath,$ORIGIN/lib")


@dataclass(frozen=True)
class Engine:
    """A runtime's part of a runner. ``source``: the folder of its files. ``glibc``: the oldest C
    library that the runner starts with. ``version``: stands for the vendor's headers and
    libraries. ``include``: folders of its headers below the wheel's, for ``compile``.
    """

    source: Path
    glibc: str
    version: str
    include: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()
    link: tuple[str, ...] = ()

    def folder(self, architecture: Architecture) -> Path:
        """The folder of the compiled runner, which may not exist yet.

        Raises PackageNotFoundError: ziglang is not installed.
        """
        return cache_folder() / "runners" / _key(self, architecture)

    def known_folder(self, architecture: Architecture) -> Path | None:
        """The same; None if ziglang is not installed."""
        try:
            return self.folder(architecture)
        except PackageNotFoundError:
            return None

    def runner(self, architecture: Architecture, wheel: Path, progress: Progress) -> Path:
        """The compiled runner. ``wheel``: the folder with the vendor's headers and libraries.

        Raises RuntimeFailure: the compiler failed.
        """
        folder = self.folder(architecture)
        if not folder.is_dir():
            with progress.stage(f"compiling the native runner for {architecture} (once)"):
                make_folder_once(
                    folder, lambda draft: _compile(self, architecture, wheel, draft / "runner")
                )
        return folder / "runner"

    def sources(self) -> list[Path]:
        """All files by name: the linker's order must not depend on the folder."""
        paths = [*SHARED_SOURCE.glob("*.[ch]*"), *self.source.glob("*.[ch]*")]
        return sorted(paths, key=lambda path: path.name)


@cache
def _key(engine: Engine, architecture: Architecture) -> str:
    """A digest of the runner's inputs."""
    flags = [*COMPILE, *LINK, *engine.include, *engine.compile, *engine.link]
    parts = [architecture, engine.glibc, engine.version, version("ziglang"), *flags]
    files = [part for path in engine.sources() for part in (path.name.encode(), path.read_bytes())]
    return content_key([part.encode() for part in parts] + files)[:32]


def _compile(engine: Engine, architecture: Architecture, wheel: Path, output: Path) -> None:
    """Compile and link without a C++ library, which our source does not need. The runner is a tenth
    as large, and zig need not build that library.
    """
    target = ("-target", f"{architecture}-linux-gnu.{engine.glibc}")
    folders = [str(wheel / name) for name in engine.include]
    headers = [f"-I{SHARED_SOURCE}"]
    for folder in folders:
        headers += ["-isystem", folder]  # no warnings about the vendor's headers
    # assertions in headers contain their path: without folders, equal sources give equal bytes
    headers += [
        f"-ffile-prefix-map={folder}=." for folder in (SHARED_SOURCE, engine.source, *folders)
    ]
    objects = []
    for source in (path for path in engine.sources() if path.suffix == ".cpp"):
        objects.append(output.with_name(f"{source.stem}.o"))
        compile_one = (*target, *COMPILE, *engine.compile, *headers)
        _zig("c++", *compile_one, "-c", str(source), "-o", str(objects[-1]))
    link = (f"-L{wheel / 'lib'}", *LINK, *engine.link)
    _zig("cc", *target, *map(str, objects), *link, "-o", str(output))
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
