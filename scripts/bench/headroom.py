"""What headroom in the outputs' steps is worth to models that few inputs calibrate.

python scripts/bench/headroom.py RECIPE... [--seeds 4] [--table FILE]

Each recipe is read with several seeds, so that its random weights and inputs differ. Plain int8 is
simulated with and without headroom (compress/quantization/headroom.py), and both are held against
the float model on the inputs kept apart, as a build does, and on ten times as many fresh ones.
"Accepted wrongly": the inputs kept apart pass 20 dB and 15 dB in the worst group, the fresh ones
miss 19 or 14. "Cross-checked": the cross-check of all calibration inputs passes too
(pipeline/precision/cross_check.py).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgekit.build_options import BuildOptions
from edgekit.compress.divergence import compare_outputs
from edgekit.compress.quantization.apply_plan import as_calibrated, settle
from edgekit.compress.quantization.limits import keep_within
from edgekit.compress.quantization.simulate import Simulation, everywhere
from edgekit.errors import EdgekitError
from edgekit.fidelity.comparison import Comparison
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.cache_key import Fingerprint
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_all
from edgekit.pipeline.model.subject import Subject, read_subject
from edgekit.pipeline.plans import base_plan
from edgekit.pipeline.precision.cross_check import cross_check
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.recipe.recipe import open_recipe
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.executorch.runtime import ExecuTorch
from edgekit.runtimes.quiet import quiet
from edgekit.target import host_architecture

FRESH_ROUNDS = 10
FRESH_SEED = 5000
BEST_DB = 99.0


@dataclass(frozen=True)
class Score:
    """In dB: of the inputs kept apart and of fresh ones, the whole output and its worst group."""

    judged: tuple[float, float]
    crossed: tuple[float, float]
    fresh: tuple[float, float]

    @property
    def accepted(self) -> bool:
        return passes(self.judged)

    @property
    def checked(self) -> bool:
        return self.accepted and passes(self.crossed)

    @property
    def is_wrong(self) -> bool:
        return not passes(self.fresh, slack_db=1)

    @property
    def is_good(self) -> bool:
        return passes(self.fresh)


def passes(figures: tuple[float, float], slack_db: float = 0) -> bool:
    return figures[0] >= 20 - slack_db and figures[1] >= 15 - slack_db


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| model | headroom | fresh dB, median (least) | worst group | good | accepted (wrongly) "
        "| cross-checked (wrongly) |",
        "|---|---|---|---|---|---|---|",
    ]
    totals: dict[str, list[Score]] = {"no": [], "yes": []}
    for path in options.recipes:
        found: dict[str, list[Score]] = {"no": [], "yes": []}
        for seed in range(options.seeds):
            for which, score in scores(path, seed):
                found[which].append(score)
                totals[which].append(score)
        lines += [line(path.stem, which, some) for which, some in found.items() if some]
    lines += [line("all", which, some) for which, some in totals.items() if some]
    print("\n".join(lines))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n")


def scores(path: Path, seed: int) -> Iterator[tuple[str, Score]]:
    try:
        with open_recipe(path, seed) as recipe, quiet():
            subject = read_subject(recipe, True, Silent())
            torch.manual_seed(seed + FRESH_SEED)
            rounds = [
                recipe.calibration(subject.example, subject.arguments) for _ in range(FRESH_ROUNDS)
            ]
            fresh = [inputs for one in rounds for inputs in one]
            plain = simulated(subject, seed)
            roomy = copy.deepcopy(plain)
            settle(roomy, ExecuTorch().pt2e.step_limits, len(subject.fitted))
            crossed = figures(cross_check(subject, context(subject, seed), int8(subject, seed)))
            for which, simulation in (("no", plain), ("yes", roomy)):
                judged = decibels(subject, simulation, subject.judged)
                yield which, Score(judged, crossed, decibels(subject, simulation, fresh))
    except EdgekitError as error:
        print(f"{path.stem}, seed {seed}: {error.message}", file=sys.stderr)


def int8(subject: Subject, seed: int) -> Plan:
    return base_plan(subject, BuildOptions(target="x86", seed=seed), "int8", Silent())


def context(subject: Subject, seed: int) -> BuildContext:
    runtime = ExecuTorch()
    files = runtime.runner_files(host_architecture(), Silent())
    return BuildContext(runtime, files, seed, Silent(), Fingerprint(subject))


def simulated(subject: Subject, seed: int) -> Simulation:
    pt2e, plan = ExecuTorch().pt2e, int8(subject, seed)
    prepared = pt2e.prepare(subject.model, subject.example, plan, subject.calibration)
    pt2e.calibrate(prepared, subject.fitted, Silent())
    found = as_calibrated(prepared)
    keep_within(found, pt2e.step_limits)
    return found


def decibels(
    subject: Subject, simulation: Simulation, inputs: Sequence[Inputs]
) -> tuple[float, float]:
    floats = run_all(Batched(subject.model), inputs)
    with simulation.rounding(everywhere):
        return figures(
            compare_outputs(subject.fidelity_without_states, simulation.run(inputs), floats)
        )


def figures(comparison: Comparison) -> tuple[float, float]:
    """Of the worst output, and of the worst group."""
    found = comparison.findings
    groups = [output.worst_group for output in found if output.worst_group is not None]
    return (
        min(BEST_DB if one.sqnr_db is None else one.sqnr_db for one in found),
        min((BEST_DB if one.sqnr_db is None else one.sqnr_db for one in groups), default=BEST_DB),
    )


def line(name: str, which: str, some: list[Score]) -> str:
    whole, group = zip(*(score.fresh for score in some), strict=True)
    accepted = [score for score in some if score.accepted]
    checked = [score for score in some if score.checked] if which == "yes" else None
    return (
        f"| {name} | {which} | {statistics.median(whole):.1f} ({min(whole):.1f}) | "
        f"{statistics.median(group):.1f} ({min(group):.1f}) "
        f"| {sum(score.is_good for score in some)} of {len(some)} "
        f"| {counted(accepted)} | {'-' if checked is None else counted(checked)} |"
    )


def counted(scores: Sequence[Score]) -> str:
    return f"{len(scores)} ({sum(score.is_wrong for score in scores)})"


if __name__ == "__main__":
    main()
