"""Machines that run: each is a QEMU process and a folder with its keys and its record."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pi_emulator.access import make_keys
from pi_emulator.common import TO_BOOT, PiError, find_program, require, run, working
from pi_emulator.devicetree import with_model
from pi_emulator.image import Image

# A Pi has four cores. More than the host has only costs time, and time is not real here anyway.
CORES = 4
BOOT_LIMIT_S = 180.0
LEAST_MEMORY_MB = 128
MIB = 1024 * 1024


@dataclass(frozen=True)
class Board:
    """A board as QEMU can show it: its name, its processor, its memory; edgekit's target. ``bits``:
    of its system; the kernel always has 64.
    """

    title: str
    target: str
    cpu: str
    machine: str
    memory_mib: int
    bits: int = 64


# Memory is that of the smallest board sold.
BOARDS = {
    "zero2w": Board(
        "Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero2w", "cortex-a53", "virt,gic-version=2", 512
    ),
    "pi3-32": Board(
        "Raspberry Pi 3 Model B Plus Rev 1.3",
        "rpi3-32",
        "cortex-a53",
        "virt,gic-version=2",
        1024,
        bits=32,
    ),
    "pi4": Board(
        "Raspberry Pi 4 Model B Rev 1.4", "rpi4", "cortex-a72", "virt,gic-version=2", 1024
    ),
    "pi5": Board(
        "Raspberry Pi 5 Model B Rev 1.0", "rpi5", "cortex-a76", "virt,gic-version=3", 2048
    ),
}


@dataclass(frozen=True)
class Machine:
    """One emulated Pi. ``argv`` is the QEMU process's, which is how it is known again."""

    folder: Path
    model: str
    port: int
    memory_mb: int
    pid: int
    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    def state(self) -> str:
        """``running``, ``frozen`` (SIGSTOP) or ``ended``."""
        try:
            argv = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[:-1]
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "ended"
        if [os.fsdecode(word) for word in argv] != list(self.argv):
            return "ended"  # the number belongs to another process by now, or it is a zombie
        return "frozen" if fields[0] in "Tt" else "running"


def machines_folder(folder: Path) -> Path:
    return folder / "machines"


def list_machines(folder: Path) -> list[Machine]:
    found = (find_machine(path) for path in sorted(machines_folder(folder).glob("*")))
    return [machine for machine in found if machine]


