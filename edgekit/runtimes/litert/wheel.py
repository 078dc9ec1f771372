"""The ai-edge-litert wheel of an architecture, with the library for the native runner:

python -m edgekit.runtimes.litert.wheel aarch64
"""

from __future__ import annotations

import sys

from edgekit.progress import Silent
from edgekit.runtimes.wheel import RuntimeWheel

VERSION = "2.3.0"
EXTRA = "litert"
WHEEL = RuntimeWheel(
    package="ai-edge-litert",
    module="ai_edge_litert",
    version=VERSION,
    platform="manylinux_2_27",
    size_mb=14,
    sha256={
        "aarch64": "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
        "x86_64": "1f15078a6725d2357d9de9221664c29afa0545d807559c5f7199ce5e40b96b23",
    },
    kept=("ai_edge_litert/libLiteRt.so",),
    fetcher="edgekit.runtimes.litert.wheel",
    extra=EXTRA,
)

if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(WHEEL.folder(name, Silent()))  # type: ignore[arg-type]
