"""The aarch64 bundle, run for real under QEMU as a Pi's own CPU: instructions and results."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.device.qemu import QemuTransport, fake_root, find_emulator, find_sysroot
from edgekit.errors import RunnerError
from edgekit.measure.golden import Load, golden_inputs, require_golden
from edgekit.measure.operators import operator_times
from edgekit.runner.client import MISSING_KERNEL, Installed, measure
from edgekit.target import load_target

pytestmark = [pytest.mark.runtime, pytest.mark.emulated]


@pytest.fixture
def installed():
    """Give a bundle on the emulated CPU of a target."""
    with ExitStack() as stack:

        def place(bundle: Path, target: str) -> Installed:
            board = load_target(target)
            root = stack.enter_context(fake_root(find_sysroot("aarch64"), board.cpu, board.cores))
            transport = QemuTransport(find_emulator("aarch64"), board.cpu, root)
            return Installed(transport, bundle / "runner", bundle / "model.pte")

        yield place


@pytest.mark.parametrize("target", ["rpi-zero2w", "rpi4", "rpi5"])
def test_int8_is_what_the_host_computed(digits_arm_bundle, installed, target) -> None:
    manifest = read_manifest(digits_arm_bundle)
    at = installed(digits_arm_bundle, target)
    inputs = golden_inputs(digits_arm_bundle, manifest)
    parity = require_golden(digits_arm_bundle, manifest, at, inputs, Load(threads=4))
    assert parity.max_abs_diff == 0  # int8 outputs are bit-equal across architectures


@pytest.mark.parametrize("source", ["OUTSIDE", "TWO_INPUTS"])
def test_models_with_portable_kernels(
    write_recipe, tmp_path, monkeypatch, installed, source
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "integration")
    import models

    output = tmp_path / "out"
    edgekit.build(write_recipe(getattr(models, source)), target="rpi4", output=output)
    manifest = read_manifest(output)
    at = installed(output, "rpi4")
    inputs = golden_inputs(output, manifest)
    assert require_golden(output, manifest, at, inputs, Load(threads=2)).passed
    report = measure(at, inputs, runs=3, warmup=0, threads=2, profile=True)
    assert report.threads == 2
    assert report.profile


def test_time_by_layer_in_nanoseconds(digits_arm_bundle, installed) -> None:
    """Not the times, which are the emulator's; but they are told, and whose they are."""
    program = read_manifest(digits_arm_bundle).program
    report = measure(
        installed(digits_arm_bundle, "rpi4"), runs=3, warmup=1, threads=1, profile=True
    )
    operators, whole_ms = operator_times("executorch", program, [report])
    known = [row.layer for row in operators if row.layer is not None]
    assert [known[0], known[-1]] == ["stem.0", "head"]
    assert {"blocks.0.depthwise", "blocks.2", "blocks.3.pointwise", "pool"} <= set(known)
    assert sum(row.mean_us for row in operators) == pytest.approx(whole_ms * 1000)
    assert all(row.mean_us >= 0 for row in operators)
    assert any(row.mean_us % 1 for row in operators)  # XNNPACK itself tells whole microseconds


def test_a_missing_library_is_a_missing_backend(digits_arm_bundle, tmp_path, installed) -> None:
    import shutil

    copy = Path(shutil.copytree(digits_arm_bundle, tmp_path / "copy"))
    (copy / "lib" / "libexecutorch_backend_xnnpack.so").unlink()
    with pytest.raises(RunnerError, match="XnnpackBackend") as caught:
        measure(installed(copy, "rpi4"), runs=1, warmup=0, threads=1)
    assert caught.value.runner_code == MISSING_KERNEL


def test_the_runner_asks_for_no_newer_libraries_than_a_pi_has(digits_arm_bundle) -> None:
    needs = read_manifest(digits_arm_bundle).needs
    assert tuple(map(int, needs.glibc.split("."))) <= (2, 28)
    assert tuple(map(int, needs.glibcxx.split("."))) <= (3, 4, 22)
