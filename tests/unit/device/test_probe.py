"""targets probe: the hardware of many kinds of machine, and the target files made from it."""

from __future__ import annotations

import json
import tomllib

import jsonschema
import pytest
from conftest import ROOT
from machines import MACHINES
from recorded import RECORDINGS, Shell, every_shell

from edgekit.device.facts.hardware import cpu_list, hardware_of, parse_hardware
from edgekit.device.facts.libc import userland_bits
from edgekit.device.facts.parse import parse_environment
from edgekit.device.facts.probe import probe
from edgekit.device.facts.target_file import TargetDraft, draft_target, target_toml
from edgekit.device.local import LocalTransport
from edgekit.documents.environment import DeviceEnvironment
from edgekit.documents.probe import Hardware, ProbeDocument
from edgekit.report.probe import render_probe
from edgekit.target import read_target

RECORDED = [
    "rpi4", "rpi5", "rpi_zero2w", "x86_laptop", "x86_vm", "qemu_virt", "busybox_board",
]  # fmt: skip
SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())
EVERY = [*MACHINES, *RECORDED]


@pytest.fixture
def machine(tmp_path):
    """A machine by name: its environment and its hardware."""

    def read(name: str) -> tuple[DeviceEnvironment, Hardware]:
        root = MACHINES[name].write(tmp_path / name) if name in MACHINES else RECORDINGS / name
        there = LocalTransport()
        return parse_environment(probe(there, str(root))), hardware_of(there, str(root))

    return read


@pytest.fixture
def draft(machine):
    return lambda name: draft_target(*machine(name))


# ---- what they report ----


