"""The parsers, on output as such machines give it (recordings/)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.device.facts.parse import parse_environment
from edgekit.device.facts.probe import probe, split_sections
from edgekit.device.local import LocalTransport

RECORDINGS = Path(__file__).parent / "recordings"


def read(name: str):
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


def test_an_emulated_arm_machine() -> None:
    found = read("qemu_virt_arm64")
    assert found.emulated is True
    assert found.cpu == "Cortex-A72"
    assert found.governor is None
    assert found.frequency_mhz is None


def test_a_kvm_guest_runs_at_its_own_speed() -> None:
    assert read("x86_kvm").emulated is False


def test_an_x86_machine_emulated_by_tcg() -> None:
    assert read("x86_tcg").emulated is True


def test_a_device_that_tells_nothing() -> None:
    found = parse_environment({})
    assert found.emulated is None
    assert found.architecture is None
    assert found.cpu_features == ()


def test_this_host_answers() -> None:
    found = parse_environment(probe(LocalTransport()))
    assert found.architecture in ("x86_64", "aarch64")
    assert found.cores >= 1
    assert found.memory_mb > 100
    assert found.kernel
