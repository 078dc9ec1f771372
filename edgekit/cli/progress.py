"""Progress on stderr: a live line on a terminal, and elsewhere a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from edgekit.cli.output import output
from edgekit.progress import Progress, Silent, Stage

BEAT_S = 3.0


def make_progress(quiet: bool) -> Progress:
    if quiet:
        return Quiet()
    return Live() if sys.stderr.isatty() else Lines()


class Quiet(Silent):
    """Nothing is drawn."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:  # noqa: ARG002
        yield self
        output.check_interrupted()


class Lines:
    """One line for each stage's start, and one every few seconds of it."""

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        beat = _Beat(title)
        print(f"- {title}", file=sys.stderr, flush=True)
        beat.start()
        try:
            yield beat
        finally:
            beat.stop()
        output.check_interrupted()


class _Standing:
    """How a stage stands, in words."""

    def __init__(self) -> None:
        self._count = self._text = ""
        self._first: tuple[int, float] | None = None

    def advance(self, done: int, total: int) -> None:
        self._count = f"{done} of {total}" if total else f"{done} done"
        self._first = self._first or (done, time.monotonic())
        if total and done > self._first[0]:
            each_s = (time.monotonic() - self._first[1]) / (done - self._first[0])
            self._count += f", {_duration(each_s * (total - done))} left"

    def tell(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return ", ".join(part for part in (self._count, self._text) if part)


class _Beat:
    def __init__(self, title: str) -> None:
        self._title, self._standing = title, _Standing()
        self._over = Event()
        self._thread = Thread(target=self._tick, daemon=True)
        self.advance, self.tell = self._standing.advance, self._standing.tell

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        start = time.monotonic()
        while not self._over.wait(BEAT_S):
            said = ", ".join(
                filter(None, (f"{time.monotonic() - start:.0f} s", str(self._standing)))
            )
            print(f"  ... {self._title}: {said}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class Live:
    """A spinner, and a bar where a stage counts; finished stages stay with their seconds."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._current: _Bar | None = None

    def note(self, text: str) -> None:
        self._console.print(f"  {text}")

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        if self._current:  # rich draws one live display at a time: an inner joins the outer
            yield self._current
            return
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.table import Column

        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=6),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn(
                "[dim]{task.fields[said]}",
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            transient=True,
        )
        start = time.monotonic()
        try:
            with bar:
                task = bar.add_task(title, total=None, said="")
                self._current = _Bar(bar, task)
                yield self._current
        finally:
            self._current = None
        output.check_interrupted()
        self._console.print(f"- {title} [dim]{time.monotonic() - start:.1f} s[/dim]")


class _Bar:
    def __init__(self, bar, task) -> None:  # type: ignore[no-untyped-def]
        self._bar, self._task, self._standing = bar, task, _Standing()

    def advance(self, done: int, total: int) -> None:
        self._standing.advance(done, total)
        said = str(self._standing)
        self._bar.update(self._task, completed=done, total=total or None, said=said)

    def tell(self, text: str) -> None:
        self._standing.tell(text)
        self._bar.update(self._task, said=str(self._standing))
