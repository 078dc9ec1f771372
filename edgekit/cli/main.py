"""The entry point: runs a command, turns errors into one clear message and an exit code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import typer

from edgekit.cli.output import output
from edgekit.errors import EXIT_ERROR, EXIT_USAGE, EdgekitError, UsageError


def main() -> NoReturn:
    from edgekit.cli.commands import app

    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    output.protect_stdout(wants_json="--json" in sys.argv[1:])
    _leave(_run(app))


def _run(app: typer.Typer) -> int:
    try:
        code = app(standalone_mode=False, prog_name="edgekit")
    except EdgekitError as error:
        return _fail(error)
    except typer.TyperException as error:
        return _fail_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(EdgekitError(f"{error.strerror or error}{where}"))
    except Exception as error:
        return _fail(_unexpected(error))
    if code == 130:
        output.say_error("interrupted; nothing half-written was left", None)
    return code if isinstance(code, int) else 0


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
        traceback.print_exception(error, file=sys.stderr)
    if output.json:
        from edgekit.documents import error_document

        output.emit(error_document(error))
    output.say_error(error.message, error.hint)
    return error.exit_code


def _fail_usage(error: typer.TyperException) -> int:
    """Typer's own errors: what the command line alone shows to be wrong."""
    failure = UsageError(error.format_message(), "edgekit --help, or the command's own --help")
    failure.exit_code = error.exit_code or EXIT_USAGE
    return _fail(failure)


def _unexpected(error: Exception) -> EdgekitError:
    return EdgekitError(
        f"edgekit failed in a way that it should not: {type(error).__name__}: {error}",
        "this is a defect of edgekit: please report it with what -v prints",
    ).with_traceback(error.__traceback__)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds like Ctrl-C, so that drafts and processes are cleaned up."""
    output.interrupted = True
    raise KeyboardInterrupt
