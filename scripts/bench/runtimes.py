"""edgekit's runtimes and other engines side by side, timed in turns; Markdown tables.

python scripts/bench/runtimes.py scripts/bench/mobilenet_v2.py scripts/zoo/mlp.py ...
python scripts/bench/runtimes.py --peers FOLDER --threads 1 2 scripts/zoo/vit.py

The recipes are built for ExecuTorch and LiteRT, and by --runtime auto. With --peers the same models
run in onnxruntime, OpenVINO, ncnn, eager torch and tflite-runtime too (peer_engines.py), in two
environments in that folder, which are made where they are missing (3 GB). Each artifact runs in a
new process in every round. It needs the extras executorch and litert.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from side_by_side import with_interval

import edgekit
from edgekit.errors import EdgekitError
from edgekit.progress import Silent
from edgekit.runner.client import Installed, measure
from edgekit.runner.staging import staged_file
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture

ROUNDS, SECONDS_A_ROUND, MOST_RUNS = 9, 0.25, 2000
OWN = ("executorch", "litert")
PRECISIONS = ("fp32", "int8")
HERE = Path(__file__).resolve().parent
PEERS = {
    "engines": (
        "torch>=2.13,<2.14", "numpy>=2,<3", "scipy", "pillow", "safetensors", "onnx",
        "onnxscript", "onnxruntime", "openvino", "nncf", "ncnn", "pnnx",
    ),
    "tflite": ("tflite-runtime==2.14.0", "numpy<2"),
}  # fmt: skip
ENVIRONMENT_OF = {
    "onnxruntime": "engines", "openvino": "engines", "ncnn": "engines", "torch": "engines",
    "tflite": "tflite",
}  # fmt: skip
FLOAT_ONLY = ("ncnn", "torch")

# The median latency of a round, in ms.
Arm = Callable[[], float]


@dataclass
class Row:
    """``best``: what --runtime auto kept. ``problems``: what could not be built or run."""

    title: str
    best: str
    fidelity_db: str
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> str:
        if not (self.times_ms.get(one) and self.times_ms.get(other)):
            return "-"
        pairs = zip(self.times_ms[one], self.times_ms[other], strict=True)
        found = with_interval([first / second for first, second in pairs])
        return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"

    def median_ms(self, name: str) -> str:
        values = self.times_ms.get(name)
        return f"{statistics.median(values):.3f}" if values else "-"

    @property
    def fastest_peer(self) -> str | None:
        peers = [name for name in self.times_ms if name not in OWN]
        return min(peers, key=lambda name: statistics.median(self.times_ms[name]), default=None)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("recipes", nargs="+", type=Path)
    options.add_argument("--peers", type=Path)
    options.add_argument("--threads", nargs="+", type=int, default=[1])
    given = options.parse_args()
    pythons = environments(given.peers.absolute()) if given.peers else {}
    rows = []
    for recipe in given.recipes:
        for row in rows_of(recipe.absolute(), pythons, given.threads):
            rows.append(row)
            print(line_of(row, pythons), file=sys.stderr, flush=True)
    print_rows(rows, pythons)


def environments(folder: Path) -> dict[str, Path]:
    """The Python of each engine."""
    for name, packages in PEERS.items():
        done = folder / name / "installed.txt"
        if not done.is_file() or done.read_text() != "\n".join(packages):
            print(f"installing {', '.join(packages)}", file=sys.stderr, flush=True)
            venv.create(folder / name, with_pip=True)
            pip = [folder / name / "bin" / "python", "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, *packages], check=True)
            done.write_text("\n".join(packages))
    return {engine: folder / name / "bin" / "python" for engine, name in ENVIRONMENT_OF.items()}


def rows_of(recipe: Path, pythons: Mapping[str, Path], threads: Sequence[int]) -> Iterator[Row]:
    title = recipe.parent.name if recipe.name == "recipe.py" else recipe.stem
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = prepare_peers(recipe, folder, pythons)
        for precision in PRECISIONS:
            try:
                fidelity = [build(recipe, precision, one, folder) for one in OWN]
                best = {count: kept_by_auto(recipe, precision, folder, count) for count in threads}
            except EdgekitError as error:
                print(f"{title}, {precision}: {error.message.splitlines()[0]}", file=sys.stderr)
                continue
            for count in threads:
                title_of = f"{title} | {precision} | {count}"
                row = Row(title_of, best[count], ", ".join(fidelity))
                row.problems |= problems
                time_all(row, folder, precision, count, pythons)
                yield row


def prepare_peers(recipe: Path, folder: Path, pythons: Mapping[str, Path]) -> dict[str, str]:
    if not pythons:
        return {}
    (folder / "recipe.txt").write_text(str(recipe))
    command = [pythons["torch"], HERE / "peer_engines.py", "prepare", recipe, folder]
    done = subprocess.run(command, env=outside(), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return dict.fromkeys(ENVIRONMENT_OF, lines[-1])
    return dict(json.loads((folder / "problems.json").read_text()))


def outside() -> dict[str, str]:
    """Without the paths of this environment."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


