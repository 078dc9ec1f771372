"""What the runner's own settings of malloc cost and save: it gives freed blocks back while it loads
a program, and keeps those below 32 MB while it runs.

python scripts/bench/freed_memory.py BUNDLE...

Bundles are for this host (--target x86) and have a native runner. Each runs in turns with its
runner as it is, and with a ``mallopt`` that does nothing in front of glibc's (LD_PRELOAD; needs a
C compiler, cc). One thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from side_by_side import Ratio, with_interval

from edgekit.bundle.manifest import read_manifest
from edgekit.device.local import LocalTransport
from edgekit.measure.golden import golden_inputs
from edgekit.runner.client import Installed, RunReport, measure
from edgekit.runner.staging import installed_at

ROUNDS, RUNS, WARMUP = 15, 30, 5
WITHOUT = "int mallopt(int parameter, int value) { return 1; }\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "without.so"
        source = library.with_suffix(".c")
        source.write_text(WITHOUT)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        print("| bundle | loading | inference | peak memory, with | without |")
        print("|---|---|---|---|---|")
        for name in sys.argv[1:]:
            print(comparison_row(Path(name), library), flush=True)


def comparison_row(bundle: Path, library: Path) -> str:
    """A row: ratios of times, with to without, and both peaks."""
    manifest = read_manifest(bundle)
    at = installed_at(LocalTransport(), bundle, manifest.model)
    inputs = golden_inputs(bundle, manifest)
    pairs = []
    for number in range(ROUNDS):
        turns = ("", str(library)) if number % 2 == 0 else (str(library), "")
        reports = {preload: run_report(at, inputs, preload) for preload in turns}
        pairs.append((reports[""], reports[str(library)]))
    load = with_interval([ours.load_ms / other.load_ms for ours, other in pairs])
    run = with_interval([median(a.latencies_ms) / median(b.latencies_ms) for a, b in pairs])
    peaks = [min(report.peak_memory_mb for report in arm) for arm in zip(*pairs, strict=True)]
    memory = " | ".join(f"{peak:.2f} MB" for peak in peaks)
    return f"| {bundle.name} | {ratio_text(load)} | {ratio_text(run)} | {memory} |"


def run_report(at: Installed, inputs: list[bytes], preload: str) -> RunReport:
    os.environ["LD_PRELOAD"] = preload
    try:
        return measure(at, inputs, runs=RUNS, warmup=WARMUP, threads=1)
    finally:
        del os.environ["LD_PRELOAD"]


def ratio_text(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


if __name__ == "__main__":
    main()
