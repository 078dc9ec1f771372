"""A table of costs from real profiles: pruned programs that are not in it."""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import DIGITS
from runtime_contract import lowered

from edgekit.compress.pruning.channel_groups import find_groups, without_channels
from edgekit.cost.shapes import OperatorTimes
from edgekit.cost.table import CostTable, channel_steps
from edgekit.measure.operators import timed_shapes
from edgekit.program import Artifact
from edgekit.progress import Silent
from edgekit.runner.client import measure
from edgekit.runner.staging import staged
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture, load_target

pytestmark = pytest.mark.runtime

ROUNDS, RUNS = 9, 40
KNOWN = ([1.0] * 9, [0.5] * 9, [0.25] * 9)
HELD_OUT = (
    [1.0, 0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 1.0, 0.25],
    [0.5, 1.0, 1.0, 0.5, 0.25, 1.0, 0.25, 0.5, 0.5],
)
# On an idle host the worst of scripts/bench/cost_table.py is 5 %; a busy one is noisier.
BOUND = 0.10


def programs() -> list[Artifact]:
    """ResNet-20 with these shares of the channels of each group."""
    sys.path.append(str(Path(DIGITS).parents[1] / "resnet_cifar"))
    from resnet import ResNet

    runtime = RUNTIMES["executorch"].create()
    torch.manual_seed(0)
    model, example = ResNet(20).eval(), (torch.randn(1, 3, 32, 32),)
    groups, _ = find_groups(model, example)
    found = []
    for shares in (*KNOWN, *HELD_OUT):
        removed = {
            group.layer: list(range(int(group.count * share), group.count))
            for group, share in zip(groups, shares, strict=True)
            if share < 1
        }
        pruned = without_channels(model, example, removed) if removed else model
        found.append(lowered(runtime, FloatModel(pruned, example, [example], [example])))
    return found


def times_of(artifacts: list[Artifact]) -> list[OperatorTimes]:
    """Medians over rounds that alternate between the programs."""
    runtime = RUNTIMES["executorch"].create()
    files = runtime.runner_files(host_architecture(), Silent())
    with ExitStack() as stack:
        places = [stack.enter_context(staged(one, files)) for one in artifacts]
        rounds = [
            [measure(place, runs=RUNS, warmup=3, threads=1, profile=True) for place in places]
            for _ in range(ROUNDS)
        ]
    times = []
    for artifact, reports in zip(artifacts, zip(*rounds, strict=True), strict=True):
        rows = [
            replace(row, mean_us=statistics.median(one.profile[place].mean_us for one in reports))
            for place, row in enumerate(reports[0].profile)
        ]
        total_ms = statistics.median(one.profiled_us for one in reports) / 1000
        shapes = runtime.operator_shapes(artifact)
        times.append(timed_shapes("executorch", artifact.program, shapes, rows, total_ms))
    return times


def test_programs_that_are_not_in_the_table() -> None:
    times = times_of(programs())
    steps = channel_steps(load_target("x86" if host_architecture() == "x86_64" else "rpi5"))
    table = CostTable(tuple(times[: len(KNOWN)]), "measured", steps)
    for held_out in times[len(KNOWN) :]:
        cost = table.program([operator.shape for operator in held_out.operators])
        assert cost.unknown == ()
        assert cost.latency_ms == pytest.approx(held_out.total_ms, rel=BOUND)
        assert cost.interval[0] <= held_out.total_ms <= cost.interval[1]