def build(recipe: Path, precision: str, runtime: str, folder: Path) -> str:
    """Build a bundle; return how near to the float model it is, in dB."""
    document = edgekit.build(
        recipe, target="x86", runtime=runtime, precision=precision, effort="quick",
        output=folder / f"{runtime}-{precision}",
    )  # fmt: skip
    (model,) = (folder / f"{runtime}-{precision}").glob("model.*")
    (folder / f"{precision}{model.suffix}").write_bytes(model.read_bytes())
    assert document.parity is not None
    agreement = document.parity.float_model or document.parity
    return "equal" if agreement.sqnr_db is None else f"{agreement.sqnr_db:.1f}"


def kept_by_auto(recipe: Path, precision: str, folder: Path, threads: int) -> str:
    document = edgekit.build(
        recipe, target="x86", runtime="auto", precision=precision, effort="quick",
        device="local", threads=threads, output=folder / f"auto-{precision}",
    )  # fmt: skip
    return document.runtime


def time_all(
    row: Row, folder: Path, precision: str, threads: int, pythons: Mapping[str, Path]
) -> None:
    with ExitStack() as stack:
        arms: dict[str, Arm] = {}
        for name in OWN:
            place = stack.enter_context(installed(name, folder / f"{name}-{precision}"))
            arms[name] = timer(place, threads)
        for name, python in pythons.items():
            if precision == "fp32" or name not in FLOAT_ONLY:
                arms[name] = peer(name, python, folder, precision, threads)
        for name in list(arms):
            try:
                arms[name]()
            except (RuntimeError, EdgekitError) as error:
                row.problems.setdefault(f"{name} {precision}", str(error))
                del arms[name]
        row.times_ms = {name: [] for name in arms}
        for index in range(ROUNDS):
            order = list(arms) if index % 2 == 0 else list(reversed(arms))
            for name in [one for one in order if one in arms]:
                try:
                    row.times_ms[name].append(arms[name]())
                except (RuntimeError, EdgekitError) as error:
                    row.problems[f"{name} {precision}"] = str(error)
                    del arms[name], row.times_ms[name]


@contextmanager
def installed(runtime: str, bundle: Path) -> Iterator[Installed]:
    """The bundle's model with the runtime's runner."""
    (model,) = bundle.glob("model.*")
    libraries = [path.name for path in (bundle / "lib").iterdir()]
    files = RUNTIMES[runtime].create().runner_files(host_architecture(), Silent())
    with staged_file(model.read_bytes(), model.name, libraries, files) as place:
        yield place


def timer(place: Installed, threads: int) -> Arm:
    """The first round finds how many runs take long enough."""
    runs = 0

    def latency_ms(count: int) -> float:
        report = measure(place, runs=count, warmup=3, threads=threads)
        return statistics.median(report.latencies_ms)

    def once() -> float:
        nonlocal runs
        if not runs:
            found = latency_ms(5)
            runs = max(5, min(MOST_RUNS, int(1000 * SECONDS_A_ROUND / max(found, 1e-4))))
        return latency_ms(runs)

    return once


def peer(engine: str, python: Path, folder: Path, precision: str, threads: int) -> Arm:
    words = [engine, precision, str(threads), str(SECONDS_A_ROUND), str(folder)]

    def once() -> float:
        command = [str(python), str(HERE / "peer_engines.py"), "time", *words]
        done = subprocess.run(command, env=outside(), capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise RuntimeError(lines[-1])
        return float(done.stdout.split()[-1])

    return once


def print_rows(rows: Sequence[Row], pythons: Mapping[str, Path]) -> None:
    columns = [*OWN, *pythons]
    print(f"| model | precision | threads | {' | '.join(columns)} | LiteRT / ExecuTorch |", end="")
    print(f" auto | {'auto / fastest peer | ' if pythons else ''}SQNR, dB |")
    print("|---" * (len(columns) + 6 + bool(pythons)) + "|")
    for row in rows:
        print(line_of(row, pythons))
    for row in rows:
        for name, why in row.problems.items():
            print(f"- {row.title.replace(' |', ',')}: {name}: {why}")


def line_of(row: Row, pythons: Mapping[str, Path]) -> str:
    cells = [row.title, *(row.median_ms(name) for name in (*OWN, *pythons))]
    cells += [row.ratio("litert", "executorch"), row.best]
    peer_name = row.fastest_peer
    if pythons:
        cells.append(f"{row.ratio(row.best, peer_name)} {peer_name}" if peer_name else "-")
    return f"| {' | '.join([*cells, row.fidelity_db])} |"


if __name__ == "__main__":
    main()
