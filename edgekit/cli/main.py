"""The entry point: runs a command, turns errors into one clear message and an exit code."""

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
from edgekit.errors import EXIT_ERROR, EXIT_USAGE, EdgekitError, UsageError, chain_of
from edgekit.options import unknown
from edgekit.process.interrupt import is_fragile, takes_stop
from edgekit.process.waiting import wait_passively

# What a shell gives for a program that SIGINT ended.
EXIT_INTERRUPTED = 130


def main() -> NoReturn:
    wait_passively()
    sys.unraisablehook = _drop_interrupts
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    output.protect_stdout(wants_json="--json" in sys.argv[1:])
    _leave(_run())


def _run() -> int:
    try:
        # they register themselves
        from edgekit.cli import bundle_commands, device_commands, host_commands  # noqa: F401
        from edgekit.cli.app import app

        code = app(standalone_mode=False, prog_name="edgekit")
    except (KeyboardInterrupt, typer.Abort):
        return _say_interrupted()
    except Exception as error:
        # what an interruption broke in the middle of somebody else's code is no error of its own
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
        return _fail(_of_system(error))
    return _fail(_unexpected(error))


def _of_system(error: OSError) -> EdgekitError:
    from edgekit.cache import cache_folder

    where = str(error.filename or "")
    missing = isinstance(error, FileNotFoundError) and Path(where).is_relative_to(cache_folder())
    return EdgekitError(
        ": ".join(part for part in (error.strerror or str(error), where) if part),
        "it was in the cache, which was cleared meanwhile; run the command again, which makes it "
        "anew"
        if missing
        else None,
    )


def _say_interrupted() -> int:
    output.say_error("interrupted; nothing half-written was left", None)
    return EXIT_INTERRUPTED


def _leave(code: int) -> NoReturn:
    """End at once, with this code: taking torch down takes a second, and after an interruption
    in the middle of its import it may abort.
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
    """Typer's own errors: what the command line alone shows to be wrong."""
    message = error.format_message()
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        message = unknown(error.option_name, error.possibilities or ())
    failure = UsageError(message, "edgekit --help, or the command's own --help")
    failure.exit_code = error.exit_code or EXIT_USAGE
    return _fail(failure)


def _unexpected(error: Exception) -> EdgekitError:
    return EdgekitError(
        f"edgekit failed in a way that it should not: {type(error).__name__}: {error}",
        "this is a defect of edgekit: please report it with what -v prints",
    ).with_traceback(error.__traceback__)


def _drop_interrupts(unraisable: sys.UnraisableHookArgs) -> None:
    """A finalizer that meets the interruption is no news: check_interrupted raises it again."""
    if not (output.interrupted and issubclass(unraisable.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(unraisable)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that drafts and processes are cleaned up; the first Ctrl-C
    of a training only ends that.
    """
    if number == signal.SIGINT and takes_stop():
        return
    output.interrupted = True
    if is_fragile():
        _leave(_say_interrupted())
    raise KeyboardInterrupt
