"""The runner's files for one architecture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunnerFiles:
    """The runner for one architecture and the libraries it may load, by their paths below the
    bundle's library folder. ``pythons``: the versions of Python that it runs by, if it is a
    program in Python; empty for a native runner.
    """

    runner: Path
    libraries: dict[str, Path]
    pythons: tuple[str, ...] = ()

    def needed(self, named: Iterable[str]) -> dict[str, Path]:
        """Those of the libraries that go along with a program that names some.

        A runner in Python takes all of its own: the program names those of the runner here.
        """
        return dict(self.libraries) if self.pythons else {n: self.libraries[n] for n in named}
