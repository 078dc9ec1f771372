"""Checks that a device can run a bundle, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.bundle.manifest import Manifest
from edgekit.errors import PreflightError
from edgekit.store.python import BITS, python_problems
from edgekit.store.survey import Survey
from edgekit.target import MACHINES, Architecture
from edgekit.values import version_numbers

LOADERS: dict[Architecture, str] = {
    "x86_64": "ld-linux-x86-64.so.2",
    "aarch64": "ld-linux-aarch64.so.1",
    "armv7l": "ld-linux-armhf.so.3",
}
# A 64-bit kernel lists the features of its own mode under a 32-bit system too.
IMPLIED_BY = {"neon": "asimd"}
LEFT_FREE_MB = 1.0


def require(
    manifest: Manifest,
    survey: Survey,
    device: str,
    peak_memory_mb: float | None,
    *,
    sends: bool = True,
) -> None:
    """Raise PreflightError with all that the device lacks: what it has and what is required.

    ``peak_memory_mb``: of the runner, measured or predicted; None if unknown.
    ``sends``: the release must still be sent and needs space.
    """
    problems = list(find_problems(manifest, survey, peak_memory_mb, sends))
    if not problems:
        return
    lines = "".join(f"\n  {problem}" for problem, _ in problems)
    hints = dict.fromkeys(hint for _, hint in problems if hint)
    raise PreflightError(
        f"{device} cannot run this bundle (built for {manifest.target}); nothing was sent:{lines}",
        "; ".join(hints) or None,
    )


def find_problems(
    manifest: Manifest, survey: Survey, peak_memory_mb: float | None, sends: bool
) -> Iterator[tuple[str, str | None]]:
    """Yield each problem, as what the device has and the bundle requires, with a hint."""
    needs = manifest.needs
    machine = survey.architecture
    if machine is not None and machine not in MACHINES[needs.architecture]:
        yield (
            f"architecture: the device is {machine}, the bundle is for {needs.architecture}",
            "build for the device's own target: edgekit targets list",
        )
        return
    loader, bits = LOADERS[needs.architecture], BITS[needs.architecture]
    if survey.loaders and not any(path.endswith(loader) for path in survey.loaders):
        yield (
            f"system: the device has the loader {', '.join(survey.loaders)}, the bundle requires "
            f"{loader}: a {bits}-bit system, whatever its kernel is",
            f"install the {bits}-bit Raspberry Pi OS, or build for the device's own target",
        )
        return
    yield from _libraries(manifest, survey)
    known = survey.cpu_features
    absent = [one for one in needs.cpu_features if not {one, IMPLIED_BY.get(one, one)} & known]
    if known and absent:
        yield (
            f"CPU: the device's lacks {', '.join(absent)}, which the bundle requires",
            "build for the device's own target: edgekit targets list",
        )
    if needs.pythons:
        yield from python_problems(manifest, survey.python)
    if sends:
        yield from _space(manifest, survey, peak_memory_mb)
    yield from _store(survey)


def _libraries(manifest: Manifest, survey: Survey) -> Iterator[tuple[str, str | None]]:
    required = version_numbers(manifest.needs.glibc)
    if survey.glibc is not None and survey.glibc < required:
        yield (
            f"C library: the device has glibc {_dots(survey.glibc)}, the bundle requires "
            f"{manifest.needs.glibc} or newer",
            "upgrade the device's system",
        )
    if survey.glibc is None and survey.has_musl:
        yield (
            f"C library: the device has musl, the bundle requires glibc {manifest.needs.glibc}",
            "use a system with glibc (Raspberry Pi OS, Debian, Ubuntu)",
        )
    required = version_numbers(manifest.needs.glibcxx)
    if required <= (0,):
        return
    if survey.glibcxx is None and survey.glibc is not None:
        yield (
            "C++ library: the device has no libstdc++.so.6, the bundle requires GLIBCXX_"
            f"{manifest.needs.glibcxx}",
            "on the device: sudo apt-get install libstdc++6",
        )
    elif survey.glibcxx is not None and survey.glibcxx < required:
        yield (
            f"C++ library: the device has GLIBCXX_{_dots(survey.glibcxx)}, the bundle requires "
            f"GLIBCXX_{manifest.needs.glibcxx} or newer",
            "upgrade the device's system",
        )


def _space(
    manifest: Manifest, survey: Survey, peak_memory_mb: float | None
) -> Iterator[tuple[str, str | None]]:
    missing = {file.sha256: file.size for file in manifest.files if file.sha256 not in survey.held}
    required = sum(missing.values()) / 1e6
    if survey.free_mb is not None and survey.free_mb < required + LEFT_FREE_MB:
        yield (
            f"disk: {survey.root} has {survey.free_mb:.1f} MB free, the bundle requires "
            f"{required:.1f} MB and {LEFT_FREE_MB:g} MB to spare",
            "free some space (edgekit ls, edgekit rm), or set EDGEKIT_ROOT to another folder",
        )
    available = survey.memory_available_mb
    if available is not None and peak_memory_mb is not None and available < peak_memory_mb:
        yield (
            f"memory: the device has {available:.1f} MB available, the runner's peak is "
            f"{peak_memory_mb:.1f} MB",
            "end other programs on the device, or build a smaller model (--memory-mb)",
        )


def _store(survey: Survey) -> Iterator[tuple[str, str | None]]:
    if survey.unwritable:
        yield (
            f"store: {survey.root} is not writable for this user ({survey.unwritable})",
            "set EDGEKIT_ROOT, or root in the target, to a folder of your own",
        )
    if survey.noexec:
        yield (
            f"store: programs in {survey.root} cannot be started ({survey.noexec})",
            "its file system is mounted noexec: set EDGEKIT_ROOT to a folder elsewhere",
        )
    if survey.lacking_tools:
        yield (
            f"tools: the device has no {', '.join(survey.lacking_tools)}",
            "edgekit needs a POSIX shell with coreutils or busybox on the device",
        )


def _dots(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
