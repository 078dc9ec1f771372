"""What headroom in the outputs' steps is worth to models that few inputs calibrate.

python scripts/bench/headroom.py RECIPE... [--seeds 4] [--table FILE]

Each recipe is read with several seeds, so that its random weights and inputs differ. Plain int8 is
simulated with and without headroom (compress/quantization/headroom.py), and both are held against
the float model on the inputs kept apart, as a build does, and on ten times as many fresh ones.
"Accepted wrongly": the inputs kept apart pass 20 dB and 15 dB in the worst group, the fresh ones
miss 19 or 14.
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

from edgekit.compress.divergence import compared
from edgekit.compress.quantization.apply_plan import as_calibrated, settle
from edgekit.compress.quantization.limits import keep_within
from edgekit.compress.quantization.simulate import Simulation, everywhere
from edgekit.errors import EdgekitError
from edgekit.options import BuildOptions
from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.predict import run_all
from edgekit.pipeline.model.subject import Subject, read_subject
from edgekit.pipeline.plans import base_plan
from edgekit.progress import Silent
from edgekit.recipe.recipe import open_recipe
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.executorch.runtime import ExecuTorch
from edgekit.runtimes.quiet import quiet

FRESH_ROUNDS = 10
FRESH_SEED = 5000
BEST_DB = 99.0


@dataclass(frozen=True)
class Score:
    """In dB: of the inputs kept apart and of fresh ones, the whole output and its worst group."""

    judged: tuple[float, float]
    fresh: tuple[float, float]

    @property
    def accepted(self) -> bool:
        return self.judged[0] >= 20 and self.judged[1] >= 15

    @property
    def wrongly(self) -> bool:
        return self.accepted and (self.fresh[0] < 19 or self.fresh[1] < 14)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| model | headroom | fresh dB, median (least) | worst group | accepted | wrongly |",
        "|---|---|---|---|---|---|",
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
            for which, simulation in (("no", plain), ("yes", roomy)):
                judged = decibels(subject, simulation, subject.judged)
                yield which, Score(judged, decibels(subject, simulation, fresh))
    except EdgekitError as error:
        print(f"{path.stem}, seed {seed}: {error.message}", file=sys.stderr)


def simulated(subject: Subject, seed: int) -> Simulation:
    pt2e = ExecuTorch().pt2e
    plan = base_plan(subject, BuildOptions(target="x86", seed=seed), "int8", Silent())
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
        found = compared(subject.own_fidelity, simulation.run(inputs), floats).findings
    groups = [output.worst_group for output in found if output.worst_group is not None]
    return (
        min(BEST_DB if one.sqnr_db is None else one.sqnr_db for one in found),
        min((BEST_DB if one.sqnr_db is None else one.sqnr_db for one in groups), default=BEST_DB),
    )


def line(name: str, which: str, some: list[Score]) -> str:
    whole, group = zip(*(score.fresh for score in some), strict=True)
    accepted, wrongly = (
        sum(getattr(score, what) for score in some) for what in ("accepted", "wrongly")
    )
    return (
        f"| {name} | {which} | {statistics.median(whole):.1f} ({min(whole):.1f}) | "
        f"{statistics.median(group):.1f} ({min(group):.1f}) | {accepted} of {len(some)} "
        f"| {wrongly} |"
    )


if __name__ == "__main__":
    main()
