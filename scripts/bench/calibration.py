"""How well a calibration of this host predicts known networks that it was not fitted to; a table.

python scripts/bench/calibration.py FOLDER             builds, calibrates, measures: an hour or more
python scripts/bench/calibration.py FOLDER --measure   builds nothing: measures what is there
python scripts/bench/calibration.py FOLDER --only fp16 only networks with this in their title

FOLDER keeps the bundles: what is there is not built again. Predictions are of the stored
calibration of this host; without one, `edgekit targets calibrate local --lenient` runs first. Then
each bundle is measured in rounds that alternate between all bundles: the median of the rounds'
medians, each of a new process. As root, all runs at real-time priority: what else the machine does
would be measured, too. Networks in half precision are there if this host's cores compute in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

from side_by_side import EDGEKIT

from edgekit.bundle.manifest import read_manifest
from edgekit.cost.calibration import fit
from edgekit.cost.calibration.devices import this_host
from edgekit.cost.calibration.latency import calibrated_latency
from edgekit.cost.calibration.predict import with_left_out
from edgekit.cost.calibration.record import Calibration, FittedProgram
from edgekit.cost.calibration.store import read_all
from edgekit.cost.shapes import OperatorShape
from edgekit.device.local import LocalTransport
from edgekit.measure.golden import golden_inputs
from edgekit.program import Artifact
from edgekit.runner.client import measure
from edgekit.runner.staging import installed_at, runnable_copy
from edgekit.runtimes.registry import choose_runtime
from edgekit.target import Target, computes_half, load_target

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ZOO, EXAMPLES = ROOT / "scripts" / "zoo", ROOT / "examples"
ROUNDS, ROUND_MS = 9, 60.0
GOAL_MEAN, GOAL_WORST, GOAL_COVERED = 0.05, 0.12, 0.9

RESNET, MOBILENET_V2 = EXAMPLES / "resnet_cifar" / "resnet20.py", HERE / "mobilenet_v2.py"
MOBILENET_V1 = EXAMPLES / "mobilenet_v1_025" / "recipe.py"
BOTH = {
    "resnet20": RESNET, "mobilenet_v2": MOBILENET_V2, "mobilenet_v1_025": MOBILENET_V1,
    "text_encoder": ZOO / "text_encoder.py", "vit": ZOO / "vit.py", "lstm": ZOO / "lstm.py",
    "mlp": ZOO / "mlp.py", "gru": ZOO / "gru.py", "keyword_spotting": ZOO / "keyword_spotting.py",
}  # fmt: skip
# Layers that stay float.
MIXED = {
    "resnet20": (RESNET, ["conv1", "layer1", "linear"]),
    "mobilenet_v2": (MOBILENET_V2, ["features.0", "features.3", "features.4", "classifier"]),
}
# Also in half precision.
HALF = ("resnet20", "mobilenet_v2", "mobilenet_v1_025", "mlp", "gru", "keyword_spotting")
# Not looked at while the formulas were chosen.
UNSEEN = (
    ("autoencoder", "fp32"), ("person_detection", "fp32"), ("resnet8", "fp32"),
    ("resnet8", "int8"), ("squeezenet", "fp32"),
)  # fmt: skip
PRUNED = (
    ("resnet20", RESNET, "int8", 0.4),
    ("resnet20", RESNET, "fp32", 0.4),
    ("mobilenet_v2", MOBILENET_V2, "int8", 0.3),
    ("mobilenet_v2", MOBILENET_V2, "fp32", 0.5),
    ("mobilenet_v1_025", MOBILENET_V1, "int8", 0.3),
)


@dataclass
class Case:
    """A bundle, its prediction, and the median of each round."""

    title: str
    bundle: Path
    shapes: tuple[OperatorShape, ...] = ()
    rounds_ms: list[float] = field(default_factory=list)

    @property
    def measured_ms(self) -> float:
        return median(self.rounds_ms)


def builds(folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Title, recipe and flags of every bundle."""
    for name, recipe in BOTH.items():
        for precision in ("fp32", "int8"):
            yield f"{name}, {precision}", recipe, ["--precision", precision]
    for name, precision in UNSEEN:
        yield f"{name}, {precision}", ZOO / f"{name}.py", ["--precision", precision]
    for name, recipe, precision, ratio in PRUNED:
        # which channels are removed changes no latency: the fastest way to choose them
        prune = {"ratio": ratio, "importance": "l1", "compensate": False}
        title = f"{name} pruned by {ratio:g}, {precision}"
        yield title, recipe, plan_flags(folder, title, precision=precision, prune=prune)
    for name, (recipe, layers) in MIXED.items():
        title = f"{name}, mixed"
        yield title, recipe, plan_flags(folder, title, precision="mixed", float_layers=layers)
    host = this_host()
    if host is not None and computes_half(host.features):
        yield from builds_in_half(folder)


