"""Progress on stderr: a live line on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from edgekit.cli.output import output
from edgekit.progress import Progress, Silent, Stage

# Seconds from a stage's start to its first line of progress, and between lines. Libraries hold
# Python's lock for up to two seconds, so there is a line at least every ten seconds.
FIRST_BEAT_S, BEAT_S = 5.0, 7.0


def make_progress(quiet: bool) -> Progress:
    if quiet:
        return Quiet()
    return Live() if sys.stderr.isatty() else Lines()


class Quiet(Silent):
    """Progress that prints nothing."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:  # noqa: ARG002
        yield self
        output.check_interrupted()


class Lines:
    """One line at each stage's start, and regular lines for the innermost stage."""

    def __init__(self) -> None:
        self._open: list[_Beat] = []

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        beat = _Beat(title)
        print(f"- {title}", file=sys.stderr, flush=True)
        if self._open:
            self._open[-1].stop()
        self._open.append(beat)
        beat.start()
        try:
            yield beat
        finally:
            self._open.pop().stop()
            if self._open:
                self._open[-1].start()
        output.check_interrupted()


class _StageStatus:
    """The status of a stage in words."""

    def __init__(self) -> None:
        self._count = self._text = ""
        self._first: tuple[int, float] | None = None

    def advance(self, done: int, total: int) -> None:
        self._count = f"{done} of {total}" if total else f"{done} done"
        self._first = self._first or (done, time.monotonic())
        if total and done > self._first[0]:
            each_s = (time.monotonic() - self._first[1]) / (done - self._first[0])
            self._count += f", {_duration(each_s * (total - done))} left"

    def show(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return ", ".join(part for part in (self._count, self._text) if part)


class _Beat:
    """Prints the status of its stage, from ``start`` to ``stop``. It may be started again."""

    def __init__(self, title: str) -> None:
        self._title, self._status = title, _StageStatus()
        self._since = time.monotonic()
        self._over = Event()
        self.advance, self.show = self._status.advance, self._status.show

    def start(self) -> None:
        self._over = Event()
        self._thread = Thread(target=beat, args=(self._over.wait, self._print), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _print(self) -> None:
        seconds = f"{time.monotonic() - self._since:.0f} s"
        text = ", ".join(part for part in (seconds, str(self._status)) if part)
        print(f"  ... {self._title}: {text}", file=sys.stderr, flush=True)


def beat(
    over: Callable[[float], bool],
    act: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call ``act`` after FIRST_BEAT_S and then every BEAT_S, independent of how long it takes.

    ``over`` waits for the given seconds and returns whether the work has ended.
    """
    due = clock() + FIRST_BEAT_S
    while not over(max(0.0, due - clock())):
        act()
        due = max(due + BEAT_S, clock())


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class Live:
    """A spinner with a bar. Finished stages remain as lines with their seconds."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._current: _Bar | None = None

    def note(self, text: str) -> None:
        self._console.print(f"  {text}")

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        if self._current:  # rich draws one live display: an inner stage uses the outer's
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
                "[dim]{task.fields[status]}",
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            transient=True,
        )
        start = time.monotonic()
        try:
            with bar:
                task = bar.add_task(title, total=None, status="")
                self._current = _Bar(bar, task)
                yield self._current
        finally:
            self._current = None
        output.check_interrupted()
        self._console.print(f"- {title} [dim]{time.monotonic() - start:.1f} s[/dim]")


class _Bar:
    def __init__(self, bar, task) -> None:  # type: ignore[no-untyped-def]
        self._bar, self._task, self._status = bar, task, _StageStatus()

    def advance(self, done: int, total: int) -> None:
        self._status.advance(done, total)
        status = str(self._status)
        self._bar.update(self._task, completed=done, total=total or None, status=status)

    def show(self, text: str) -> None:
        self._status.show(text)
        self._bar.update(self._task, status=str(self._status))
