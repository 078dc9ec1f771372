"""Latency of pruned programs from a table of other programs' operators; a Markdown table.

python scripts/bench/cost_table.py                        some ten minutes a row
python scripts/bench/cost_table.py resnet20:fp32          one row
python scripts/bench/cost_table.py --keep FOLDER ...      lowered programs stay there

The table of costs knows four programs: all groups of channels at 100, 75, 50 and 25 %. It predicts
six whose groups have random widths. Profiles and latencies are measured on this x86 host with one
thread, in rounds that alternate; as root, at real-time priority. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from edgekit.compress.pruning.channel_groups import Group, find_groups, without_channels
from edgekit.cost.shapes import OperatorShape, OperatorTimes
from edgekit.cost.table import X86, CostTable
from edgekit.measure.operators import timed_shapes
from edgekit.plan import Plan
from edgekit.program import Artifact, Program
from edgekit.progress import Silent
from edgekit.runner.client import Installed, RunReport, measure
from edgekit.runner.staging import staged
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "examples" / name) for name in ("mobilenet_v2", "resnet_cifar")]
RUNTIME = "executorch"
KNOWN = (1.0, 0.75, 0.5, 0.25)
WIDTHS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
HELD_OUT = 6
ROUNDS = 7
ROUND_MS = 60.0


def models() -> dict[str, tuple[torch.nn.Module, tuple[int, ...]]]:
    from mobilenet_v2 import MobileNetV2
    from resnet import ResNet

    torch.manual_seed(0)
    return {
        "resnet20": (ResNet(20).eval(), (1, 3, 32, 32)),
        "mobilenet_v2": (MobileNetV2().eval(), (1, 3, 224, 224)),
    }


class Measured(NamedTuple):
    """``latency_ms``: the median of inferences without profiling."""

    shapes: tuple[OperatorShape, ...]
    times: OperatorTimes
    latency_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="MODEL:PRECISION")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    every = [f"{name}:{precision}" for name in models() for precision in ("fp32", "int8")]
    print("| programs | mean error | worst | rank correlation | by MACs | inside the interval |")
    print("|---|---|---|---|---|---|")
    for row in arguments.rows or every:
        name, precision = row.split(":")
        known, held_out = artifacts(name, precision, arguments.keep)
        measured = measure_all([*known, *held_out])
        print(judged(f"{name}, {precision}", measured, len(known)), flush=True)


def artifacts(
    name: str, precision: str, folder: Path | None
) -> tuple[list[Artifact], list[Artifact]]:
    """The programs of the table, and those to predict."""
    model, size = models()[name]
    example = (torch.randn(size),)
    groups, _ = find_groups(model, example)
    lowered = []
    for number, widths in enumerate(plans(groups)):
        path = folder / f"{name}_{precision}_{number}.pte" if folder else None
        found = read(path)
        if found is None:
            removed = {
                group.layer: list(range(widths[group.layer], group.count))
                for group in groups
                if widths[group.layer] < group.count
            }
            pruned = without_channels(model, example, removed) if removed else model
            found = lower(pruned, example, precision)
            write(path, found)
        lowered.append(found)
        print(f"  {name} {precision} {number}", file=sys.stderr, flush=True)
    return lowered[: len(KNOWN)], lowered[len(KNOWN) :]


def plans(groups: Sequence[Group]) -> Iterator[dict[str, int]]:
    """Widths by group: equal shares, then random ones, some of them no multiples of 8."""
    for share in KNOWN:
        yield {group.layer: width(group, share, 8) for group in groups}
    chance = random.Random(0)
    for number in range(HELD_OUT):
        step = 8 if number % 3 else 4
        yield {group.layer: width(group, chance.choice(WIDTHS), step) for group in groups}


def width(group: Group, share: float, step: int) -> int:
    return max(step, min(group.count, round(group.count * share / step) * step))


def lower(model: torch.nn.Module, example: tuple[torch.Tensor, ...], precision: str) -> Artifact:
    runtime = RUNTIMES[RUNTIME].create()
    with quiet():
        if precision == "fp32":
            return runtime.lower(export(model, example))
        source = FloatModel(model, example, [example], [example])
        program = runtime.quantize(source, Plan(precision="int8"), None, Silent())
        return program if isinstance(program, Artifact) else runtime.lower(program)


def read(path: Path | None) -> Artifact | None:
    if path is None or not path.with_suffix(".json").is_file():
        return None
    program = Program.model_validate_json(path.with_suffix(".json").read_bytes())
    return Artifact(path.read_bytes(), "model.pte", program)


def write(path: Path | None, artifact: Artifact) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(artifact.data)
        path.with_suffix(".json").write_text(artifact.program.model_dump_json())


def measure_all(programs: Sequence[Artifact]) -> list[Measured]:
    runtime = RUNTIMES[RUNTIME].create()
    files = runtime.runner_files(host_architecture(), Silent())
    with ExitStack() as stack:
        places = [stack.enter_context(staged(one, files)) for one in programs]
        if os.geteuid() == 0:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        runs = [runs_of(place) for place in places]
        rounds = [
            [
                (timed(place, n, True), timed(place, n, False))
                for place, n in zip(places, runs, strict=True)
            ]
            for _ in range(ROUNDS)
        ]
        if os.geteuid() == 0:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return [
        of_rounds(artifact, runtime.operator_shapes(artifact) or (), [r[place] for r in rounds])
        for place, artifact in enumerate(programs)
    ]


def timed(place: Installed, runs: int, profile: bool) -> RunReport:
    return measure(place, runs=runs, warmup=3, threads=1, profile=profile)


def runs_of(place: Installed) -> int:
    latencies = timed(place, 5, False).latencies_ms
    return max(5, int(ROUND_MS / statistics.median(latencies)))


def of_rounds(
    artifact: Artifact,
    shapes: tuple[OperatorShape, ...],
    rounds: Sequence[tuple[RunReport, RunReport]],
) -> Measured:
    """Medians over the rounds."""
    profiles = [profiled for profiled, _ in rounds]
    rows = [
        replace(row, mean_us=statistics.median(one.profile[place].mean_us for one in profiles))
        for place, row in enumerate(profiles[0].profile)
    ]
    total_ms = statistics.median(one.profiled_us or 0.0 for one in profiles) / 1000
    times = timed_shapes(RUNTIME, artifact.program, shapes, rows, total_ms)
    latency_ms = statistics.median(statistics.median(plain.latencies_ms) for _, plain in rounds)
    return Measured(shapes, times, latency_ms)


def judged(title: str, measured: Sequence[Measured], known: int) -> str:
    table = CostTable(tuple(one.times for one in measured[:known]), "measured", X86)
    held_out = measured[known:]
    costs = [table.program(one.shapes) for one in held_out]
    latencies = [one.latency_ms for one in held_out]
    errors = [abs(cost.latency_ms / ms - 1) for cost, ms in zip(costs, latencies, strict=True)]
    inside = sum(
        cost.interval[0] <= ms <= cost.interval[1]
        for cost, ms in zip(costs, latencies, strict=True)
    )
    ranks = rank_correlation([cost.latency_ms for cost in costs], latencies)
    macs = [float(sum(shape.macs for shape in one.shapes)) for one in held_out]
    by_macs = rank_correlation(macs, latencies)
    return (
        f"| {title} | {statistics.mean(errors):.1%} | {max(errors):.1%} | {ranks:.2f} "
        f"| {by_macs:.2f} | {inside} of {len(held_out)} |"
    )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, without ties."""
    ranks = [[sorted(values).index(value) for value in values] for values in (one, other)]
    return statistics.correlation(*ranks)


if __name__ == "__main__":
    main()
