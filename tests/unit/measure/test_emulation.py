"""check's run on the bundle's CPU, with doubles for QEMU and for the runner."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import DOUBLES
from resealed import reseal
from small_bundle import fill

from edgekit.bundle.manifest import File, Golden
from edgekit.commands.check import check
from edgekit.device.qemu import (
    CORES,
    QemuTransport,
    Sysroot,
    fake_root,
    find_emulator,
    find_sysroot,
    kernel_files,
)
from edgekit.errors import BundleError, ParityError, RunnerError
from edgekit.measure import emulated as emulation
from edgekit.program import Program, TensorSpec

DOUBLE = DOUBLES / "runner_double.py"
# Answers as QEMU does, notes what it was given, and runs the program on this host's own CPU.
QEMU = r"""#!/bin/sh
case "$1 $2" in
"--version ") echo "qemu-aarch64 version 9.1.2 (double)"; exit;;
"-cpu help") printf 'Available CPUs:\n  cortex-a72\n  cortex-a710\n  max\n'; exit;;
esac
echo "$2" > "$QEMU_LOG/cpu"
mkdir "$QEMU_LOG/root"
cp -r "$4/proc" "$4/sys" "$QEMU_LOG/root" 2>/dev/null
ls "$4/lib" > "$QEMU_LOG/lib"
target="qemu: uncaught target signal"
case "$QEMU_FAULT" in
illegal) echo "$target 4 (Illegal instruction) - core dumped" >&2; kill -ILL $$;;
crash) echo "$target 11 (Segmentation fault) - core dumped" >&2; kill -SEGV $$;;
broken) echo 'ERROR: accel/tcg: code should not be reached' >&2; kill -ABRT $$;;
stopped) echo 'qemu-aarch64: cannot reserve memory' >&2; exit 1;;
esac
shift 4
exec "$@"
"""


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """QEMU and an arm64 system, both doubles; what QEMU was given is noted here."""
    folder = tmp_path / "log"
    for name in ("log", "bin", "arm64/lib", "temporary"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin" / "qemu-aarch64").write_text(QEMU)
    (tmp_path / "bin" / "qemu-aarch64").chmod(0o755)
    libraries = {
        "ld-linux-aarch64.so.1": b"",
        "libc.so.6": b"\0GLIBC_2.17\0GLIBC_2.36\0GLIBC_PRIVATE\0",
        "libstdc++.so.6": b"\0GLIBCXX_3.4\0GLIBCXX_3.4.30\0",
    }
    for name, data in libraries.items():
        (tmp_path / "arm64" / "lib" / name).write_bytes(data)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QEMU_LD_PREFIX", str(tmp_path / "arm64"))
    monkeypatch.setenv("QEMU_LOG", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(emulation.platform, "machine", lambda: "x86_64")
    return folder


@pytest.fixture
def arm(tmp_path) -> Path:
    """A bundle for a Cortex-A72 that gives twice its input; no file of it may be executed."""
    return twice(tmp_path / "arm bündel", architecture="aarch64", cpu="cortex-a72")


def twice(folder: Path, **needs: str) -> Path:
    script = f'#!/bin/sh\nexec "{sys.executable}" "{DOUBLE}" "$@"\n'
    manifest = fill(folder, runner=script.encode())
    golden = {"golden/input_0.bin": (1, 2, 3), "golden/output_0.bin": (2, 4, 6)}
    (folder / "golden").mkdir()
    for path, values in golden.items():
        (folder / path).write_bytes(struct.pack("<3f", *values))
    spec = TensorSpec(name="x", dtype="float32", shape=(3,))
    extra = tuple(File(path=path, role="golden", sha256="0" * 64, size=0) for path in golden)
    changed = Program.model_validate(
        manifest.program.model_dump() | {"inputs": (spec,), "outputs": (spec,)}
    )
    reseal(
        folder,
        needs,
        program=changed,
        golden=Golden(inputs=(next(iter(golden)),), outputs=([*golden][1],), output_strides=(1,)),
        files=(*manifest.files, *extra),
        threads=4,
    )
    return folder


def test_it_runs_on_the_bundles_cpu(arm, log) -> None:
    found = check(arm).emulation
    assert (found.status, found.cpu, found.processor) == ("passed", "cortex-a72", "cortex-a72")
    assert found.emulator == "qemu-aarch64 9.1.2"
    assert found.parity.passed
    assert found.seconds > 0
    assert (found.reason, found.hint) == (None, None)
    assert (log / "cpu").read_text() == "cortex-a72\n"


def test_the_program_is_told_the_devices_cores(arm, log) -> None:
    check(arm)
    cpuinfo = (log / "root/proc/cpuinfo").read_text()
    assert cpuinfo.count("CPU part\t: 0xd08\n") == 4
    assert (log / "root/sys/devices/system/cpu/present").read_text() == "0-3\n"
    assert "libc.so.6" in (log / "lib").read_text()


def test_nothing_is_left_behind(arm, log, tmp_path) -> None:
    check(arm)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("name", ["runner", "lib/liba.so", "golden/output_0.bin"])
def test_nothing_of_a_damaged_bundle_is_run(arm, log, name) -> None:
    (arm / name).write_bytes((arm / name).read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=name):
        check(arm)
    assert list(log.iterdir()) == []


def test_an_illegal_instruction(arm, log, monkeypatch) -> None:
    monkeypatch.setenv("QEMU_FAULT", "illegal")
    with pytest.raises(RunnerError, match="would be killed on a cortex-a72") as caught:
        check(arm)
    assert "illegal instruction" in caught.value.message
    assert "qemu-aarch64 9.1.2" in caught.value.message
    assert "edgekit build --target" in caught.value.hint


def test_another_crash_names_qemu(arm, log, monkeypatch) -> None:
    monkeypatch.setenv("QEMU_FAULT", "crash")
    with pytest.raises(RunnerError, match=r"qemu-aarch64 9\.1\.2.*signal 11") as caught:
        check(arm)
    assert "newer" in caught.value.hint


@pytest.mark.parametrize(
    ("fault", "part"), [("broken", "should not be reached"), ("stopped", "cannot reserve")]
)
def test_qemus_own_failures_are_not_the_bundles(arm, log, monkeypatch, fault, part) -> None:
    monkeypatch.setenv("QEMU_FAULT", fault)
    document = check(arm)
    assert document.emulation.status == "not_checked"
    assert part in document.emulation.reason
    assert "QEMU" in document.emulation.reason
    assert document.exit_code == 0


def test_a_wrong_result(arm, log) -> None:
    (arm / "golden/output_0.bin").write_bytes(struct.pack("<3f", 2, 4, 7))
    reseal(arm)
    with pytest.raises(ParityError, match=r"emulated cortex-a72.*differ"):
        check(arm)


def test_a_runner_that_fails(arm, log, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_FAULT", "missing_kernel")
    with pytest.raises(RunnerError, match=r"emulated cortex-a72.*aten::mean\.out") as caught:
        check(arm)
    assert caught.value.runner_code == 4


def test_too_slow_is_not_checked(arm, log, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(emulation, "TIME_LIMIT_S", 0.3)
    monkeypatch.setenv("DOUBLE_FAULT", "sleep")
    found = check(arm).emulation
    assert (found.status, found.reason) == ("not_checked", "it took longer than 0.3 s")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_qemu(arm, log, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "log"))
    document = check(arm)
    assert document.emulation.status == "not_checked"
    assert "qemu-aarch64 is not installed" in document.emulation.reason
    assert document.emulation.hint.startswith("sudo apt-get install qemu-user libc6-arm64-cross")
    assert document.emulation.emulator is None
    assert document.exit_code == 0


def test_without_an_arm64_c_library(arm, log, monkeypatch) -> None:
    monkeypatch.setattr(emulation, "find_sysroot", lambda architecture, native: None)
    found = check(arm).emulation
    assert "libstdc++.so.6" in found.reason
    assert "libstdc++6-arm64-cross" in found.hint


@pytest.mark.parametrize("needs", [{"glibc": "2.38"}, {"glibcxx": "3.4.32"}])
def test_with_an_older_c_library(arm, log, needs) -> None:
    reseal(arm, needs)
    found = check(arm).emulation
    assert found.status == "not_checked"
    assert next(iter(needs.values())) in found.reason
    assert "QEMU_LD_PREFIX" in found.hint


def test_a_cpu_that_this_qemu_does_not_know(arm, log) -> None:
    reseal(arm, {"cpu": "cortex-a78"})
    found = check(arm).emulation
    assert found.reason == "qemu-aarch64 9.1.2 does not support the CPU 'cortex-a78'"
    assert "newer" in found.hint


def test_max_is_never_used(arm, log) -> None:
    reseal(arm, {"cpu": "max"})
    assert "'max' is not a real CPU" in check(arm).emulation.reason
    assert list(log.iterdir()) == []


def test_a_known_cpu_whose_part_is_not(arm, log) -> None:
    reseal(arm, {"cpu": "cortex-a710"})
    assert check(arm).emulation.status == "passed"
    assert not (log / "root/proc").exists()


def test_without_golden_outputs(tmp_path) -> None:
    fill(tmp_path / "tiny")
    found = check(tmp_path / "tiny").emulation
    assert (found.status, found.reason) == ("not_checked", "the bundle has no golden outputs")


@pytest.fixture
def libraries(tmp_path, monkeypatch) -> None:
    """A host with all that any bundle needs."""
    new = Sysroot(tmp_path / "arm64", (9,), (9,))
    monkeypatch.setattr(emulation, "find_sysroot", lambda architecture, native: new)


def test_this_hosts_own_architecture_runs_natively(tmp_path, log, libraries) -> None:
    own = twice(tmp_path / "own", architecture="x86_64", cpu="x86-64")
    found = check(own).emulation
    assert (found.status, found.emulator) == ("passed", None)
    assert found.processor == emulation.host_cpu()
    assert list(log.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "emulated"), [("Cortex-A72", False), ("Neoverse-N1", True), ("Cortex-A53", True)]
)
def test_an_arm_host_is_taken_for_no_other_arm(
    arm, log, libraries, monkeypatch, host, emulated
) -> None:
    """Only the very core proves natively that no newer instruction is in the bundle."""
    monkeypatch.setattr(emulation.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(emulation, "host_cpu", lambda: host)
    found = check(arm).emulation
    assert found.status == "passed"
    assert bool(found.emulator) is emulated
    assert found.processor == ("cortex-a72" if emulated else "Cortex-A72")


def test_an_x86_bundle_is_not_emulated(tmp_path, log, monkeypatch) -> None:
    monkeypatch.setattr(emulation.platform, "machine", lambda: "aarch64")
    other = twice(tmp_path / "other", architecture="x86_64", cpu="x86-64")
    found = check(other).emulation
    assert found.status == "not_checked"
    assert "x86_64" in found.reason


def die_illegally(bundle: Path) -> None:
    (bundle / "runner").write_text("#!/bin/sh\nulimit -c 0\nkill -ILL $$\n")
    reseal(bundle)


def test_an_illegal_instruction_on_this_host(tmp_path, log, libraries) -> None:
    own = twice(tmp_path / "own", architecture="x86_64", cpu="x86-64")
    die_illegally(own)
    with pytest.raises(RunnerError, match=r"this host's processor.*would be killed here"):
        check(own)


def test_a_host_that_lacks_what_a_newer_target_has_proves_nothing(tmp_path, log, libraries) -> None:
    own = twice(tmp_path / "own", architecture="x86_64", cpu="a newer one")
    die_illegally(own)
    found = check(own).emulation
    assert found.status == "not_checked"
    assert "a newer one" in found.reason


def test_host_programs_stay_the_hosts(log, tmp_path) -> None:
    transport = QemuTransport(find_emulator("aarch64"), "cortex-a72", tmp_path / "arm64")
    assert transport.run(["sh", "-c", "echo here"]).stdout == b"here\n"
    assert list(log.iterdir()) == []
    assert transport.run(["/bin/sh", "-c", "ulimit -c"]).stdout == b"0\n"
    assert (log / "cpu").exists()


@pytest.mark.parametrize("text", ["exit 1", "echo nonsense", "echo version unknown"])
def test_something_else_named_qemu(log, tmp_path, text) -> None:
    (tmp_path / "bin/qemu-aarch64").write_text(f"#!/bin/sh\n{text}\n")
    found = find_emulator("aarch64")
    assert found is None or Path(found.program).parent != tmp_path / "bin"


def test_the_sysroot_that_the_environment_names(log, tmp_path) -> None:
    assert find_sysroot("aarch64") == Sysroot(tmp_path / "arm64", (2, 36), (3, 4, 30))


def test_the_fake_root_is_gone_afterwards(log, tmp_path) -> None:
    with fake_root(find_sysroot("aarch64"), "cortex-a53", 1) as root:
        assert (root / "sys/devices/system/cpu/possible").read_text() == "0\n"
    assert not root.exists()
    assert (tmp_path / "arm64/lib/libc.so.6").exists()


def test_what_a_kernel_tells_of_a_pi_4() -> None:
    files = kernel_files(CORES["cortex-a72"], 2)
    core = "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n"
    assert files["proc/cpuinfo"].count(core) == 2
    folder = "sys/devices/system/cpu"
    assert files[f"{folder}/cpu1/regs/identification/midr_el1"] == "0x00000000410fd083\n"
    assert files[f"{folder}/cpu1/topology/core_siblings_list"] == "0-1\n"
