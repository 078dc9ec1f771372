"""Latency and peak memory, predicted against published figures that nothing was fitted to.

python scripts/bench/prediction_outside.py             all models, minutes for each
python scripts/bench/prediction_outside.py resnet18 deit_tiny

Builds each model here for a Raspberry Pi 5 and prints Markdown tables. EDGEKIT_DATA names the
folder with pi_latency/arm_pi5.csv. The sources do not state the number of threads: 4 is assumed,
and the latency with one thread stands beside it. Transformers need the package transformers on
PYTHONPATH (docs/models.md). The tools that `edgekit doctor` names are needed too.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import edgekit
from edgekit.budget import Figure
from edgekit.bundle.manifest import read_manifest
from edgekit.cost.cores import CORE_MODELS
from edgekit.cost.emulation.predict import emulated_work
from edgekit.cost.prediction import emulated_figure
from edgekit.data import data_path
from edgekit.documents.memory import MemoryLedger
from edgekit.measure.golden import golden_inputs
from edgekit.plan import LinearLayers, Plan
from edgekit.progress import Silent
from edgekit.target import load_target

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "scripts" / "zoo"
RECIPES = {"squeezenet1_1": "squeezenet"}  # those of another name than the published model
TARGET = "rpi5"
THREADS = (4, 1)
LATENCY_GOAL, MEMORY_GOAL, ENOUGH = 0.35, 0.15, 0.75
HEAD = (
    "| model | 4 threads, ms | interval | 1 thread, ms | published ms | error | inside "
    "| memory, MB | interval | published MB | error | inside | error if MiB |"
)
# The cards give the sizes of model files in MiB, by the factors to their fp32 models, and call them
# MB. Whether they do so with memory is not stated.
MIB = 1.048576


@dataclass(frozen=True)
class Published:
    """``memory_mb``: None if the source does not state it. ``linear``: how its linear layers are
    quantized.
    """

    model: str
    latency_ms: float
    memory_mb: float | None
    linear: LinearLayers = "static"


@dataclass(frozen=True)
class Judged:
    published: Published
    latencies: Sequence[Figure]
    ledger: MemoryLedger

    @property
    def latency_error(self) -> float:
        return self.latencies[0].value / self.published.latency_ms - 1

    def memory_error(self, unit_mb: float = 1.0) -> float | None:
        """``unit_mb``: the unit of the published value, in MB."""
        known = self.published.memory_mb
        return self.ledger.peak_mb / (known * unit_mb) - 1 if known else None


# Model cards of Arm on Hugging Face, Raspberry Pi 5, ExecuTorch with XNNPACK:
# Arm/deit-tiny-int8-xnnpack-executorch, Arm/swin-tiny-int8-xnnpack-executorch. They do not state
# how attention is written, so both forms are built.
TRANSFORMERS = (
    Published("deit_tiny", 26.40, None),
    Published("deit_tiny_eager", 26.40, None),
    Published("swin_tiny", 85.183, 56.41, "dynamic"),
    Published("swin_tiny_eager", 85.183, 56.41, "dynamic"),
)


def main() -> None:
    wanted = sys.argv[1:]
    print_goals(print_table("Convolutions", read_rows(), wanted))
    print_table("Transformers", TRANSFORMERS, wanted)  # no goal was set for these


def print_table(title: str, rows: Iterable[Published], wanted: Sequence[str]) -> list[Judged]:
    some = [row for row in rows if not wanted or row.model in wanted]
    if some:
        print(f"\n{title}\n\n{HEAD}\n|{'---|' * HEAD.count(' |')}")
    return list(judged(some))


def read_rows() -> list[Published]:
    with (data_path("pi_latency") / "arm_pi5.csv").open() as file:
        return [
            Published(row["model"], float(row["p50_ms"]), float(row["peak_memory_mb"]))
            for row in csv.DictReader(file)
        ]


def judged(rows: Iterable[Published]) -> Iterator[Judged]:
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            one = judge(row, Path(folder) / "bundle")
        print(line(one), flush=True)
        yield one


def judge(row: Published, bundle: Path) -> Judged:
    recipe = ZOO / f"{RECIPES.get(row.model, row.model)}.py"
    plan = Plan(precision="int8", linear=row.linear)
    document = edgekit.build(recipe, target=TARGET, plan=plan, output=bundle)
    assert document.memory is not None
    return Judged(row, latencies(bundle), document.memory)


def latencies(bundle: Path) -> list[Figure]:
    """The predicted latency with each number of threads."""
    manifest, target = read_manifest(bundle), load_target(TARGET)
    inputs = golden_inputs(bundle, manifest)
    work = emulated_work(bundle, manifest, inputs, target, Silent())
    core = CORE_MODELS[target.cpu]
    return [
        emulated_figure(work, manifest.replaced(threads=threads), core, target)
        for threads in THREADS
    ]


def line(one: Judged) -> str:
    several, alone = one.latencies
    assert several.interval is not None
    published, ledger = one.published, one.ledger
    parts = [
        published.model,
        f"{several.value:.1f}",
        "{:.1f}-{:.1f}".format(*several.interval),
        f"{alone.value:.1f}",
        f"{published.latency_ms:g}",
        f"{one.latency_error:+.0%}",
        inside(published.latency_ms, several.interval),
        f"{ledger.peak_mb:.1f}",
        "{:.1f}-{:.1f}".format(*ledger.interval),
    ]
    error, in_mib = one.memory_error(), one.memory_error(MIB)
    if published.memory_mb is None or error is None or in_mib is None:
        parts += ["-"] * 4
    else:
        known = published.memory_mb
        parts += [f"{known:g}", f"{error:+.0%}", inside(known, ledger.interval), f"{in_mib:+.0%}"]
    return f"| {' | '.join(parts)} |"


def inside(value: float, interval: tuple[float, float]) -> str:
    return "yes" if interval[0] <= value <= interval[1] else "NO"


def print_goals(rows: Sequence[Judged]) -> None:
    if not rows:
        return
    print()
    print_goal("latency", [row.latency_error for row in rows], LATENCY_GOAL)
    print_goal("peak memory", [row.memory_error() for row in rows], MEMORY_GOAL)
    print_goal("peak memory, in MiB", [row.memory_error(MIB) for row in rows], MEMORY_GOAL)


def print_goal(name: str, errors: Sequence[float | None], goal: float) -> None:
    known = [error for error in errors if error is not None]
    close = sum(abs(error) <= goal for error in known)
    reached = "yes" if close >= ENOUGH * len(known) else "NO"
    print(f"{name} within {goal:.0%}: {close} of {len(known)}, reached: {reached}")


if __name__ == "__main__":
    main()
