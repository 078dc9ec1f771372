"""The executorch wheel of an architecture, with headers and libraries for the native runner:

python -m edgekit.runtimes.executorch.wheel aarch64
"""

from __future__ import annotations

import sys

from edgekit.progress import Silent
from edgekit.runtimes.wheel import RuntimeWheel

VERSION = "1.5.1"
EXTRA = "executorch"
WHEEL = RuntimeWheel(
    package="executorch",
    module="executorch",
    version=VERSION,
    platform="manylinux_2_28",
    size_mb=18,
    sha256={
        "aarch64": "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a",
        "x86_64": "274c28c2fe2b76acb03f9fa381537425c40e0098dcf886baf6d97a1a55ffe300",
    },
    kept=("executorch/lib/", "executorch/include/"),
    fetcher="edgekit.runtimes.executorch.wheel",
    extra=EXTRA,
)

if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(WHEEL.folder(name, Silent()))  # type: ignore[arg-type]
