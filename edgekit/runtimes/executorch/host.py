"""What ExecuTorch needs on the host. This module imports neither ExecuTorch nor torch."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from edgekit.runtimes.base import HostSupport, OtherWheel
from edgekit.runtimes.executorch import native
from edgekit.runtimes.executorch.wheel import fetched_folder
from edgekit.target import Architecture

SUFFIX = ".pte"
EXTRA = "executorch"
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
        return native.runner_folder(architecture)
    except PackageNotFoundError:
        return None


def other_wheel(architecture: Architecture) -> OtherWheel:
    """The wheel of another architecture, with the headers and libraries for its runner."""
    is_there = os.access(fetched_folder(architecture), os.R_OK | os.X_OK)
    fetch = [sys.executable, "-m", "edgekit.runtimes.executorch.wheel", architecture]
    return OtherWheel(
        name=f"executorch ({architecture})",
        is_there=is_there,
        detail="fetched" if is_there else "18 MB; fetched by the first build for it",
        command=shlex.join(fetch),
    )


SUPPORT = HostSupport(
    extra=EXTRA,
    packages=PACKAGES,
    pythons=">=3.11,<3.15",  # the pinned wheels, from edgekit's own minimum on
    glibc=native.GLIBC,
    suffix=SUFFIX,
    runner_folder=runner_folder,
    other_wheel=other_wheel,
)
