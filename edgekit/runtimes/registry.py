"""From a runtime's name to the runtime."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import TargetError
from edgekit.program import Program
from edgekit.runner.client import ProfileRow
from edgekit.runtimes.base import Located, Runtime
from edgekit.target import Target


def choose_runtime(choice: str, target: Target) -> Runtime:
    """``auto`` is the best that the target has and that is installed: ExecuTorch so far.

    Raises TargetError (the target does not have it), MissingExtraError.
    """
    from edgekit.runtimes.executorch.runtime import ExecuTorch

    name = "executorch" if choice == "auto" else choice
    if name not in target.runtimes:
        raise TargetError(
            f"the target '{target.name}' has no {name}: its runtimes are "
            f"{', '.join(target.runtimes)}"
        )
    return ExecuTorch()


def locate(program: Program, rows: Sequence[ProfileRow]) -> list[Located]:
    """The operator and the layer of every row of a profile. The runtime need not be installed."""
    from edgekit.runtimes.executorch import profile

    return profile.locate(program, rows)
