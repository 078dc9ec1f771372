"""What the benchmarks share: alternating rounds, a ratio with its interval, a Markdown table."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.measure.latency import ratio_interval as with_interval
from edgekit.process.waiting import wait_passively

wait_passively()  # of the processes that are timed too, as edgekit itself does

PYTHON = sys.executable
SCRIPTS = Path(__file__).resolve().parents[1]
EDGEKIT = [PYTHON, "-m", "edgekit"]
ROWS: list[tuple[str, str, str, str]] = []


def print_table() -> None:
    print("\n| what | goal | measured | reached |\n|---|---|---|---|")
    for row in ROWS:
        print("| " + " | ".join(row) + " |")


def interleaved(
    one: Callable[[], float], other: Callable[[], float], rounds: int
) -> tuple[float, float, float]:
    """Median ratio of one to other over rounds that alternate, with its 95 % bootstrap interval."""
    one()
    other()
    ratios = []
    for index in range(rounds):
        pair = (one, other) if index % 2 == 0 else (other, one)
        first, second = pair[0](), pair[1]()
        ratios.append(first / second if index % 2 == 0 else second / first)
        print(f"  ratio {ratios[-1]:.3f}", file=sys.stderr, flush=True)
    return with_interval(ratios)


def row(title: str, goal: str, ratio: tuple[float, float, float], reached: bool) -> None:
    fact(title, goal, f"{ratio[0]:.3f} (95 %: {ratio[1]:.3f} to {ratio[2]:.3f})", reached)


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
