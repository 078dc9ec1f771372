"""How long work tells that it is alive; the command line draws it, the library is silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    def advance(self, done: int, total: int) -> None:
        """``done`` of ``total`` items are finished; 0 where nobody knows how many there are."""
        ...

    def tell(self, text: str) -> None:
        """How it stands, in a few words; each replaces the one before."""
        ...


class Progress(Protocol):
    def stage(self, title: str) -> AbstractContextManager[Stage]:
        """A piece of work, from entering to leaving."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know now."""
        ...


class Silent:
    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:  # noqa: ARG002
        yield self

    def advance(self, done: int, total: int) -> None:
        pass

    def tell(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass
