"""Peak memory: the ledger's prediction, and what was measured; Markdown tables.

python scripts/bench/memory.py            an emulated Pi 4 of its own, half an hour
python scripts/bench/memory.py gru mlp    only these
python scripts/bench/memory.py --here     this x86 host, models of the zoo
python scripts/bench/memory.py --here vit gru
python scripts/bench/memory.py --here --runtime litert

What is measured there is the kernel's VmHWM of the runner, the very figure of a real board. With
--save FILE the sizes and peaks are kept; --fit FILE fits the runner's constants to them again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from side_by_side import emulated_pi

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.cost import ledger as ledgers
from edgekit.cost.sizes import ProgramMemory, RunnerMemory
from edgekit.program import Artifact
from edgekit.runtimes.registry import RUNTIMES
from edgekit.target import Architecture

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
# The constants that the measurements show. The others are kept.
FITTED = {
    "executorch": ("start_mb", "run_mb", "library_start_mb"),
    "litert": ("start_mb", "run_mb", "node_mb"),
}


@dataclass(frozen=True)
class Row:
    """``shifted_mb``: the program's peak on this host, moved by the difference of the two ledgers;
    None if this host is what is predicted. ``sizes``: of the program, as the ledger reads them.
    """

    model: str
    precision: str
    ledger_mb: float
    measured_mb: float
    sizes: dict[str, Any]
    shifted_mb: float | None = None

    def __str__(self) -> str:
        shifted = [] if self.shifted_mb is None else [self.shifted_mb]
        figures = [f"{value:.1f}" for value in (self.ledger_mb, *shifted, self.measured_mb)]
        errors = [f"{self.error(value):+.1%}" for value in (self.ledger_mb, *shifted)]
        return f"| {self.model} | {self.precision} | {' | '.join([*figures, *errors])} |"

    def error(self, predicted_mb: float) -> float:
        return predicted_mb / self.measured_mb - 1


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("names", nargs="*")
    options.add_argument("--here", action="store_true")
    options.add_argument("--runtime", choices=FITTED, default="executorch")
    options.add_argument("--save", type=Path)
    options.add_argument("--fit", type=Path)
    given = options.parse_args()
    if given.fit is not None:
        rows = [Row(**row) for row in json.loads(given.fit.read_text())]
    else:
        rows = (here if given.here else on_pi)(given.names, given.runtime)
        if given.save is not None:
            given.save.write_text(json.dumps([asdict(row) for row in rows]))
    fit(rows, FITTED[given.runtime])


def here(names: Sequence[str], runtime: str) -> list[Row]:
    """Predict and measure models of the zoo on this host."""
    print("| model | precision | ledger, MB | measured, MB | error |\n|---|---|---|---|---|")
    rows = []
    for name in names or ZOO:
        for precision in PRECISIONS:
            rows.append(measured_here(name, precision, runtime))
            print(rows[-1], flush=True)
    return rows


def measured_here(name: str, precision: str, runtime: str) -> Row:
    recipe = ROOT / "scripts" / "zoo" / f"{name}.py"
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        document = edgekit.build(
            recipe, target="x86", runtime=runtime, precision=precision, output=bundle
        )
        sizes = sizes_of(bundle, "x86_64")
    ledger = document.memory
    assert ledger is not None and ledger.measured_here_mb is not None
    known = sizes.model_dump(mode="json")
    return Row(name, precision, ledger.peak_mb, ledger.measured_here_mb, known)


def sizes_of(bundle: Path, architecture: Architecture) -> ProgramMemory:
    manifest = read_manifest(bundle)
    artifact = Artifact((bundle / manifest.model).read_bytes(), manifest.model, manifest.program)
    runtime = RUNTIMES[manifest.runtime.name].create()
    sizes = runtime.memory_sizes(artifact, architecture)
    assert sizes is not None
    return sizes


def on_pi(names: Sequence[str], runtime: str) -> list[Row]:
    """Predict for a Pi, and measure on an emulated Pi 4."""
    print("| model | precision | ledger, MB | host, MB | measured, MB | ledger | host |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, emulated_pi(Path(folder) / "home", NAME):
        for title, recipe, precision in cases(Path(folder)):
            if names and title not in names:
                continue
            rows.append(measure(title, recipe, precision, runtime))
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


def measure(title: str, recipe: Path, precision: str, runtime: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        document = edgekit.build(
            recipe, target="rpi4", runtime=runtime, precision=precision, effort="quick",
            name="model", output=bundle,
        )  # fmt: skip
        sizes = sizes_of(bundle, "aarch64")
        here_mb = ledgers.ledger(sizes_of(bundle, "x86_64")).peak_mb
        found = edgekit.bench(bundle, NAME, runs=3, warmup=1).peak_memory_mb
    ledger = document.memory
    assert ledger is not None and ledger.measured_here_mb is not None
    shifted_mb = ledger.measured_here_mb + ledger.peak_mb - here_mb
    return Row(title, precision, ledger.peak_mb, found, sizes.model_dump(mode="json"), shifted_mb)


def fit(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Fit the constants to all rows, and predict each model by the others."""
    print(f"\n{len(rows)} programs")
    summarize("ledger, as it ships", [row.error(row.ledger_mb) for row in rows])
    shifted = [row.error(row.shifted_mb) for row in rows if row.shifted_mb is not None]
    if shifted:
        summarize("host and the ledgers' difference", shifted)
    if len({row.model for row in rows}) <= len(names):
        return
    print("\nfitted to all:", fitted(rows, names))
    print("\n| model | precision | ledger, MB | measured, MB | error |\n|---|---|---|---|---|")
    errors = []
    for row in rows:
        others = fitted([other for other in rows if other.model != row.model], names)
        predicted_mb = peak_mb(row, others)
        errors.append(row.error(predicted_mb))
        figures = f"{predicted_mb:.1f} | {row.measured_mb:.1f} | {errors[-1]:+.1%}"
        print(f"| {row.model} | {row.precision} | {figures} |")
    summarize("ledger, fitted without the model", errors)


def summarize(title: str, errors: Sequence[float]) -> None:
    sizes = [abs(error) for error in errors]
    print(f"{title}: mean {sum(sizes) / len(sizes):.1%}, worst {max(sizes):.1%}")


def fitted(rows: Sequence[Row], names: Sequence[str]) -> RunnerMemory:
    """The constants with the least squares of relative errors."""
    start = ProgramMemory.model_validate(rows[0].sizes).runner

    def with_values(values: np.ndarray[Any, Any]) -> RunnerMemory:
        return start.replaced(**{n: float(v) for n, v in zip(names, values, strict=True)})

    def errors(values: np.ndarray[Any, Any]) -> list[float]:
        known = with_values(values)
        return [row.error(peak_mb(row, known)) for row in rows]

    first = [getattr(start, name) for name in names]
    # the ledger rounds to kilobytes: smaller steps would show no slope
    found = least_squares(errors, first, bounds=(0, np.inf), diff_step=0.02).x
    return with_values(found)


def peak_mb(row: Row, runner: RunnerMemory) -> float:
    sizes = ProgramMemory.model_validate(row.sizes)
    return ledgers.ledger(sizes.replaced(runner=runner)).peak_mb


if __name__ == "__main__":
    main()
