"""Calibrations in the user's data folder, and which of them a build uses."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import pytest
from calibrations import DEVICE, calibration, network, programs

from edgekit.cost.calibration import latency as latency_module
from edgekit.cost.calibration import store
from edgekit.cost.calibration.latency import calibrated_latency
from edgekit.cost.calibration.predict import with_left_out
from edgekit.cost.calibration.store import (
    Draft,
    calibration_folder,
    calibration_path,
    read_all,
    read_calibration,
    write_calibration,
)
from edgekit.errors import CalibrationError, OutputError
from edgekit.target import load_target

RUNTIME = SimpleNamespace(name="executorch", version="1.5.1")
SHAPES = network("another").shapes


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def measured():
    return calibration()


def predict(target, runtime=RUNTIME):
    found = calibrated_latency(lambda: SHAPES, target, runtime)
    return found.figure, found.problems


def test_what_was_written_is_read(measured) -> None:
    path = write_calibration(measured)
    assert path.parent == calibration_folder()
    assert read_calibration(path) == measured
    assert read_all() == ([measured], [])


def test_each_device_and_version_has_its_file(measured) -> None:
    paths = {
        calibration_path(device, "executorch", version)
        for device in (DEVICE, DEVICE.replaced(clock_ghz=1.5), DEVICE.replaced(model=None))
        for version in ("1.5.1", "1.6.0")
    }
    assert len(paths) == 6
    assert calibration_path(DEVICE, "executorch", "1.5.1") in paths


@pytest.mark.parametrize("change", ["cut", "edited", "emptied", "not JSON", "no file"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(measured, change) -> None:
    path = write_calibration(measured)
    whole = path.read_bytes()
    edited = whole.replace(b'"threads":4', b'"threads":2', 1)
    contents = {"cut": whole[:-100], "edited": edited, "emptied": b"", "not JSON": b"\xff\0"}
    if change in contents:
        path.write_bytes(contents[change])
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(CalibrationError) as caught:
        read_calibration(path)
    assert str(path) in caught.value.message
    assert "calibrate" in caught.value.hint
    found, errors = read_all()
    assert not found
    assert len(errors) == 1
    assert path.exists()


def test_a_file_of_a_later_version_asks_for_an_upgrade(measured) -> None:
    path = write_calibration(measured)
    data = json.loads(path.read_bytes()) | {"schema": "edgekit.calibration/2", "more": 1}
    path.write_bytes(json.dumps(data).encode())
    with pytest.raises(CalibrationError) as caught:
        read_calibration(path)
    assert "upgrade" in caught.value.hint


def test_a_full_disk_leaves_the_older_calibration(measured, monkeypatch) -> None:
    path = write_calibration(measured)
    before = path.read_bytes()

    def full(*_arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write_atomically", full)
    with pytest.raises(OutputError) as caught:
        write_calibration(measured.replaced(measured="2027-01-01T00:00:00+00:00"))
    assert caught.value.hint
    assert path.read_bytes() == before
    with pytest.raises(OutputError):
        Draft(path, "key").write("0-a-1", {"latency_ms": 1})


def test_a_draft_keeps_each_measurement(measured) -> None:
    path = calibration_path(DEVICE, "executorch", "1.5.1")
    draft = Draft(path, "a" * 64)
    assert draft.read("0-net-1") is None
    draft.write("0-net-1", {"latency_ms": 1.5})
    again = Draft(path, "a" * 64)
    assert again.read("0-net-1") == {"latency_ms": 1.5}
    assert again.count == 1
    assert Draft(path, "b" * 64).read("0-net-1") is None
    (damaged,) = calibration_folder().rglob("0-net-1.json")
    damaged.write_bytes(b'{"latency')
    assert again.read("0-net-1") is None
    write_calibration(measured)
    Draft(path, "b" * 64).remove()
    assert [entry.name for entry in calibration_folder().iterdir()] == [path.name]


def test_a_build_for_the_calibrated_device_is_predicted(measured) -> None:
    write_calibration(measured)
    target = load_target("rpi4").replaced(clock_ghz=1.8)
    figure, problems = predict(target)
    assert figure.source == "predicted"
    assert figure.value == pytest.approx(network("another", threads=4).latency_ms, rel=0.1)
    low, high = figure.interval
    assert low < figure.value < high
    assert DEVICE.model in figure.note
    assert "2026-11-29" in figure.note
    assert not problems


@pytest.mark.parametrize(
    "change", [{"cpu": "cortex-a76"}, {"clock_ghz": 1.5}, {"features": ("asimd", "asimddp")}]
)
def test_a_calibration_of_another_cpu_is_never_used(measured, change) -> None:
    """Of the same core with another clock or other features, the reason is given."""
    write_calibration(measured)
    target = load_target("rpi4").replaced(**{"clock_ghz": 1.8} | change)
    figure, problems = predict(target)
    assert figure is None
    assert len(problems) == ("cpu" not in change)


def test_a_calibration_of_another_runtime_version_is_named_and_not_used(measured) -> None:
    write_calibration(measured)
    target = load_target("rpi4").replaced(clock_ghz=1.8)
    figure, problems = predict(target, SimpleNamespace(name="executorch", version="1.6.0"))
    assert figure is None
    (problem,) = problems
    assert "1.5.1" in problem and "1.6.0" in problem and "calibrate" in problem
    assert predict(target, SimpleNamespace(name="litert", version="1.5.1")) == (None, ())


def test_another_number_of_threads_is_named_and_not_used(measured) -> None:
    write_calibration(measured)
    figure, problems = predict(load_target("rpi4").replaced(clock_ghz=1.8, threads=2))
    assert figure is None
    assert "1 and 4" in problems[0]


def test_a_damaged_file_is_reported_and_the_others_are_used(measured) -> None:
    write_calibration(measured)
    other = write_calibration(measured.replaced(device=DEVICE.replaced(clock_ghz=1.5)))
    other.write_bytes(b"{}")
    figure, problems = predict(load_target("rpi4").replaced(clock_ghz=1.8))
    assert figure is not None
    (problem,) = problems
    assert str(other) in problem


def test_of_equal_boards_the_latest_calibration_is_used(measured) -> None:
    write_calibration(measured)
    later = DEVICE.replaced(model="Raspberry Pi 4 Model B Rev 1.5")
    write_calibration(measured.replaced(device=later, measured="2026-12-24T12:00:00+00:00"))
    figure, _ = predict(load_target("rpi4").replaced(clock_ghz=1.8))
    assert "2026-12-24" in figure.note


def test_a_computer_of_no_named_core_is_this_host_or_has_the_same_features(
    measured, monkeypatch
) -> None:
    host = DEVICE.replaced(
        architecture="x86_64", cpu="x86-64", features=("avx2", "fma"), clock_ghz=None, model=None
    )
    write_calibration(measured.replaced(device=host))
    monkeypatch.setattr(latency_module, "this_host", lambda: host)
    assert predict(load_target("x86"))[0] is not None
    monkeypatch.setattr(latency_module, "this_host", lambda: host.replaced(cores=64))
    assert predict(load_target("x86"))[0] is None
    probed = load_target("x86").replaced(features=("avx2", "fma"))
    assert predict(probed)[0] is not None
    assert predict(probed.replaced(features=("avx2",)))[0] is None


def test_what_disturbed_a_calibration_stands_in_the_note(measured) -> None:
    write_calibration(measured.replaced(warnings=("it throttled at 85 C; cool it",)))
    figure, _ = predict(load_target("rpi4").replaced(clock_ghz=1.8))
    assert "throttled" in figure.note


HALF = tuple(shape.replaced(precision="fp16") for shape in SHAPES)
PI5 = DEVICE.replaced(
    model="Raspberry Pi 5",
    cpu="cortex-a76",
    features=load_target("rpi5").features,
    clock_ghz=2.4,
)


@pytest.mark.parametrize(
    ("device", "target"), [(DEVICE.replaced(clock_ghz=1.5), "rpi4"), (PI5, "rpi5")]
)
def test_a_calibration_in_float32_does_not_predict_half_precision(measured, device, target) -> None:
    """On a device that computes in it, repeating the calibration helps."""
    write_calibration(measured.replaced(device=device))
    found = calibrated_latency(lambda: HALF, load_target(target), RUNTIME)
    assert found.figure is None
    assert "half precision" in found.problems[0]
    assert ("repeat" in found.problems[0]) == (device is PI5)


def test_a_calibration_in_half_precision_predicts_it_from_its_own_operators(measured) -> None:
    """They take half as long as those in float32; a program may mix both."""
    halves = [
        one.replaced(
            operator_ms=tuple(ms / 2 for ms in one.operator_ms), latency_ms=one.latency_ms / 2
        )
        for number in range(6)
        for count in (1, 4)
        for one in [network(f"network{number}", count, "fp16")]
    ]
    everything = with_left_out([*programs((1, 4)), *halves])
    write_calibration(measured.replaced(device=PI5, programs=everything))
    target = load_target("rpi5")
    whole, half, mixed = (
        calibrated_latency(lambda shapes=shapes: shapes, target, RUNTIME)
        for shapes in (SHAPES, HALF, (*SHAPES[:6], *HALF[6:]))
    )
    for found in (whole, half, mixed):
        assert not found.problems
        assert "not calibrated" not in found.figure.note
    assert half.figure.value == pytest.approx(whole.figure.value / 2, rel=0.1)
    assert half.figure.value < mixed.figure.value < whole.figure.value
