"""What LiteRT needs on the host. This module imports neither LiteRT nor torch."""

from __future__ import annotations

from edgekit.runtimes.base import COMPILER, TORCH, HostSupport
from edgekit.runtimes.litert import native
from edgekit.runtimes.litert.wheel import EXTRA, WHEEL

SUFFIX = ".tflite"
PACKAGES = {
    **TORCH,
    "litert-torch": "import litert_torch",
    "ai-edge-quantizer": "from ai_edge_quantizer import quantizer",
    "ai-edge-litert": "from ai_edge_litert import interpreter",
    **COMPILER,
}


SUPPORT = HostSupport(
    extra=EXTRA,
    packages=PACKAGES,
    pythons=">=3.11,<3.15",
    glibc=native.GLIBC,
    libraries=(native.LIBRARY,),
    suffix=SUFFIX,
    architectures=tuple(WHEEL.sha256),
    runner_folder=native.ENGINE.known_folder,
    wheel=WHEEL.state,
    has_signatures=True,
)
