"""Errors in the user's own code, with the user's file and line."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import EdgekitError, RecipeError

FOREIGN_PACKAGES = ("torch", "executorch", "torchao")


@contextmanager
def user_code_errors(path: Path, what: str) -> Iterator[None]:
    """Turn any error of the user's code into a RecipeError with the user's file and line."""
    try:
        yield
    except EdgekitError:
        raise
    except (Exception, SystemExit) as error:
        place = user_line(error)
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        at = f" ({place})" if place else ""
        raise RecipeError(f"{path}: {what} failed with {text}{at}", _advice(error)) from error


def user_line(error: BaseException) -> str | None:
    """The deepest line of the traceback that is not torch's, Python's or edgekit's own."""
    return line_of_user(traceback.extract_tb(error.__traceback__))


def line_of_user(frames: Sequence[traceback.FrameSummary]) -> str | None:
    """The deepest such line of ``frames``, which begin with the outermost."""
    own = ("<", str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"))
    for frame in reversed(frames):
        installed = "site-packages" in frame.filename
        if installed and any(f"/{name}/" in frame.filename for name in FOREIGN_PACKAGES):
            continue
        if installed or not frame.filename.startswith(own):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return None


def _advice(error: BaseException) -> str | None:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install the module that the recipe imports: pip install {error.name.split('.')[0]}"
    if isinstance(error, FileNotFoundError):
        return f"relative paths start at {Path.cwd()}; Path(__file__).parent is the recipe's folder"
    return None
