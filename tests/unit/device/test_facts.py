"""The scripts and parsers, on what such machines answer (recordings/README.md)."""

from __future__ import annotations

import pytest
from recorded import RECORDINGS, Shell, every_shell, probed

from edgekit.device.facts.parse import parse_environment
from edgekit.device.facts.probe import environment_of, probe, split_sections
from edgekit.device.facts.throttled import throttled_words
from edgekit.device.local import LocalTransport
from edgekit.documents.environment import DeviceEnvironment


def read(name: str) -> DeviceEnvironment:
    return parse_environment(split_sections((RECORDINGS / f"{name}.txt").read_text()))


def test_a_raspberry_pi_4() -> None:
    found = read("rpi4")
    assert found.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert found.cpu == "Cortex-A72"
    assert found.architecture == "aarch64"
    assert found.cores == 4
    assert found.governor == "ondemand"
    assert found.frequency_mhz == 1500
    assert found.temperature_c == pytest.approx(48.686)
    assert found.emulated is False
    assert "asimd" in found.cpu_features
    assert found.memory_mb == pytest.approx(3981.7, abs=1)


def test_the_same_by_its_files() -> None:
    found = probed("rpi4")
    assert found.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found.os, found.kernel) == ("Debian GNU/Linux 12 (bookworm)", "6.6.31+rpt-rpi-v8")
    assert found.architecture == "aarch64"
    assert (found.frequency_mhz, found.frequency_limit_mhz) == (1500, 1500)
    assert found.frequency_nominal_mhz == 1500
    assert found.throttled == ()
    assert found.swap_total_mb == pytest.approx(104.85, abs=0.01)
    assert found.swap_used_mb == 0
    assert found.uptime_s == pytest.approx(23458.12)
    assert found.boot_time_s == 1714400000
    assert found.cpu_busy_ms == 10 * (40012 + 312 + 18730 + 951)
    assert found.cpu_total_ms == found.cpu_busy_ms + 10 * (9321044 + 2210)


def test_a_pi_whose_firmware_cuts_the_clock() -> None:
    """The kernel still says 1500 MHz; vcgencmd lies in /opt/vc/bin here."""
    found = probed("rpi4_undervolted")
    assert found.throttled == (
        "under-voltage",
        "arm frequency capped",
        "throttled",
        "under-voltage has occurred",
        "arm frequency capped has occurred",
        "throttled has occurred",
    )
    assert found.frequency_mhz == pytest.approx(600.1)
    assert found.frequency_nominal_mhz == 1500
    assert found.temperature_c == pytest.approx(82.277)


def test_a_zero_2_w_that_swaps() -> None:
    """Its user may not ask vcgencmd: the kernel's file tells."""
    found = probed("rpi_zero2w")
    assert found.swap_used_mb == pytest.approx(62.652)
    assert found.memory_available_mb == pytest.approx(32.6, abs=0.1)
    assert found.throttled == ("under-voltage has occurred", "throttled has occurred")


def test_a_raspberry_pi_5() -> None:
    found = probed("rpi5")
    assert found.cpu == "Cortex-A76"
    assert "asimddp" in found.cpu_features
    assert found.frequency_nominal_mhz == 2400


def test_a_laptop() -> None:
    """Its model is DMI's; the zones of the case and the radio are not the CPU's temperature."""
    found = probed("x86_laptop")
    assert found.model == "20N2CTO1WW"
    assert found.temperature_c == 63
    assert found.frequency_mhz == pytest.approx(2901.2, abs=0.1)
    assert found.frequency_limit_mhz == 3900
    assert found.frequency_nominal_mhz == 1800  # without boost
    assert found.governor == "powersave"
    assert found.throttled is None


def test_an_emulated_arm_machine() -> None:
    found = read("qemu_virt_arm64")
    assert found.emulated is True
    assert found.cpu == "Cortex-A72"
    assert found.governor is None
    assert found.frequency_mhz is None
    assert probed("qemu_virt").emulated is True


def test_a_kvm_guest_runs_at_its_own_speed() -> None:
    assert read("x86_kvm").emulated is False
    assert probed("x86_vm").emulated is False


def test_an_x86_machine_emulated_by_tcg() -> None:
    assert read("x86_tcg").emulated is True


def test_a_board_that_tells_almost_nothing() -> None:
    found = probed("busybox_board")
    assert (found.architecture, found.model, found.cpu) == ("armv7l", "sun8i", "Cortex-A7")
    assert found.memory_mb == pytest.approx(59.4, abs=0.1)
    assert found.memory_available_mb is None
    assert found.swap_used_mb is None
    assert found.governor is None
    assert found.temperature_c is None
    assert found.os is None
    assert found.uptime_s is None


def test_a_device_that_tells_nothing(tmp_path) -> None:
    assert parse_environment({}) == DeviceEnvironment()
    found = parse_environment(probe(LocalTransport(), str(tmp_path)))
    assert found.emulated is None
    assert found.cpu_features == ()
    assert found.cpu_busy_ms is None


def test_older_kernels_have_no_policies(tmp_path) -> None:
    for core, khz in enumerate((408000, 1008000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
        (folder / "scaling_governor").write_text("interactive\n")
    found = parse_environment(probe(LocalTransport(), str(tmp_path)))
    assert found.frequency_mhz == 1008
    assert found.governor == "interactive"


def test_zones_of_other_things_alone(tmp_path) -> None:
    """Where no zone has the name of a CPU, it is the first one."""
    for index, (kind, temperature) in enumerate([("thermal", 41000), ("battery", 55000)]):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{index}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(kind + "\n")
        (zone / "temp").write_text(f"{temperature}\n")
    assert parse_environment(probe(LocalTransport(), str(tmp_path))).temperature_c == 41


@every_shell
@pytest.mark.parametrize("name", ["rpi4_undervolted", "rpi_zero2w", "x86_laptop", "busybox_board"])
def test_every_shell_gives_the_same(shell, name) -> None:
    root = str(RECORDINGS / name)
    assert probe(Shell(*shell), root) == probe(LocalTransport(), root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("throttled=0x0", ()),
        ("throttled=0x8", ("soft temperature limit",)),
        ("throttled=0x20000", ("arm frequency capped has occurred",)),
        ("80008", ("soft temperature limit", "soft temperature limit has occurred")),
        ("VCHI initialization failed", None),
        ('error=1 error_msg="Command not registered"', None),
        ("", None),
    ],
)
def test_the_firmwares_bits_in_words(text, words) -> None:
    assert throttled_words(text) == words


def test_this_host_answers() -> None:
    found = environment_of(LocalTransport())
    assert found.architecture in ("x86_64", "aarch64")
    assert found.cores >= 1
    assert found.memory_mb > 100
    assert found.kernel
    assert found.uptime_s > 0
    assert found.cpu_total_ms > found.cpu_busy_ms > 0
