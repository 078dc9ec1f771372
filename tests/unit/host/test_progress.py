"""Progress where stderr is no terminal: when a line is printed, and of which stage."""

from __future__ import annotations

import time
from itertools import pairwise

from edgekit.cli import progress
from edgekit.cli.progress import Lines, beat


class Clock:
    """Time that passes only where somebody waits or works."""

    def __init__(self, end: float, work: float = 0.0) -> None:
        self.now, self.end, self.work = 100.0, 100.0 + end, work
        self.beats: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.now = min(self.now + seconds, self.end)
        return self.now >= self.end

    def act(self) -> None:
        self.beats.append(self.now - 100)
        self.now += self.work

    def run(self) -> list[float]:
        beat(self.wait, self.act, lambda: self.now)
        return self.beats


def test_the_first_line_comes_after_five_seconds_then_one_within_ten() -> None:
    assert Clock(4.9).run() == []
    beats = Clock(46).run()
    assert beats[0] == 5
    assert len(beats) == 6
    assert all(5 < later - sooner <= 8 for sooner, later in pairwise(beats))


def test_printing_slowly_does_not_put_off_the_next_line() -> None:
    assert Clock(46, work=3).run() == Clock(46).run()


def test_only_the_innermost_stage_prints(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "FIRST_BEAT_S", 0.02)
    lines = Lines()
    with lines.stage("outer"):
        with lines.stage("inner") as inner:
            inner.advance(1, 2)
            time.sleep(0.1)
        inside = capsys.readouterr().err
        time.sleep(0.1)
    after = capsys.readouterr().err
    assert "... inner: " in inside and "1 of 2" in inside
    assert "... outer" not in inside
    assert "... outer: " in after and "inner" not in after
