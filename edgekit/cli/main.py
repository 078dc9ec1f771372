"""The entry point: runs a command and turns errors into a message and an exit code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from edgekit.cli.output import output
from edgekit.errors import EXIT_ERROR, EXIT_USAGE, EdgekitError, UsageError, chain_of, unknown
from edgekit.process.interrupt import is_fragile, takes_stop
from edgekit.process.waiting import wait_passively

# A shell's exit code for a program that SIGINT ended.
EXIT_INTERRUPTED = 130


def main() -> NoReturn:
    wait_passively()
    sys.unraisablehook = _drop_interrupts
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    output.protect_stdout(wants_json="--json" in sys.argv[1:])
    _exit_now(_run())


def _run() -> int:
    try:
        # these modules register their commands
        from edgekit.cli import bundle_commands, device_commands, host_commands  # noqa: F401
        from edgekit.cli.app import app

        code = app(standalone_mode=False, prog_name="edgekit")
    except (KeyboardInterrupt, typer.Abort):
        return _say_interrupted()
    except Exception as error:
        # an interruption inside a library may raise another error: it is not reported
        return _say_interrupted() if output.interrupted else _explain(error)
    if code == EXIT_INTERRUPTED:
        return _say_interrupted()
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, EdgekitError):
        return _fail(error)
    if isinstance(error, typer.TyperException):
        return _fail_usage(error)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    if isinstance(error, OSError):
        return _fail(_system_error(error))
    return _fail(_unexpected(error))


def _system_error(error: OSError) -> EdgekitError:
    from edgekit.cache import cache_folder

    where = str(error.filename or "")
    missing = isinstance(error, FileNotFoundError) and Path(where).is_relative_to(cache_folder())
    return EdgekitError(
        ": ".join(part for part in (error.strerror or str(error), where) if part),
        "another process cleared the cache: run the command again" if missing else None,
    )


def _say_interrupted() -> int:
    output.say_error("interrupted; no incomplete files are left", None)
    return EXIT_INTERRUPTED


def _exit_now(code: int) -> NoReturn:
    """Exit at once with this code. Unloading torch takes a second, and may abort after an
    interrupted import.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(Exception):
        atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _fail(error: EdgekitError) -> int:
    if output.verbose:
        *_, cause = chain_of(error)
        traceback.print_exception(cause, chain=False, file=sys.stderr)
    if output.json:
        from edgekit.documents.base import error_document

        output.emit(error_document(error))
    output.say_error(error.message, error.hint)
    return error.exit_code


def _fail_usage(error: typer.TyperException) -> int:
    """Report one of Typer's errors, which concern only the command line."""
    message = error.format_message()
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        message = unknown("option", error.option_name, error.possibilities or ())
    failure = UsageError(message, "edgekit --help, or the command's own --help")
    failure.exit_code = error.exit_code or EXIT_USAGE
    return _fail(failure)


def _unexpected(error: Exception) -> EdgekitError:
    return EdgekitError(
        f"internal error of edgekit: {type(error).__name__}: {error}",
        "please report this with the output of -v",
    ).with_traceback(error.__traceback__)


def _drop_interrupts(unraisable: sys.UnraisableHookArgs) -> None:
    """Ignore an interruption inside a finalizer: check_interrupted raises it again."""
    if not (output.interrupted and issubclass(unraisable.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(unraisable)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Handle SIGINT and SIGTERM. Both raise, so that drafts and processes are cleaned up. The
    first Ctrl-C during a training only ends the training.
    """
    if number == signal.SIGINT and takes_stop():
        return
    output.interrupted = True
    if is_fragile():
        _exit_now(_say_interrupted())
    raise KeyboardInterrupt
