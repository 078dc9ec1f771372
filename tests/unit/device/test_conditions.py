"""Watching a device while runs are timed, and what follows from what was seen."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from recorded import RECORDINGS, Shell, every_shell, probed, watched

from edgekit.device.facts import watch as watching_module
from edgekit.device.facts.conditions import Conditions, conditions
from edgekit.device.facts.watch import SCRIPT, watch
from edgekit.device.local import LocalTransport
from edgekit.documents.environment import DeviceState

BUSY_MS = 13_240  # the runner's part of rpi4/watch.txt


@pytest.fixture
def board(tmp_path):
    """A Pi whose files a test may change while it is watched."""
    return shutil.copytree(RECORDINGS / "rpi4", tmp_path / "board")


def on_a_pi(
    samples: list[DeviceState], runner_cpu_ms: float | None = BUSY_MS, **before
) -> Conditions:
    device = probed("rpi4")
    return conditions(device.replaced(**before), samples, device, runner_cpu_ms)


def every(samples: list[DeviceState], **changes) -> list[DeviceState]:
    return [sample.replaced(**changes) for sample in samples]


# ---- the watch ----


@every_shell
def test_a_first_and_a_last_sample_of_however_short_a_run(shell, board) -> None:
    zone = board / "sys/class/thermal/thermal_zone0/temp"
    with watch(Shell(*shell), root=str(board)) as watching:
        assert [sample.temperature_c for sample in watching.samples] == [48.686]
        zone.write_text("61000\n")
    assert watching.samples[-1].temperature_c == 61
    assert watching.samples[0].throttled == ()


def test_samples_in_between() -> None:
    with watch(LocalTransport(), every_s=0.01) as watching:
        deadline = time.monotonic() + 30
        while len(watching.samples) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(watching.samples) >= 6
    totals = [sample.cpu_total_ms for sample in watching.samples]
    assert totals == sorted(totals)
    assert totals[-1] > totals[0]


@every_shell
def test_it_ends_with_its_stdin(shell) -> None:
    """As where the client is killed, or the connection is lost."""
    process = Shell(*shell).start(["sh", "-c", SCRIPT, "edgekit-watch", "/"])
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"stat cpu")
    process.stdin.close()
    assert process.wait(timeout_s=30).returncode == 0
    process.kill()


def test_nothing_is_left_running_after_an_error() -> None:
    started = []

    class Remembering(LocalTransport):
        def start(self, argv):
            started.append(super().start(argv))
            return started[-1]

    with pytest.raises(ZeroDivisionError), watch(Remembering()) as watching:
        raise ZeroDivisionError
    assert watching.samples
    with pytest.raises(ProcessLookupError):
        os.kill(started[0]._popen.pid, 0)


def test_a_watch_that_breaks_breaks_no_measurement(board) -> None:
    class Breaking(LocalTransport):
        def start(self, argv):
            return super().start(["sh", "-c", "read -r tick; echo 'stat cpu 1 2 3 4'; exit"])

    with watch(Breaking(), every_s=0.01) as watching:
        pass
    assert len(watching.samples) == 1


def test_a_device_whose_firmware_hangs(board, monkeypatch) -> None:
    monkeypatch.setattr(watching_module, "ANSWER_S", 0.2)
    (board / "usr/bin/vcgencmd").write_text("#!/bin/sh\nexec sleep 5\n")
    with watch(LocalTransport(), root=str(board)) as watching:
        pass
    assert watching.samples == ()


# ---- what follows ----


def test_a_healthy_pi_gives_no_warning() -> None:
    found = on_a_pi(watched("rpi4/watch"))
    assert found.warnings == ()
    during = found.during
    assert during.samples == 7
    assert (during.frequency_min_mhz, during.frequency_max_mhz) == (1500, 1500)  # at work
    assert during.temperature_max_c == pytest.approx(57.939)
    assert during.throttled == ()
    assert during.others_percent_of_core < 10


def test_a_weak_supply() -> None:
    device = probed("rpi4_undervolted")
    before = device.replaced(throttled=("under-voltage has occurred",))
    found = conditions(before, watched("rpi4_undervolted/watch"), device, 7800)
    assert found.during.throttled == ("under-voltage", "arm frequency capped", "throttled")
    assert found.during.frequency_min_mhz == pytest.approx(600.1)
    assert found.warnings == (
        "the supply was too weak (under-voltage): the clock fell to 600 of 1500 MHz; "
        "use the board's official power supply",
    )


def test_a_dip_between_two_samples() -> None:
    """No sample met it, but the firmware remembers."""
    samples = watched("rpi4/watch")
    samples[-1] = samples[-1].replaced(throttled=("under-voltage has occurred",))
    found = on_a_pi(samples)
    assert found.during.throttled == ("under-voltage",)
    assert "too weak" in found.warnings[0]


def test_a_dip_before_is_told_as_such() -> None:
    past = ("under-voltage has occurred",)
    device = probed("rpi4").replaced(throttled=past)
    found = conditions(device, every(watched("rpi4/watch"), throttled=past), device, BUSY_MS)
    assert found.during.throttled == ()
    assert found.warnings[0].startswith("under-voltage has occurred since boot")


def test_heat_on_a_pi() -> None:
    hot = every(watched("rpi4/watch"), throttled=("arm frequency capped",), temperature_c=82.3)
    found = on_a_pi(every(hot, frequency_mhz=1000.0))
    assert found.warnings == (
        "it throttled at 82 C: the clock fell to 1000 of 1500 MHz; cool it (heat sink, fan)",
    )


def test_heat_on_another_board() -> None:
    """Its kernel lowers the limit of the clock."""
    samples = every(watched("rpi4/watch"), throttled=None, temperature_c=90.0)
    samples[3] = samples[3].replaced(frequency_limit_mhz=1200.0)
    found = on_a_pi(samples)
    assert found.during.frequency_limit_min_mhz == 1200
    assert found.warnings == ("it throttled at 90 C: the clock was cut; cool it (heat sink, fan)",)


def test_a_governor_that_keeps_the_clock_low() -> None:
    slow = every(watched("rpi4/watch"), frequency_mhz=600.0)
    told = ("the CPU ran at 600 of 1500 MHz: governor powersave; set it to performance",)
    low = {"governor": "powersave", "frequency_mhz": 600.0}
    assert on_a_pi(slow, **low).warnings == told
    assert on_a_pi([slow[0], slow[-1]], **low).warnings == told  # over at once


def test_a_limit_that_was_set() -> None:
    samples = every(watched("rpi4/watch"), frequency_mhz=900.0, frequency_limit_mhz=900.0)
    found = on_a_pi(samples, frequency_limit_mhz=900.0)
    assert found.warnings[0].startswith("the CPU may only run at 900 of 1500 MHz")


def test_an_idle_clock_is_no_slow_one() -> None:
    """Too short a run: its two samples found the device before and after it."""
    samples = every(watched("rpi4/watch"), frequency_mhz=600.0)
    assert on_a_pi([samples[0], samples[-1]]).warnings == ()


def test_boost_above_the_base_clock_is_no_slow_one() -> None:
    device = probed("x86_laptop")
    samples = every(watched("rpi4/watch"), frequency_mhz=2600.0, frequency_limit_mhz=3900.0)
    assert conditions(device, samples, device, BUSY_MS).warnings == ()


def test_other_processes() -> None:
    device = probed("x86_vm")
    alone = conditions(device, watched("x86_vm/quiet"), device, 2402.9)
    beside = conditions(device, watched("x86_vm/beside_a_spinner"), device, 2349.9)
    assert alone.during.others_percent_of_core == pytest.approx(1, abs=2)
    assert alone.warnings == ()
    assert beside.during.others_percent_of_core == pytest.approx(100, abs=5)
    assert beside.warnings == (
        f"other processes used {beside.during.others_percent_of_core:.0f} % of a core; "
        "stop other programs and measure again",
    )


def test_what_edgekit_itself_does_on_this_host_is_no_other_process() -> None:
    device, samples = probed("x86_vm"), watched("x86_vm/beside_a_spinner")
    busy_ms = samples[-1].cpu_busy_ms - samples[0].cpu_busy_ms
    assert conditions(device, samples, device, 2349.9, own_cpu_ms=busy_ms).warnings == ()
    assert conditions(device, samples, device, 2349.9, own_cpu_ms=100).warnings != ()


def test_a_watch_counts_what_this_process_and_its_programs_use() -> None:
    device = LocalTransport()
    with watch(device) as watching:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        device.run(["sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"])
    assert watching.own_cpu_ms > 200
    with watch(Shell("sh")) as idle:
        time.sleep(0.2)
    assert idle.own_cpu_ms < 150


def test_what_cannot_be_told_of_others() -> None:
    """A run over in an instant, a runner that does not tell its CPU time, one sample."""
    samples = watched("rpi4/watch")
    assert on_a_pi(samples[:3]).during.others_percent_of_core is None
    assert on_a_pi(samples, runner_cpu_ms=None).during.others_percent_of_core is None
    assert on_a_pi(samples[:1]).during.others_percent_of_core is None


def test_swap_that_fills_up_or_is_needed() -> None:
    samples = watched("rpi4/watch")
    assert on_a_pi(every(samples, swap_used_mb=40.0), swap_used_mb=40.0).warnings == ()
    assert "swap was used (40 MB" in on_a_pi(every(samples, swap_used_mb=40.0)).warnings[0]
    device = probed("rpi_zero2w")
    found = conditions(device, [device, device], device, 100)
    assert "swap was used (63 MB, 33 MB of memory available)" in found.warnings[-1]


def test_a_board_that_tells_almost_nothing() -> None:
    device = probed("busybox_board")
    with watch(LocalTransport(), root=str(RECORDINGS / "busybox_board")) as watching:
        pass
    found = conditions(device, watching.samples, device, 10)
    assert found.warnings == ()
    assert found.during.throttled is None
    assert found.during.frequency_max_mhz is None
    assert conditions(device, (), device, None).during.samples == 0


def test_as_json() -> None:
    found = on_a_pi(watched("rpi4/watch"))
    document = json.loads(found.environment(threads=4).model_dump_json())
    assert {"threads", "before", "during", "after", "warnings"} <= set(document)
    assert document["model"] == found.before.model
    assert document["before"]["temperature_c"] == 48.686
    assert "cpu_features" not in document["before"]  # it does not change
    assert document["during"]["samples"] == 7
