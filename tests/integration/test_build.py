"""build through the real runtime: recipes as people write them, judged on what ships."""

from __future__ import annotations

import json
import shutil

import pytest
from models import (
    CHANNELS_LAST,
    CLAMPED,
    HALF_LAYERNORM,
    LARGE,
    LINEAR,
    OUTSIDE,
    PADDING_SAME,
    PERMUTED_OUTPUT,
    SHARED_BEFORE_A_CLAMP,
    SLICED,
    TWO_INPUTS,
)

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.errors import EdgekitError, ParityError, RecipeError

pytestmark = pytest.mark.runtime


@pytest.fixture
def build(tmp_path):
    def run(recipe, target="x86", **options):
        options.setdefault("output", tmp_path / "out")
        return edgekit.build(recipe, target=target, **options)

    return run


def test_digits_is_int8_fully_delegated_and_as_good(digits_bundle) -> None:
    document = edgekit.check(digits_bundle)
    assert document.verdict == "fits"
    assert document.plan.precision == "int8"
    assert document.accuracy.fp32 >= 98
    assert document.accuracy.artifact >= 98
    assert document.parity.passed
    assert document.parity.compared == 9
    assert document.program.outside == ()
    assert len(document.program.delegates) == 1
    counts = {row.layer: row for row in document.program.layers}
    assert counts["stem.0"].quantized == 1
    assert counts["head"].quantized == 1
    assert sum(row.floating for row in counts.values()) == 0
    manifest = read_manifest(digits_bundle)
    assert manifest.program.inputs[0].name == "image"
    assert manifest.program.inputs[0].quantization.scale > 0
    assert manifest.program.outputs[0].quantization.scale > 0
    assert sorted(path.name for path in (digits_bundle / "lib").iterdir()) == [
        "libexecutorch.so",
        "libexecutorch_backend_xnnpack.so",
        "libexecutorch_threadpool.so",
    ]


def test_equal_inputs_give_equal_bytes(digits_bundle, fresh_cache, tmp_path) -> None:
    """A second process, with another hash seed, in another folder, nothing from the cache."""
    from conftest import DIGITS, run_edgekit

    again = tmp_path / "again"
    done = run_edgekit("build", str(DIGITS), "--target", "x86", "--output", str(again))
    assert done.returncode == 0, done.stderr
    first = {p.relative_to(digits_bundle): p for p in digits_bundle.rglob("*") if p.is_file()}
    second = {p.relative_to(again): p for p in again.rglob("*") if p.is_file()}
    assert set(first) == set(second)
    for path in set(first) - {path for path in first if path.name == "verdict.json"}:
        assert first[path].read_bytes() == second[path].read_bytes(), path


def test_footprint_without_the_model(digits_arm_bundle) -> None:
    manifest = read_manifest(digits_arm_bundle)
    model = (digits_arm_bundle / manifest.model).stat().st_size
    assert manifest.size_mb - model / 1e6 <= 3.5


def test_a_bundle_for_a_pi_predicts_its_memory_with_an_interval(digits_arm_bundle) -> None:
    document = edgekit.check(digits_arm_bundle)
    memory = next(line for line in document.budgets if line.name == "peak_memory_mb")
    assert memory.source == "predicted"
    assert memory.interval[0] < memory.value < memory.interval[1]
    assert read_manifest(digits_arm_bundle).needs.architecture == "aarch64"


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_two_inputs_a_dict_and_a_nested_tuple(write_recipe, build, precision) -> None:
    document = build(write_recipe(TWO_INPUTS), precision=precision)
    assert document.parity.passed
    assert document.accuracy.artifact == 50.0
    assert [spec.name for spec in document.program.inputs] == ["image", "tokens"]
    assert [spec.dtype for spec in document.program.inputs] == ["float32", "int64"]
    names = [spec.name for spec in document.program.outputs]
    assert names == ["scores", "pair.0", "pair.1.0"]


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_channels_last_example_and_weights(write_recipe, build, precision, tmp_path) -> None:
    document = build(write_recipe(CHANNELS_LAST), precision=precision)
    assert document.parity.passed
    assert document.accuracy.artifact == 100.0
    assert edgekit.bench(tmp_path / "out", runs=3).parity.passed


def test_an_output_with_permuted_strides_comes_in_c_order(write_recipe, build) -> None:
    assert build(write_recipe(PERMUTED_OUTPUT)).parity.passed


def test_half_precision_layer_norm_is_caught(write_recipe, build, tmp_path) -> None:
    """The shipped kernel is wrong from 256 elements on: a wrong artifact fails the build."""
    with pytest.raises(ParityError, match="eager model"):
        build(write_recipe(HALF_LAYERNORM.format(width=512)))
    assert not (tmp_path / "out").exists()
    assert build(write_recipe(HALF_LAYERNORM.format(width=64))).parity.passed


