"""The interface for progress of long work. The command line draws it; the library is silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    def advance(self, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` items are finished; ``total`` 0: unknown."""
        ...

    def show(self, text: str) -> None:
        """Report the status in a few words. It replaces the previous one."""
        ...


class Progress(Protocol):
    def stage(self, title: str) -> AbstractContextManager[Stage]:
        """A context for a piece of work."""
        ...

    def note(self, text: str) -> None:
        """Print a message for the user."""
        ...


class Silent:
    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:  # noqa: ARG002
        yield self

    def advance(self, done: int, total: int) -> None:
        pass

    def show(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass
