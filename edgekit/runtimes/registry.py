"""The runtimes that edgekit builds for. Only this module knows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError, MissingExtraError, TargetError
from edgekit.program import Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import HostSupport, Located, Runtime
from edgekit.runtimes.executorch import host as executorch_host
from edgekit.runtimes.litert import host as litert_host
from edgekit.runtimes.litert import profile as litert_profile
from edgekit.runtimes.tflite import host as tflite_host
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


def _tflite() -> Runtime:
    from edgekit.runtimes.tflite.runtime import TFLite

    return TFLite()


RUNTIMES: dict[RuntimeName, Entry] = {
    "executorch": Entry(_executorch, executorch_host.SUPPORT, xnnpack_events.locate),
    "litert": Entry(_litert, litert_host.SUPPORT, litert_profile.locate),
    "tflite": Entry(_tflite, tflite_host.SUPPORT, litert_profile.locate),
}


def choose_runtime(choice: RuntimeName | None, target: Target) -> Runtime:
    """The requested runtime; None: the first runtime of the target that is installed.

    Raises TargetError (the target does not list it, or it does not run there), MissingExtraError
    (it is not installed).
    """
    if choice is None:
        return _first_installed(target)
    if choice not in target.runtimes:
        raise TargetError(
            f"the target '{target.name}' does not run {choice}: its runtimes are "
            f"{', '.join(target.runtimes)}"
        )
    return _create(choice, target)


def _first_installed(target: Target) -> Runtime:
    found = list(runtimes_of(target).values())
    for one in found:
        if not isinstance(one, EdgekitError):
            return one
    assert isinstance(found[0], EdgekitError)
    raise found[0]


def runtimes_of(target: Target) -> dict[RuntimeName, Runtime | EdgekitError]:
    """The target's runtimes in its order; an error for one that is not installed, or that does not
    run there.
    """
    found: dict[RuntimeName, Runtime | EdgekitError] = {}
    for name in target.runtimes:
        try:
            found[name] = _create(name, target)
        except (MissingExtraError, TargetError) as error:
            found[name] = error
    return found


def _create(name: RuntimeName, target: Target) -> Runtime:
    RUNTIMES[name].host.require_target(name, target)
    return RUNTIMES[name].create()


def runtime_of_file(path: Path, preferred: Sequence[RuntimeName] = ()) -> RuntimeName | None:
    """The runtime whose finished files have this suffix; None if there is none.

    If there are several: the first one of ``preferred``, else the registry's first.
    """
    found = [name for name, entry in RUNTIMES.items() if entry.host.suffix == path.suffix]
    return next((name for name in preferred if name in found), found[0] if found else None)


def has_signatures(path: Path) -> bool:
    """Whether a path is that of a finished file that may hold several programs, each named."""
    return any(e.host.has_signatures and e.host.suffix == path.suffix for e in RUNTIMES.values())


def runtimes_on(architecture: str | None) -> tuple[RuntimeName, ...]:
    """The runtimes that run on devices of an architecture."""
    return tuple(n for n, entry in RUNTIMES.items() if architecture in entry.host.architectures)


def suffixes() -> tuple[str, ...]:
    """The suffixes of finished files."""
    return tuple(dict.fromkeys(entry.host.suffix for entry in RUNTIMES.values()))


def locate(runtime: RuntimeName, program: Program, rows: Sequence[ProfileRow]) -> list[Located]:
    """The operator and the layer of each row of a profile. The runtime need not be installed.

    If this edgekit does not know the runtime, each row keeps its own name.
    """
    if runtime not in RUNTIMES:
        return [Located(row.name, None) for row in rows]
    return RUNTIMES[runtime].locate(program, rows)
