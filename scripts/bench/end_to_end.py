"""Benchmarks of the main job, side by side and interleaved in one run; prints a Markdown table.

python scripts/bench/end_to_end.py              all of it, some ten minutes
python scripts/bench/end_to_end.py help footprint runner build again
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import (
    EDGEKIT,
    PYTHON,
    fact,
    interleaved,
    print_table,
    row,
    run,
    seconds,
    with_interval,
)

from edgekit.cache import STAGES, cache_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPE = HERE / "mobilenet_v2.py"


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            PARTS[name](Path(folder))
    print_table()


def bench_help(_: Path) -> None:
    """`edgekit --help` against `import typer`, both as processes."""
    ratio = interleaved(
        lambda: seconds([Path(PYTHON).with_name("edgekit"), "--help"]),
        lambda: seconds([PYTHON, "-c", "import typer"]),
        rounds=40,
    )
    row("`edgekit --help` / `python -c 'import typer'`", "<= 3", ratio, ratio[2] <= 3)


def bench_footprint(folder: Path) -> None:
    """What a fully delegated model's bundle puts on a device, without the model."""
    digits = ROOT / "examples" / "digits" / "recipe.py"
    for target in ("rpi4", "x86"):
        bundle = folder / f"digits-{target}"
        run([*EDGEKIT, "build", digits, "--target", target, "--output", bundle, "--quiet"])
        parts = [bundle / "runner", bundle / "manifest.json", *(bundle / "lib").iterdir()]
        size_mb = sum(part.stat().st_size for part in parts) / 1e6
        title = f"footprint on {target} without the model: runner, libraries, manifest"
        fact(title, "<= 3.5 MB", f"{size_mb:.3f} MB", size_mb <= 3.5)


def bench_runner(folder: Path) -> None:
    """The native runner against the Python runtime, one thread, process by process."""
    for precision in ("int8", "fp32"):
        bundle = build(folder, precision)
        ratio = interleaved(lambda b=bundle: native_ms(b), lambda b=bundle: python_ms(b), rounds=20)
        title = f"MobileNetV2 {precision}: native runner / Python runtime, 1 thread"
        row(title, "<= 1.00 within the interval", ratio, ratio[1] <= 1.0)


def bench_build(folder: Path) -> None:
    """The whole of `edgekit build` against a bare script of the same calls; nothing is cached."""
    output, bare = folder / "bundle", folder / "bare.pte"
    command = [*EDGEKIT, "build", RECIPE, "--target", "x86", "--precision", "int8", "--quiet"]

    def anew() -> float:
        shutil.rmtree(cache_folder() / STAGES, ignore_errors=True)
        return seconds([*command, "--effort", "quick", "--output", output])

    ratio = interleaved(anew, lambda: seconds([PYTHON, HERE / "bare.py", "int8", bare]), rounds=6)
    title = "`edgekit build --effort quick` int8 MobileNetV2 / bare script"
    row(title, "<= 1.2", ratio, ratio[0] <= 1.2)


def bench_again(folder: Path) -> None:
    """An unchanged build against the recipe's own imports: seconds beyond them."""
    digits = ROOT / "examples" / "digits" / "recipe.py"
    for name, recipe in (("MobileNetV2", RECIPE), ("digits", digits)):
        output = folder / f"again-{name}"
        command = [*EDGEKIT, "build", recipe, "--target", "x86", "--precision", "int8", "--quiet"]
        command += ["--output", output]
        run(command)
        beyond = []
        for _ in range(11):
            imports = seconds([PYTHON, recipe])
            beyond.append(seconds(command) - imports)
        found, low, high = with_interval(beyond)
        title = f"{name} int8 built again, unchanged: beyond the recipe's own imports"
        fact(title, "<= 2 s", f"{found:.2f} s (95 %: {low:.2f} to {high:.2f})", found <= 2)


def build(folder: Path, precision: str) -> Path:
    bundle = folder / f"mobilenet-{precision}"
    command = [*EDGEKIT, "build", RECIPE, "--target", "x86", "--precision", precision]
    run([*command, "--output", bundle, "--quiet"])
    return bundle


def native_ms(bundle: Path) -> float:
    from edgekit.device.local import LocalTransport
    from edgekit.runner.client import measure
    from edgekit.runner.staging import installed_at

    at = installed_at(LocalTransport(), bundle, "model.pte")
    report = measure(at, runs=60, warmup=5, threads=1)
    return statistics.median(report.latencies_ms)


PYTHON_RUNTIME = """
import sys, time, statistics, torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime
portable_lib._unsafe_reset_threadpool(1)
torch.set_num_threads(1)
method = Runtime.get().load_program(sys.argv[1]).load_method("forward")
x = [torch.zeros(1, 3, 224, 224)]
times = []
for i in range(65):
    start = time.perf_counter_ns(); method.execute(x)
    times.append(time.perf_counter_ns() - start)
print(statistics.median(times[5:]) / 1e6)
"""


def python_ms(bundle: Path) -> float:
    command = [PYTHON, "-c", PYTHON_RUNTIME, str(bundle / "model.pte")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


PARTS = {
    "help": bench_help,
    "footprint": bench_footprint,
    "runner": bench_runner,
    "build": bench_build,
    "again": bench_again,
}

if __name__ == "__main__":
    main()
