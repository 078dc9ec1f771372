"""A Python with NumPy 1, as tflite-runtime needs it: an environment of its own, made once."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from edgekit.cache import cache_folder, make_folder_once

# The versions that tflite-runtime 2.14 has wheels for.
SUPPORTED = ("3.9", "3.10", "3.11")
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
NUMPY = "numpy==1.26.4"


def old_environment() -> Path:
    """The environment's folder. tflite-runtime is not in it: a bundle brings its own."""
    return make_folder_once(cache_folder() / "pythons" / f"numpy1-{VERSION}", _fill)


def path_with(folder: Path) -> str:
    """PATH, on which ``python3`` is the environment's."""
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


def _fill(draft: Path) -> None:
    venv.create(draft, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(draft / "bin" / "python3")]
    command = [*pip, "install", "--quiet", "--only-binary=:all:", NUMPY]
    subprocess.run(command, check=True)
