"""What ExecuTorch needs on the host. This module imports neither ExecuTorch nor torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

from edgekit.runtimes.base import HostSupport
from edgekit.runtimes.executorch import native
from edgekit.runtimes.executorch.wheel import EXTRA, WHEEL
from edgekit.target import Architecture

SUFFIX = ".pte"
PACKAGES = {
    "torch": "import torch; torch.zeros(1).numpy()",
    "executorch": (
        "from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner"
    ),
    "torchao": "from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e",
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
    pythons=">=3.11,<3.15",  # the pinned wheels, from edgekit's own minimum on
    glibc=native.GLIBC,
    suffix=SUFFIX,
    runner_folder=runner_folder,
    other_wheel=WHEEL.of_another,
)
