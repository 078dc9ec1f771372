"""Latency without a device: a tiny model, predicted for two boards by the real QEMU and LLVM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.cost.emulation import tools
from edgekit.cost.emulation.predict import NotPredictedError, emulated_work
from edgekit.cost.prediction import predicted_latency
from edgekit.measure.golden import golden_inputs
from edgekit.progress import Silent
from edgekit.runner.client import measure
from edgekit.target import load_target

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.emulated,
    pytest.mark.skipif(any(tools.missing_tools()), reason="edgekit doctor names what is missing"),
]


def work(bundle: Path, target: str, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    manifest = read_manifest(bundle)
    return emulated_work(
        bundle, manifest, golden_inputs(bundle, manifest), load_target(target), Silent()
    )


def test_two_boards_get_the_kernels_of_their_cores(
    digits_arm_bundle, tmp_path, monkeypatch
) -> None:
    """The A76 multiplies int8 by dot products: fewer instructions, and fewer cycles."""
    rpi4 = work(digits_arm_bundle, "rpi4", tmp_path, monkeypatch).whole
    rpi5 = work(digits_arm_bundle, "rpi5", tmp_path, monkeypatch).whole
    assert 10_000 < rpi5.instructions < rpi4.instructions < 10_000_000
    assert rpi5.cycles < rpi4.cycles < 3 * rpi4.instructions
    assert rpi4.dram_bytes < 1_000_000  # all of it fits the caches


def test_every_raspberry_pi_is_predicted(digits_arm_bundle, tmp_path, monkeypatch) -> None:
    """The Pi 3 and the Zero 2 W have the same core: the same work, at another clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    manifest = read_manifest(digits_arm_bundle)
    inputs = golden_inputs(digits_arm_bundle, manifest)
    latency = {}
    for board in ("rpi-zero2w", "rpi3", "rpi4", "rpi5"):
        target = load_target(board)
        found = predicted_latency(
            digits_arm_bundle, manifest, inputs, lambda: None, target, Silent()
        )
        assert not isinstance(found, str), found
        low, high = found.figure.interval
        assert 0 < low < found.figure.value < high
        latency[board] = found.figure.value
    assert latency["rpi-zero2w"] > latency["rpi3"] > latency["rpi4"] > latency["rpi5"]
    assert latency["rpi-zero2w"] / latency["rpi3"] < 1.401  # memory has the same clock


def test_counts_are_repeatable_and_cached(digits_arm_bundle, tmp_path, monkeypatch) -> None:
    first = work(digits_arm_bundle, "rpi4", tmp_path / "one", monkeypatch)
    again = work(digits_arm_bundle, "rpi4", tmp_path / "two", monkeypatch)
    assert again.whole.cycles == pytest.approx(first.whole.cycles, rel=0.02)
    monkeypatch.setattr("edgekit.cost.emulation.predict._count", None)  # not called
    assert work(digits_arm_bundle, "rpi4", tmp_path / "one", monkeypatch) == first


def test_profiling_is_no_part_of_the_work(digits_arm_bundle, tmp_path, monkeypatch) -> None:
    """The marks of the profile's clock cut it out: without profiling, the work is the same."""
    profiled = work(digits_arm_bundle, "rpi4", tmp_path / "one", monkeypatch)
    monkeypatch.setattr(
        "edgekit.cost.emulation.predict.measure",
        lambda *args, profile, **options: measure(*args, **options),
    )
    plain = work(digits_arm_bundle, "rpi4", tmp_path / "two", monkeypatch)
    assert plain.operators == ()
    assert profiled.whole.cycles == pytest.approx(plain.whole.cycles, rel=0.03)
    assert sum(one.work.cycles for one in profiled.operators) < profiled.whole.cycles


def test_the_prediction_is_attributed_to_layers(digits_arm_bundle) -> None:
    document = edgekit.check(digits_arm_bundle)
    parts, line = document.latency, document.budgets[0]
    assert line.name == "latency_ms" and parts.source == "predicted"
    assert (parts.latency_ms, parts.interval, parts.method) == (
        line.value,
        line.interval,
        "emulated",
    )
    total_ms = sum(one.latency_ms for one in parts.operators) + parts.rest_ms
    assert total_ms == pytest.approx(line.value, rel=1e-3)
    kinds = {one.layer: one.kind for one in parts.operators if one.kind != "clamp"}
    assert kinds["stem.0"] == "convolution"
    assert kinds["blocks.0.depthwise"] == "depthwise"
    assert kinds["head"] in ("linear", "convert")
    assert max(parts.operators, key=lambda one: one.latency_ms).precision == "int8"


def test_a_build_predicts_and_check_judges_again(digits_arm_bundle) -> None:
    document = json.loads((digits_arm_bundle / "verdict.json").read_text())
    figure = document["figures"]["latency_ms"]
    assert figure["source"] == "predicted"
    low, high = figure["interval"]
    assert 0 < low < figure["value"] < high
    assert "--device" in figure["note"]
    for limit, status in ((high * 1.01, "ok"), (figure["value"], "unknown"), (low / 2, "missed")):
        checked = edgekit.check(digits_arm_bundle, latency_ms=limit)
        assert next(x for x in checked.budgets if x.name == "latency_ms").status == status


def test_a_runner_without_marks_is_no_failure(digits_arm_bundle, tmp_path, monkeypatch) -> None:
    copy = Path(shutil.copytree(digits_arm_bundle, tmp_path / "copy"))
    runner = (copy / "runner").read_bytes()
    for mark in (0xAA0B03EB, 0xAA0C03EC):
        runner = runner.replace(mark.to_bytes(4, "little"), (0xD503201F).to_bytes(4, "little"))
    (copy / "runner").write_bytes(runner)
    with pytest.raises(NotPredictedError):
        work(copy, "rpi4", tmp_path / "cache", monkeypatch)


def test_without_tools_an_estimate_says_so(digits_arm_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    manifest, target = read_manifest(digits_arm_bundle), load_target("rpi4")
    inputs = golden_inputs(digits_arm_bundle, manifest)
    found = predicted_latency(digits_arm_bundle, manifest, inputs, tuple, target, Silent())
    assert not isinstance(found, str)
    assert found.source == "estimated"
    assert "llvm-mca" in found.figure.note and "doctor" in found.figure.note


def test_a_finished_file_is_predicted_like_a_recipe(
    digits_arm_bundle, tmp_path, monkeypatch
) -> None:
    """By emulation; without its tools by the estimate. Check reports the same."""
    finished = digits_arm_bundle / "model.pte"
    emulated = edgekit.build(finished, target="rpi4", latency_ms=20, output=tmp_path / "one")
    assert emulated.latency.method == "emulated"
    assert emulated.latency.operators
    monkeypatch.setattr("edgekit.cost.emulation.predict.find_llvm", lambda: None)
    edgekit.build(finished, target="rpi4", latency_ms=20, output=tmp_path / "two")
    for name, word in (("one", "emulation"), ("two", "estimated")):
        (line, *_) = edgekit.check(tmp_path / name).budgets
        assert (line.name, line.source, line.status) == ("latency_ms", "predicted", "ok")
        assert word in line.note
