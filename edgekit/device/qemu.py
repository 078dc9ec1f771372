"""An emulated CPU on this host as a device.

QEMU's user mode runs programs of another architecture. It reveals unsupported instructions and
wrong results. Its latency and memory are not evidence for a real device.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.device.base import Completed, Stdin
from edgekit.device.debian import SUITES, PythonRoot, python_of, root_folder
from edgekit.device.local import LocalProcess, LocalTransport
from edgekit.errors import DeviceError, EdgekitError
from edgekit.target import Architecture

LOADERS: dict[Architecture, str] = {
    "x86_64": "lib64/ld-linux-x86-64.so.2",
    "aarch64": "lib/ld-linux-aarch64.so.1",
    "armv7l": "lib/ld-linux-armhf.so.3",
}
# The names of their folders of libraries, and of QEMU's programs, where they are not obvious.
TRIPLES: dict[Architecture, str] = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "arm-linux-gnueabihf",
}
PROGRAMS: dict[Architecture, str] = {"armv7l": "qemu-arm"}
# QEMU prints this if a signal ended the emulated program, but not if QEMU itself failed.
GUEST_SIGNAL = b"uncaught target signal"
# Otherwise QEMU writes the emulated program's core file beside the user's files, and the kernel
# writes QEMU's own.
NO_CORE_FILES = ("sh", "-c", 'ulimit -c 0; exec "$@"', "sh")


@dataclass(frozen=True)
class Emulator:
    """QEMU's user mode for one architecture: its program, and the CPUs that it supports."""

    program: str
    version: str
    cpus: frozenset[str]

    @property
    def label(self) -> str:
        return f"{Path(self.program).name} {self.version}"


@dataclass(frozen=True)
class Sysroot:
    """A folder with an architecture's C and C++ libraries, and their newest symbol versions."""

    root: Path
    glibc: tuple[int, ...]
    glibcxx: tuple[int, ...]


@dataclass(frozen=True)
class Core:
    """An Arm core as a kernel describes it: the fields of MIDR_EL1, and the features.
    ``version``: of Arm's architecture.
    """

    part: int
    variant: int
    revision: int
    features: str
    version: int = 8

    @property
    def midr(self) -> int:
        return 0x410F0000 | self.variant << 20 | self.part << 4 | self.revision


ARMV7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
ARMV8 = "fp asimd evtstrm crc32 cpuid"
ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
# By QEMU's names. A53, A72 and A76 are the cores of the Raspberry Pi 3, 4 and 5: of these, only
# the A76 has Arm's cryptography extension.
CORES = {
    "cortex-a7": Core(0xC07, 0, 5, ARMV7, version=7),
    "cortex-a15": Core(0xC0F, 2, 1, ARMV7, version=7),
    "cortex-a35": Core(0xD04, 0, 2, ARMV8),
    "cortex-a53": Core(0xD03, 0, 4, ARMV8),
    "cortex-a55": Core(0xD05, 2, 0, ARMV8_2),
    "cortex-a57": Core(0xD07, 1, 1, ARMV8),
    "cortex-a72": Core(0xD08, 0, 3, ARMV8),
    "cortex-a76": Core(0xD0B, 4, 1, ARMV8_2),
    "neoverse-n1": Core(0xD0C, 3, 1, ARMV8_2),
}
# An arbitrary value, equal for all cores: XNNPACK would treat unequal ones as big and little.
CLOCK_KHZ = 1_500_000


class QemuProcess(LocalProcess):
    def __init__(self, argv: Sequence[str], name: str) -> None:
        super().__init__(argv)
        self._name = name

    def wait(self, timeout_s: float | None = None) -> Completed:
        return require_guest_end(super().wait(timeout_s), self._name)


