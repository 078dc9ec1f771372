"""The programs that a prediction by emulation needs, and the packages that bring them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekit.cost.cores import CORE_MODELS
from edgekit.device.local import LocalTransport
from edgekit.device.qemu import Emulator, find_emulators, loads_plugins
from edgekit.errors import EdgekitError

# llvm-mca skips instructions without a schedule, and takes a latency of calls, from 20 on.
OLDEST_LLVM, NEWEST_LLVM = 20, 40
OLDEST_QEMU = "7.1"  # the first with a Cortex-A76
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
    return next((found for found in _llvms() if found.version >= OLDEST_LLVM), None)


def _llvms() -> Iterator[Llvm]:
    for suffix in (*(f"-{n}" for n in range(NEWEST_LLVM, OLDEST_LLVM - 1, -1)), ""):
        mc, mca = shutil.which(f"llvm-mc{suffix}"), shutil.which(f"llvm-mca{suffix}")
        version = llvm_version(mca) if mc and mca else None
        if mc and mca and version is not None:
            yield Llvm(mc, mca, version)


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
    """The first of QEMU's user modes on PATH that loads plugins."""
    return next(filter(loads_plugins, find_emulators("aarch64")), None)


@dataclass(frozen=True)
class Tool:
    """``find``: what is installed, in words; None if nothing usable is. ``problem``: what is wrong
    with what is installed; None if nothing is wrong or installed. ``packages``: Debian's;
    ``packages_repair``: whether they solve the problem.
    """

    name: str
    purpose: str
    packages: str
    find: Callable[[], str | None]
    problem: Callable[[], str | None] = lambda: None
    packages_repair: bool = True


def _emulator() -> str | None:
    found = find_plugin_emulator()
    return f"{found.version}, {found.program}" if found else None


def _emulator_problem() -> str | None:
    """Newer packages of Debian and Ubuntu are static; versions before 7.1 lack the Pi 5's core."""
    usable = find_plugin_emulator()
    found = usable or next(find_emulators("aarch64"), None)
    if found is None:
        return None
    if usable is None:
        return (
            f"{found.version}, {found.program}: built without plugins, so latency is only "
            "estimated (docs/prediction.md, Tools for emulation)"
        )
    missing = sorted(set(CORE_MODELS) - usable.cpus)
    return f"{_emulator()}: no {', '.join(missing)}; needs QEMU {OLDEST_QEMU}" if missing else None


def _llvm() -> str | None:
    found = find_llvm()
    return f"{found.version}, {found.mca}" if found else None


def _llvm_problem() -> str | None:
    old = next(_llvms(), None)
    if old is None or find_llvm() is not None:
        return None
    return f"{old.version}, {old.mca}: needs {OLDEST_LLVM} or newer; latency is only estimated"


def _compiler() -> str | None:
    found = find_compiler()
    return " ".join(found) if found else None


TOOLS = (
    Tool(
        "qemu-aarch64 (plugins)",
        "a QEMU that loads plugins",
        QEMU_PACKAGES,
        _emulator,
        _emulator_problem,
        packages_repair=False,
    ),
    Tool("llvm-mca", f"LLVM {OLDEST_LLVM} or newer", LLVM_PACKAGE, _llvm, _llvm_problem),
    Tool("C compiler", "compiles a plugin of QEMU", COMPILER_PACKAGE, _compiler),
)


def missing_tools() -> Iterator[Tool]:
    return (tool for tool in TOOLS if tool.find() is None)
