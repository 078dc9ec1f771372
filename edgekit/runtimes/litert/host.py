"""What LiteRT needs on the host. This module imports neither LiteRT nor torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

from edgekit.runtimes.base import HostSupport
from edgekit.runtimes.litert import native
from edgekit.runtimes.litert.wheel import EXTRA, WHEEL
from edgekit.target import Architecture

SUFFIX = ".tflite"
PACKAGES = {
    "torch": "import torch; torch.zeros(1).numpy()",
    "litert-torch": "import litert_torch",
    "ai-edge-quantizer": "from ai_edge_quantizer import quantizer",
    "ai-edge-litert": "from ai_edge_litert import interpreter",
    "ziglang": (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-m', 'ziglang', 'version'], check=True)"
    ),
}


def runner_folder(architecture: Architecture) -> Path | None:
    try:
        return native.ENGINE.folder(architecture)
    except PackageNotFoundError:
        return None


SUPPORT = HostSupport(
    extra=EXTRA,
    packages=PACKAGES,
    pythons=">=3.11,<3.15",
    glibc=native.GLIBC,
    suffix=SUFFIX,
    runner_folder=runner_folder,
    other_wheel=WHEEL.of_another,
)
