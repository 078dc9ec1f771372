"""Peak memory: the ledger's prediction, and what was measured; Markdown tables.

python scripts/bench/memory.py            an emulated Pi 4 of its own, half an hour
python scripts/bench/memory.py gru mlp    only these
python scripts/bench/memory.py --here     this x86 host, models of the zoo
python scripts/bench/memory.py --here vit gru

What is measured there is the kernel's VmHWM of the runner, the very figure of a real board. With
--save FILE the sizes and peaks are kept; --fit FILE fits the constants for Arm to them again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from side_by_side import emulated_pi

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.cost import ledger as ledgers
from edgekit.cost.sizes import ProgramMemory
from edgekit.runtimes.executorch.memory import memory_sizes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAME = "bench-memory"
HEAD = "import torch\nfrom torch import nn\n"
CALIBRATION = """
def calibration():
    generator = torch.Generator().manual_seed(2)
    shapes = [tuple(x.shape) for x in example_inputs()]
    return [tuple(torch.randn(s, generator=generator) for s in shapes) for _ in range(4)]
"""
# Each stresses another part of the peak: weights, activations, portable kernels, many delegates.
RECIPES = {
    "MLP, 5 M weights": """
def model():
    return nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1400), nn.ReLU(),
                         nn.Linear(1400, 10))
def example_inputs():
    return (torch.zeros(1, 1024),)
""",
    "CNN, large activations": """
def model():
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 3, 3, padding=1))
def example_inputs():
    return (torch.zeros(1, 3, 256, 256),)
""",
    "CNN with portable kernels": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)
    def forward(self, x):
        x = torch.cumsum(self.first(x), dim=2)
        return self.last(torch.special.erf(x).mean(dim=(2, 3)))
def model():
    return Net()
def example_inputs():
    return (torch.zeros(1, 3, 96, 96),)
""",
    "transformer, 2 layers": """
def model():
    layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
def example_inputs():
    return (torch.zeros(1, 32, 128),)
""",
}


ZOO = [
    "audio_m5", "autoencoder", "crnn", "espcn", "gru", "keyword_spotting",
    "lstm", "mlp", "mobilenet_v3_small", "pointnet",
    "resnet8", "shufflenet_v2", "squeezenet", "tcn", "text_encoder", "unet", "vit", "yolo_nano",
]  # fmt: skip
# Without those that an emulated board takes minutes for.
ZOO_OF_PI = [name for name in ZOO if name not in ("unet", "vit", "yolo_nano")]
PRECISIONS = ("int8", "fp32")
# The constants for Arm that the measurements show. The others are those of x86.
FITTED = ("start_mb", "run_mb", "library_start_mb")


@dataclass(frozen=True)
class Row:
    """``shifted_mb``: the program's peak on this host, moved by the difference of the two ledgers.
    ``sizes``: of the program, as the ledger reads them.
    """

    model: str
    precision: str
    ledger_mb: float
    shifted_mb: float
    measured_mb: float
    sizes: dict[str, Any]

    def __str__(self) -> str:
        figures = f"{self.ledger_mb:.1f} | {self.shifted_mb:.1f} | {self.measured_mb:.1f}"
        errors = f"{self.error(self.ledger_mb):+.1%} | {self.error(self.shifted_mb):+.1%}"
        return f"| {self.model} | {self.precision} | {figures} | {errors} |"

    def error(self, predicted_mb: float) -> float:
        return predicted_mb / self.measured_mb - 1


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("names", nargs="*")
    options.add_argument("--here", action="store_true")
    options.add_argument("--save", type=Path)
    options.add_argument("--fit", type=Path)
    given = options.parse_args()
    if given.fit is not None:
        fit([Row(**row) for row in json.loads(given.fit.read_text())])
    elif given.here:
        here(given.names or ZOO)
    else:
        rows = on_pi(given.names)
        if given.save is not None:
            given.save.write_text(json.dumps([asdict(row) for row in rows]))
        fit(rows)


def here(names: Sequence[str]) -> None:
    """Predict and measure models of the zoo on this host."""
    print("| model | precision | ledger, MB | measured, MB | error |\n|---|---|---|---|---|")
    errors = [ledger_row(name, precision) for name in names for precision in PRECISIONS]
    worst, mean = max(errors), sum(errors) / len(errors)
    print(f"\nmean error {mean:.1%}, worst {worst:.1%}, {len(errors)} programs")


