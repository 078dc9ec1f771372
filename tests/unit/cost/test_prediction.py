"""The figure of a prediction: value, interval and note."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from calibrations import convolution
from programs import program

from edgekit.cost import prediction
from edgekit.cost.cores import CORE_MODELS
from edgekit.cost.emulation.predict import NotPredictedError
from edgekit.cost.latency import InferenceWork, OperatorWork, Work
from edgekit.cost.prediction import emulated_figure, predicted_latency
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.runner.client import ProfileRow
from edgekit.target import load_target

WORK = Work(instructions=20_000_000, cycles=15e6, dram_bytes=4_000_000)
CORE = CORE_MODELS["cortex-a72"]


def figure(
    *names: str,
    threads: int = 4,
    outside: str | None = None,
    precision="fp32",
    operators: tuple[OperatorWork, ...] = (),
):
    content = program(*names, outside=outside)
    manifest = SimpleNamespace(threads=threads, program=content, plan=Plan(precision=precision))
    work = InferenceWork(WORK, operators)
    return emulated_figure(work, manifest, CORE, load_target("rpi4"))


def test_a_prediction_is_never_called_measured() -> None:
    found = figure("Conv2d")
    assert found.source == "predicted"
    assert "--device" in found.note and "Cortex-A72" in found.note
    low, high = found.interval
    assert low < found.value < high


def test_operators_without_published_latency_widen_it_and_are_named() -> None:
    known, unknown = figure("Conv2d"), figure("Conv2d", "SoftMax")
    assert "SoftMax" in unknown.note
    assert unknown.value == known.value
    assert unknown.interval[0] < known.interval[0]
    assert unknown.interval[1] > known.interval[1]


def test_half_precision_widens_it() -> None:
    known, half = figure("Conv2d"), figure("Conv2d", precision="fp16")
    assert half.interval[1] > known.interval[1]
    assert "half precision" in half.note


def test_kernels_on_one_thread_are_not_shared() -> None:
    """All cycles on one core: 10 ms, and 1 ms of memory. A fifth of them is outside."""
    inside = OperatorWork(ProfileRow("Conv2d", 0.0, True, 0, 0), Work(0, 12e6, 0))
    kernel = OperatorWork(ProfileRow("aten::cumsum.out", 0.0, False, 1, 0), Work(0, 3e6, 0))
    shared = figure("Conv2d")
    found = figure("Conv2d", outside="aten::cumsum.out", operators=(inside, kernel))
    assert shared.value == pytest.approx(10 / 4 + 1)
    assert found.value == pytest.approx(8 / 4 + 2 + 1)
    assert found.interval[0] < shared.interval[0]  # a kernel may use several threads
    assert found.interval[1] > found.value * 1.7


def test_kernels_whose_share_is_unknown_may_take_all_of_the_time() -> None:
    shared, found = figure("Conv2d"), figure("Conv2d", outside="aten::cumsum.out")
    assert found.value == pytest.approx((shared.value * (10 + 1)) ** 0.5)
    assert found.interval[1] > 11 * 1.7
    assert found.interval[0] < shared.value
    alone = figure("Conv2d", threads=1, outside="aten::cumsum.out")
    assert alone.value == figure("Conv2d", threads=1).value


@pytest.mark.parametrize("change", [{"cpu": "cortex-a710"}, {"clock_ghz": None}])
def test_what_the_target_does_not_say_is_the_reason(tmp_path, monkeypatch, change) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    target = load_target("rpi4").replaced(**change)
    runtime = SimpleNamespace(name="executorch", version="1.5.1")
    manifest = SimpleNamespace(threads=4, program=program("Conv2d"), runtime=runtime)
    reason = predicted_latency(tmp_path, manifest, [], lambda: None, target, Silent())
    assert isinstance(reason, str)
    assert next(iter(change)) in reason or "cortex-a710" in reason


@pytest.fixture
def without_emulation(tmp_path, monkeypatch):
    """No calibration and no tools of the emulation."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def refuse(*arguments):
        raise NotPredictedError("missing: llvm-mca", "edgekit doctor shows how to install it")

    monkeypatch.setattr(prediction, "emulated_work", refuse)


def predicted(shapes):
    file = SimpleNamespace(role="model", size=40_000)
    runtime = SimpleNamespace(name="executorch", version="1.5.1")
    manifest = SimpleNamespace(threads=4, program=program("Conv2d"), runtime=runtime, files=(file,))
    return predicted_latency(None, manifest, [], shapes, load_target("rpi4"), Silent())


def test_without_emulation_the_operators_of_the_program_give_an_estimate(without_emulation) -> None:
    """Whatever a bundle was made from, its file tells its operators."""
    small = predicted(lambda: [convolution(24, 32, 64)])
    large = predicted(lambda: [convolution(96, 32, 64)] * 20)
    assert small.source == large.source == "estimated"
    assert small.figure.source == "predicted"
    assert "estimated" in small.figure.note and "llvm-mca" in small.figure.note
    assert "doctor" in small.figure.note
    assert large.figure.value > 10 * small.figure.value
    low, high = small.figure.interval
    assert high / low > 5
    assert small.rows == () and small.times is None


def test_no_estimate_if_the_runtime_cannot_tell_the_operators(without_emulation) -> None:
    reason = predicted(lambda: None)
    assert isinstance(reason, str)
    assert "llvm-mca" in reason
