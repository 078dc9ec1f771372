"""The programs that a prediction by emulation needs, and the packages that bring them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekit.device.local import LocalTransport
from edgekit.device.qemu import Emulator, find_emulator
from edgekit.errors import EdgekitError

# llvm-mca skips instructions without a schedule, and takes a latency of calls, from 20 on.
OLDEST_LLVM, NEWEST_LLVM = 20, 40
QEMU_PACKAGES = "qemu-user libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross"
LLVM_PACKAGE = "llvm-22"
COMPILER_PACKAGE = "gcc"


@dataclass(frozen=True)
class Llvm:
    """llvm-mc and llvm-mca of one version. ``version``: the major number."""

    mc: str
    mca: str
    version: int


def find_llvm() -> Llvm | None:
    """The newest installed LLVM that is new enough."""
    for suffix in (*(f"-{n}" for n in range(NEWEST_LLVM, OLDEST_LLVM - 1, -1)), ""):
        mc, mca = shutil.which(f"llvm-mc{suffix}"), shutil.which(f"llvm-mca{suffix}")
        version = llvm_version(mca) if mc and mca else None
        if mc and mca and version is not None and version >= OLDEST_LLVM:
            return Llvm(mc, mca, version)
    return None


def llvm_version(program: str | None) -> int | None:
    """The major version that an LLVM program prints; None if it does not run."""
    if program is None:
        return None
    try:
        done = LocalTransport().run([program, "--version"], timeout_s=10)
    except (EdgekitError, TimeoutError):
        return None
    found = re.search(rb"LLVM version (\d+)", done.stdout)
    return int(found[1]) if found else None


def find_compiler() -> tuple[str, ...] | None:
    """A C compiler for this host, as the beginning of a command."""
    if program := shutil.which("cc"):
        return (program,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc")
    return None


def find_plugin_emulator() -> Emulator | None:
    """QEMU's user mode, as a dynamic program: a static one loads no plugins."""
    emulator = find_emulator("aarch64")
    return None if emulator is None or emulator.program.endswith("-static") else emulator


@dataclass(frozen=True)
class Tool:
    """``find``: what is installed, in words; None if missing. ``packages``: Debian's."""

    name: str
    purpose: str
    packages: str
    find: Callable[[], str | None]


def _emulator() -> str | None:
    found = find_plugin_emulator()
    return f"{found.version}, {found.program}" if found else None


def _llvm() -> str | None:
    found = find_llvm()
    return f"{found.version}, {found.mca}" if found else None


def _compiler() -> str | None:
    found = find_compiler()
    return " ".join(found) if found else None


TOOLS = (
    Tool("qemu-aarch64 (plugins)", "a QEMU that loads plugins", QEMU_PACKAGES, _emulator),
    Tool("llvm-mca", f"LLVM {OLDEST_LLVM} or newer", LLVM_PACKAGE, _llvm),
    Tool("C compiler", "compiles a plugin of QEMU", COMPILER_PACKAGE, _compiler),
)


def missing_tools() -> Iterator[Tool]:
    return (tool for tool in TOOLS if tool.find() is None)