def builds_in_half(folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    for name in HALF:
        yield f"{name}, fp16", BOTH[name], ["--precision", "fp16"]
    for name, (recipe, layers) in MIXED.items():
        title = f"{name}, mixed with fp16"
        plan = {"precision": "mixed", "float_layers": layers, "float_as": "fp16"}
        yield title, recipe, plan_flags(folder, title, **plan)


def plan_flags(folder: Path, title: str, **plan: object) -> list[str]:
    path = folder / f"{file_name(title)}.json"
    path.write_text(json.dumps({"schema": "edgekit.plan/1", **plan}))
    return ["--plan", str(path)]


def file_name(title: str) -> str:
    return title.replace(", ", "-").replace(" ", "-")


def build_all(folder: Path, only: str, only_measure: bool) -> list[Case]:
    """Build what is missing in the folder. What is not built is reported and left out."""
    cases = []
    for title, recipe, flags in builds(folder):
        if only not in title:
            continue
        bundle = folder / file_name(title)
        if not (bundle / "verdict.json").exists() and not only_measure:
            command = [*EDGEKIT, "build", str(recipe), "--target", "x86", "--effort", "quick"]
            command += [*flags, "--output", str(bundle), "--quiet"]
            subprocess.run([str(part) for part in command], check=False)
        if (bundle / "verdict.json").exists():
            cases.append(Case(title, bundle))
        else:
            print(f"not built: {title}", file=sys.stderr)
    return cases


def read_shapes(case: Case, target: Target) -> None:
    manifest = read_manifest(case.bundle)
    runtime = choose_runtime(manifest.runtime.name, target)
    data = (case.bundle / manifest.model).read_bytes()
    artifact = Artifact(data, manifest.model, manifest.program)
    case.shapes = runtime.operator_shapes(artifact) or ()


def measure_all(cases: list[Case], threads: int) -> None:
    for _ in range(ROUNDS):
        for case in cases:
            manifest = read_manifest(case.bundle)
            inputs = golden_inputs(case.bundle, manifest)
            with runnable_copy(case.bundle, manifest) as place:
                at = installed_at(LocalTransport(), place, manifest.model)
                known = case.rounds_ms[0] if case.rounds_ms else 5.0
                runs = max(5, min(1000, int(ROUND_MS / known)))
                report = measure(at, inputs, runs=runs, warmup=3, threads=threads)
            case.rounds_ms.append(median(report.latencies_ms))


def print_table(cases: list[Case], target: Target) -> None:
    print(f"\n{target.threads} thread(s)\n")
    print("| network | measured ms | predicted ms | interval | error | inside |")
    print("|---|---|---|---|---|---|")
    errors, inside = [], []
    for case in cases:
        manifest = read_manifest(case.bundle)
        found = calibrated_latency(lambda c=case: c.shapes, target, manifest.runtime)
        figure = found.figure
        if figure is None or figure.interval is None:
            sys.exit(f"{case.title} is not predicted: {'; '.join(found.problems)}")
        low, high = figure.interval
        errors.append(figure.value / case.measured_ms - 1)
        inside.append(low <= case.measured_ms <= high)
        print(
            f"| {case.title} | {case.measured_ms:.3f} | {figure.value:.3f} | {low:.3f}-{high:.3f} "
            f"| {errors[-1]:+.1%} | {'yes' if inside[-1] else 'NO'} |"
        )
    sizes = [abs(error) for error in errors]
    for what, value, goal, reached in (
        ("mean error", mean(sizes), f"<= {GOAL_MEAN:.0%}", mean(sizes) <= GOAL_MEAN),
        ("worst error", max(sizes), f"<= {GOAL_WORST:.0%}", max(sizes) <= GOAL_WORST),
        ("inside", mean(inside), f">= {GOAL_COVERED:.0%}", mean(inside) >= GOAL_COVERED),
    ):
        print(f"{what}: {value:.1%} (goal {goal}: {'reached' if reached else 'not reached'})")


def print_left_out(calibration: Calibration) -> None:
    """The calibration's own networks, each predicted by the others; also by the formula alone,
    without the process over what it misses.
    """
    for threads in calibration.threads:
        programs = list(calibration.of_threads(threads))
        known = [one for one in programs if not one.left_out_unknown]
        print(f"\nleft out, {threads} thread(s): {len(known)} programs of known kinds")
        print(f"all: {summary(known)}")
        fit.LEAST_FITTED = sys.maxsize
        bare = [one for one in with_left_out(programs) if not one.left_out_unknown]
        print(f"formula alone: {summary(bare)}")


def summary(programs: Sequence[FittedProgram]) -> str:
    errors = [abs(one.left_out_error) for one in programs]
    return f"mean {mean(errors):.1%}, worst {max(errors):.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measure", action="store_true", help="build nothing")
    parser.add_argument("--only", default="", help="only titles with this in them")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cases = build_all(options.folder, options.only, options.measure)
    if os.geteuid() == 0:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    if not read_all()[0]:
        subprocess.run([*EDGEKIT, "targets", "calibrate", "local", "--lenient"], check=True)
    target = load_target("x86")
    for case in cases:
        read_shapes(case, target)
    measure_all(cases, target.threads)
    print_table(cases, target)
    for calibration in read_all()[0]:
        print_left_out(calibration)


if __name__ == "__main__":
    main()