def find_machine(place: Path) -> Machine | None:
    """The machine recorded in its folder; None where there is none, or none yet."""
    try:
        record = json.loads((place / "machine.json").read_text())
        return Machine(folder=place, **(record | {"argv": tuple(record["argv"])}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def boot_machine(
    folder: Path,
    image: Image,
    model: str,
    name: str,
    *,
    port: int | None = None,
    memory_mb: int | None = None,
    lifetime_s: int | None = None,
) -> Machine:
    """Start a machine and return when its SSH server answers. Raises PiError.

    ``memory_mb``: in 1,000,000 bytes. ``lifetime_s``: after it the guest ends by itself.
    An interruption leaves neither a process nor a folder behind.
    """
    require(TO_BOOT)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise PiError(f"{name!r} is no name for a machine", "small letters, digits and hyphens")
    board = BOARDS[model]
    memory_mb = memory_mb or round(board.memory_mib * MIB / 1e6)
    if memory_mb < LEAST_MEMORY_MB:
        raise PiError(f"{memory_mb} MB are too few for the guest", f"{LEAST_MEMORY_MB} at least")
    place = machines_folder(folder) / name
    with _new_folder(place):
        port = _free_port(port)
        make_keys(place, name, port)
        command = _command(place, image, board, port, memory_mb, lifetime_s)
        with working(f"booting {name} ({board.title}, emulated)"):
            return _start(Machine(place, model, port, memory_mb, 0, tuple(command)))


def stop_machine(machine: Machine) -> None:
    """End it at once, frozen or not: its disk is thrown away anyhow. Then remove its folder."""
    if machine.state() != "ended":
        with contextlib.suppress(ProcessLookupError):
            os.kill(machine.pid, signal.SIGKILL)
        while machine.state() != "ended":
            time.sleep(0.02)
    shutil.rmtree(machine.folder, ignore_errors=True)


@contextlib.contextmanager
def _new_folder(place: Path) -> Iterator[None]:
    """Make the machine's folder, which claims its name; it stays only where all goes well."""
    old = find_machine(place)
    if old and old.state() != "ended":
        raise PiError(
            f"{place.name} is {old.state()} already, as a {old.model} on port {old.port}",
            f"stop {place.name} first, or choose another --name",
        )
    if old:
        shutil.rmtree(place)
    try:
        place.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise PiError(
            f"{place.name} is being booted by another command, or one that was killed",
            f"if nothing boots it: rm -r {place}",
        ) from None
    try:
        yield
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _free_port(wanted: int | None) -> int:
    """``wanted``, or any. Raises PiError: it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU does
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except (OSError, OverflowError) as error:
            hint = "choose another --port, or none: then a free one is found"
            raise PiError(f"port {wanted} cannot be used: {error}", hint) from None
        return int(probe.getsockname()[1])


def _command(
    place: Path, image: Image, board: Board, port: int, memory_mb: int, lifetime_s: int | None
) -> list[str]:
    """QEMU's arguments: a plain machine with the board's processor, memory and name.

    All the guest reaches of the network is the forwarded port, and that is on 127.0.0.1 only.
    """
    qemu = str(find_program("qemu-system-aarch64"))
    hardware = ["-cpu", board.cpu, "-smp", str(CORES), "-m", f"{memory_mb * 1_000_000 // 1024}k"]
    hardware += ["-nodefaults", "-display", "none"]
    tree = place / "board.dtb"
    run([qemu, "-machine", f"{board.machine},dumpdtb={_escaped(tree)}", *hardware])
    tree.write_bytes(with_model(tree.read_bytes(), board.title))
    kernel = "root=/dev/nvme0n1 rw devtmpfs.mount=1 console=ttyAMA0 loglevel=4 panic=-1"
    # Raspberry Pi OS's kernel has none; here one huge page in a while would add 2 MB to a peak.
    kernel += " transparent_hugepage=never"
    if lifetime_s:
        kernel += f" emulated.lifetime_s={lifetime_s}"
    return [
        qemu, "-machine", board.machine, *hardware, "-accel", "tcg,thread=multi", "-no-reboot",
        "-dtb", str(tree), "-kernel", str(image.kernel), "-append", kernel,
        "-serial", f"file:{place / 'console.log'}",
        "-drive", f"file={_escaped(image.root)},format=raw,if=none,id=root,snapshot=on",
        "-device", "nvme,drive=root,serial=root",
        "-drive", f"file={_escaped(place / 'seed.tar')},format=raw,if=none,id=seed,readonly=on",
        "-device", "virtio-blk-pci,drive=seed",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
    ]  # fmt: skip


def _escaped(path: Path) -> str:
    """A path inside one of QEMU's comma-separated options."""
    return str(path).replace(",", ",,")


def _start(machine: Machine) -> Machine:
    place = machine.folder
    with (place / "qemu.log").open("wb") as log:
        qemu = subprocess.Popen(
            machine.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=os.environ | {"TMPDIR": str(place)},
        )  # fmt: skip
    try:
        record = asdict(machine) | {"pid": qemu.pid}
        del record["folder"]
        (place / "machine.json").write_text(json.dumps(record, indent=2) + "\n")
        _wait_for_ssh(qemu, machine)
    except BaseException:
        qemu.kill()
        qemu.wait()
        raise
    (place / "seed.tar").unlink()  # the guest has it: its host keys are nowhere else now
    found = find_machine(place)
    assert found is not None
    qemu.returncode = 0  # it lives on; Popen need not warn of that
    return found


def _wait_for_ssh(qemu: subprocess.Popen[bytes], machine: Machine) -> None:
    start = time.monotonic()
    while not _answers(machine.port):
        if qemu.poll() is not None:
            raise PiError(f"{machine.name} ended while it booted{_last_words(machine.folder)}")
        if time.monotonic() - start > BOOT_LIMIT_S:
            raise PiError(
                f"{machine.name} did not answer in {BOOT_LIMIT_S:.0f} s"
                f"{_last_words(machine.folder)}"
            )
        time.sleep(0.1)


def _answers(port: int) -> bool:
    """Whether an SSH server speaks. QEMU accepts connections long before the guest does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _last_words(place: Path) -> str:
    """What QEMU and the guest's console said at the end."""
    texts = [
        (place / name).read_text(errors="replace").strip()[-1500:]
        for name in ("qemu.log", "console.log")
        if (place / name).exists()
    ]
    said = "\n".join(text for text in texts if text)
    return f":\n{said}" if said else ""
