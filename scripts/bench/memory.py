"""Peak memory on a Pi: predicted on this host, and measured on an emulated one; a Markdown table.

python scripts/bench/memory.py            boots a machine of its own, some minutes
python scripts/bench/memory.py --here     the ledger against this x86 host, models of the zoo
python scripts/bench/memory.py --here vit gru

What is measured there is the kernel's VmHWM of the runner, the very figure of a real board.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from side_by_side import EDGEKIT, emulated_pi, run

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


def main() -> None:
    if sys.argv[1:2] == ["--here"]:
        here(sys.argv[2:] or ZOO)
        return
    with tempfile.TemporaryDirectory() as folder, emulated_pi(Path(folder) / "home", NAME):
        rows = [measure(title, path, precision) for title, path, precision in cases(Path(folder))]
    print(
        "\n| model | on this host, MB | predicted for the Pi 4, MB | measured there, MB | inside |"
    )
    print("|---|---|---|---|---|")
    print("\n".join(rows))


def here(names: list[str]) -> None:
    """Predict and measure models of the zoo on this host."""
    print("| model | precision | ledger, MB | measured, MB | error |\n|---|---|---|---|---|")
    errors = [ledger_row(name, precision) for name in names for precision in PRECISIONS]
    worst, mean = max(errors), sum(errors) / len(errors)
    print(f"\nmean error {mean:.1%}, worst {worst:.1%}, {len(errors)} programs")


def ledger_row(name: str, precision: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        bundle, recipe = Path(folder) / "bundle", ROOT / "scripts" / "zoo" / f"{name}.py"
        command = [*EDGEKIT, "build", recipe, "--target", "x86", "--precision", precision]
        run([*command, "--name", name, "--output", bundle, "--quiet"])
        ledger = json.loads((bundle / "verdict.json").read_text())["memory"]
    found = ledger["measured_here_mb"]
    error = ledger["peak_mb"] / found - 1
    row = f"{ledger['peak_mb']:.1f} | {found:.1f} | {error:+.1%}"
    print(f"| {name} | {precision} | {row} |", flush=True)
    return abs(error)


def cases(folder: Path) -> list[tuple[str, Path, str]]:
    recipes = {
        "digits": ROOT / "examples" / "digits" / "recipe.py",
        "MobileNetV2": HERE / "mobilenet_v2.py",
    }
    for number, (title, source) in enumerate(RECIPES.items()):
        recipes[title] = folder / f"model{number}.py"
        recipes[title].write_text(HEAD + source + CALIBRATION)
    return [(title, path, precision) for title, path in recipes.items() for precision in PRECISIONS]


PRECISIONS = ("int8", "fp32")


def measure(title: str, recipe: Path, precision: str) -> str:
    """One row: the host's peak and the prediction from it, and the peak on the device."""
    import edgekit

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        command = [*EDGEKIT, "build", recipe, "--target", "rpi4", "--precision", precision]
        run([*command, "--name", "model", "--output", bundle, "--quiet"])
        document = edgekit.check(bundle)
        line = next(row for row in document.budgets if row.name == "peak_memory_mb")
        found = edgekit.bench(bundle, NAME, runs=3, warmup=1).peak_memory_mb
    assert line.interval is not None and document.memory is not None
    low, high = line.interval
    inside = "yes" if low <= found <= high else "NO"
    host = document.memory.measured_here_mb
    said = (
        f"| {title}, {precision} | {host:.1f} | {low:.1f} to {high:.1f} | {found:.1f} | {inside} |"
    )
    print(said, flush=True)
    return said


if __name__ == "__main__":
    main()
