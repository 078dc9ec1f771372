"""tflite-runtime on emulated Arm processors, by the Python of a Debian system: the real wheels."""

from __future__ import annotations

import json
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.bundle.manifest import Manifest, read_manifest
from edgekit.device.debian import make_root
from edgekit.device.qemu import (
    PROGRAMS,
    QemuTransport,
    fake_root,
    find_emulator,
    find_python_sysroot,
)
from edgekit.errors import UsageError
from edgekit.runner.client import Installed, Serving
from edgekit.runner.staging import runnable_copy

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.emulated,
    pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs the extra litert"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]
RECIPE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        y = self.stem(x)
        return self.head((y + self.depthwise(y)).mean((2, 3)))

def model():
    torch.manual_seed(0)
    return Net().eval()

def example_inputs():
    torch.manual_seed(2)
    return (torch.randn(1, 3, 24, 24),)

def calibration():
    torch.manual_seed(1)
    return [(torch.randn(1, 3, 24, 24),) for _ in range(40)]

def output_kinds():
    return ["values"]
"""
# Target -> the Python of the system that it is tried with, and the emulated core.
SYSTEMS = {"rpi3-32": ("3.11", "cortex-a7"), "rpi3": ("3.11", "cortex-a53")}


@pytest.fixture(scope="module", params=SYSTEMS)
def target(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(target, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(target)
    (folder / "recipe.py").write_text("import torch\nfrom torch import nn\n" + RECIPE)
    edgekit.build(
        folder / "recipe.py", target=target, runtime="tflite", precision="int8",
        output=folder / "bundle",
    )  # fmt: skip
    return folder / "bundle"


@pytest.fixture
def manifest(bundle, target) -> Manifest:
    found = read_manifest(bundle)
    make_root(found.needs.architecture, SYSTEMS[target][0])
    return found


@pytest.fixture
def installed(bundle, manifest, target):
    needs, (python, cpu) = manifest.needs, SYSTEMS[target]
    sysroot = find_python_sysroot(needs.architecture, (python,))
    emulator = find_emulator(needs.architecture)
    assert sysroot is not None
    assert emulator is not None, f"{PROGRAMS} of qemu-user"
    with fake_root(sysroot, cpu, 1) as root, runnable_copy(bundle, manifest) as place:
        transport = QemuTransport(emulator, cpu, root, python=True)
        yield Installed(transport, place / "runner", place / manifest.model)


def test_a_bundle_is_checked_on_its_processor(bundle, manifest, target) -> None:
    """Its outputs are those of LiteRT on this host, within the tolerance for devices."""
    found = edgekit.check(bundle).emulation
    assert found.status == "passed", found.reason
    assert found.processor == SYSTEMS[target][1]
    assert found.parity.passed
    assert found.parity.sqnr_db is None or found.parity.sqnr_db >= 20


def test_the_runner_serves_there(bundle, manifest, installed) -> None:
    golden = (bundle / manifest.golden.outputs[0]).read_bytes()
    inputs = (bundle / manifest.golden.inputs[0]).read_bytes()
    with Serving(installed) as serving:
        assert serving.report.runtime == "tflite"
        first = serving.infer([inputs])
        assert serving.infer([inputs]) == first
        assert serving.last_latency_ms > 0
        assert serving.stats().peak_memory_mb > 0
    found, wanted = (np.frombuffer(data, np.float32) for data in (first[0], golden))
    step = manifest.program.outputs[0].quantization.scale
    assert np.abs(found - wanted).max() <= 2 * step


def test_the_command_line_there(manifest, installed, tmp_path) -> None:
    done = installed.transport.run(installed.command("--runs", "2", "--output", f"{tmp_path}/out"))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["latencies_ns"]) == 2
    assert len((tmp_path / "out").read_bytes()) == struct.calcsize("<10f")
    wrong = installed.transport.run(installed.command("--runs", "many"))
    assert (wrong.returncode, wrong.stderr[:16]) == (2, b"edgekit-runner: ")


def test_without_such_a_system_it_is_not_checked(bundle, manifest, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("QEMU_LD_PREFIX", raising=False)
    found = edgekit.check(bundle).emulation
    assert found.status == "not_checked"
    assert f"edgekit.device.debian {manifest.needs.architecture}" in found.hint


def test_a_system_that_there_is_none_of() -> None:
    with pytest.raises(UsageError, match=r"2\.7"):
        make_root("armv7l", "2.7")
