"""What ExecuTorch needs on the host. This module imports neither ExecuTorch nor torch."""

from __future__ import annotations

from edgekit.runtimes.base import COMPILER, TORCH, HostSupport
from edgekit.runtimes.executorch import describe, native
from edgekit.runtimes.executorch.wheel import EXTRA, WHEEL

SUFFIX = ".pte"
PACKAGES = {
    **TORCH,
    "executorch": (
        "from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner"
    ),
    "torchao": "from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e",
    **COMPILER,
}


SUPPORT = HostSupport(
    extra=EXTRA,
    packages=PACKAGES,
    pythons=">=3.11,<3.15",  # the pinned wheels, from edgekit's own minimum on
    glibc=native.GLIBC,
    libraries=describe.BASE_LIBRARIES,
    suffix=SUFFIX,
    architectures=tuple(WHEEL.sha256),
    runner_folder=native.ENGINE.known_folder,
    wheel=WHEEL.state,
)
