"""Every error that edgekit raises.

EdgekitError                exit 1   what happened, to which input, what to do next
├── UsageError              exit 2   an invalid command line
├── SettingError                     an option in edgekit.toml, the environment or a call
├── RecipeError                      the user's recipe: import, functions, inputs, data
│   └── ExportError                  torch.export refused the model
├── TrainingError                    a loss that is not finite, too few batches
├── TargetError                      a target's name or its TOML file
├── CalibrationError                 a stored calibration, or a device too unsteady for one
├── MissingExtraError                an optional part of edgekit is not installed
├── WorkerError                      workers of a search: not reachable, another version, ended
├── RuntimeFailure                   a runtime's quantizer, lowering or native compiler
│   ├── RunnerError                  the native runner ended with an error
│   └── ParityError                  the artifact computes something else than its reference
├── BundleError                      a bundle: missing, changed, added or unreadable files
├── OutputError                      an output folder that cannot be written or replaced
├── PreflightError                   the device cannot run the bundle; nothing was sent
├── StoreError                       a device's store: busy, not writable, no such deployment
└── DeviceError             exit 4   the device cannot be reached, or the connection was lost
    └── HostKeyError        exit 4   the device's host key is not accepted
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_MISSED = 3
EXIT_UNREACHABLE = 4
EXIT_INCONCLUSIVE = 5


class EdgekitError(Exception):
    """Base of all errors. ``message`` says what happened to which input, ``hint`` what to do."""

    exit_code = EXIT_ERROR

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of workers travel; the arguments of __init__ differ between classes."""
        return _restored, (type(self), self.message), vars(self)


class UsageError(EdgekitError):
    exit_code = EXIT_USAGE


class SettingError(EdgekitError):
    pass


class RecipeError(EdgekitError):
    pass


class ExportError(RecipeError):
    pass


class TrainingError(EdgekitError):
    pass


class TargetError(EdgekitError):
    pass


class CalibrationError(EdgekitError):
    pass


class MissingExtraError(EdgekitError):
    def __init__(self, what: str, extra: str, hint: str | None = None) -> None:
        super().__init__(
            f"{what} needs the '{extra}' extra, which is not installed here",
            hint or "edgekit doctor shows the command that installs it",
        )


class WorkerError(EdgekitError):
    pass


class RuntimeFailure(EdgekitError):  # noqa: N818 - RuntimeError is Python's own
    pass


class RunnerError(RuntimeFailure):
    """``runner_code`` is the runner's exit code (docs/runner.md), negative for a signal."""

    def __init__(self, message: str, hint: str | None = None, runner_code: int = 1) -> None:
        super().__init__(message, hint)
        self.runner_code = runner_code


class ParityError(RuntimeFailure):
    pass


class BundleError(EdgekitError):
    pass


class OutputError(EdgekitError):
    pass


class PreflightError(EdgekitError):
    pass


class StoreError(EdgekitError):
    pass


class DeviceError(EdgekitError):
    exit_code = EXIT_UNREACHABLE


class HostKeyError(DeviceError):
    pass


def _restored(kind: type[EdgekitError], message: str) -> EdgekitError:
    return kind.__new__(kind, message)


# Messages of errors that only wrap another error, which is their context.
WRAPPERS = re.compile(
    r"An error occurred when running|Failed (converting|to lower)|While executing"
)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, and so on to the deepest cause.

    The context of an error counts as its cause only if the message is one of WRAPPERS. Otherwise
    the context is usually a failed look-up that led to the error.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        context = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or (context if WRAPPERS.match(str(current)) else None)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint with the nearest of the known names; None if there are none."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"did you mean '{near[0]}'?" if near else None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for ``what``, such as an option, that does not exist, with a similar one."""
    near = get_close_matches(name, list(known), n=1)
    return f"there is no {what} {name}" + (f": did you mean {near[0]}?" if near else "")
