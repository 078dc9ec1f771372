"""Two runtimes side by side: the same recipes built for ExecuTorch and for LiteRT, timed in turns.

python scripts/bench/runtimes.py scripts/bench/mobilenet_v2.py scripts/zoo/mlp.py ...

Each artifact runs by its own native runner, one thread, a new process in every round. Prints a
Markdown table. It needs the extras executorch and litert.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from side_by_side import interleaved

import edgekit
from edgekit.errors import EdgekitError
from edgekit.progress import Silent
from edgekit.runner.client import Installed, measure
from edgekit.runner.staging import staged_file
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture

ROUNDS, SECONDS_A_ROUND, MOST_RUNS = 21, 0.25, 2000
RUNTIME_NAMES = ("executorch", "litert")
PRECISIONS = ("fp32", "int8")


def main() -> None:
    recipes = [Path(argument) for argument in sys.argv[1:]] or sys.exit(__doc__)
    print("| model | precision | ExecuTorch | LiteRT | LiteRT / ExecuTorch | SQNR, dB |")
    print("|---|---|---|---|---|---|")
    for recipe in recipes:
        for precision in PRECISIONS:
            print(f"| {recipe.stem} | {precision} | {compared(recipe, precision)} |", flush=True)


def compared(recipe: Path, precision: str) -> str:
    """The cells of a row: both medians, their ratio with its 95 % interval, the fidelity."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            built = {name: build(recipe, precision, name, Path(folder)) for name in RUNTIME_NAMES}
        except EdgekitError as error:
            return f"not built: {error.message.splitlines()[0]}"
        places = {name: stack.enter_context(installed(name, Path(folder) / name)) for name in built}
        seen: dict[str, list[float]] = {name: [] for name in built}
        ratio = interleaved(
            *(timer(places[name], seen[name]) for name in reversed(RUNTIME_NAMES)), ROUNDS
        )
        medians = [f"{statistics.median(seen[name]):.3f} ms" for name in RUNTIME_NAMES]
        cells = [*medians, f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"]
        return " | ".join([*cells, ", ".join(built.values())])


def build(recipe: Path, precision: str, runtime: str, folder: Path) -> str:
    """Build a bundle; return how near to the float model it is."""
    document = edgekit.build(
        recipe, target="x86", runtime=runtime, precision=precision, effort="quick",
        output=folder / runtime,
    )  # fmt: skip
    assert document.parity is not None
    agreement = document.parity.float_model or document.parity
    return "equal" if agreement.sqnr_db is None else f"{agreement.sqnr_db:.1f}"


@contextmanager
def installed(runtime: str, bundle: Path) -> Iterator[Installed]:
    """The bundle's model with the runtime's runner."""
    (model,) = bundle.glob("model.*")
    libraries = [path.name for path in (bundle / "lib").iterdir()]
    files = RUNTIMES[runtime].create().runner_files(host_architecture(), Silent())
    with staged_file(model.read_bytes(), model.name, libraries, files) as place:
        yield place


def timer(place: Installed, seen: list[float]) -> Callable[[], float]:
    """A round: the median latency in ms. The first round finds how many runs take long enough."""
    runs = 0

    def once() -> float:
        nonlocal runs
        if not runs:
            latency_ms = statistics.median(measure(place, runs=5, warmup=3, threads=1).latencies_ms)
            runs = max(5, min(MOST_RUNS, int(1000 * SECONDS_A_ROUND / max(latency_ms, 1e-4))))
        found = statistics.median(measure(place, runs=runs, warmup=3, threads=1).latencies_ms)
        seen.append(found)
        return found

    return once


if __name__ == "__main__":
    main()
