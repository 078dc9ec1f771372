"""Sources of noise: what each one reports, and when it disturbs."""

from __future__ import annotations

import pytest
from recorded import Shell, every_shell, probed, watched

from edgekit.device.facts.canary import sing, speed_ratio
from edgekit.device.facts.conditions import Conditions, conditions
from edgekit.device.facts.noise import SOURCES
from edgekit.device.local import LocalTransport
from edgekit.documents.environment import DeviceEnvironment, NoiseFinding

BUSY_MS = 13_240  # the runner's part of rpi4/watch.txt
NAMES = {
    "throttling", "frequency", "governor", "temperature", "load", "swap", "canary", "emulation",
}  # fmt: skip
SLOW = {"frequency_mhz": 600.0}


def on_a_pi(canary: float | None = 1.0, *, samples=None, **changes) -> Conditions:
    """``samples``: changes of every sample; the others: of the device."""
    seen = [sample.replaced(**(samples or {})) for sample in watched("rpi4/watch")]
    device = probed("rpi4").replaced(**changes)
    return conditions(device, seen, device, BUSY_MS, canary)


def disturbing(found: Conditions) -> list[str]:
    return [one.source for one in found.noise if one.disturbs]


def source(found: Conditions, name: str) -> NoiseFinding:
    return next(one for one in found.noise if one.source == name)


def test_every_source_is_listed_once() -> None:
    assert [one.name for one in SOURCES] == [one.source for one in on_a_pi().noise]
    assert {one.name for one in SOURCES} == NAMES
    assert len(SOURCES) == len(NAMES)


def test_a_steady_pi() -> None:
    found = on_a_pi()
    assert disturbing(found) == []
    assert all(one.available for one in found.noise)
    assert source(found, "governor").state == "ondemand"
    assert source(found, "frequency").state == "1500 MHz"
    assert source(found, "temperature").state == "up to 58 C"
    assert source(found, "emulation").state == "not emulated"


def test_a_device_that_reports_nothing() -> None:
    """Unknown is neither fine nor a disturbance."""
    nothing = DeviceEnvironment()
    found = conditions(nothing, (), nothing, None)
    assert not any(one.available or one.disturbs for one in found.noise)
    assert {one.state for one in found.noise} == {None}


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("throttling", {"samples": {"throttled": ("throttled",), **SLOW}}),
        ("throttling", {"samples": {"frequency_limit_mhz": 900.0}}),
        ("throttling", {"throttled": ("under-voltage has occurred",)}),
        ("governor", {"samples": SLOW, "governor": "powersave"}),
        ("frequency", {"samples": SLOW, "governor": "performance"}),
        ("frequency", {"samples": SLOW, "governor": None}),
        ("frequency", {"samples": SLOW, "frequency_limit_mhz": 600.0}),
        ("temperature", {"samples": {"temperature_c": 86.0}}),
        ("swap", {"samples": {"swap_used_mb": 40.0}}),
        ("canary", {"canary": 0.7}),
        ("canary", {"canary": 1.4}),
        ("emulation", {"emulated": True}),
    ],
)
def test_one_cause_is_one_disturbance(expected, changes) -> None:
    found = on_a_pi(**changes)
    assert disturbing(found) == [expected]
    (warning,) = found.warnings
    one = source(found, expected)
    assert one.problem in warning
    assert one.advice in warning


def test_heat_that_cuts_the_clock_is_throttling() -> None:
    hot = {"temperature_c": 86.0, "throttled": ("soft temperature limit",)}
    found = on_a_pi(samples=hot)
    assert disturbing(found) == ["throttling"]
    assert source(found, "temperature").state == "up to 86 C"


def test_independent_sources_are_all_reported() -> None:
    found = on_a_pi(0.5, samples={"swap_used_mb": 40.0, "temperature_c": 90.0})
    assert disturbing(found) == ["temperature", "swap", "canary"]


def test_load_before_runs_that_were_too_short_to_count_cpu_time() -> None:
    device = probed("rpi4").replaced(load_1min=7.0)
    found = conditions(device, watched("rpi4/watch")[:2], device, BUSY_MS, 1.0)
    assert disturbing(found) == ["load"]
    assert on_a_pi(load_1min=7.0).warnings == ()  # the CPU time of others is known, and low


def test_small_drift_is_noise_of_the_canary() -> None:
    assert disturbing(on_a_pi(0.9)) == disturbing(on_a_pi(1.1)) == []
    assert speed_ratio(200, 150) == 0.75
    assert speed_ratio(None, 150) is None
    assert speed_ratio(150, None) is None


def test_findings_in_the_document() -> None:
    found = on_a_pi(0.5)
    document = found.environment(threads=1)
    assert document.noise == found.noise
    assert document.warnings == found.warnings


@every_shell
def test_the_canary_sings_in_every_shell(shell) -> None:
    assert sing(Shell(*shell)) > 0


def test_a_canary_that_cannot_sing() -> None:
    class Late(LocalTransport):
        def run(self, argv, **options):
            raise TimeoutError

    class Mute(LocalTransport):
        def run(self, argv, **options):
            return super().run(["sh", "-c", "exit 0"])

    assert sing(Late()) is None
    assert sing(Mute()) is None
