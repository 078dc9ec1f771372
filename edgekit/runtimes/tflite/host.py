"""What tflite-runtime needs on the host: LiteRT's converter. This module imports neither."""

from __future__ import annotations

from dataclasses import replace

from edgekit.runtimes.litert.host import SUPPORT as LITERT
from edgekit.runtimes.tflite.wheel import PLATFORMS, wheel_state

# ``glibc`` stays LiteRT's: its runner runs here.
SUPPORT = replace(
    LITERT,
    libraries=(),
    architectures=tuple(PLATFORMS),
    wheel=wheel_state,
    fetches_own=True,
)