@pytest.mark.parametrize("source", [PADDING_SAME, SLICED], ids=["same", "slice"])
def test_what_fails_at_run_time_in_int8_never_ships(write_recipe, build, source) -> None:
    """executorch#20517 and #21831: lowers, then fails or computes wrongly when it runs."""
    recipe = write_recipe(source)
    try:
        document = build(recipe, precision="int8")
    except EdgekitError as error:
        assert error.message  # caught: the build says so, and nothing was written
    else:
        assert document.parity.passed
    assert build(recipe).parity.passed  # auto takes what works


def test_operators_left_outside_are_told_with_their_layer(write_recipe, build, tmp_path) -> None:
    document = build(write_recipe(OUTSIDE))
    outside = {(row.operator, row.layer) for row in document.program.outside}
    assert ("aten::mean.out", "") in {(name, layer) for name, layer in outside}
    assert any(layer == "gate" for _, layer in outside)
    assert "libexecutorch_kernels_optimized.so" in document.program.libraries
    assert (
        document.ladder[0].reason == "no calibration data: neither calibration() nor --calibration"
    )
    assert edgekit.bench(tmp_path / "out", runs=3).parity.passed


def test_what_a_clamp_cuts_off_takes_no_steps_of_int8(write_recipe, build) -> None:
    """Before the ReLU6 values reach beyond 100: observed as they are, a step would be half of 1."""
    document = build(write_recipe(CLAMPED), precision="int8")
    assert document.parity.float_model.sqnr_db > 25


def test_a_clamp_takes_no_range_from_what_others_use(write_recipe, build) -> None:
    document = build(write_recipe(SHARED_BEFORE_A_CLAMP), precision="int8")
    assert document.parity.float_model.sqnr_db > 25


def test_golden_tensors_stay_below_a_megabyte(write_recipe, build, tmp_path) -> None:
    build(write_recipe(LARGE))
    golden = sum(path.stat().st_size for path in (tmp_path / "out" / "golden").iterdir())
    assert golden <= 1_000_000
    assert edgekit.bench(tmp_path / "out", runs=3).parity.passed


def test_a_large_float_model_is_judged_by_its_fp32_artifact(
    write_recipe, build, monkeypatch, fresh_cache, tmp_path
) -> None:
    """The output says so; the bundle's bytes are the same."""
    source = LINEAR + (
        "\ndef evaluate(predict):\n    return 100 * float(predict(torch.ones(6, 4)).mean())\n"
    )
    recipe = write_recipe(source)
    usual = build(recipe, precision="fp32")
    assert usual.fp32_judged_by == "torch"
    monkeypatch.setattr("edgekit.pipeline.precision.float_accuracy.BY_ARTIFACT_MACS", 1)
    large = build(recipe, precision="fp32", output=tmp_path / "large")
    assert large.fp32_judged_by == "artifact"
    assert large.accuracy.fp32 == pytest.approx(usual.accuracy.fp32, abs=1e-3)
    pair = [(tmp_path / name / "manifest.json").read_bytes() for name in ("out", "large")]
    assert pair[0] == pair[1]


def test_a_float_model_that_cannot_be_lowered_is_judged_in_torch(monkeypatch) -> None:
    from types import SimpleNamespace

    from edgekit.errors import RuntimeFailure
    from edgekit.pipeline.precision import float_accuracy
    from edgekit.progress import Silent

    def fail(*_):
        raise RuntimeFailure("no kernel")

    monkeypatch.setattr(float_accuracy, "make", fail)
    monkeypatch.setattr(float_accuracy, "_is_large", lambda _: True)
    monkeypatch.setattr(float_accuracy, "with_accuracy", lambda subject, _: (subject, "in torch"))
    subject = SimpleNamespace(recipe=SimpleNamespace(has=lambda _: True))
    tools = SimpleNamespace(seed=0, progress=Silent())
    assert float_accuracy.judged(subject, tools) == (subject, "in torch")


def test_without_evaluate_auto_says_what_it_went_by(write_recipe, build) -> None:
    source = LINEAR + "\ndef calibration():\n    return [(torch.rand(1, 4),) for _ in range(9)]\n"
    document = build(write_recipe(source), max_drop=5)
    assert document.accuracy.fp32 is None
    assert document.accuracy.artifact is None
    assert "9 calibration inputs" in document.ladder[0].judged_by
    (output,) = document.ladder[0].fidelity
    assert (output.kind, output.assumed) == ("values", True)
    drop = next(line for line in document.budgets if line.name == "accuracy_drop")
    assert (drop.value, drop.status) == (None, "unknown")
    assert document.verdict == "unknown"


