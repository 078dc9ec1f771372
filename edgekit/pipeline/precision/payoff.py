"""Does quantizing pay: is the file no larger, and the device that was named no slower with it?"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.measure.paired_latency import MeasuringDevice
from edgekit.program import Artifact
from edgekit.progress import Progress

# Less than this, in ratio and in time, no shared machine tells reliably.
SLOWER, SLOWER_MS = 1.05, 0.005
# Devices store, read and map files by pages of this size.
PAGE_BYTES = 4096
NOT_CHECKED = "not compared with fp32: no device named (--device)"


@dataclass(frozen=True)
class Payoff:
    """``ratio``: latency of the quantized artifact to that of fp32, its median and 95 % interval,
    None where it was not measured: ``why_not`` says why. ``float_ms``: the latency of fp32.
    """

    larger: bool = False
    ratio: tuple[float, float, float] | None = None
    why_not: str = NOT_CHECKED
    float_ms: float = 0.0

    @property
    def pays(self) -> bool:
        return not self.larger and not self._is_slower

    @property
    def _is_slower(self) -> bool:
        if self.ratio is None:
            return False
        middle, low, _ = self.ratio
        return low > SLOWER and (middle - 1) * self.float_ms > SLOWER_MS

    @property
    def text(self) -> str:
        if self.larger:
            return "the file is larger than the fp32 file"
        if self.ratio is None:
            return self.why_not
        middle, low, high = self.ratio
        return f"latency {middle:.2f}x fp32 on the device (95 % CI {low:.2f}-{high:.2f})"


def is_larger(quantized_bytes: int, float_bytes: int) -> bool:
    """Does its file take more pages? Some hundred bytes within one cost nobody anything."""
    return -(-quantized_bytes // PAGE_BYTES) > -(-float_bytes // PAGE_BYTES)


def compare(
    device: MeasuringDevice,
    quantized: Artifact,
    floating: Artifact,
    inputs: list[bytes],
    progress: Progress,
) -> Payoff:
    """Both artifacts in turn. What goes wrong there decides nothing: it is said."""
    larger = is_larger(len(quantized.data), len(floating.data))
    latency = device.compare_latency(quantized, floating, inputs, progress)
    if latency.ratio is None:
        return Payoff(larger, why_not=f"not compared with fp32: {latency.why_not}")
    return Payoff(larger, latency.ratio, float_ms=latency.second_ms)
