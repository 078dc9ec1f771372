"""The findings of doctor: what works on this host, what is missing, and how to install it.

Only edgekit's base dependencies are needed. torch and other packages are tested in a separate
process.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from edgekit.cache import cache_folder, usage
from edgekit.device.debian import SUITES, command_for
from edgekit.device.local import LocalTransport
from edgekit.device.qemu import PROGRAMS, find_emulator, find_python_sysroot, find_sysroot
from edgekit.documents.host import Finding
from edgekit.errors import EdgekitError, RuntimeFailure, SettingError, TargetError
from edgekit.fleet.workers import EXTRA as CLUSTER_EXTRA
from edgekit.host.packages import STATEMENTS, examine, has_pip, installed_version, pins
from edgekit.host.prediction import prediction_findings
from edgekit.measure import emulated as emulation
from edgekit.progress import Progress
from edgekit.runtimes.base import HostSupport
from edgekit.runtimes.registry import RUNTIMES
from edgekit.settings import read_layers, user_file
from edgekit.target import (
    Architecture,
    Target,
    built_in_folder,
    host_architecture,
    read_target,
    target_files,
)
from edgekit.values import RuntimeName

BUILD = "building"
HERE = "running here"
SSH = "deploying"
IMAGES = "recipes with images"
PRUNING = "pruning"
WORKERS = "searching with workers"
BASE = {"numpy": (BUILD, HERE), "paramiko": (SSH,)}
BESIDE_A_RUNTIME = {"safetensors": (BUILD,), "torch-pruning": (PRUNING,), "pillow": (IMAGES,)}
FOR_WORKERS = {"distributed": (WORKERS,)}
# The Python of the system in which 32-bit bundles are checked, if there is none yet.
EMULATED_PYTHON = "3.11"
# The target that decides whether this host is ready to build.
REFERENCE = "x86"


@dataclass(frozen=True)
class HostFindings:
    """``host``: this host's architecture, None if edgekit has no runtime for it.
    ``architectures``: those of all targets.
    """

    findings: tuple[Finding, ...]
    host: Architecture | None
    architectures: tuple[Architecture, ...]


def look_at_host(progress: Progress) -> HostFindings:
    """Examine this host. Raises EdgekitError only if edgekit itself is not installed."""
    hosts = {name: entry.host for name, entry in RUNTIMES.items()}
    known = pins([*(host.extra for host in hosts.values()), CLUSTER_EXTRA])
    own = _host_architecture()
    targets, of_targets = _read_targets()
    architectures = sorted({target.architecture for target in targets})
    wanted = _wanted(hosts)
    with progress.stage("testing numpy, paramiko, torch, the runtimes and their dependencies"):
        statements = STATEMENTS | {k: v for h in hosts.values() for k, v in h.packages.items()}
        groups = (BASE, _purposes(wanted) | BESIDE_A_RUNTIME, FOR_WORKERS)
        packages = [row for group in groups for row in examine(group, known, statements)]
        others = _purposes({name: host for name, host in hosts.items() if name not in wanted})
        others = {name: why for name, why in others.items() if name not in _purposes(wanted)}
        packages += [_optional(row) for row in examine(others, known, statements)]
    findings = (
        _host(own),
        _python(hosts.values()),
        _pip(),
        *packages,
        *(
            _wheel(name, host, one, targets)
            for name, host in wanted.items()
            for one in _of_targets(name, host, targets)
            if one != own or host.fetches_own
        ),
        *([_own_libraries(own)] if own else []),
        *(row for other in architectures if other != own for row in _emulated(other, targets)),
        *prediction_findings(_apt_install),
        _ssh_client(),
        _temporary_folder(),
        _cache(architectures),
        _settings(),
        *of_targets,
    )
    return HostFindings(findings, own, tuple(architectures))


def building_with(runtime: RuntimeName) -> str:
    return f"building with {runtime}"


def building(architecture: Architecture, runtime: RuntimeName) -> str:
    return f"building for {architecture} with {runtime}"


def checking(architecture: Architecture) -> str:
    return f"checking {architecture}"


def _host_architecture() -> Architecture | None:
    try:
        return host_architecture() if platform.system() == "Linux" else None
    except RuntimeFailure:
        return None


def _host(architecture: Architecture | None) -> Finding:
    detail = f"{platform.system()} {platform.machine()}"
    if architecture is None:
        detail += "; needs Linux on x86_64 or aarch64"
    status = "ok" if architecture else "broken"
    return Finding(name="host", status=status, detail=detail, needed_for=(BUILD, HERE))


def _python(hosts: Iterable[HostSupport]) -> Finding:
    """Python. It must be in the range that has wheels of at least one runtime."""
    version, ranges = platform.python_version(), [host.pythons for host in hosts]
    detail = f"{version}, {sys.executable}"
    if any(SpecifierSet(one).contains(version, prereleases=True) for one in ranges):
        return Finding(name="Python", status="ok", detail=detail, needed_for=(BUILD,))
    return Finding(
        name="Python",
        status="wrong_version",
        detail=f"{detail}; needs {' or '.join(dict.fromkeys(ranges))}",
        needed_for=(BUILD,),
    )


def _pip() -> Finding:
    if has_pip():
        return Finding(name="pip", status="ok", detail=installed_version("pip") or "")
    return Finding(
        name="pip",
        status="missing",
        detail="needed by the commands below, and to fetch another architecture's runtime",
        command=shlex.join([sys.executable, "-m", "ensurepip"]),
    )


def _wanted(hosts: Mapping[RuntimeName, HostSupport]) -> dict[RuntimeName, HostSupport]:
    """The runtimes of which a package is installed that no other extra has; else the first."""
    found = {}
    for name, host in hosts.items():
        others = [one for one in hosts.values() if one.extra != host.extra]
        shared = {package for one in others for package in one.packages}
        if any(installed_version(package) for package in host.packages.keys() - shared):
            found[name] = host
    return found or dict(list(hosts.items())[:1])


def _purposes(hosts: Mapping[RuntimeName, HostSupport]) -> dict[str, tuple[str, ...]]:
    """What each package of these runtimes is needed for."""
    found: dict[str, tuple[str, ...]] = {}
    for name, host in hosts.items():
        for package in host.packages:
            found[package] = (*found.get(package, ()), building_with(name))
    return found


def _optional(finding: Finding) -> Finding:
    """Of a runtime that nobody installed here: another one builds too."""
    return finding.replaced(status="not_needed") if finding.status == "missing" else finding


def _of_targets(
    name: RuntimeName, host: HostSupport, targets: Iterable[Target]
) -> list[Architecture]:
    """The architectures of the targets that list a runtime, and that it runs on."""
    found = {target.architecture for target in targets if name in target.runtimes}
    return sorted(found & set(host.architectures))


def _wheel(
    name: RuntimeName, host: HostSupport, architecture: Architecture, targets: Iterable[Target]
) -> Finding:
    """What builds fetch for the targets of an architecture. Nothing is fetched here."""
    named = [
        target.pythons
        for target in targets
        if target.architecture == architecture and name in target.runtimes
    ]
    # a target that names none is for all
    pythons = sorted({one for group in named for one in group}) if all(named) else []
    wheel = host.wheel(architecture, pythons)
    return Finding(
        name=wheel.name,
        status="ok" if wheel.is_there else "missing",
        detail=wheel.detail,
        needed_for=(building(architecture, name),),
        command=None if wheel.is_there else wheel.command,
    )


def _own_libraries(architecture: Architecture) -> Finding:
    return _libraries(
        architecture,
        native=True,
        needed_for=(BUILD, HERE),
        command=_apt_install("libc6 libstdc++6"),
    )


def _libraries(
    architecture: Architecture, *, native: bool, needed_for: tuple[str, ...], command: str
) -> Finding:
    """The C and C++ libraries, searched like in the emulated check."""
    name = f"C++ library ({architecture})"
    found = find_sysroot(architecture, native)
    if found is None:
        detail = "libc.so.6, libstdc++.so.6"
        return Finding(
            name=name, status="missing", detail=detail, needed_for=needed_for, command=command
        )
    detail = f"glibc {_dotted(found.glibc)} in {found.root}"
    oldest = min(Version(entry.host.glibc) for entry in RUNTIMES.values())
    if found.glibc < oldest.release:
        return Finding(
            name=name,
            status="wrong_version",
            detail=f"{detail}; needs {oldest}: use a newer system",
            needed_for=needed_for,
        )
    return Finding(name=name, status="ok", detail=detail, needed_for=needed_for)


def _emulated(architecture: Architecture, targets: Iterable[Target]) -> list[Finding]:
    """The emulator and libraries with which ``check`` runs bundles of another architecture."""
    name, needed_for = f"qemu-{architecture}", (checking(architecture),)
    if architecture == "armv7l":
        return _emulated_with_python(architecture)
    if architecture != "aarch64":
        detail = "edgekit emulates Arm only"
        return [Finding(name=name, status="not_needed", detail=detail)]
    libraries = _libraries(
        architecture, native=False, needed_for=needed_for, command=_apt_install(emulation.PACKAGES)
    )
    emulator = find_emulator(architecture)
    if emulator is None:
        finding = Finding(
            name=name,
            status="missing",
            detail="QEMU's user mode",
            needed_for=needed_for,
            command=_apt_install(emulation.PACKAGES),
        )
        return [finding, libraries]
    cpus = {target.cpu for target in targets if target.architecture == architecture}
    unknown = sorted(cpus - emulator.cpus)
    detail = f"{emulator.version}, {emulator.program}"
    if unknown:
        detail += f"; does not support {', '.join(unknown)}: try a newer QEMU"
    status = "wrong_version" if unknown else "ok"
    return [Finding(name=name, status=status, detail=detail, needed_for=needed_for), libraries]


def _emulated_with_python(architecture: Architecture) -> list[Finding]:
    """The emulator and the system with which ``check`` runs bundles whose runner is in Python.

    Few people need them, so nothing is reported as missing.
    """
    emulator, system = find_emulator(architecture), find_python_sysroot(architecture, [*SUITES])
    rows = (
        (PROGRAMS[architecture], emulator and f"{emulator.version}, {emulator.program}",
         _apt_install("qemu-user")),
        (f"Python ({architecture})", system and f"in {system.root}",
         command_for(architecture, EMULATED_PYTHON)),
    )  # fmt: skip
    return [
        Finding(
            name=name,
            status="ok" if detail else "not_needed",
            detail=detail or "only to check such bundles here",
            needed_for=(checking(architecture),),
            command=None if detail else command,
        )
        for name, detail, command in rows
    ]


def _ssh_client() -> Finding:
    """The OpenSSH client. edgekit implements SSH itself; the client reads its configuration."""
    found = shutil.which("ssh")
    return Finding(
        name="ssh",
        status="ok" if found else "not_needed",
        detail=found or "without it, Include and Match exec of your ssh configuration are not read",
        command=None if found else _apt_install("openssh-client"),
    )


def _temporary_folder() -> Finding:
    """The temporary folder, from which runners are started."""
    needed_for = (BUILD, HERE)
    name, place = "temporary folder", "none"
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            program = Path(folder) / "program"
            program.write_text("#!/bin/sh\nexit 0\n")
            program.chmod(0o755)
            LocalTransport().run([str(program)], timeout_s=10)
    except (OSError, EdgekitError):
        detail = f"{place} does not allow files or programs: set TMPDIR to a folder that does"
        return Finding(name=name, status="broken", detail=detail, needed_for=needed_for)
    return Finding(name=name, status="ok", detail=place, needed_for=needed_for)


def _cache(architectures: Iterable[Architecture]) -> Finding:
    folder = cache_folder()
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            return _unusable_cache(f"{folder} cannot be written")
        megabytes = sum(size for _, _, size in usage()) / 1e6
        detail = f"{folder}, {megabytes:.1f} MB"
        hosts = [entry.host for entry in RUNTIMES.values()]
        runners = [
            (one, host.runner_folder(one))
            for one in architectures
            for host in hosts
            if one in host.architectures
        ]
        if any(path is not None for _, path in runners):
            ready = dict.fromkeys(one for one, path in runners if path and path.is_dir())
            detail += f"; compiled runners: {', '.join(ready) or 'none yet'}"
    except OSError as error:
        return _unusable_cache(f"{error.filename or folder} cannot be read ({error.strerror})")
    return Finding(name="cache", status="ok", detail=detail, needed_for=(BUILD,))


def _unusable_cache(reason: str) -> Finding:
    detail = f"{reason}: set XDG_CACHE_HOME to a folder that you can read and write"
    return Finding(name="cache", status="broken", detail=detail, needed_for=(BUILD,))


def _settings() -> Finding:
    """The user's configuration, ./edgekit.toml and the environment, as a build reads them."""
    folder = user_file().parent
    try:
        read_layers({})
    except SettingError as error:
        return _broken("configuration", error, BUILD)
    if not folder.is_dir():
        detail = f"{folder} does not exist: nothing is set there"
        return Finding(name="configuration", status="not_needed", detail=detail)
    return Finding(name="configuration", status="ok", detail=str(folder), needed_for=(BUILD,))


def _read_targets() -> tuple[list[Target], list[Finding]]:
    """All readable targets, and findings. An unreadable target only prevents builds for it; an
    unreadable x86 counts against all builds.
    """
    reference = (built_in_folder() / f"{REFERENCE}.toml").resolve()
    good, bad = [], []
    paths = {path.resolve() for path in (reference, *target_files().values())}
    for path in sorted(paths, key=lambda path: path.name):
        try:
            good.append(read_target(path))
        except TargetError as error:
            purpose = BUILD if path == reference else f"building for {path.stem}"
            bad.append(_broken(f"target {path.stem}", error, purpose))
    names = ", ".join(dict.fromkeys(target.name for target in good))
    return good, [Finding(name="targets", status="ok", detail=names, needed_for=(BUILD,)), *bad]


def _broken(name: str, error: EdgekitError, purpose: str) -> Finding:
    detail = " ".join(error.message.split())
    return Finding(name=name, status="broken", detail=detail, needed_for=(purpose,))


def _apt_install(packages: str) -> str:
    """The install command of Debian and its derivatives."""
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {packages}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
