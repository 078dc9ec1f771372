"""A 32-bit Raspberry Pi OS on a 64-bit kernel: an emulated one, with tflite-runtime."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from conftest import DIGITS, documented
from emulated.pi import Pi, booted

import edgekit
from edgekit.bundle.manifest import read_manifest

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.pi,
    pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs the extra litert"),
]
STORE = "/home/pi/.local/share/edgekit"


@pytest.fixture(scope="module")
def pi():
    with booted("pi3-32") as machine:
        yield machine


@pytest.fixture
def reach(pi, monkeypatch) -> Pi:
    monkeypatch.delenv("EDGEKIT_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(pi.home))
    return pi


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "bundle"
    edgekit.build(DIGITS, target="rpi3-32", precision="int8", output=folder)
    return folder


def test_a_model_on_a_32_bit_pi(reach, bundle) -> None:
    first = documented("deploy", str(bundle), reach.device)
    assert first["path"] == f"{STORE}/digits/current"
    found = documented("bench", str(bundle), reach.device, "--runs", "3", "--threads", "1")
    assert found["parity"]["passed"]
    assert found["latency_ms"]["median"] > 0
    assert 20 < found["peak_memory_mb"] < 80
    assert found["per_op"] == []

    # nothing but the listed files is in the release, and nothing in the system
    listed = {file.path for file in read_manifest(bundle).files} | {"manifest.json", ".files"}
    there = reach.ssh(f"cd {STORE}/digits/current/ && find . -type f").stdout.split()
    assert {path.removeprefix("./") for path in there} == listed
    assert reach.ssh("python3 -c 'import tflite_runtime'").returncode != 0


def test_a_64_bit_bundle_is_refused_there(reach, digits_arm_bundle) -> None:
    done = documented("bench", str(digits_arm_bundle), reach.device, code=1)
    assert "ld-linux-armhf.so.3" in done["message"]


def test_a_target_is_written_for_it(reach, tmp_path) -> None:
    path = tmp_path / "board.toml"
    documented("targets", "probe", reach.device, "--output", str(path))
    text = path.read_text()
    assert 'architecture = "armv7l"' in text
    assert 'runtimes = ["tflite"]' in text
