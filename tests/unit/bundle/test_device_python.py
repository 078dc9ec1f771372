"""Bundles whose runner is a program in Python, and 32-bit systems: what a device must have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_bundle import fill
from test_survey import PI

from edgekit.bundle.manifest import File, Manifest
from edgekit.errors import PreflightError
from edgekit.store.preflight import require
from edgekit.store.python import DevicePython, parse_python
from edgekit.store.survey import Survey, parse_survey

BULLSEYE = """version 3.9
bits 32
tflite False
numpy 1.23.5
"""
ARMHF = {
    "architecture": "armv7l",
    "loaders": ("/lib/ld-linux-armhf.so.3",),
    "cpu_features": frozenset({"half", "thumb", "neon", "vfpv4"}),
}


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """A 32-bit bundle with tflite-runtime for Python 3.9 and 3.11."""
    own = fill(tmp_path / "bundle")
    needs = {"architecture": "armv7l", "cpu_features": ("neon",), "pythons": ("3.9", "3.11")}
    libraries = [
        File(
            path=f"lib/{abi}/tflite_runtime/interpreter.py", role="library", sha256="0" * 64, size=9
        )
        for abi in ("cp39", "cp311")
    ]
    return own.replaced(needs=own.needs.replaced(**needs), files=(*own.files, *libraries))


@pytest.fixture
def survey() -> Survey:
    found = parse_survey(
        PI.replace("\n@@edgekit root", f"\n@@edgekit python\n{BULLSEYE}\n@@edgekit root")
    )
    return replace(found, **ARMHF)


def refusal(manifest: Manifest, survey: Survey) -> str:
    with pytest.raises(PreflightError) as caught:
        require(manifest, survey, "pi", None)
    return f"{caught.value.message} {caught.value.hint}"


def test_what_a_python_tells() -> None:
    assert parse_python(BULLSEYE) == DevicePython("3.9", 32, "1.23.5", "", False)
    broken = parse_python("version 3.13\nbits 64\ntflite True\nno_numpy No module named 'numpy'")
    assert broken == DevicePython("3.13", 64, None, "No module named 'numpy'", True)
    assert parse_python("") is None


def test_a_32_bit_system_is_taken(manifest, survey) -> None:
    require(manifest, survey, "pi", None)


def test_a_32_bit_system_on_a_64_bit_kernel(manifest, survey) -> None:
    """It reports the kernel's machine, and may report the features of its 64-bit mode."""
    features = frozenset({"fp", "asimd", "crc32"})
    require(manifest, replace(survey, architecture="aarch64", cpu_features=features), "pi", None)
    only_64 = replace(survey, architecture="aarch64", loaders=("/lib/ld-linux-aarch64.so.1",))
    assert "32-bit" in refusal(manifest, only_64)


@pytest.mark.parametrize(
    ("change", "has"),
    [
        ({"architecture": "armv6l"}, "armv6l"),
        ({"architecture": "x86_64"}, "x86_64"),
        ({"cpu_features": frozenset({"half", "thumb"})}, "neon"),
        ({"glibc": (2, 24)}, "2.24"),
        ({"python": None}, "sudo apt install python3 python3-numpy"),
    ],
)
def test_a_device_that_lacks_something(manifest, survey, change, has) -> None:
    assert has in refusal(manifest, replace(survey, **change))


@pytest.mark.parametrize(
    ("change", "has"),
    [
        ({"bits": 64}, "64-bit"),
        ({"version": "3.10"}, 'pythons = ["3.10"]'),
        ({"version": "3.13"}, "3.13"),
        ({"numpy": None, "no_numpy": "libblas.so.3 is missing"}, "libblas.so.3"),
        ({"numpy": None}, "pip install --user"),  # Debian 11 packages one that is too old
        ({"numpy": None, "version": "3.11"}, "sudo apt install python3 python3-numpy"),
        ({"numpy": "2.1.3"}, "below 2"),
        ({"numpy": "1.19.5"}, "1.23 or later"),  # Debian 11's
    ],
)
def test_a_python_that_does_not_fit(manifest, survey, change, has) -> None:
    assert has in refusal(manifest, replace(survey, python=replace(survey.python, **change)))


def test_a_newer_python_with_a_tflite_of_its_own(manifest, survey) -> None:
    """Its NumPy may be new: the distribution's packages fit each other."""
    own = replace(survey.python, version="3.13", has_tflite=True, numpy="2.2.4")
    require(manifest, replace(survey, python=own), "pi", None)
    assert "numpy" in refusal(manifest, replace(survey, python=replace(own, numpy=None)))


def test_a_native_bundle_asks_for_no_python(tmp_path: Path, survey) -> None:
    native = fill(tmp_path / "native")
    assert "pythons" not in json.loads(native.to_bytes())["needs"]
    changed = native.replaced(needs=native.needs.replaced(architecture="armv7l"))
    require(changed, replace(survey, python=None), "pi", None)


def test_a_tflite_of_pip_s_needs_an_old_numpy_too(manifest, survey) -> None:
    own = replace(survey.python, version="3.10", has_tflite=True, numpy="2.2.6")
    assert "below 2" in refusal(manifest, replace(survey, python=own))
