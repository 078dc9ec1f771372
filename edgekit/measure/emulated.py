"""A run of a bundle's golden inputs on the CPU that it is for, before it is deployed.

If this host has another CPU, QEMU emulates it. The run reveals instructions that the device lacks,
and wrong results. If it is not possible, the result is "not checked", which is no failure.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle.manifest import RUNNER, Manifest, Needs
from edgekit.device.base import Transport
from edgekit.device.debian import ARCHITECTURES, SUITES, command_for
from edgekit.device.facts.cores import cpu_name
from edgekit.device.local import LocalTransport
from edgekit.device.qemu import (
    PROGRAMS,
    Emulator,
    QemuTransport,
    Sysroot,
    fake_root,
    find_emulator,
    find_python_sysroot,
    find_sysroot,
)
from edgekit.documents.measure import Emulation, Parity
from edgekit.errors import DeviceError, ParityError, RunnerError
from edgekit.measure.golden import Load, golden_inputs, require_golden
from edgekit.progress import Progress
from edgekit.runner.client import Installed
from edgekit.runner.staging import runnable_copy
from edgekit.values import version_numbers

TIME_LIMIT_S = 60.0
# A bundle for this CPU must run on any processor of its architecture.
ANY_X86 = "x86-64"
PACKAGES = "qemu-user libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross"
INSTALL = f"sudo apt-get install {PACKAGES}"
# QEMU's 32-bit Arm has no 64-bit cores. These older ones have no instruction that those lack.
OLDER_CORES = {
    "cortex-a35": "cortex-a7",
    "cortex-a53": "cortex-a7",
    "cortex-a72": "cortex-a15",
    "cortex-a76": "cortex-a15",
}
WRONG = "do not deploy it: build it again; if the error persists, report it"
PREFIX = "set QEMU_LD_PREFIX to the root folder of a newer arm64 system"


class _NotChecked(Exception):  # noqa: N818 - not an error: it ends the attempt
    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class _Processor:
    """The processor that runs the bundle. Without an emulator: this host's. ``python``: the runner
    is run by the Python of ``sysroot``.
    """

    name: str
    sysroot: Sysroot
    emulator: Emulator | None = None
    python: bool = False

    @property
    def label(self) -> str:
        if self.emulator is None:
            return f"this host's processor ({self.name})"
        return f"an emulated {self.name} ({self.emulator.label})"

    @contextmanager
    def connected(self, cores: int) -> Iterator[Transport]:
        if self.emulator is None:
            yield LocalTransport()
            return
        with fake_root(self.sysroot, self.name, cores) as root:
            yield QemuTransport(self.emulator, self.name, root, python=self.python)


def emulate(folder: Path, manifest: Manifest, progress: Progress) -> Emulation:
    """Run the golden inputs of a bundle whose digests were verified.

    Raises RunnerError if an illegal instruction or another error ended the runner; ParityError
    if the outputs differ by more than is allowed on a device.
    """
    cpu = manifest.needs.cpu
    start = time.monotonic()
    processor = None
    try:
        if not manifest.golden.outputs:
            raise _NotChecked("the bundle has no golden outputs")
        processor = _choose(manifest.needs)
        with progress.stage(f"running the golden inputs on {processor.label}"):
            parity = _run(folder, manifest, processor)
    except _NotChecked as why:
        return Emulation(
            status="not_checked",
            cpu=cpu,
            emulator=processor and processor.emulator and processor.emulator.label,
            reason=why.reason,
            hint=why.hint,
        )
    return Emulation(
        status="passed",
        cpu=cpu,
        processor=processor.name,
        emulator=processor.emulator and processor.emulator.label,
        parity=parity,
        seconds=round(time.monotonic() - start, 3),
    )


def _choose(needs: Needs) -> _Processor:
    """This host's CPU if it is the bundle's, else QEMU's, else a host of the same architecture.

    Raises _NotChecked.
    """
    if needs.pythons:
        return _choose_with_python(needs)
    is_native = platform.system() == "Linux" and platform.machine() == needs.architecture
    emulator = find_emulator("aarch64") if needs.architecture == "aarch64" else None
    can_emulate = emulator is not None and needs.cpu in emulator.cpus and needs.cpu != "max"
    host = host_cpu() if is_native else ""
    if is_native and (not can_emulate or host.lower() == needs.cpu):
        return _Processor(host, _libraries(needs, native=True))
    if needs.architecture != "aarch64":
        raise _NotChecked(
            f"this host is not {needs.architecture}, and edgekit emulates only aarch64"
        )
    if emulator is None:
        raise _NotChecked("qemu-aarch64 is not installed", INSTALL)
    if not can_emulate:
        raise _unknown_cpu(emulator, needs.cpu)
    return _Processor(needs.cpu, _libraries(needs), emulator)


def _choose_with_python(needs: Needs) -> _Processor:
    """An emulated CPU, and a system with Python and NumPy. This host's own Python is never used: it
    is not the device's. Raises _NotChecked.
    """
    if needs.architecture not in ARCHITECTURES:
        raise _NotChecked("its runner is for the device's own Python")
    emulator = find_emulator(needs.architecture)
    if emulator is None:
        name = PROGRAMS.get(needs.architecture, f"qemu-{needs.architecture}")
        raise _NotChecked(f"{name} is not installed", "sudo apt-get install qemu-user")
    cpu = OLDER_CORES.get(needs.cpu, needs.cpu) if needs.architecture == "armv7l" else needs.cpu
    if cpu == "max" or cpu not in emulator.cpus:
        raise _unknown_cpu(emulator, cpu)
    known = [one for one in needs.pythons if one in SUITES]
    sysroot = find_python_sysroot(needs.architecture, needs.pythons)
    if sysroot is None:
        versions = " or ".join(needs.pythons)
        raise _NotChecked(
            f"there is no {needs.architecture} system with Python {versions} to run it with",
            command_for(needs.architecture, known[-1]) if known else None,
        )
    return _Processor(cpu, _new_enough(sysroot, needs), emulator, python=True)


def _unknown_cpu(emulator: Emulator, cpu: str) -> _NotChecked:
    if cpu == "max":
        return _NotChecked(
            "'max' is not a real CPU, and QEMU 7.2 computes wrong int8 results with it",
            "set cpu in the target's file to the device's core, and build again",
        )
    return _NotChecked(
        f"{emulator.label} does not support the CPU '{cpu}'",
        f"try a newer QEMU; {Path(emulator.program).name} -cpu help lists the supported ones",
    )


def _libraries(needs: Needs, native: bool = False) -> Sysroot:
    sysroot = find_sysroot(needs.architecture, native)
    if sysroot is None:
        raise _NotChecked(
            f"there is no C and C++ library for {needs.architecture} (libc.so.6, libstdc++.so.6)",
            None if native else INSTALL,
        )
    return _new_enough(sysroot, needs, native)


def _new_enough(sysroot: Sysroot, needs: Needs, native: bool = False) -> Sysroot:
    wanted = version_numbers(needs.glibc), version_numbers(needs.glibcxx)
    if sysroot.glibc < wanted[0] or sysroot.glibcxx < wanted[1]:
        raise _NotChecked(
            f"the C and C++ libraries for {needs.architecture} in {sysroot.root} are too old: "
            f"the bundle needs glibc {needs.glibc} and GLIBCXX {needs.glibcxx}",
            None if native else PREFIX,
        )
    return sysroot


def _run(folder: Path, manifest: Manifest, processor: _Processor) -> Parity:
    inputs = golden_inputs(folder, manifest)
    load = Load(threads=manifest.threads, timeout_s=TIME_LIMIT_S)
    with (
        runnable_copy(folder, manifest) as place,
        processor.connected(cores=manifest.threads) as transport,
    ):
        if processor.emulator is None and not os.access(place / RUNNER, os.X_OK):
            raise _NotChecked(
                f"programs cannot be run in the temporary folder {place.parent} (noexec)",
                "set TMPDIR to another folder",
            )
        installed = Installed(
            transport, PurePosixPath(place / RUNNER), PurePosixPath(place / manifest.model)
        )
        start = time.monotonic()
        try:
            return require_golden(folder, manifest, installed, inputs, load)
        except ParityError as error:
            raise ParityError(f"on {processor.label}: {error.message}", WRONG) from None
        except (RunnerError, DeviceError) as error:
            if time.monotonic() - start >= TIME_LIMIT_S:
                raise _NotChecked(f"it took longer than {TIME_LIMIT_S:g} s") from None
            if isinstance(error, DeviceError):
                raise _NotChecked(error.message, "try a newer QEMU") from None
            raise _explain(error, manifest, processor) from None


def _explain(
    error: RunnerError, manifest: Manifest, processor: _Processor
) -> RunnerError | _NotChecked:
    """The runner's error with the CPU's name; for SIGILL, an explanation."""
    cpu, code = manifest.needs.cpu, error.runner_code
    if code == -signal.SIGILL:
        if cpu not in (ANY_X86, processor.name.lower()):
            return _NotChecked(
                f"{processor.label} is not a {cpu} and lacks an instruction that the bundle uses"
            )
        return RunnerError(
            f"the bundle executed an illegal instruction on {processor.label}: "
            f"it would be killed {f'on a {cpu}' if processor.emulator else 'here'}",
            f"its runner or a library is built for a newer CPU: build it again "
            f"(edgekit build --target {manifest.target})",
            code,
        )
    hint = error.hint
    if processor.emulator and code < 0:
        hint = "if it runs on the device, this is an error of QEMU: try a newer version"
    return RunnerError(f"on {processor.label}: {error.message}", hint, code)


def host_cpu() -> str:
    """This host's processor: the model's name on x86, the core's name on Arm."""
    try:
        return cpu_name(Path("/proc/cpuinfo").read_text()) or "unknown"
    except OSError:
        return "unknown"
