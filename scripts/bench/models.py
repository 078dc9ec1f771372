"""The zoo, model by model: is it built, what falls outside the delegate, what int8 gives.

python scripts/bench/models.py                     all of it, an hour and more
python scripts/bench/models.py build vit gru       one stage only, some models only
python scripts/bench/models.py time
python scripts/bench/models.py table               docs/models.json and the table of docs/models.md

A finished stage of a model is kept in build/models and not done again; remove its file, or give
--again. Recipes of the zoo that use the package transformers need it on PYTHONPATH. The programs
that scripts/export_packages.py has saved in build/packages (or $EDGEKIT_PACKAGES) are built too.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from case_model import against_torch
from models_table import read_table, write_table
from side_by_side import PYTHON, with_interval

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ZOO = ROOT / "scripts" / "zoo"
FOLDER = ROOT / "build" / "models"
PACKAGES = Path(os.environ.get("EDGEKIT_PACKAGES", ROOT / "build" / "packages"))
SHARED = ("common", "hf")
PRECISIONS = ("fp32", "int8")
TARGETS = ("x86", "rpi4")
STAGES = ("build", "time", "table")
ROUNDS, SECONDS_A_ROUND, THREADS = 15, 0.15, 1

Row = dict[str, Any]


def main() -> None:
    arguments = sys.argv[1:]
    stages = [stage for stage in STAGES if stage in arguments] or list(STAGES)
    names = [name for name in arguments if name in recipes()] or list(recipes())
    if unknown := set(arguments) - {*STAGES, *recipes(), "--again"}:
        sys.exit(f"no stage and no model: {', '.join(sorted(unknown))}")
    for name in names:
        for stage in stages:
            kept = FOLDER / f"{name}.{stage}.json"
            if stage != "table" and ("--again" in arguments or not kept.exists()):
                row = build(name) if stage == "build" else time(name)
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(row, indent=1))
    if "table" in stages:
        write_table(rows(), list(recipes()))


def recipes() -> dict[str, Path]:
    """All by name: recipes of the zoo, MobileNetV2 of the other benchmarks, exported programs."""
    found = {path.stem: path for path in ZOO.glob("*.py") if path.stem not in SHARED}
    found["mobilenet_v2"] = HERE / "mobilenet_v2.py"
    found |= {path.stem: path for path in PACKAGES.glob("*.pt2")}
    return dict(sorted(found.items()))


def what(recipe: Path) -> str:
    """The first paragraph of a recipe, or what the export says of a program."""
    if recipe.suffix == ".pt2":
        return str(json.loads(recipe.with_suffix(".json").read_text())["what"])
    return recipe.read_text().split('"""')[1].split("\n\n")[0]


def rows() -> list[Row]:
    """One row a model: what is kept here, else what docs/models.json has from an earlier run."""
    found = {row["name"]: row for row in read_table()}
    for name, recipe in recipes().items():
        parts = [FOLDER / f"{name}.{stage}.json" for stage in ("build", "time")]
        if parts[0].exists():
            row = {"name": name, "what": what(recipe), "exported": recipe.suffix == ".pt2"}
            for part in parts:
                row |= json.loads(part.read_text()) if part.exists() else {}
            found[name] = row
    return [found[name] for name in sorted(found)]


def build(name: str) -> Row:
    """Both precisions for both targets, and each bundle checked on its CPU (emulated: rpi4)."""
    log(f"building {name}")
    return {"builds": {p: {t: build_one(name, p, t) for t in TARGETS} for p in PRECISIONS}}


def build_one(name: str, precision: str, target: str) -> Row:
    import edgekit

    bundle, recipe = bundle_of(name, precision, target), recipes()[name]
    exported = recipe.suffix == ".pt2"
    try:
        document = edgekit.build(
            recipe, target=target, precision=precision, output=bundle, name=name,
            calibration=recipe.with_suffix(".npz") if exported else None,
        )  # fmt: skip
        cpu = edgekit.check(bundle).emulation.model_dump(mode="json")
    except edgekit.EdgekitError as error:
        log(f"  {precision} {target}: {error.message}")
        return {"error": type(error).__name__, "message": error.message}
    built = json.loads(document.to_json())
    row = {
        "seconds": sum(built["seconds"].values()),
        "size_mb": next(b["value"] for b in built["budgets"] if b["name"] == "size_mb"),
        "model_mb": (bundle / "model.pte").stat().st_size / 1e6,
        "parity": built["parity"],
        "cpu": cpu,
        "program": summary(built["program"]),
        "outside": built["program"]["outside"],
        "advice": built.get("advice", []),
    }
    if target != "x86":
        shutil.rmtree(bundle)  # only the host's own is timed
    elif exported:
        row["torch"] = against_torch(bundle, recipe.with_suffix(".fresh.npz"))
    log(f"  {precision} {target}: {row['seconds']:.0f} s, {cpu['status']}")
    return row


