"""What the benchmarks share: alternating rounds, a ratio with its interval, a Markdown table."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgekit.measure.intervals import coverage, ratio_interval
from edgekit.process.waiting import wait_passively

wait_passively()  # of the processes that are timed too, as edgekit itself does

PYTHON = sys.executable
SCRIPTS = Path(__file__).resolve().parents[1]
EDGEKIT = [PYTHON, "-m", "edgekit"]
ROWS: list[tuple[str, str, str, str]] = []


class Ratio(NamedTuple):
    """A median of ratios; ``coverage``: of the interval, below 0.95 for fewer than 6 ratios."""

    median: float
    low: float
    high: float
    coverage: float


def with_interval(ratios: list[float]) -> Ratio:
    return Ratio(*ratio_interval(ratios), min(0.95, coverage(len(ratios))))


def print_table() -> None:
    print("\n| what | goal | measured | reached |\n|---|---|---|---|")
    for row in ROWS:
        print("| " + " | ".join(row) + " |")


def interleaved(one: Callable[[], float], other: Callable[[], float], rounds: int) -> Ratio:
    """Median ratio of one to other over rounds that alternate, with its interval."""
    one()
    other()
    ratios = []
    for index in range(rounds):
        pair = (one, other) if index % 2 == 0 else (other, one)
        first, second = pair[0](), pair[1]()
        ratios.append(first / second if index % 2 == 0 else second / first)
        print(f"  ratio {ratios[-1]:.3f}", file=sys.stderr, flush=True)
    return with_interval(ratios)


def row(title: str, goal: str, ratio: Ratio, reached: bool) -> None:
    interval = f"{100 * ratio.coverage:.0f} %: {ratio.low:.3f} to {ratio.high:.3f}"
    fact(title, goal, f"{ratio.median:.3f} ({interval})", reached)


def fact(title: str, goal: str, measured: str, reached: bool) -> None:
    ROWS.append((title, goal, measured, "yes" if reached else "NO"))
    print(ROWS[-1], file=sys.stderr, flush=True)


def seconds(command: list[str | Path]) -> float:
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


def run(command: list[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode()[-2000:])


@contextmanager
def emulated_pi(home: Path, name: str) -> Iterator[None]:
    """An emulated Pi 4 of this benchmark's own, known by ``name`` in a $HOME of its own."""
    script = [PYTHON, SCRIPTS / "emulated_pi.py"]
    sys.path.append(str(SCRIPTS))
    from pi_emulator.common import default_folder

    folder = default_folder()
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    run([*script, "boot", "pi4", "--name", name, "--folder", folder])
    try:
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        include = f'Include "{folder}/machines/{name}/ssh_config"\n'
        (home / ".ssh" / "config").write_text(include)
        os.environ |= {"HOME": str(home), "XDG_CACHE_HOME": cache}
        yield
    finally:
        subprocess.run([*script, "stop", name, "--folder", folder], check=True)