CLUSTERS = {
    "rpi3bplus": [(4, "Cortex-A53", False, 1400)],
    "rpi4": [(4, "Cortex-A72", False, 1500)],
    "rpi_zero2w": [(4, "Cortex-A53", False, 1000)],
    "rk3588": [
        (4, "Cortex-A55", True, 1800),
        (2, "Cortex-A76", False, 2400),
        (2, "Cortex-A76", False, 2352),
    ],
    "rk3399": [(4, "Cortex-A53", True, 1416), (2, "Cortex-A72", False, 1800)],
    "jetson_orin_nano": [(6, "Cortex-A78AE", False, 1510.4)],
    "jetson_nano": [(4, "Cortex-A57", False, 1479)],
    "intel_hybrid_laptop": [(4, None, False, 4400), (4, None, True, 3300)],
    "x86_vm": [(2, None, False, None)],
    "graviton2": [(2, "Neoverse-N1", False, None)],
    "snapdragon_888": [
        (4, "Cortex-A55", True, 1804.8),
        (3, "Cortex-A78", False, 2419.2),
        (1, "Cortex-X1", False, 2841.6),
    ],
    "apple_m1": [
        (4, "Apple Icestorm (M1)", True, 2064),
        (4, "Apple Firestorm (M1)", False, 3204),
    ],
    "beaglebone": [(1, "Cortex-A8", False, 1000)],
    "busybox_board": [(1, "Cortex-A7", False, None)],
    "unknown_core": [(2, "part 0xfff", False, None)],
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters(machine, name) -> None:
    _, hardware = machine(name)
    found = [
        (len(one.cpus), one.cpu, one.little, one.frequency_max_mhz) for one in hardware.clusters
    ]
    assert found == CLUSTERS[name]


def test_clocks_and_governor_of_a_cluster(machine) -> None:
    little = machine("rk3588")[1].clusters[0]
    assert little.cpus == (0, 1, 2, 3)
    assert little.governor == "schedutil"
    assert (little.frequency_mhz, little.frequency_min_mhz) == (1008, 408)
    assert little.frequency_base_mhz is None


def test_threads_of_a_core_are_no_cores(machine) -> None:
    fast, efficient = machine("intel_hybrid_laptop")[1].clusters
    assert (fast.cpus, fast.physical_cores) == ((0, 1, 2, 3), 2)
    assert (efficient.cpus, efficient.physical_cores) == ((4, 5, 6, 7), 4)
    assert machine("epyc_vm")[1].clusters[0].physical_cores == 2


LIBC = {
    "rpi3bplus": ("glibc", "2.31", 64),
    "rpi4_32bit": ("glibc", "2.31", 32),
    "jetson_nano": ("glibc", "2.27", 64),
    "alpine": ("musl", None, 64),
    "yocto": ("glibc", "2.35", 64),  # from the loader
    "beaglebone": ("glibc", "2.31", 32),
    "busybox_board": (None, None, None),
}


@pytest.mark.parametrize("name", LIBC)
def test_c_library_and_bits(machine, name) -> None:
    _, hardware = machine(name)
    assert (hardware.libc, hardware.glibc, hardware.userland_bits) == LIBC[name]


def test_every_thermal_zone_with_its_name(machine) -> None:
    zones = machine("jetson_orin_nano")[1].thermal_zones
    assert [(zone.name, zone.temperature_c) for zone in zones] == [
        ("cpu-thermal", 46.875), ("gpu-thermal", 46.0), ("cv0-thermal", None),
    ]  # fmt: skip


def test_swap_areas(machine) -> None:
    (file,) = machine("rpi3bplus")[1].swap_areas
    assert (file.name, file.kind) == ("/var/swap", "file")
    (zram,) = machine("intel_hybrid_laptop")[1].swap_areas
    assert (zram.kind, zram.size_mb) == ("zram", pytest.approx(4294.96, abs=0.01))
    assert zram.used_mb == pytest.approx(1.05, abs=0.01)
    assert machine("epyc_vm")[1].swap_areas == ()
    assert machine("yocto")[1].swap_areas is None


def test_the_name_of_a_machine_with_two_kinds_of_core(machine) -> None:
    assert machine("rk3588")[0].cpu == "Cortex-A55 + Cortex-A76"


def test_a_device_that_reports_nothing(tmp_path) -> None:
    stubs = tmp_path / "usr" / "bin"
    stubs.mkdir(parents=True)
    for name in ("getconf", "uname", "python3"):
        (stubs / name).write_text("#!/bin/sh\nexit 127\n")
        (stubs / name).chmod(0o755)
    assert hardware_of(LocalTransport(), str(tmp_path)) == Hardware()
    assert parse_hardware({}) == Hardware()


def test_a_kernel_that_prints_the_part_once() -> None:
    """Before 3.8: after all processors."""
    cpuinfo = (
        "Processor\t: ARMv7 Processor rev 9 (v7l)\nprocessor\t: 0\nBogoMIPS\t: 1992.29\n\n"
        "processor\t: 1\nBogoMIPS\t: 1992.29\n\nCPU implementer\t: 0x41\nCPU part\t: 0xc09\n"
    )
    (cluster,) = parse_hardware({"cpuinfo": cpuinfo}).clusters
    assert (cluster.cpus, cluster.cpu) == ((0, 1), "Cortex-A9")


def test_policies_of_kernels_without_related_cpus(tmp_path) -> None:
    root = MACHINES["unknown_core"].write(tmp_path / "old")
    for cpu, khz in enumerate((1008000, 1200000)):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
    clusters = hardware_of(LocalTransport(), str(root)).clusters
    assert [(one.cpus, one.frequency_max_mhz) for one in clusters] == [((0,), 1008), ((1,), 1200)]


def test_lists_of_processors() -> None:
    assert cpu_list("0-3,8\n") == {0, 1, 2, 3, 8}
    assert cpu_list("0 1 2 3") == {0, 1, 2, 3}
    assert cpu_list("") == frozenset()


@pytest.mark.parametrize(
    ("loaders", "bits"),
    [
        ("lib/ld-linux-aarch64.so.1", 64),
        ("lib/ld-linux-armhf.so.3 lib/ld-linux.so.3", 32),
        ("lib/ld-linux-armhf.so.3 lib/ld-linux-aarch64.so.1", 64),
        ("lib/ld-musl-armhf.so.1", 32),
        ("lib64/ld-linux-x86-64.so.2 lib/ld-linux.so.2", 64),
        ("", None),
    ],
)
def test_bits_from_the_loaders(loaders, bits) -> None:
    assert userland_bits("", loaders) == bits


@every_shell
@pytest.mark.parametrize("name", ["rk3588", "intel_hybrid_laptop", "yocto"])
def test_every_shell_reports_the_same(shell, name, tmp_path) -> None:
    root = str(MACHINES[name].write(tmp_path / name))
    assert hardware_of(Shell(*shell), root) == hardware_of(LocalTransport(), root)


# ---- the target ----


TARGETS = {
    # cpu, cores, threads, clock_ghz, glibc
    "rpi3bplus": ("cortex-a53", 4, 4, 1.4, "2.31"),
    "rpi_zero2w": ("cortex-a53", 4, 4, 1.0, "2.36"),
    "rpi4": ("cortex-a72", 4, 4, 1.5, "2.36"),
    "rpi5": ("cortex-a76", 4, 4, 2.4, "2.36"),
    "rk3588": ("cortex-a76", 8, 4, 2.4, "2.35"),
    "rk3399": ("cortex-a72", 6, 2, 1.8, "2.36"),
    "jetson_orin_nano": ("cortex-a78ae", 6, 6, 1.51, "2.35"),
    "jetson_nano": ("cortex-a57", 4, 4, 1.479, "2.27"),
    "graviton2": ("neoverse-n1", 2, 2, None, "2.34"),
    "snapdragon_888": ("cortex-x1", 8, 4, 2.842, "2.38"),
    "apple_m1": ("max", 8, 4, 3.204, "2.38"),
    "unknown_core": ("max", 2, 2, None, "2.45"),
    "yocto": ("cortex-a53", 4, 4, 1.8, "2.35"),
    "x86_laptop": ("x86-64", 4, 4, 1.8, "2.39"),
    "intel_hybrid_laptop": ("x86-64", 8, 2, 1.2, "2.38"),
    "epyc_vm": ("x86-64", 4, 2, None, "2.36"),
    "qemu_virt": ("cortex-a72", None, None, None, "2.36"),
    "rpi4_32bit": ("cortex-a72", 4, 4, 1.8, "2.31"),
    "beaglebone": ("cortex-a8", 1, 1, 1.0, "2.31"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(draft, name) -> None:
    keys = draft(name).keys
    cpu, cores, threads, clock_ghz, glibc = TARGETS[name]
    assert (keys["cpu"], keys.get("clock_ghz"), keys["glibc"]) == (cpu, clock_ghz, glibc)
    if cores is not None:
        assert (keys["cores"], keys["threads"]) == (cores, threads)


REFUSED = {
    "alpine": "musl",
    "busybox_board": "C library",
}


@pytest.mark.parametrize("name", REFUSED)
def test_devices_that_cannot_be_targets(draft, name) -> None:
    found = draft(name)
    assert found.keys is None
    assert any(REFUSED[name] in problem for problem in found.problems)


@pytest.mark.parametrize(("name", "feature"), [("rpi4_32bit", "asimd"), ("beaglebone", "neon")])
def test_a_32_bit_system_is_for_tflite(machine, draft, name, feature) -> None:
    """On whichever kernel; but not without NEON."""
    keys = draft(name).keys
    assert (keys["architecture"], keys["runtimes"]) == ("armv7l", ["tflite"])
    assert keys["features"] == [feature]
    environment, hardware = machine(name)
    found = draft_target(environment.replaced(cpu_features=("half", "thumb")), hardware)
    assert found.keys is None
    assert "NEON" in found.problems[0]


RUNTIMES = {
    # glibc, python3 -> runtimes, pythons
    "rpi4_32bit": (["tflite"], ["3.9"]),  # 2.31, 3.9
    "beaglebone": (["tflite"], ["3.9"]),
    "rpi3bplus": (["executorch", "tflite"], ["3.9"]),  # too old for LiteRT
    "jetson_nano": (["tflite"], None),  # 2.27, 3.6: too old for ExecuTorch, and for a wheel
    "rk3588": (["executorch", "litert"], None),
    "graviton2": (["executorch", "litert"], None),
    "epyc_vm": (["executorch", "litert"], None),
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtimes_and_pythons_of_a_target(draft, name) -> None:
    found = draft(name)
    runtimes, pythons = RUNTIMES[name]
    assert (found.keys["runtimes"], found.keys.get("pythons")) == (runtimes, pythons)
    lacks = "tflite" in runtimes and pythons is None
    assert any("python3" in note for note in found.notes) is lacks


@pytest.mark.parametrize("python", ["3.13", "3.8", None])
def test_a_python_without_a_wheel(machine, python) -> None:
    """A native runtime needs none; a 32-bit system has no other runtime."""
    environment, hardware = machine("rpi3bplus")
    keys = draft_target(environment, hardware.replaced(python=python)).keys
    assert keys["runtimes"] == ["executorch"]
    environment, hardware = machine("rpi4_32bit")
    found = draft_target(environment, hardware.replaced(python=python))
    assert found.keys["runtimes"] == ["tflite"]
    assert "pythons" not in found.keys
    assert any((python or "unknown") in note for note in found.notes)


@pytest.mark.parametrize("name", ["rpi3bplus", "rpi4_32bit", "epyc_vm"])
def test_a_c_library_that_is_too_old_for_every_runtime(machine, name) -> None:
    environment, hardware = machine(name)
    found = draft_target(environment, hardware.replaced(glibc="2.24"))
    assert found.keys is None
    assert "2.24" in found.problems[0]


def test_a_32_bit_system_that_is_no_arm(machine) -> None:
    environment, hardware = machine("x86_laptop")
    found = draft_target(environment, hardware.replaced(userland_bits=32))
    assert found.keys is None
    assert "32-bit" in found.problems[0]


def test_nothing_unknown_is_filled_in(machine) -> None:
    environment, hardware = machine("rpi5")
    found = draft_target(environment, hardware.replaced(libc=None, glibc=None))
    assert found.keys is None
    assert "C library: unknown" in found.problems[0]
    bare = environment.replaced(memory_mb=None, frequency_nominal_mhz=None)
    keys = draft_target(bare, hardware.replaced(clusters=())).keys
    assert "memory_mb" not in keys
    assert "clock_ghz" not in keys
    assert draft_target(DeviceEnvironment(), Hardware()).keys is None


@pytest.mark.parametrize("name", [*TARGETS])
def test_a_target_file_is_read_back(draft, name, tmp_path) -> None:
    found = draft(name)
    path = tmp_path / "my-board.toml"
    path.write_text(target_toml(found))
    target = read_target(path)
    assert target.name == "my-board"
    assert {key: tomllib.loads(path.read_text())[key] for key in found.keys} == found.keys
    assert target_toml(draft(name)) == path.read_text()


def test_features_that_kernels_are_chosen_by(draft) -> None:
    assert draft("rpi4").keys["features"] == ["asimd"]
    assert draft("rpi5").keys["features"] == ["asimd", "asimddp", "fphp", "asimdhp"]
    assert draft("unknown_core").keys["features"][-2:] == ["sve", "sve2"]
    assert "avx_vnni" in draft("intel_hybrid_laptop").keys["features"]


def test_what_a_reader_of_a_target_should_know(draft) -> None:
    assert any("4x Cortex-A53, 2x Cortex-A72" in note for note in draft("rk3399").notes)
    assert any("4x big, 4x little" in note for note in draft("intel_hybrid_laptop").notes)
    assert any("'max'" in note for note in draft("apple_m1").notes)
    assert any("emulated" in note for note in draft("qemu_virt").notes)


def test_a_model_with_odd_characters(machine, tmp_path) -> None:
    environment, hardware = machine("rpi5")
    odd = environment.replaced(model='Board "X" \\ \x07\x7f\u2028 Größe\n[table]')
    path = tmp_path / "odd.toml"
    path.write_text(target_toml(draft_target(odd, hardware)))
    assert read_target(path).description == 'Board "X" \\  Größe[table]'


# ---- as text ----


@pytest.mark.parametrize("name", EVERY)
def test_every_machine_is_shown(machine, name) -> None:
    environment, hardware = machine(name)
    found: TargetDraft = draft_target(environment, hardware)
    document = ProbeDocument(
        schema_="edgekit.probe/1", device="pi@board", environment=environment, hardware=hardware,
        target=found.keys, target_problems=found.problems, notes=found.notes,
    )  # fmt: skip
    text = render_probe(document)
    assert "None" not in text
    for problem in found.problems:
        assert problem.split(";")[0] in text
    assert ProbeDocument.model_validate_json(document.to_json()) == document
    jsonschema.validate(json.loads(document.to_json()), SCHEMA)
