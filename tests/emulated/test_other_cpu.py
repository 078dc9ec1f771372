"""The aarch64 bundle, run for real under QEMU as a Pi's own CPU: instructions and results."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from conftest import SYSROOT

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.device.base import Completed
from edgekit.device.local import LocalProcess, LocalTransport
from edgekit.errors import RunnerError
from edgekit.pipeline.bench import Load, golden_inputs, require_golden
from edgekit.runner.client import MISSING_KERNEL, Installed, measure
from edgekit.target import load_target

pytestmark = [pytest.mark.runtime, pytest.mark.emulated]


class QemuTransport(LocalTransport):
    """This host, but every program runs on an emulated CPU."""

    def __init__(self, cpu: str) -> None:
        self._prefix = ["qemu-aarch64", "-cpu", cpu, "-L", str(SYSROOT)]

    def run(self, argv, *, stdin: bytes = b"", timeout_s: float | None = None) -> Completed:
        return super().run([*self._prefix, *argv], stdin=stdin, timeout_s=timeout_s)

    def start(self, argv) -> LocalProcess:
        return super().start([*self._prefix, *argv])


def installed(bundle: Path, target: str) -> Installed:
    place = PurePosixPath(bundle)
    transport = QemuTransport(load_target(target).cpu)
    return Installed(transport, place / "runner", place / "model.pte")


@pytest.mark.parametrize("target", ["rpi-zero2w", "rpi4", "rpi5"])
def test_int8_is_what_the_host_computed(digits_arm_bundle, target) -> None:
    manifest = read_manifest(digits_arm_bundle)
    at = installed(digits_arm_bundle, target)
    inputs = golden_inputs(digits_arm_bundle, manifest)
    parity = require_golden(digits_arm_bundle, manifest, at, inputs, Load(threads=4))
    assert parity.max_abs_diff == 0  # int8 outputs are bit-equal across architectures


@pytest.mark.parametrize("source", ["OUTSIDE", "TWO_INPUTS"])
def test_models_with_portable_kernels(write_recipe, tmp_path, source) -> None:
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


def test_a_missing_library_is_a_missing_backend(digits_arm_bundle, tmp_path) -> None:
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
