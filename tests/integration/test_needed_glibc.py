"""The C library that a probed device needs for a runtime, against the binaries themselves."""

from __future__ import annotations

import pytest

from edgekit.device.facts.target_file import NATIVE_GLIBC, TFLITE_GLIBC
from edgekit.errors import MissingExtraError
from edgekit.pipeline.package import needed_version
from edgekit.progress import Silent
from edgekit.runtimes.registry import choose_runtime
from edgekit.target import load_target
from edgekit.values import version_numbers

pytestmark = pytest.mark.runtime
TARGETS = {"x86_64": "x86", "aarch64": "rpi4", "armv7l": "rpi3-32"}
KNOWN = [
    *(
        (TARGETS[one], name, glibc)
        for one, row in NATIVE_GLIBC.items()
        for name, glibc in row.items()
    ),
    *((TARGETS[one], "tflite", glibc) for one, glibc in TFLITE_GLIBC.items()),
]


@pytest.mark.parametrize(("target", "runtime", "glibc"), KNOWN)
def test_no_runtime_needs_a_newer_c_library_than_stated(target, runtime, glibc) -> None:
    wanted = load_target(target).replaced(runtimes=(runtime,))
    try:
        files = choose_runtime(runtime, wanted).device_files(wanted, Silent())
    except MissingExtraError as error:
        pytest.skip(error.message)
    binaries = [files.runner, *files.needed(files.libraries).values()]
    needed = needed_version(binaries, b"GLIBC")
    assert version_numbers("2.27") <= version_numbers(needed) <= version_numbers(glibc)
