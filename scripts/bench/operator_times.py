"""Time by operator and layer: what of an inference is told, and what telling it costs; a table.

python scripts/bench/operator_times.py            some minutes

For each model, on this host with one thread: the operators' share of the whole profiled
inference, the share of their time whose layer is known, and two ratios of means to unprofiled
processes, in rounds that alternate. As root they run at real-time priority: what else the machine
does would be measured, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import EDGEKIT, interleaved, run

from edgekit.documents.measure import REMAINDER

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DIGITS = ROOT / "examples" / "digits" / "recipe.py"
ROUNDS = 15
ROUND_MS = 100.0
UNDISTURBED = ["chrt", "--fifo", "1"] if os.geteuid() == 0 else []
# Layer normalisation, masks and reshapes stay outside the delegates: it has 15 of them.
TRANSFORMER = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width=128, heads=4):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.dense = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.dense(self.norm2(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(1000, 128)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(128, 10)

    def forward(self, tokens):
        return self.head(self.blocks(self.words(tokens)).mean(1))


def model():
    torch.manual_seed(0)
    return Net().eval()


def example_inputs():
    return (torch.randint(0, 1000, (1, 32), generator=torch.Generator().manual_seed(1)),)


def calibration():
    generator = torch.Generator().manual_seed(2)
    return [(torch.randint(0, 1000, (1, 32), generator=generator),) for _ in range(8)]
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        transformer = Path(folder) / "transformer.py"
        transformer.write_text(TRANSFORMER)
        models = {
            "digits": DIGITS,
            "MobileNetV2": HERE / "mobilenet_v2.py",
            "transformer, 2 layers": transformer,
        }
        for title, recipe in models.items():
            for precision in ("fp32", "int8"):
                bundle = build(recipe, precision, Path(folder))
                rows.append(row(f"{title}, {precision}", bundle))
    print(
        "\n| model | delegates | operators | one inference | operators / whole | of that, layer "
        "known | process that profiles / that does not | whole as profiled / not profiled |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def build(recipe: Path, precision: str, folder: Path) -> Path:
    output = folder / f"{recipe.stem}-{recipe.parent.name}-{precision}"
    command = [*EDGEKIT, "build", recipe, "--target", "x86", "--precision", precision]
    run([*command, "--output", output, "--quiet"])
    return output


def row(title: str, bundle: Path) -> str:
    found = document(bundle)
    operators = [item for item in found["per_op"] if item["name"] != REMAINDER]
    whole_us = found["profiled_ms"] * 1000
    told = sum(item["mean_us"] for item in operators)
    known = sum(item["mean_us"] for item in operators if item["layer"] is not None)
    delegates = json.loads((bundle / "manifest.json").read_text())["program"]["delegates"]
    runs = max(10, min(2000, int(ROUND_MS / found["profiled_ms"])))
    slower = interleaved(
        lambda: mean_us(process(bundle, runs, "--profile")),
        lambda: mean_us(process(bundle, runs)),
        ROUNDS,
    )
    same = interleaved(
        lambda: process(bundle, runs, "--profile")["profiled_ns"] / 1000,
        lambda: mean_us(process(bundle, runs)),
        ROUNDS,
    )
    return (
        f"| {title} | {len(delegates)} | {len(operators)} | {time_of(whole_us)} | "
        f"{told / whole_us:.1%} | {known / told:.1%} | {interval(slower)} | {interval(same)} |"
    )


def document(bundle: Path) -> dict[str, Any]:
    command = [*EDGEKIT, "bench", bundle, "local", "--json", "--quiet"]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True)
    return dict(json.loads(done.stdout))


def process(bundle: Path, runs: int, *options: str) -> dict[str, Any]:
    files = sorted((bundle / "golden").glob("input_*.bin"))
    inputs = [part for file in files for part in ("--input", str(file))]
    command = [
        *UNDISTURBED,
        str(bundle / "runner"),
        "--model",
        str(bundle / "model.pte"),
        *inputs,
        *options,
    ]
    command += ["--runs", str(runs), "--warmup", "10"]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def mean_us(told: dict[str, Any]) -> float:
    return statistics.mean(told["latencies_ns"]) / 1000


def time_of(us: float) -> str:
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.2f} ms"


def interval(ratio: tuple[float, float, float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"


if __name__ == "__main__":
    main()
