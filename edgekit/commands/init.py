"""init: a first recipe and settings file for the user's own model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edgekit.cache import write_atomically
from edgekit.errors import OutputError

TEMPLATES = {"recipe.py": "recipe.py.txt", "edgekit.toml": "edgekit.toml.txt"}


def init(folder: str | Path = ".") -> list[Path]:
    """Write recipe.py and edgekit.toml into ``folder``. Returns their paths.

    Raises OutputError if one of them exists already, or the folder is not writable.
    """
    place = Path(folder)
    for name in TEMPLATES:
        if (place / name).exists():
            raise OutputError(
                f"{place / name} exists already; nothing was written", "give another folder"
            )
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, template in TEMPLATES.items():
            write_atomically(
                place / name, files("edgekit.templates").joinpath(template).read_bytes()
            )
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror}") from None
    return [place / name for name in TEMPLATES]