def ledger_row(name: str, precision: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        recipe = ROOT / "scripts" / "zoo" / f"{name}.py"
        document = edgekit.build(
            recipe, target="x86", precision=precision, output=Path(folder) / "bundle"
        )
    ledger = document.memory
    assert ledger is not None and ledger.measured_here_mb is not None
    error = ledger.peak_mb / ledger.measured_here_mb - 1
    row = f"{ledger.peak_mb:.1f} | {ledger.measured_here_mb:.1f} | {error:+.1%}"
    print(f"| {name} | {precision} | {row} |", flush=True)
    return abs(error)


def on_pi(names: Sequence[str]) -> list[Row]:
    """Predict for a Pi 4, and measure on an emulated one."""
    print("| model | precision | ledger, MB | host, MB | measured, MB | ledger | host |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, emulated_pi(Path(folder) / "home", NAME):
        for title, recipe, precision in cases(Path(folder)):
            if names and title not in names:
                continue
            rows.append(measure(title, recipe, precision))
            print(rows[-1], flush=True)
    return rows


def cases(folder: Path) -> Iterator[tuple[str, Path, str]]:
    recipes = {
        "digits": ROOT / "examples" / "digits" / "recipe.py",
        "MobileNetV2": HERE / "mobilenet_v2.py",
    }
    for number, (title, source) in enumerate(RECIPES.items()):
        recipes[title] = folder / f"model{number}.py"
        recipes[title].write_text(HEAD + source + CALIBRATION)
    recipes |= {name: ROOT / "scripts" / "zoo" / f"{name}.py" for name in ZOO_OF_PI}
    for title, path in recipes.items():
        for precision in PRECISIONS:
            yield title, path, precision


def measure(title: str, recipe: Path, precision: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        document = edgekit.build(
            recipe, target="rpi4", precision=precision, effort="quick", name="model", output=bundle
        )
        manifest = read_manifest(bundle)
        data = (bundle / manifest.model).read_bytes()
        sizes = memory_sizes(data, manifest.program, "aarch64")
        here_mb = ledgers.ledger(memory_sizes(data, manifest.program, "x86_64"), "x86_64").peak_mb
        found = edgekit.bench(bundle, NAME, runs=3, warmup=1).peak_memory_mb
    ledger = document.memory
    assert ledger is not None and ledger.measured_here_mb is not None
    shifted_mb = ledger.measured_here_mb + ledger.peak_mb - here_mb
    return Row(title, precision, ledger.peak_mb, shifted_mb, found, sizes.model_dump(mode="json"))


def fit(rows: Sequence[Row]) -> None:
    """Fit the constants to all rows, and predict each model by the others."""
    print(f"\n{len(rows)} programs")
    summarize("ledger, as it ships", [row.error(row.ledger_mb) for row in rows])
    summarize("host and the ledgers' difference", [row.error(row.shifted_mb) for row in rows])
    print("\nfitted to all:", fitted(rows))
    print("\n| model | precision | ledger, MB | measured, MB | error |\n|---|---|---|---|---|")
    errors = []
    for row in rows:
        others = fitted([other for other in rows if other.model != row.model])
        predicted_mb = peak_mb(row, others)
        errors.append(row.error(predicted_mb))
        figures = f"{predicted_mb:.1f} | {row.measured_mb:.1f} | {errors[-1]:+.1%}"
        print(f"| {row.model} | {row.precision} | {figures} |")
    summarize("ledger, fitted without the model", errors)


def summarize(title: str, errors: Sequence[float]) -> None:
    sizes = [abs(error) for error in errors]
    print(f"{title}: mean {sum(sizes) / len(sizes):.1%}, worst {max(sizes):.1%}")


def fitted(rows: Sequence[Row]) -> ledgers.Constants:
    """The constants with the least squares of relative errors."""
    start = ledgers.CONSTANTS["aarch64"]

    def errors(values: np.ndarray[Any, Any]) -> list[float]:
        known = with_values(start, values)
        return [row.error(peak_mb(row, known)) for row in rows]

    first = [getattr(start, name) for name in FITTED]
    # the ledger rounds to kilobytes: smaller steps would show no slope
    found = least_squares(errors, first, bounds=(0, np.inf), diff_step=0.02).x
    return with_values(start, found)


def with_values(constants: ledgers.Constants, values: np.ndarray[Any, Any]) -> ledgers.Constants:
    named = zip(FITTED, values, strict=True)
    return replace(constants, **{name: float(value) for name, value in named})


def peak_mb(row: Row, constants: ledgers.Constants) -> float:
    ledgers.CONSTANTS["aarch64"], kept = constants, ledgers.CONSTANTS["aarch64"]
    try:
        return ledgers.ledger(ProgramMemory.model_validate(row.sizes), "aarch64").peak_mb
    finally:
        ledgers.CONSTANTS["aarch64"] = kept


if __name__ == "__main__":
    main()