def summary(program: Row) -> Row:
    return {
        "delegates": len(program["delegates"]),
        "int8": sum(layer["quantized"] for layer in program["layers"]),
        "float": sum(layer["floating"] for layer in program["layers"]),
        "outside": sum(operator["count"] for operator in program["outside"]),
    }


def bundle_of(name: str, precision: str, target: str) -> Path:
    return FOLDER / f"{name}-{precision}-{target}"


def time(name: str) -> Row:
    """Latencies of the artifacts and of eager torch, in rounds that alternate."""
    bundles = {p: bundle_of(name, p, "x86") for p in PRECISIONS}
    contenders = {p: native(path) for p, path in bundles.items() if path.is_dir()}
    if not contenders:
        return {"latency_ms": {}}
    log(f"timing {name}")
    with Eager(recipes()[name]) as eager:
        contenders["eager"] = eager
        times = alternating(contenders)
    pairs = [("int8", "fp32"), ("int8", "eager"), ("fp32", "eager")]
    return {
        "latency_ms": {key: statistics.median(values) for key, values in times.items()},
        "ratios": {
            f"{a}/{b}": with_interval([x / y for x, y in zip(times[a], times[b], strict=True)])
            for a, b in pairs
            if a in times
        },
        "delegate_share": {p: share(bundles[p]) for p in PRECISIONS if p in contenders},
    }


def alternating(contenders: dict[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """Median milliseconds of each contender in each round; who begins moves on by one a round."""
    keys = list(contenders)
    runs = {key: runs_for(contenders[key](3)) for key in keys}
    times: dict[str, list[float]] = {key: [] for key in keys}
    for index in range(ROUNDS):
        shift = index % len(keys)
        for key in keys[shift:] + keys[:shift]:
            times[key].append(contenders[key](runs[key]))
    return times


def runs_for(latency_ms: float) -> int:
    return min(300, max(3, int(SECONDS_A_ROUND * 1000 / latency_ms)))


def native(bundle: Path) -> Callable[[int], float]:
    return lambda runs: statistics.median(measured(bundle, runs).latencies_ms)


def share(bundle: Path) -> Row:
    """The share of an inference's time inside the delegate, and the slowest kernels outside."""
    report = measured(bundle, 20, profile=True)
    total_ms = statistics.median(report.latencies_ms)
    outside: dict[str, float] = {}
    for row in report.profile:
        if not row.delegated:
            outside[row.name] = outside.get(row.name, 0.0) + row.mean_us / 1000
    slowest = sorted(outside.items(), key=lambda item: -item[1])[:6]
    return {
        "inside": max(0.0, 1 - sum(outside.values()) / total_ms),
        "slowest_outside": {name: ms / total_ms for name, ms in slowest},
    }


def measured(bundle: Path, runs: int, profile: bool = False) -> Any:
    from edgekit.bundle.manifest import read_manifest
    from edgekit.device.local import LocalTransport
    from edgekit.measure.golden import golden_inputs
    from edgekit.runner.client import measure
    from edgekit.runner.staging import installed_at

    inputs = golden_inputs(bundle, read_manifest(bundle))
    at = installed_at(LocalTransport(), bundle, "model.pte")
    return measure(at, inputs, runs=runs, warmup=3, threads=THREADS, profile=profile)


EAGER = """
import pathlib, statistics, sys, time, torch
from edgekit.pipeline.model.source import open_source
from edgekit.pipeline.model.subject import read_subject
from edgekit.progress import Silent
torch.set_num_threads(int(sys.argv[2]))
with open_source(pathlib.Path(sys.argv[1]), 0) as recipe:
    subject = read_subject(recipe, False, Silent())
model, inputs = subject.model, subject.example
with torch.inference_mode():
    for line in sys.stdin:
        times = []
        for index in range(int(line) + 3):
            start = time.perf_counter_ns()
            model(*inputs)
            times.append(time.perf_counter_ns() - start)
        print("ms", statistics.median(times[3:]) / 1e6, flush=True)
"""


class Eager:
    """The recipe's model in torch, in a process that keeps it; called with a number of runs."""

    def __init__(self, recipe: Path) -> None:
        command = [PYTHON, "-c", EAGER, str(recipe), str(THREADS)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, **pipes)

    def __call__(self, runs: int) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ms "):
                return float(line.split()[1])
        raise RuntimeError("eager torch ended")

    def __enter__(self) -> Eager:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
