"""The client of the runners' protocol, against a double that speaks it."""

from __future__ import annotations

import struct
import sys
from pathlib import PurePosixPath

import pytest
from conftest import DOUBLES

from edgekit.device.local import LocalTransport
from edgekit.errors import RunnerError
from edgekit.runner.client import Installed, Serving, measure
from edgekit.runner.tensors import decode, expand, take_every

THREE = struct.pack("<3f", 1, 2, 3)


@pytest.fixture
def double(tmp_path) -> Installed:
    runner = tmp_path / "runner"
    script = DOUBLES / "runner_double.py"
    runner.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    runner.chmod(0o755)
    return Installed(LocalTransport(), PurePosixPath(runner), PurePosixPath("model.bin"))


def test_one_shot(double) -> None:
    report = measure(double, [THREE], runs=5, warmup=1, threads=1)
    assert report.latencies_ms == (1.0,) * 5
    assert report.load_ms == 2.0
    assert report.peak_memory_mb == pytest.approx(1.024)
    assert report.inputs[0].shape == (3,)


def test_swapped_memory_counts_to_the_peak(double, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_REPORT", '{"peak_swap_kb": 500}')
    report = measure(double, [THREE], runs=1, warmup=0, threads=1)
    assert report.swapped_mb == pytest.approx(0.512)
    assert report.peak_memory_mb == pytest.approx(1.024 + 0.512)


def test_software_of_the_device(double, monkeypatch) -> None:
    assert measure(double, [THREE], runs=1, warmup=0, threads=1).software is None
    monkeypatch.setenv("DOUBLE_REPORT", '{"software": {"python": "3.11.2"}}')
    report = measure(double, [THREE], runs=1, warmup=0, threads=1)
    assert report.software == {"python": "3.11.2"}


def test_a_runner_of_an_older_version_does_not_report_swap(double) -> None:
    report = measure(double, [THREE], runs=1, warmup=0, threads=1)
    assert report.swapped_mb is None


def test_serving_many(double) -> None:
    with Serving(double) as model:
        for _ in range(20):
            assert struct.unpack("<3f", model.infer([THREE])[0]) == (2, 4, 6)
        assert model.last_latency_ms == pytest.approx(0.001)
        assert model.stats().peak_memory_mb > 0


def test_a_refused_request_leaves_the_process_serving(double) -> None:
    with Serving(double) as model:
        with pytest.raises(RunnerError, match="not 12") as caught:
            model.infer([b"123"])
        assert caught.value.runner_code == 6
        assert len(model.infer([THREE])[0]) == 12


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("missing_kernel", "aten::mean.out"),
        ("signal", "signal 6"),
        ("nonsense", "not JSON"),
    ],
)
def test_faults_of_one_shot(double, monkeypatch, fault, part) -> None:
    monkeypatch.setenv("DOUBLE_FAULT", fault)
    with pytest.raises(RunnerError, match=part):
        measure(double, runs=1, warmup=0, threads=1)


def test_a_process_that_dies_while_serving(double, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_FAULT", "die")
    with Serving(double) as model, pytest.raises(RunnerError, match="code 7"):
        model.infer([THREE])


def test_timeouts_end_the_process(double, monkeypatch) -> None:
    monkeypatch.setenv("DOUBLE_FAULT", "sleep")
    with pytest.raises(RunnerError, match="longer than"):
        measure(double, runs=1, warmup=0, threads=1, timeout_s=0.5)
    with pytest.raises(RunnerError, match="longer than"):
        Serving(double, timeout_s=0.5)


def test_a_runner_that_cannot_start(tmp_path) -> None:
    (tmp_path / "runner").write_text("")
    at = Installed(LocalTransport(), PurePosixPath(tmp_path / "runner"), PurePosixPath("m"))
    with pytest.raises(RunnerError, match="cannot be started"):
        measure(at, runs=1, warmup=0, threads=1)
    with pytest.raises(RunnerError, match="cannot be started"):
        Serving(at)


def test_tensor_codecs() -> None:
    assert decode(b"\x80\x3f\x00\xc0", "bfloat16").tolist() == [1.0, -2.0]
    assert decode(b"\x01\x00", "bool").tolist() == [True, False]
    assert expand(b"abc", 7) == b"abcabca"
    assert expand(b"", 0) == b""
    with pytest.raises(ValueError, match="empty"):
        expand(b"", 4)
    assert take_every(struct.pack("<5f", *range(5)), "float32", 2) == struct.pack("<3f", 0, 2, 4)