class QemuTransport(LocalTransport):
    """This host, with an emulated CPU.

    A program given by its path runs on the emulated CPU and must be executable. A program given
    by its name alone (``sh``) is the host's. ``root`` is QEMU's ``-L``: its files hide the
    host's files of the same path (``fake_root``). ``options``: further ones of QEMU. ``python``:
    programs are in Python, and the Python of ``root`` runs them.

    Besides the cases of Transport, DeviceError means that QEMU itself failed.
    """

    def __init__(
        self,
        emulator: Emulator,
        cpu: str,
        root: Path,
        options: Sequence[str] = (),
        python: bool = False,
    ) -> None:
        self.name = f"an emulated {cpu} ({emulator.label})"
        own = [emulator.program, "-cpu", cpu, "-L", str(root), *options]
        if python:
            # by their own paths: QEMU 7.2 does not look for all of them below -L (statx)
            system = PythonRoot(root, "")
            own += ["-E", f"PYTHONPATH={system.packages}", "-U", "PYTHONHOME"]
            own += ["-E", "PYTHONNOUSERSITE=1", "-E", "PYTHONDONTWRITEBYTECODE=1"]
            own.append(str(system.python))
        self._prefix = [*NO_CORE_FILES, *own]

    def run(
        self, argv: Sequence[str], *, stdin: Stdin = b"", timeout_s: float | None = None
    ) -> Completed:
        done = super().run(self._command(argv), stdin=stdin, timeout_s=timeout_s)
        return require_guest_end(done, self.name)

    def start(self, argv: Sequence[str]) -> QemuProcess:
        return QemuProcess(self._command(argv), self.name)

    def _command(self, argv: Sequence[str]) -> list[str]:
        return [*self._prefix, *argv] if "/" in argv[0] else list(argv)


def require_guest_end(done: Completed, name: str) -> Completed:
    """Return the emulated program's result. Raises DeviceError if QEMU itself failed."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    message = lines[-1] if lines else "no message"
    if done.returncode < 0 and GUEST_SIGNAL not in done.stderr:
        raise DeviceError(f"{name}: signal {-done.returncode} ended QEMU itself: {message}")
    if done.returncode > 0 and message.startswith("qemu-"):
        raise DeviceError(f"{name}: QEMU does not start: {message}")
    return done


def find_emulator(architecture: Architecture) -> Emulator | None:
    """QEMU's user mode on PATH, static or not; None if none answers to --version."""
    return next(find_emulators(architecture), None)


def find_emulators(architecture: Architecture) -> Iterator[Emulator]:
    """Every user mode of QEMU on PATH that answers to --version, in the order of PATH."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    program_name = PROGRAMS.get(architecture, f"qemu-{architecture}")
    for name in (program_name, f"{program_name}-static"):
        for folder in dict.fromkeys(folders):
            program = shutil.which(name, path=folder)
            emulator = _emulator_at(program) if program else None
            if emulator is not None:
                yield emulator


def loads_plugins(emulator: Emulator) -> bool:
    """A static QEMU is built without plugins, whatever its name. Debian's is, from 9.1 on."""
    return "-plugin" in _ask(emulator.program, "-h")


def _emulator_at(program: str) -> Emulator | None:
    version = re.search(r"version (\d+(?:\.\d+)+)", _ask(program, "--version"))
    if version is None:
        return None
    cpus = _ask(program, "-cpu", "help").partition(":")[2].split()
    return Emulator(program, version[1], frozenset(cpus))


def find_sysroot(architecture: Architecture, native: bool = False) -> Sysroot | None:
    """The architecture's libraries, from QEMU_LD_PREFIX, Debian's cross-compiler or this host.

    ``native``: only from this host.
    """
    prefix = os.environ.get("QEMU_LD_PREFIX")
    places = [Path(prefix)] if prefix else []
    places = [] if native else [*places, Path(f"/usr/{TRIPLES[architecture]}")]
    found = (_sysroot_at(root, architecture) for root in (*places, Path("/")))
    return next((one for one in found if one is not None), None)


def find_python_sysroot(architecture: Architecture, pythons: Sequence[str]) -> Sysroot | None:
    """A root folder with the architecture's Python, in one of these versions, and its libraries:
    from QEMU_LD_PREFIX or the cache (debian.py).
    """
    prefix = os.environ.get("QEMU_LD_PREFIX")
    places = [Path(prefix)] if prefix else []
    places += [root_folder(architecture, one) for one in pythons if one in SUITES]
    for place in places:
        python = python_of(place)
        if python is not None and python.version in pythons:
            found = _sysroot_at(place, architecture)
            if found is not None:
                return found
    return None


