"""Python packages: installed versions against edgekit's requirements, and whether they work."""

from __future__ import annotations

import importlib.util
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from packaging.requirements import Requirement

from edgekit.documents.host import Finding
from edgekit.documents.verdict import Status
from edgekit.errors import EdgekitError, MissingExtraError

# The extra that installs torch (require_torch).
TORCH_EXTRA = "executorch"
IMPORT_LIMIT_S = 180.0
# The statement that tests a package, as edgekit uses it. Those of runtimes are in HostSupport.
STATEMENTS = {
    "numpy": "import numpy",
    "paramiko": "import paramiko",
    "safetensors": "import safetensors",
    "torch-pruning": "import torch_pruning",
    "pillow": "import PIL.Image",
    "distributed": "import distributed",
}
# Runs in a separate process, because an import may end it. Prints one line of JSON before and after
# each statement, separate from the packages' own output.
PROBE = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name, statement in json.loads(sys.argv[1]).items():
    print(json.dumps([name, None]), file=out, flush=True)
    try:
        exec(statement, {})
        message = ""
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
    print(json.dumps([name, message]), file=out, flush=True)
"""


class Trouble(NamedTuple):
    """Why a package does not work. ``is_its_own``: reinstalling the package may help."""

    message: str
    is_its_own: bool = True


def pins(extras: Iterable[str]) -> dict[str, Requirement]:
    """The requirements of edgekit and these extras, by the package's name in lower case.

    Raises EdgekitError if edgekit is run from a folder and is not installed.
    """
    try:
        lines = requires("edgekit") or []
    except PackageNotFoundError:
        raise EdgekitError(
            "this edgekit is run from a folder and is not installed in this environment",
            pip_install(["-e", "."]) + "  # in the folder with edgekit's pyproject.toml",
        ) from None
    requirements = [Requirement(line) for line in lines]
    return {
        requirement.name.lower(): requirement
        for requirement in requirements
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
    }


def examine(
    purposes: Mapping[str, tuple[str, ...]],
    known: Mapping[str, Requirement],
    statements: Mapping[str, str],
) -> list[Finding]:
    """A finding for each required package, tested by its statement in ``statements``.

    All missing packages share one command, because pip must choose their versions together.
    """
    names = [name for name in purposes if name in known]
    errors = import_errors({name: statements[name] for name in names if installed_version(name)})
    found = {name: _judge(known[name], errors.get(name)) for name in names}
    installable = {
        name: status
        for name, (status, _) in found.items()
        if status != "broken" or errors[name].is_its_own
    }

    def pinned(*statuses: Status) -> list[str]:
        return [_pinned(known[name]) for name, status in installable.items() if status in statuses]

    install = pip_install(pinned("missing", "wrong_version"))
    again = pip_install(["--force-reinstall", "--no-deps", *pinned("broken")])
    commands: dict[Status, str] = {"missing": install, "wrong_version": install, "broken": again}
    return [
        Finding(
            name=known[name].name,
            status=status,
            detail=detail,
            needed_for=purposes[name],
            command=commands.get(status) if name in installable else None,
        )
        for name, (status, detail) in found.items()
    ]


def installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def require_torch(what: str) -> None:
    """Raise MissingExtraError if torch, which ``what`` needs, is not installed."""
    if installed_version("torch") is None:
        raise MissingExtraError(what, TORCH_EXTRA)


def pip_install(arguments: Iterable[str]) -> str:
    """The pip command for this environment."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def import_errors(statements: Mapping[str, str]) -> dict[str, Trouble]:
    """The errors of the packages that do not work, each tested by its statement.

    One process tests all packages, because most import torch. If a package ends it, another process
    tests the rest. If a package exceeds the time limit, the rest are reported as not tested.
    """
    waiting = list(statements)
    found: dict[str, Trouble] = {}
    while waiting:
        messages, code = _probe({name: statements[name] for name in waiting})
        found |= {name: Trouble(_first_line(text)) for name, text in messages.items() if text}
        waiting = [name for name in waiting if messages.get(name) is None]
        if waiting:
            last, *waiting = waiting
            found[last] = Trouble(_ending(code), is_its_own=code is not None)
            if code is None:
                untested = Trouble(f"not tested: {last} took too long", is_its_own=False)
                return found | dict.fromkeys(waiting, untested)
    return found


def _probe(statements: Mapping[str, str]) -> tuple[dict[str, str | None], int | None]:
    """The message of each package ('' if it works, None if it did not finish), and the exit code
    (None after the time limit).
    """
    # -P: a torch.py in the user's folder is not torch
    command = [sys.executable, "-P", "-c", PROBE, json.dumps(dict(statements))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=IMPORT_LIMIT_S
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, code = (error.stdout or b"").decode(errors="replace"), None
    return dict(json.loads(line) for line in output.splitlines()), code


def _judge(required: Requirement, error: Trouble | None) -> tuple[Status, str]:
    found = installed_version(required.name)
    if found is None:
        return "missing", f"needs {_range(required)}"
    if not required.specifier.contains(found, prereleases=True):
        return "wrong_version", f"{found}; needs {_range(required)}"
    return ("broken", f"{found}: {error.message}") if error else ("ok", found)


def _pinned(requirement: Requirement) -> str:
    return f"{requirement.name}{_range(requirement)}"


def _range(requirement: Requirement) -> str:
    """The version range, lower bound first."""
    return ",".join(sorted(map(str, requirement.specifier), reverse=True))


def _ending(code: int | None) -> str:
    if code is None:
        return f"did not import within {IMPORT_LIMIT_S:g} s: it hangs, or this machine is slow"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its import ended Python ({name})"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]
