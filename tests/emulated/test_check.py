"""check under the real QEMU: what runs on a Pi passes, what would be killed there does not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from resealed import reseal

import edgekit
from edgekit.device.qemu import QemuTransport, fake_root, find_emulator, find_sysroot
from edgekit.errors import RunnerError

pytestmark = [pytest.mark.runtime, pytest.mark.emulated]

SCHEMA = Path(edgekit.__file__).parent / "schemas" / "contract.schema.json"
# A program without any library: one instruction, then exit(0).
ONE_INSTRUCTION = """
__attribute__((naked)) void _start(void) {
  __asm__(".arch armv8.2-a+lse+sve\\n INSTRUCTION\\n mov x0, #0\\n mov x8, #93\\n svc #0");
}
"""
LSE, SVE = "casal w0, w1, [sp]", "ptrue p0.b"
# cat /proc/cpuinfo, in system calls.
TELL_CPU = """
static long call(long number, long a, long b, long c) {
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b, x2 __asm__("x2") = c;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}
void _start(void) {
  static char text[65536];
  long file = call(56, -100, (long)"/proc/cpuinfo", 0), count;
  while ((count = call(63, file, (long)text, sizeof text)) > 0) call(64, 1, (long)text, count);
  call(93, 0, 0, 0);
}
"""


@pytest.fixture
def bundle(digits_arm_bundle, tmp_path) -> Path:
    """A copy of the digits for a Raspberry Pi 4."""
    return Path(shutil.copytree(digits_arm_bundle, tmp_path / "bundle"))


def compile_program(source: str, program: Path) -> None:
    text = program.with_name("program.c")
    text.write_text(source)
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-nostdlib",
        "-static", "-O1", "-ffreestanding", "-fno-sanitize=all", str(text), "-o", str(program),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    text.unlink()


def put_instruction(bundle: Path, instruction: str, cpu: str) -> None:
    """Make the bundle's runner one that executes this instruction."""
    compile_program(ONE_INSTRUCTION.replace("INSTRUCTION", instruction), bundle / "runner")
    reseal(bundle, {"cpu": cpu})


@pytest.mark.parametrize("target", ["rpi-zero2w", "rpi3", "rpi4", "rpi5"])
def test_the_digits_pass_on_every_pi(bundle, target) -> None:
    board = edgekit.load_target(target)
    reseal(bundle, {"cpu": board.cpu}, target=target)
    found = edgekit.check(bundle).emulation
    assert (found.status, found.processor) == ("passed", board.cpu)
    assert found.emulator.startswith("qemu-aarch64")
    assert found.parity.max_abs_diff == 0  # int8 outputs are bit-equal across architectures


def test_the_document_and_what_a_person_reads(bundle, edgekit_command) -> None:
    done = edgekit_command("check", str(bundle), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["schema"] == "edgekit.check/1"
    assert document["emulation"]["status"] == "passed"
    assert "golden inputs on an emulated cortex-a72" in done.stderr
    done = edgekit_command("check", str(bundle), "--quiet")
    assert "passed on an emulated cortex-a72, qemu-aarch64" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(("instruction", "cpu"), [(LSE, "cortex-a72"), (SVE, "cortex-a76")])
def test_an_instruction_that_the_cpu_lacks(bundle, edgekit_command, instruction, cpu) -> None:
    put_instruction(bundle, instruction, cpu)
    done = edgekit_command("check", str(bundle), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert document["error"] == "RunnerError"
    assert "illegal instruction" in document["message"]
    assert f"would be killed on a {cpu}" in document["message"]
    assert document["hint"]


def test_the_same_instruction_on_a_cpu_that_has_it(bundle) -> None:
    """The program ends well there, and is found to be no runner."""
    put_instruction(bundle, LSE, "cortex-a76")
    with pytest.raises(RunnerError, match="code 0") as caught:
        edgekit.check(bundle)
    assert "illegal" not in caught.value.message


def test_a_copy_that_lost_its_mode_bits(bundle) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    assert edgekit.check(bundle).emulation.status == "passed"


def test_without_qemu_it_is_not_checked(bundle, edgekit_command, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"PATH": str(tmp_path / "empty")}
    done = edgekit_command("check", str(bundle), env=environment)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "cpu not checked: qemu-aarch64 is not installed" in text
    assert "sudo apt-get install qemu-user libc6-arm64-cross" in text
    done = edgekit_command("check", str(bundle), "--json", env=environment)
    assert json.loads(done.stdout)["emulation"]["status"] == "not_checked"


def test_a_crash_leaves_no_memory_image_in_the_users_folder(bundle, edgekit_command, tmp_path):
    put_instruction(bundle, LSE, "cortex-a72")
    before = {path.name for path in tmp_path.iterdir()}

    def allow_core_files() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    assert edgekit_command("check", str(bundle), preexec_fn=allow_core_files).returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("cpu", "part"), [("cortex-a53", "0xd03"), ("cortex-a76", "0xd0b")])
def test_programs_see_the_devices_cores_and_not_this_hosts(tmp_path, cpu, part) -> None:
    compile_program(TELL_CPU, tmp_path / "tell")
    with fake_root(find_sysroot("aarch64"), cpu, 4) as root:
        done = QemuTransport(find_emulator("aarch64"), cpu, root).run([str(tmp_path / "tell")])
    assert f"CPU part\t: {part}\n" in done.stdout.decode()
    assert b"vendor_id" not in done.stdout
