"""Compiles the plugin of QEMU from the project's own source; the result is cached by its inputs."""

from __future__ import annotations

import platform
from pathlib import Path

from edgekit.cache import cache_folder, content_key, make_folder_once
from edgekit.device.local import LocalTransport
from edgekit.device.qemu import Emulator
from edgekit.errors import RuntimeFailure

SOURCE = Path(__file__).parent / "native" / "block_counter.c"
FLAGS = ("-O2", "-shared", "-fPIC", "-Wl,-z,undefs")  # QEMU itself defines the rest
TIME_LIMIT_S = 60.0


def plugin_api(emulator: Emulator) -> int:
    """The version of the plugin interface that this QEMU accepts."""
    version = tuple(int(part) for part in emulator.version.split(".")[:2])
    if version < (9, 0):
        return 1
    return 2 if version < (9, 1) else 3


def plugin_file(emulator: Emulator, compiler: tuple[str, ...]) -> Path:
    """The compiled plugin for this QEMU. Raises RuntimeFailure if the compiler fails."""
    api = plugin_api(emulator)
    parts = [platform.machine(), str(api), *compiler, *FLAGS]
    key = content_key([SOURCE.read_bytes(), *(part.encode() for part in parts)])[:32]
    folder = cache_folder() / "runners" / f"block-counter-{key}"
    make_folder_once(folder, lambda draft: _compile(compiler, api, draft / "block_counter.so"))
    return folder / "block_counter.so"


def _compile(compiler: tuple[str, ...], api: int, output: Path) -> None:
    command = [*compiler, *FLAGS, f"-DQEMU_PLUGIN_API={api}", str(SOURCE), "-o", str(output)]
    try:
        done = LocalTransport().run(command, timeout_s=TIME_LIMIT_S)
    except TimeoutError:
        raise RuntimeFailure(f"the compiler took longer than {TIME_LIMIT_S:g} s") from None
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        raise RuntimeFailure(
            f"the plugin of QEMU could not be compiled by {' '.join(compiler)}:\n{message}",
            "install a C compiler: sudo apt-get install gcc libc6-dev",
        )
