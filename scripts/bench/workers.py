"""What workers are worth: the pieces of a search in one process and in several, and a simulation.

python scripts/bench/workers.py measure RECIPE [--workers 2] [--rounds 3] [--every 1] [--times FILE]
python scripts/bench/workers.py simulate FILE [--workers 40] [--tasks 1000] [--seed 0]

measure: the trials of all widths, blocks and input sizes, and the lowering of three narrower
models, in alternating rounds; the first round of each warms up and does not count. --every: takes
every n-th trial. --times: stores the seconds of each piece, as one process took them. Efficiency is
the speed-up divided by the number of workers. Answers must be equal.
simulate: as many pieces with times drawn from that file, on workers that sleep instead of
computing, in one process with the scheduler. What is lost is Dask's own overhead, and the end,
when some workers have nothing left to do. Needs the extra 'cluster'.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.compress.depth.blocks import find_blocks, outermost
from edgekit.compress.pruning.channel_groups import find_groups
from edgekit.fleet import worker
from edgekit.fleet.workers import InProcess, Work, Workers, open_workers
from edgekit.pipeline.fit.laboratory import (
    BlockTrial,
    CostTrial,
    Laboratory,
    SizeTrial,
    Trial,
    width_trials,
)
from edgekit.pipeline.fit.material import LOAD, Material, pack
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.fit.rounds import TABLE_SHARES
from edgekit.pipeline.model.cache_key import NoFingerprint
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import Subject, read_subject
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.recipe.recipe import open_recipe
from edgekit.runtimes.quiet import quiet
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import host_architecture, load_target

INT8 = Plan(precision="int8", seed=0)
SLEEP = "bench_sleep:load"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("recipe", type=Path)
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--every", type=int, default=1)
    one.add_argument("--times", type=Path)
    two = commands.add_parser("simulate")
    two.add_argument("times", type=Path)
    two.add_argument("--workers", type=int, default=40)
    two.add_argument("--tasks", type=int, default=1000)
    two.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "measure":
        measure(options)
    else:
        simulate(options)


def measure(options: argparse.Namespace) -> None:
    with open_recipe(options.recipe, 0) as recipe:
        subject = read_subject(recipe, True, Silent())
        work = work_of(subject)
        questions = [trial.model_dump_json() for trial in trials_of(subject)][:: options.every]
        with open_workers(options.workers, Silent()) as several:
            alone_s, several_s = alternate(work, questions, several, options)
    ratio = statistics.median(a / b for a, b in zip(alone_s, several_s, strict=True))
    print(f"{len(questions)} pieces, {options.workers} workers")
    print(f"one process: {', '.join(f'{s:.2f}' for s in alone_s)} s")
    print(f"workers:     {', '.join(f'{s:.2f}' for s in several_s)} s")
    print(f"speed-up {ratio:.2f}, efficiency {ratio / options.workers:.2f}")


def alternate(
    work: Work, questions: Sequence[str], several: Workers, options: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """The seconds of each round, in one process and by the workers."""
    alone_s, several_s, times = [], [], {}
    for round_ in range(options.rounds + 1):
        one_s, one, pieces_s = timed(InProcess(), work, questions)
        two_s, two, _ = timed(several, work, questions)
        if one != two:
            sys.exit("the answers differ")
        if round_:
            alone_s.append(one_s)
            several_s.append(two_s)
            times = dict(zip(questions, pieces_s, strict=True))
    if options.times is not None:
        options.times.write_text(json.dumps(times, indent=1))
    return alone_s, several_s


def timed(
    where: Workers, work: Work, questions: Sequence[str]
) -> tuple[float, list[str], list[float]]:
    """Seconds, the answers as text, and the seconds of each piece if one follows the other."""
    answers, ends = [""] * len(questions), [time.perf_counter()]

    def done(index: int, answer: Any) -> None:
        # artifacts hold paths and times: only their size is compared
        known = getattr(answer, "known", answer)
        answers[index] = repr(getattr(known, "model_mb", known))
        ends.append(time.perf_counter())

    with quiet():
        where.run(work, questions, done)
    return ends[-1] - ends[0], answers, [b - a for a, b in itertools.pairwise(ends)]


def work_of(subject: Subject) -> Work:
    target, runtime = load_target("rpi4"), RUNTIMES["executorch"].create()
    files = runtime.runner_files(host_architecture(), Silent())
    context = BuildContext(runtime, files, 0, Silent(), NoFingerprint())
    laboratory = Laboratory(subject, Meter(target, context, None), INT8)
    parts = pack(Material.of(subject, INT8, target, runtime, 0), subject)
    print(f"{sum(map(len, parts)) / 1e6:.1f} MB travel to each worker")
    return Work(laboratory.answer, parts, LOAD)


def trials_of(subject: Subject) -> Iterator[Trial]:
    yield from (CostTrial(plan=INT8, share=share, timed=False) for share in TABLE_SHARES)
    yield from (SizeTrial(size=size) for size in subject.recipe.input_sizes())
    yield from (
        BlockTrial(block=name) for name in outermost(find_blocks(subject.model, subject.example)[0])
    )
    for group in find_groups(subject.model, subject.example)[0]:
        yield from width_trials(group)


def simulate(options: argparse.Namespace) -> None:
    import dask
    from distributed import Client, LocalCluster

    from edgekit.fleet.cluster import LOCAL, Cluster

    known = list(json.loads(options.times.read_text()).values())
    seconds = random.Random(options.seed).choices(known, k=options.tasks)
    sys.modules["bench_sleep"] = sys.modules[__name__]
    worker._lock = contextlib.nullcontext()  # its workers are threads that only sleep
    with (
        dask.config.set(LOCAL),
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, processes=False, protocol="inproc",
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as running,
        Client(running, set_as_default=False) as client,
    ):  # fmt: skip
        cluster = Cluster(lambda: (client, contextlib.ExitStack()), Silent())
        work = Work(time.sleep, (os.urandom(1_000_000),), SLEEP)
        cluster.run(work, ["0"] * options.workers, lambda *_: None)
        start = time.perf_counter()
        cluster.run(work, [str(one) for one in seconds], lambda *_: None)
        took_s = time.perf_counter() - start
    whole_s, least_s = sum(seconds), bound(seconds, options.workers)
    print(f"{options.tasks} pieces of {whole_s / options.tasks:.2f} s, {options.workers} workers")
    print(f"{took_s:.1f} s; without overhead {least_s:.1f} s: {took_s / least_s - 1:.1%} overhead")
    print(f"efficiency {whole_s / options.workers / took_s:.2f}")


def bound(seconds: Sequence[float], workers: int) -> float:
    """The seconds of the same pieces in the same order, if a free worker takes the next at once."""
    free = [0.0] * workers
    for one in seconds:
        first = min(range(workers), key=free.__getitem__)
        free[first] += one
    return max(free)


def load(parts: Sequence[bytes]) -> Callable[[str], None]:  # noqa: ARG001
    return lambda question: time.sleep(float(question))


if __name__ == "__main__":
    main()