def _sysroot_at(root: Path, architecture: Architecture) -> Sysroot | None:
    libc = _library(root, architecture, "libc.so.6")
    libstdcxx = _library(root, architecture, "libstdc++.so.6")
    if (root / LOADERS[architecture]).exists() and libc and libstdcxx:
        return Sysroot(root, _newest(libc, b"GLIBC"), _newest(libstdcxx, b"GLIBCXX"))
    return None


@contextmanager
def fake_root(sysroot: Sysroot, cpu: str, cores: int) -> Iterator[Path]:
    """A temporary folder for QEMU's ``-L``: libraries, and a kernel's files for ``cores`` cores.

    XNNPACK picks its kernels by these files. Without them it reads the host's, and runs other
    kernels than the device will. A CPU that is not in CORES gets no such files.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-root-") as name:
        root = Path(name)
        for entry in ("lib", "lib64", "usr"):
            if (sysroot.root / entry).exists():
                (root / entry).symlink_to((sysroot.root / entry).absolute())
        if cpu in CORES:
            for path, text in kernel_files(CORES[cpu], cores).items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
        yield root


def kernel_files(core: Core, count: int) -> dict[str, str]:
    """The files in /proc and /sys of a board with ``count`` equal cores: path -> content."""
    folder = "sys/devices/system/cpu"
    numbers = f"0-{count - 1}\n" if count > 1 else "0\n"
    files = {f"{folder}/{name}": numbers for name in ("possible", "present", "online")}
    files[f"{folder}/kernel_max"] = f"{count - 1}\n"
    for index in range(count):
        cpu = f"{folder}/cpu{index}"
        files |= {f"{cpu}/cpufreq/cpuinfo_{end}_freq": f"{CLOCK_KHZ}\n" for end in ("min", "max")}
        files |= {
            f"{cpu}/regs/identification/midr_el1": f"{core.midr:#018x}\n",
            f"{cpu}/topology/physical_package_id": "0\n",
            f"{cpu}/topology/core_id": f"{index}\n",
            f"{cpu}/topology/thread_siblings_list": f"{index}\n",
            f"{cpu}/topology/core_siblings_list": numbers,
            f"{cpu}/topology/cluster_cpus_list": numbers,
        }
    files["proc/cpuinfo"] = "".join(_cpuinfo(core, index) for index in range(count))
    return files


def _cpuinfo(core: Core, index: int) -> str:
    return (
        f"processor\t: {index}\nBogoMIPS\t: 108.00\nFeatures\t: {core.features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: {core.version}\n"
        f"CPU variant\t: {core.variant:#x}\nCPU part\t: {core.part:#x}\n"
        f"CPU revision\t: {core.revision}\n\n"
    )


def _ask(program: str, *arguments: str) -> str:
    """A program's stdout; empty if it does not run."""
    try:
        done = LocalTransport().run([program, *arguments], timeout_s=10)
    except (EdgekitError, TimeoutError):
        return ""
    return done.stdout.decode(errors="replace")


def _library(root: Path, architecture: Architecture, name: str) -> Path | None:
    """Search the folders of multi-architecture systems, then of others; the 32-bit ones last."""
    multi = TRIPLES[architecture]
    folders = (f"lib/{multi}", f"usr/lib/{multi}", "lib64", "usr/lib64", "lib", "usr/lib")
    return next((root / f / name for f in folders if (root / f / name).is_file()), None)


def _newest(library: Path, symbol: bytes) -> tuple[int, ...]:
    """The newest symbol version that a library defines. ELF stores them as plain text."""
    versions = re.findall(rb"\0" + symbol + rb"_(\d+(?:\.\d+)+)(?=\0)", library.read_bytes())
    return max((tuple(int(part) for part in text.split(b".")) for text in versions), default=())