def test_auto_refuses_an_int8_that_loses_too_much(write_recipe, build) -> None:
    source = LINEAR + (
        "\ndef calibration():\n    return [(torch.rand(1, 4),) for _ in range(9)]\n"
        "\ndef evaluate(predict):\n"
        "    x = torch.eye(4)\n"
        "    exact = torch.equal(predict(x), _net(x).detach())\n"
        "    return 100.0 if exact else 90.0\n"
    )
    source = source.replace("    return nn.Linear(4, 3)", "    return _net\n").replace(
        "def model", "_net = nn.Linear(4, 3)\n\ndef model"
    )
    document = build(write_recipe(source))
    assert [rung.precision for rung in document.ladder] == [
        "int8",
        "int8 repaired",
        "mixed",
        "fp32",
    ]
    assert [rung.taken for rung in document.ladder] == [False, False, False, True]
    assert document.ladder[0].drop == 10.0


def test_missed_budget_keeps_the_bundle(build, tmp_path, write_recipe) -> None:
    document = build(write_recipe(LINEAR), size_mb=0.001, latency_ms=5)
    statuses = {line.name: line.status for line in document.budgets}
    assert statuses["size_mb"] == "missed"
    assert statuses["latency_ms"] == "unknown"
    assert document.verdict == "missed"
    assert edgekit.check(tmp_path / "out").verdict == "missed"
    assert edgekit.check(tmp_path / "out", size_mb=50).verdict == "unknown"
    assert edgekit.check(tmp_path / "out", size_mb=50, latency_ms=1e-9).verdict == "unknown"


def test_build_with_a_device_measures_latency(build, write_recipe, tmp_path) -> None:
    document = build(write_recipe(LINEAR), device="local", latency_ms=1000)
    latency = next(line for line in document.budgets if line.name == "latency_ms")
    assert latency.source == "measured"
    assert latency.status == "ok"
    assert edgekit.check(tmp_path / "out").verdict == "fits"


def test_rebuilding_replaces_the_bundle(build, write_recipe, tmp_path) -> None:
    build(write_recipe(LINEAR))
    build(write_recipe(LINEAR), seed=1)
    assert read_manifest(tmp_path / "out").plan.seed == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.py"]


def test_int8_without_calibration(build, write_recipe) -> None:
    with pytest.raises(RecipeError, match=r"no calibration\(\)"):
        build(write_recipe(LINEAR), precision="int8")


def test_bench_measures_and_profiles(digits_bundle) -> None:
    document = edgekit.bench(digits_bundle, runs=30)
    assert document.parity.passed
    assert document.latency_ms.min <= document.latency_ms.median <= document.latency_ms.p95
    assert len(document.latency_ms.samples) == 30
    assert document.peak_memory_mb > 1
    assert document.load_ms > 0
    assert document.environment.emulated is False
    assert all(row.delegated for row in document.per_op[:-1])
    assert any("onvolution" in row.name for row in document.per_op)


def test_bench_refuses_wrong_outputs(bundle) -> None:
    """A runner that computes something else: here, golden outputs of another model."""
    from edgekit.bundle.manifest import File
    from edgekit.bundle.verdict import read_record
    from edgekit.cache import file_digest

    manifest = read_manifest(bundle)
    record = read_record(bundle, manifest.digest)
    path = bundle / manifest.golden.outputs[0]
    path.write_bytes(bytes(len(path.read_bytes())))
    files = tuple(
        file.replaced(sha256=file_digest(path)) if file.path == manifest.golden.outputs[0] else file
        for file in manifest.files
    )
    assert isinstance(files[0], File)
    changed = manifest.replaced(files=files)
    (bundle / "manifest.json").write_bytes(changed.to_bytes())
    record = record.replaced(manifest=changed.digest)
    (bundle / "verdict.json").write_bytes(record.to_bytes())
    with pytest.raises(ParityError, match="golden"):
        edgekit.bench(bundle)


def test_bench_refuses_another_architecture(digits_arm_bundle) -> None:
    with pytest.raises(EdgekitError, match="aarch64"):
        edgekit.bench(digits_arm_bundle)


def test_a_moved_bundle_still_runs(digits_bundle, tmp_path) -> None:
    moved = shutil.copytree(digits_bundle, tmp_path / "a folder with späces")
    assert edgekit.bench(moved, runs=3).parity.passed


def test_verdict_json_is_one_of_ours(digits_bundle) -> None:
    data = json.loads((digits_bundle / "verdict.json").read_text())
    assert data["schema"] == "edgekit.verdict/1"
    assert data["recipe"].endswith("examples/digits/recipe.py")
