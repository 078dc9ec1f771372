"""The rounds of a calibration: what is kept, repeated and refused. The device is a double."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibrations import addition, convolution
from programs import program
from transport_double import TransportDouble

from edgekit.cost.calibration.store import Draft
from edgekit.device.facts.throttled import UNDER_VOLTAGE, has_occurred
from edgekit.documents.environment import DeviceEnvironment
from edgekit.errors import CalibrationError, DeviceError
from edgekit.measure import calibration as module
from edgekit.measure.calibration import ROUNDS, CalibrationDevice, CalibrationProgram
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.runner.client import ProfileRow, RunReport
from edgekit.runner.files import RunnerFiles

CALM = DeviceEnvironment(emulated=False, cores=4, throttled=())
WEAK = CALM.replaced(throttled=(has_occurred(UNDER_VOLTAGE),))
FACTOR = {"small": 1.0, "large": 10.0}
THREADS = (1, 4)


class Device:
    """Runs in a tenth of a millisecond for each microsecond of the rule; may be lost or weak.

    ``lost_after``: so many processes of the runner. ``slow``: a factor, by round.
    """

    def __init__(self) -> None:
        self.processes: list[tuple[str, int, bool]] = []
        self.lost_after: int | None = None
        self.slow: dict[int, float] = {}
        self.environments = [CALM]

    def environment(self, _transport) -> DeviceEnvironment:
        return self.environments.pop(0) if len(self.environments) > 1 else self.environments[0]

    def measure(self, at, *, runs, warmup, threads, profile=False) -> RunReport:
        if self.lost_after is not None and len(self.processes) >= self.lost_after:
            raise DeviceError("the connection was lost")
        name = at.model.name.split("-")[0]
        self.processes.append((name, threads, profile))
        number = (len(self.processes) - 1) // (2 * len(FACTOR) * len(THREADS))
        scale = FACTOR[name] / threads * self.slow.get(number, 1.0)
        disturbed = 2.0 if len(self.processes) % 7 == 0 else 1.0
        rows = (
            ProfileRow("Convolution (NHWC, F32) IGEMM #1", 800 * scale * disturbed, True, 0, 0),
            ProfileRow("Add (ND) #1", 100 * scale * disturbed, True, 0, 1),
        )
        return RunReport(
            runtime="executorch",
            threads=threads,
            load_ms=1.0,
            planned_bytes=0,
            peak_memory_mb=1.0,
            inputs=(),
            outputs=(),
            latencies_ms=(scale,) * runs,
            profile=rows if profile else (),
            profiled_us=1000 * scale * disturbed if profile else None,
            cpu_ms=1.0,
        )


@pytest.fixture
def device(monkeypatch) -> Device:
    found = Device()
    monkeypatch.setattr(module, "measure", found.measure)
    monkeypatch.setattr(module, "environment_of", found.environment)
    monkeypatch.setattr(module, "sing", lambda transport: 100)
    return found


@pytest.fixture
def draft(tmp_path) -> Draft:
    return Draft(tmp_path / "data" / "board.json", "k" * 64)


def chosen() -> list[CalibrationProgram]:
    shapes = (convolution(8, 16, 16), addition(8, 16, index=1))
    artifact = Artifact(b"program", "model.pte", program("Conv2d", "Add"))
    return [CalibrationProgram(name, "fp32", artifact, shapes) for name in FACTOR]


def run(tmp_path: Path, draft: Draft, lenient: bool = False):
    runner = tmp_path / "runner"
    runner.write_bytes(b"#!/bin/sh\n")
    place = CalibrationDevice(TransportDouble(), "executorch", RunnerFiles(runner, {}), THREADS)
    return module.measure_programs(chosen(), place, draft, lenient, Silent())


def test_every_program_is_timed_in_every_round(device, draft, tmp_path) -> None:
    times, warnings = run(tmp_path, draft)
    assert not warnings
    assert len(device.processes) == ROUNDS * 2 * len(FACTOR) * len(THREADS)
    one_round = device.processes[: 2 * len(FACTOR) * len(THREADS)]
    assert {(name, threads) for name, threads, _ in one_round} == {
        (name, threads) for name in FACTOR for threads in THREADS
    }
    found = {(one.network, one.threads): one for one in times}
    assert found["large", 4].latency_ms == pytest.approx(2.5)
    # a disturbed profile is scaled to the run without profiling
    assert found["large", 4].operator_ms == pytest.approx((2.0, 0.25))
    assert found["small", 1].times.rest_ms == pytest.approx(0.1)


def test_a_lost_device_loses_nothing(device, draft, tmp_path) -> None:
    device.lost_after = 11
    with pytest.raises(DeviceError):
        run(tmp_path, draft)
    kept = draft.count
    assert kept == 5  # two processes for each
    device.lost_after, before = None, len(device.processes)
    times, _ = run(tmp_path, draft)
    missing = ROUNDS * len(FACTOR) * len(THREADS) - kept
    assert len(device.processes) - before == 2 * missing
    assert len(times) == len(FACTOR) * len(THREADS)


def test_a_damaged_measurement_is_made_again(device, draft, tmp_path) -> None:
    run(tmp_path, draft)
    for name, content in (("0-small-fp32-1", {"rows": 3}), ("1-small-fp32-1", [1])):
        draft.write(name, content)
    before = len(device.processes)
    run(tmp_path, draft)
    assert len(device.processes) - before == 4


def test_a_disturbed_round_is_refused_and_made_again(device, draft, tmp_path) -> None:
    """The supply is weak from the second round on."""
    device.environments = [CALM, CALM, CALM, CALM, WEAK]
    before = len(device.processes)
    with pytest.raises(CalibrationError) as caught:
        run(tmp_path, draft)
    assert "under-voltage" in caught.value.message
    assert "--lenient" in caught.value.hint
    assert draft.count == len(FACTOR) * len(THREADS)  # those of the first round
    rounds = 1 + 1 + module.REPEATS
    assert len(device.processes) - before == 2 * rounds * len(FACTOR) * len(THREADS)
    device.environments, before = [CALM], len(device.processes)
    run(tmp_path, draft)
    assert len(device.processes) - before == 2 * (ROUNDS - 1) * len(FACTOR) * len(THREADS)


@pytest.mark.parametrize(
    ("slow_rounds", "rounds", "expected"), [((0,), 5, 1.0), ((1,), 3, 1.0), ((0, 1), 3, 1.5)]
)
def test_slow_rounds_count_little(
    device, draft, tmp_path, monkeypatch, slow_rounds, rounds, expected
) -> None:
    """A round is slow by half, or by a factor of three where two of three are."""
    monkeypatch.setattr(module, "ROUNDS", rounds)
    factor = 1.5 if len(slow_rounds) == 1 else 2.0
    device.slow = dict.fromkeys(slow_rounds, factor)
    times, _ = run(tmp_path, draft)
    found = {(one.network, one.threads): one.latency_ms for one in times}
    assert found["large", 1] == pytest.approx(expected * FACTOR["large"])


def test_a_round_that_was_disturbed_for_a_moment_is_taken_again(device, draft, tmp_path) -> None:
    device.environments = [CALM, CALM, WEAK, WEAK, CALM]
    times, warnings = run(tmp_path, draft)
    assert not warnings
    assert len(times) == len(FACTOR) * len(THREADS)
    assert len(device.processes) == 2 * (ROUNDS + 1) * len(FACTOR) * len(THREADS)


def test_a_slow_device_takes_no_round_again(device, draft, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.0)
    device.environments = [WEAK]
    with pytest.raises(CalibrationError):
        run(tmp_path, draft)
    assert len(device.processes) == 2 * len(FACTOR) * len(THREADS)


def test_lenient_accepts_and_records_what_disturbed(device, draft, tmp_path) -> None:
    device.environments = [CALM, CALM, WEAK, CALM]
    times, warnings = run(tmp_path, draft, lenient=True)
    assert len(times) == len(FACTOR) * len(THREADS)
    assert "under-voltage" in warnings[0]


def test_what_a_lenient_session_accepted_is_measured_again_by_another(
    device, draft, tmp_path
) -> None:
    device.environments = [CALM, CALM, WEAK, CALM]
    run(tmp_path, draft, lenient=True)
    before = len(device.processes)
    _, warnings = run(tmp_path, draft, lenient=True)
    assert "under-voltage" in warnings[0]
    assert len(device.processes) == before
    _, warnings = run(tmp_path, draft)
    assert not warnings
    assert len(device.processes) - before == 2 * len(FACTOR) * len(THREADS)


def test_an_emulated_device_is_refused_at_once(device, draft, tmp_path) -> None:
    device.environments = [CALM.replaced(emulated=True)]
    with pytest.raises(CalibrationError):
        run(tmp_path, draft)
    assert not device.processes


def test_a_slow_device_gets_fewer_rounds(device, draft, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.0)
    run(tmp_path, draft)
    assert draft.count == module.LEAST_ROUNDS * len(FACTOR) * len(THREADS)
