"""The native runner's files for one architecture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunnerFiles:
    """The native runner for one architecture and the libraries it may load, by file name."""

    runner: Path
    libraries: dict[str, Path]
