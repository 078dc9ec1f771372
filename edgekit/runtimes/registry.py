"""The runtimes that edgekit builds for. Only this module knows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingExtraError, SettingError, TargetError
from edgekit.program import Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import HostSupport, Located, Runtime
from edgekit.runtimes.executorch import host as executorch_host
from edgekit.runtimes.litert import host as litert_host
from edgekit.runtimes.litert import profile as litert_profile
from edgekit.runtimes.xnnpack import events as xnnpack_events
from edgekit.target import Target
from edgekit.values import RuntimeName


@dataclass(frozen=True)
class Entry:
    """One runtime. ``create`` imports it, and raises MissingExtraError if it is not installed; the
    other fields do not need it. ``locate`` returns the operator and layer of each row of a profile.
    """

    create: Callable[[], Runtime]
    host: HostSupport
    locate: Callable[[Program, Sequence[ProfileRow]], list[Located]]


def _executorch() -> Runtime:
    from edgekit.runtimes.executorch.runtime import ExecuTorch

    return ExecuTorch()


def _litert() -> Runtime:
    from edgekit.runtimes.litert.runtime import LiteRT

    return LiteRT()


RUNTIMES: dict[RuntimeName, Entry] = {
    "executorch": Entry(_executorch, executorch_host.SUPPORT, xnnpack_events.locate),
    "litert": Entry(_litert, litert_host.SUPPORT, litert_profile.locate),
}


def choose_runtime(choice: RuntimeName | None, target: Target) -> Runtime:
    """The requested runtime; None: the first runtime of the target that is installed.

    Raises TargetError (the target does not list it), SettingError (edgekit does not build for
    it), MissingExtraError (it is not installed).
    """
    if choice is not None:
        return _entry(choice, target).create()
    found = installed_runtimes(target)
    for runtime in found.values():
        if not isinstance(runtime, MissingExtraError):
            return runtime
    for missing in found.values():
        assert isinstance(missing, MissingExtraError)
        raise missing
    raise TargetError(
        f"the target '{target.name}' lists {', '.join(target.runtimes)}: edgekit builds for "
        f"{', '.join(RUNTIMES)} only",
        f"add one of them to 'runtimes' of the target, if {target.name} can run it",
    )


def installed_runtimes(target: Target) -> dict[RuntimeName, Runtime | MissingExtraError]:
    """The runtimes of the target that edgekit builds for, in the target's order; an error for each
    that is not installed.
    """
    found: dict[RuntimeName, Runtime | MissingExtraError] = {}
    for name in target.runtimes:
        if name in RUNTIMES:
            try:
                found[name] = RUNTIMES[name].create()
            except MissingExtraError as error:
                found[name] = error
    return found


def _entry(name: RuntimeName, target: Target) -> Entry:
    if name not in target.runtimes:
        raise TargetError(
            f"the target '{target.name}' does not run {name}: its runtimes are "
            f"{', '.join(target.runtimes)}"
        )
    if name not in RUNTIMES:
        raise SettingError(
            f"edgekit does not build for {name} yet", f"it builds for {', '.join(RUNTIMES)}"
        )
    return RUNTIMES[name]


def runtime_of_file(path: Path) -> RuntimeName | None:
    """The runtime whose finished files have this suffix; None if there is none."""
    return next((n for n, entry in RUNTIMES.items() if entry.host.suffix == path.suffix), None)


def suffixes() -> tuple[str, ...]:
    """The suffixes of finished files."""
    return tuple(entry.host.suffix for entry in RUNTIMES.values())


def locate(runtime: RuntimeName, program: Program, rows: Sequence[ProfileRow]) -> list[Located]:
    """The operator and the layer of each row of a profile. The runtime need not be installed.

    If this edgekit does not know the runtime, each row keeps its own name.
    """
    if runtime not in RUNTIMES:
        return [Located(row.name, None) for row in rows]
    return RUNTIMES[runtime].locate(program, rows)
