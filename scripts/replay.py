"""Builds a fixed set of bundles with two checkouts and compares them byte by byte.

git worktree add /tmp/before COMMIT
python scripts/replay.py /tmp/before                       all jobs, for x86 and rpi4
python scripts/replay.py /tmp/before digits_int8 pt2       some jobs only
python scripts/replay.py /tmp/before --ignore edgekit_model.py --ignore verdict.json:ladder

The proof that a refactoring changed nothing. Recipes come from this checkout for both, so that
only edgekit itself differs. Of verdict.json everything counts but what was measured. --ignore
leaves out a file, or a key of a JSON document (dotted, ``*`` for any), where prose changed on
purpose. Builds that need weights or images need EDGEKIT_DATA. Exit code 1: something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edgekit.cache import cache_folder

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, ZOO = ROOT / "examples", ROOT / "scripts" / "zoo"
DIGITS = EXAMPLES / "digits" / "recipe.py"
TARGETS = ("x86", "rpi4")
# Of verdict.json: seconds, memory, the machine; and its digest, which covers them.
MEASURED = ("verdict.json:seconds", "verdict.json:environment", "verdict.json:digest")
MEASURED_FIGURES = (
    "verdict.json:figures.peak_memory_mb",
    "verdict.json:figures.latency_ms",
    "verdict.json:compression.*.latency_ratio",
    "verdict.json:compression.*.peak_memory_mb",
    "verdict.json:compression.*.peak_memory_before_mb",
)
DYNAMIC_LINEAR = {"schema": "edgekit.plan/1", "precision": "int8", "linear": "dynamic"}

SAVE_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import keyword_spotting as recipe
import torch
from torch.export import export, save
torch.manual_seed(0)
save(export(recipe.model().eval(), recipe.example_inputs()), sys.argv[2])
"""


@dataclass(frozen=True)
class Job:
    """One build. ``plan``: handed over as --plan. ``program``: the recipe's model as a .pt2."""

    recipe: Path
    flags: tuple[str, ...] = ()
    plan: dict[str, Any] | None = None
    as_program: bool = False


JOBS = {
    "digits_int8": Job(DIGITS, ("--precision", "int8")),
    "digits_fp32": Job(DIGITS, ("--precision", "fp32")),
    "digits_pruned": Job(DIGITS, ("--prune", "0.3")),
    "digits_sparse": Job(DIGITS, ("--sparsity", "0.5")),
    "resnet20_int8": Job(EXAMPLES / "resnet_cifar" / "resnet20.py", ("--precision", "int8")),
    "mobilenet_v1_mixed": Job(
        EXAMPLES / "mobilenet_v1_025" / "recipe.py", ("--precision", "mixed")
    ),
    "dynamic_linear": Job(ZOO / "mlp.py", plan=DYNAMIC_LINEAR),
    "pt2": Job(ZOO / "keyword_spotting.py", ("--precision", "fp32"), as_program=True),
    "two_inputs": Job(ZOO / "two_towers.py"),
}


def main() -> None:
    options = parsed()
    ignored = (*MEASURED, *MEASURED_FIGURES, *options.ignore)
    with tempfile.TemporaryDirectory() as folder:
        trees = (options.before.resolve(), ROOT)
        homes = [home(Path(folder) / side) for side in ("before", "after")]
        found = [
            difference
            for name in options.jobs or JOBS
            for target in TARGETS
            for difference in replay(name, target, trees, homes, ignored)
        ]
    print(f"{len(found)} differences" if found else "no byte differs")
    sys.exit(bool(found))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path, help="another checkout of edgekit")
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--ignore", action="append", default=[], metavar="FILE[:KEY]")
    options = parser.parse_args()
    if unknown := set(options.jobs) - set(JOBS):
        parser.error(f"no such job: {', '.join(sorted(unknown))}")
    return options


def home(folder: Path) -> Path:
    """A folder of one side's own, whose cache shares only the compiler and compiled runners."""
    cache = folder / "cache" / "edgekit"
    cache.mkdir(parents=True)
    for name in ("runners", "zig"):
        (cache_folder() / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to((cache_folder() / name).resolve())
    return folder


def replay(
    name: str, target: str, trees: tuple[Path, Path], homes: list[Path], ignored: tuple[str, ...]
) -> list[str]:
    """Build one job on both sides at once and print what differs."""
    command = [*command_of(name, homes[0].parent), "--target", target]
    title = f"{name} {target}"
    bundles = [folder / f"{name}-{target}" for folder in homes]
    running = [
        subprocess.Popen(
            [*command, "--output", str(bundle)],
            env=os.environ | {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(folder / "cache")},
            cwd=homes[0].parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for tree, folder, bundle in zip(trees, homes, bundles, strict=True)
    ]
    printed = [process.communicate()[0] for process in running]
    codes = [process.returncode for process in running]
    if codes[0] not in (0, 3) or codes[0] != codes[1]:
        found = [f"exit codes {codes[0]} and {codes[1]}:\n{printed[codes[0] in (0, 3)][-2000:]}"]
    else:
        found = list(differences(*(contents(bundle, ignored) for bundle in bundles)))
    for line in found or ["equal"]:
        print(f"{title}: {line}", flush=True)
    return found


def command_of(name: str, folder: Path) -> list[str]:
    job, recipe = JOBS[name], JOBS[name].recipe
    extra: list[str] = []
    if job.as_program:
        recipe = folder / f"{name}.pt2"
        if not recipe.exists():
            subprocess.run([sys.executable, "-c", SAVE_PROGRAM, str(ZOO), str(recipe)], check=True)
    if job.plan is not None:
        plan = folder / f"{name}.json"
        plan.write_text(json.dumps(job.plan))
        extra = ["--plan", str(plan)]
    return [sys.executable, "-m", "edgekit", "build", str(recipe), *job.flags, *extra]


def contents(bundle: Path, ignored: tuple[str, ...]) -> dict[str, Any]:
    """Every file's bytes; of a JSON document each value, by FILE:KEY."""
    found: dict[str, Any] = {}
    for path in sorted(bundle.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(bundle).as_posix()
        found[f"{name} (mode)"] = path.stat().st_mode
        if path.suffix == ".json":
            found |= {f"{name}:{key}": value for key, value in leaves(json.loads(path.read_text()))}
        if not any(one.startswith(f"{name}:") for one in ignored):
            found[name] = path.read_bytes()
    return {name: value for name, value in found.items() if not leaves_out(name, ignored)}


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, (dict, list)) or not value:
        yield key, value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(item, f"{key}.{name}" if key else str(name))


def leaves_out(name: str, ignored: tuple[str, ...]) -> bool:
    return any(fnmatch(name, one) or fnmatch(name, f"{one}[.:]*") for one in ignored)


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if one != other:
            yield f"{name} differs: {shown(one)}, {shown(other)}"


def shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)[:120]


if __name__ == "__main__":
    main()
