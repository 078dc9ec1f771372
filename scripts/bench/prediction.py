"""Predicted against published latencies of Raspberry Pis: how far does a prediction hold?

python scripts/bench/prediction.py                  the formula on the counts of published.csv
python scripts/bench/prediction.py MODEL=RECIPE...  also build these here and predict them anew

EDGEKIT_DATA names the folder with pi_latency/published.csv: 139 published latencies beside what was
counted for the same model under emulation. MODEL is the name in that file without its precision:
mnv2=scripts/zoo/mobilenet_v2.py. Prints Markdown tables. The second form needs the tools that
`edgekit doctor` names, and minutes for each build.
"""

from __future__ import annotations

import csv
import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.cost.cores import CORE_MODELS
from edgekit.cost.emulation.predict import emulated_work
from edgekit.cost.latency import Work, interval_factors, latency_ms
from edgekit.data import data_path
from edgekit.measure.golden import golden_inputs
from edgekit.progress import Silent
from edgekit.target import load_target

CORES = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "rpi5": "cortex-a76"}
# GB/s by the data sheets of the memory: LPDDR2-900, LPDDR4-3200 and LPDDR4X-4267, all of 32 bits.
NOMINAL_GB_S = {"rpi3": 3.6, "rpi4": 12.8, "rpi5": 17.1}
SHARES = [0.2 + 0.025 * step for step in range(33)]
EXPONENTS = [1.0 + 0.1 * step for step in range(21)]
CLOSE = 0.25


@dataclass(frozen=True)
class Row:
    """A published latency and what was counted for it."""

    board: str
    runtime: str
    model: str
    threads: int
    clock_ghz: float
    work: Work
    published_ms: float

    def predicted(self) -> float:
        """With the constants that edgekit ships."""
        return latency_ms(self.work, CORE_MODELS[CORES[self.board]], self.clock_ghz, self.threads)

    def fitted(self, share: float, exponent: float) -> float:
        """With a share of the nominal bandwidth and an exponent for one thread."""
        core_ms = self.work.cycles / (self.clock_ghz * 1e6)
        memory_ms = self.work.dram_bytes / (NOMINAL_GB_S[self.board] * share * 1e6)
        if self.threads > 1:
            return core_ms / self.threads + memory_ms
        return float((core_ms**exponent + memory_ms**exponent) ** (1 / exponent))


def read_rows() -> list[Row]:
    with (data_path("pi_latency") / "published.csv").open() as file:
        return [
            Row(
                board=row["board"],
                runtime=row["runtime"],
                model=row["model"],
                threads=int(row["threads"]),
                clock_ghz=float(row["clock_ghz"]),
                work=Work(
                    int(row["instructions"]), float(row["core_cycles"]), int(row["dram_bytes"])
                ),
                published_ms=float(row["published_ms"]),
            )
            for row in csv.DictReader(file)
        ]


def fit(rows: Sequence[Row]) -> tuple[float, float]:
    """The share and the exponent with the least mean error of the logarithms."""

    def error(choice: tuple[float, float]) -> float:
        return mean(abs(math.log(row.fitted(*choice) / row.published_ms)) for row in rows)

    return min(product(SHARES, EXPONENTS), key=error)


Judged = Iterable[tuple[Row, float]]


def summary(title: str, judged: Judged) -> str:
    pairs = list(judged)
    errors = [abs(value / row.published_ms - 1) for row, value in pairs]
    close = sum(error <= CLOSE for error in errors)
    covered = sum(
        value * low <= row.published_ms <= value * high
        for row, value in pairs
        for low, high in [interval_factors(row.threads)]
    )
    count = len(pairs)
    return (
        f"| {title} | {count} | {mean(errors):.0%} | {close} ({close / count:.0%}) "
        f"| {covered} ({covered / count:.0%}) |"
    )


def print_summaries(rows: Sequence[Row]) -> None:
    print("| rows, constants | rows | mean error | within 25 % | inside the interval |")
    print("|---|---|---|---|---|")
    ncnn = [row for row in rows if row.runtime == "ncnn"]
    for threads in (1, 4):
        some = [row for row in ncnn if row.threads == threads]
        title = f"ncnn, {threads} thread{'s' if threads > 1 else ''}, those of edgekit"
        print(summary(title, ((row, row.predicted()) for row in some)))
    judged = [(row, row.fitted(*choice)) for row, choice in without_own_board(ncnn, ncnn)]
    print(summary("ncnn, fitted without the board", judged))
    for board in sorted(CORES):
        some_judged = [(row, value) for row, value in judged if row.board == board]
        print(summary(f"of these, {board}", some_judged))
    by_model = [(row, row.fitted(*fit_without_model(row, ncnn))) for row in ncnn]
    print(summary("ncnn, fitted to the board's other models", by_model))
    other = [row for row in rows if row.runtime != "ncnn"]
    print(summary("ExecuTorch, XNNPACK, those of edgekit", ((r, r.predicted()) for r in other)))
    left_out = [(row, row.fitted(*choice)) for row, choice in without_own_board(other, ncnn)]
    print(summary("ExecuTorch, XNNPACK, fitted without the board, on ncnn", left_out))


def without_own_board(
    judged: Sequence[Row], fitted: Sequence[Row]
) -> list[tuple[Row, tuple[float, float]]]:
    """Each row with the constants that the rows of the other boards give."""
    choices = {board: fit([row for row in fitted if row.board != board]) for board in CORES}
    return [(row, choices[row.board]) for row in judged]


@cache
def fit_of(rows: tuple[Row, ...]) -> tuple[float, float]:
    return fit(rows)


def fit_without_model(row: Row, rows: Sequence[Row]) -> tuple[float, float]:
    """The constants that the rows of the same board and other models give."""
    return fit_of(tuple(r for r in rows if r.board == row.board and r.model != row.model))


def print_built(rows: Sequence[Row], recipes: dict[str, Path]) -> None:
    """Build each model here and predict its published rows through the whole pipeline."""
    print("\n| board | model | predicted ms | interval | published ms | error | covered |")
    print("|---|---|---|---|---|---|---|")
    for name, recipe in recipes.items():
        for precision in ("fp32", "int8"):
            wanted = [row for row in rows if row.model == f"{name}_{precision}"]
            if wanted:
                with tempfile.TemporaryDirectory() as folder:
                    print_model(wanted, recipe, precision, Path(folder) / "bundle")


def print_model(rows: Sequence[Row], recipe: Path, precision: str, bundle: Path) -> None:
    edgekit.build(recipe, target="rpi5", precision=precision, effort="quick", output=bundle)
    manifest = read_manifest(bundle)
    inputs = golden_inputs(bundle, manifest)
    for row in rows:
        target = load_target(row.board).replaced(clock_ghz=row.clock_ghz)
        work = emulated_work(bundle, manifest, inputs, target, Silent()).whole
        value = latency_ms(work, CORE_MODELS[target.cpu], row.clock_ghz, row.threads)
        low, high = (value * factor for factor in interval_factors(row.threads))
        covered = "yes" if low <= row.published_ms <= high else "NO"
        print(
            f"| {row.board} | {row.model} | {value:.1f} | {low:.1f}-{high:.1f} "
            f"| {row.published_ms:g} | {value / row.published_ms - 1:+.0%} | {covered} |",
            flush=True,
        )


def main() -> None:
    recipes = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rows = read_rows()
    print_summaries(rows)
    if recipes:
        built = [row for row in rows if row.runtime != "ncnn"]
        print_built(built, {name: Path(path) for name, path in recipes.items()})


if __name__ == "__main__":
    main()
