"""How many output channels kernels compute at once: times of one convolution by its width; a table.

python scripts/bench/channel_steps.py         some minutes

One thread, 28x28 pixels; 1x1 has 64 input channels, 3x3 has 16. x86-64 is measured on this host
(as root at real-time priority), the Raspberry Pis are predicted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import edgekit
from edgekit.target import load_target

WIDTHS = (4, 8, 12, 16, 24, 32, 40, 48)
FORMS = {"one": "1x1", "three": "3x3", "depthwise": "depthwise"}
RECIPE = f"""
import torch
from torch import nn

WIDTHS = {WIDTHS}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.ModuleList(nn.Conv2d(64, n, 1) for n in WIDTHS)
        self.three = nn.ModuleList(nn.Conv2d(16, n, 3, padding=1) for n in WIDTHS)
        self.depthwise = nn.ModuleList(nn.Conv2d(n, n, 3, padding=1, groups=n) for n in WIDTHS)

    def forward(self, x):
        dense = [layer(x) for layer in self.one] + [layer(x[:, :16]) for layer in self.three]
        return (*dense, *(layer(x[:, :n]) for layer, n in zip(self.depthwise, WIDTHS)))


def model():
    return Net().eval()


def example_inputs():
    return (torch.randn(1, 64, 28, 28, generator=torch.Generator().manual_seed(0)),)


def calibration():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 64, 28, 28, generator=generator),) for _ in range(2)]
"""


def main() -> None:
    print("| output channels | " + " | ".join(str(width) for width in WIDTHS) + " |")
    print("|---" * (len(WIDTHS) + 1) + "|")
    with tempfile.TemporaryDirectory() as name:
        recipe = Path(name) / "recipe.py"
        recipe.write_text(RECIPE)
        for target in ("x86", "rpi4", "rpi5"):
            for precision in ("fp32", "int8"):
                print_rows(recipe, target, precision, Path(name) / f"{target}-{precision}")


def print_rows(recipe: Path, target: str, precision: str, bundle: Path) -> None:
    document = edgekit.build(
        recipe,
        target=load_target(target).replaced(threads=1),
        precision=precision,
        effort="quick",
        latency_ms=1000,
        output=bundle,
    )
    rows: Iterable[tuple[str | None, float]]
    if target == "x86":
        if os.geteuid() == 0:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        rows = [(row.layer, row.mean_us) for row in edgekit.bench(bundle, runs=100).per_op]
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    else:
        assert document.latency is not None
        rows = [(one.layer, one.latency_ms * 1000) for one in document.latency.operators]
    for form, title in FORMS.items():
        times = [longest(rows, f"{form}.{place}") for place in range(len(WIDTHS))]
        cells = " | ".join(f"{time:.1f}" for time in times)
        print(f"| {target}, {precision}, {title} | {cells} |", flush=True)


def longest(rows: Iterable[tuple[str | None, float]], layer: str) -> float:
    """The convolution, not a conversion or layout change of the same layer."""
    return max(us for name, us in rows if name == layer)


if __name__ == "__main__":
    main()
