"""A device's Python, for bundles whose runner is a program in Python. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.bundle.manifest import LIBRARY_FOLDER, Manifest
from edgekit.target import Architecture
from edgekit.values import TFLITE_PYTHONS

BITS: dict[Architecture, int] = {"x86_64": 64, "aarch64": 64, "armv7l": 32}
INSTALL = "on the device: sudo apt install python3 python3-numpy"
PIP = "on the device: python3 -m pip install --user 'numpy>=1.23.2,<2'"
# Older releases of Debian package a NumPy that is too old.
PACKAGED_FROM = (3, 10)
# tflite-runtime 2.14 was compiled for these: with another one it imports, and then fails.
NUMPY_FROM, NUMPY_BELOW = (1, 23), (2, 0)


@dataclass(frozen=True)
class DevicePython:
    """The device's ``python3``. ``numpy``: None if it cannot be imported, for the reason
    ``no_numpy``. ``has_tflite``: it finds a tflite_runtime of its own.
    """

    version: str
    bits: int | None
    numpy: str | None
    no_numpy: str
    has_tflite: bool


def parse_python(text: str) -> DevicePython | None:
    """From the survey's section; None if the device has no python3 that runs."""
    rows = dict(line.partition(" ")[::2] for line in text.splitlines())
    if "version" not in rows:
        return None
    bits = rows.get("bits", "")
    return DevicePython(
        version=rows["version"],
        bits=int(bits) if bits.isdecimal() else None,
        numpy=rows.get("numpy"),
        no_numpy=rows.get("no_numpy", ""),
        has_tflite=rows.get("tflite") == "True",
    )


def python_problems(
    manifest: Manifest, python: DevicePython | None
) -> Iterator[tuple[str, str | None]]:
    """Yield each problem, as what the device has and the bundle requires, with a hint."""
    if python is None:
        yield "Python: the device has no python3, which the bundle's runner is for", INSTALL
        return
    wanted_bits = BITS[manifest.needs.architecture]
    if python.bits not in (None, wanted_bits):
        yield (
            f"Python: the device's python3 is a {python.bits}-bit program, the bundle is for "
            f"{manifest.needs.architecture}",
            "build for the device's own target: edgekit targets list",
        )
        return
    bundled = has_wheel(manifest, python.version)
    if not bundled and not python.has_tflite:
        yield (
            f"Python: the device has Python {python.version}, the bundle is for Python "
            f"{', '.join(manifest.needs.pythons)}, and the system has no tflite_runtime of its own",
            f'for Python 3.9 to 3.11: set pythons = ["{python.version}"] in the target and build '
            "again; for a newer one: install the system's own package of tflite_runtime",
        )
    if python.numpy is None:
        reason = f" ({python.no_numpy})" if python.no_numpy else ""
        old = _numbers(python.version) < PACKAGED_FROM
        yield f"NumPy: the device's Python cannot import numpy{reason}", PIP if old else INSTALL
    elif _needs_that_numpy(python, bundled) and not _fits(python.numpy):
        yield (
            f"NumPy: the device's Python has numpy {python.numpy}, tflite-runtime requires 1.23 or "
            "later and below 2",
            f"python3-numpy of Debian 12 fits; elsewhere, {PIP}",
        )


def _needs_that_numpy(python: DevicePython, bundled: bool) -> bool:
    """A system's own tflite_runtime fits its NumPy; that of pip is for the same as the bundle's."""
    return bundled or _numbers(python.version) <= _numbers(TFLITE_PYTHONS[-1])


def _fits(numpy: str) -> bool:
    return NUMPY_FROM <= _numbers(numpy) < NUMPY_BELOW


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def has_wheel(manifest: Manifest, version: str) -> bool:
    """Whether the bundle has tflite-runtime for a version of Python, such as 3.11."""
    folder = f"{LIBRARY_FOLDER}/cp{version.replace('.', '')}/"
    return any(file.path.startswith(folder) for file in manifest.files)
