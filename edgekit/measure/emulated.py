"""Runs a bundle's golden inputs on the CPU that it is for, before anything is deployed.

Where that CPU is not this host's, QEMU imitates it: an instruction that the device does not have
is found here, and so is a wrong result. What cannot be run is no failure: it is not checked.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle.manifest import RUNNER, Manifest, Needs
from edgekit.device.base import Transport
from edgekit.device.facts.parse import cpu_name
from edgekit.device.local import LocalTransport
from edgekit.device.qemu import (
    Emulator,
    QemuTransport,
    Sysroot,
    fake_root,
    find_emulator,
    find_sysroot,
)
from edgekit.documents.measure import Emulation, Parity
from edgekit.errors import DeviceError, ParityError, RunnerError
from edgekit.measure.golden import Load, golden_inputs, require_golden
from edgekit.progress import Progress
from edgekit.runner.client import Installed

TIME_LIMIT_S = 60.0
# A bundle for this one claims to run on any processor of its architecture.
ANY_X86 = "x86-64"
PACKAGES = "qemu-user libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross"
INSTALL = f"sudo apt-get install {PACKAGES}"
WRONG = "do not deploy it: build it again, and if that does not help, report it"
PREFIX = "set QEMU_LD_PREFIX to the root folder of a newer arm64 system"


class _NotChecked(Exception):  # noqa: N818 - it ends the attempt, and is no error
    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class _Processor:
    """What the bundle runs on. Without an emulator: this host's own."""

    name: str
    sysroot: Sysroot
    emulator: Emulator | None = None

    @property
    def label(self) -> str:
        if self.emulator is None:
            return f"this host's own processor ({self.name})"
        return f"an emulated {self.name} ({self.emulator.label})"

    @contextmanager
    def connected(self, cores: int) -> Iterator[Transport]:
        if self.emulator is None:
            yield LocalTransport()
            return
        with fake_root(self.sysroot, self.name, cores) as root:
            yield QemuTransport(self.emulator, self.name, root)


def emulate(folder: Path, manifest: Manifest, progress: Progress) -> Emulation:
    """Run the golden inputs of a bundle whose digests were verified; nothing else is run.

    Raises RunnerError: an illegal instruction, or whatever else ended the runner. ParityError:
    the outputs differ by more than a device's may.
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
    """The CPU itself where this host has it; else QEMU's; else, for the same architecture, the
    host's. Raises _NotChecked.
    """
    own = platform.system() == "Linux" and platform.machine() == needs.architecture
    emulator = find_emulator("aarch64") if needs.architecture == "aarch64" else None
    known = emulator is not None and needs.cpu in emulator.cpus and needs.cpu != "max"
    host = host_cpu() if own else ""
    if own and (not known or host.lower() == needs.cpu):
        return _Processor(host, _libraries(needs, native=True))
    if needs.architecture != "aarch64":
        raise _NotChecked(f"this host is no {needs.architecture}, and only aarch64 is emulated")
    if emulator is None:
        raise _NotChecked("qemu-aarch64 is not installed", INSTALL)
    if not known:
        raise _unknown_cpu(emulator, needs.cpu)
    return _Processor(needs.cpu, _libraries(needs), emulator)


def _unknown_cpu(emulator: Emulator, cpu: str) -> _NotChecked:
    if cpu == "max":
        return _NotChecked(
            "'max' is no real CPU, and QEMU 7.2 computes wrong int8 results with it",
            "name the device's own core as cpu in the target's file, and build again",
        )
    return _NotChecked(
        f"{emulator.label} does not know the CPU '{cpu}'",
        f"a newer QEMU may; {Path(emulator.program).name} -cpu help lists what this one knows",
    )


def _libraries(needs: Needs, native: bool = False) -> Sysroot:
    found = find_sysroot(needs.architecture, native)
    if found is None:
        raise _NotChecked(
            f"there is no C and C++ library for {needs.architecture} (libc.so.6, libstdc++.so.6)",
            None if native else INSTALL,
        )
    if found.glibc < _version(needs.glibc) or found.glibcxx < _version(needs.glibcxx):
        raise _NotChecked(
            f"the C and C++ libraries for {needs.architecture} in {found.root} are older than "
            f"the bundle's: it needs glibc {needs.glibc} and GLIBCXX {needs.glibcxx}",
            None if native else PREFIX,
        )
    return found


def _run(folder: Path, manifest: Manifest, processor: _Processor) -> Parity:
    inputs = golden_inputs(folder, manifest)
    load = Load(threads=manifest.threads, timeout_s=TIME_LIMIT_S)
    with (
        _staged(folder, manifest) as place,
        processor.connected(cores=manifest.threads) as transport,
    ):
        if processor.emulator is None and not os.access(place / RUNNER, os.X_OK):
            raise _NotChecked(
                f"the folder for temporary files, {place.parent}, allows no programs (noexec)",
                "set TMPDIR to one that does",
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
                raise _NotChecked(error.message, "a newer QEMU may not break") from None
            raise _explained(error, manifest, processor) from None


def _explained(
    error: RunnerError, manifest: Manifest, processor: _Processor
) -> RunnerError | _NotChecked:
    """The runner's error with the CPU's name; an illegal instruction in words."""
    cpu, code = manifest.needs.cpu, error.runner_code
    if code == -signal.SIGILL:
        if cpu not in (ANY_X86, processor.name.lower()):
            return _NotChecked(
                f"{processor.label} is no {cpu}, and lacks an instruction that the bundle has"
            )
        return RunnerError(
            f"an illegal instruction was executed on {processor.label}: "
            f"this bundle would be killed {f'on a {cpu}' if processor.emulator else 'here'}",
            f"its runner or a library is built for a newer CPU: build it again for its own "
            f"(edgekit build --target {manifest.target})",
            code,
        )
    hint = error.hint
    if processor.emulator and code < 0:
        hint = "if it runs on the device, QEMU is at fault: try a newer one"
    return RunnerError(f"on {processor.label}: {error.message}", hint, code)


@contextmanager
def _staged(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """The bundle's programs where they can be executed, whatever the copy or the file system
    that they came by has made of their mode bits.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        place = Path(name)
        for file in manifest.files:
            if file.role in ("runner", "library"):
                (place / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / file.path, place / file.path)
                (place / file.path).chmod(0o755)
        (place / manifest.model).symlink_to(folder / manifest.model)
        yield place


def host_cpu() -> str:
    """This host's processor: a model's name on x86, Arm's name of the core elsewhere."""
    try:
        return cpu_name(Path("/proc/cpuinfo").read_text()) or "unknown"
    except OSError:
        return "unknown"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
