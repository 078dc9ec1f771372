"""Whether quantization pays: the file must not be larger, nor inference on the device slower."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.measure.paired_latency import MeasuringDevice, Timed
from edgekit.program import Artifact
from edgekit.progress import Progress

# Smaller differences, in ratio and in time, cannot be measured reliably on a shared machine.
SLOWER, SLOWER_MS = 1.05, 0.005
# Devices store, read and map files in pages of this size.
PAGE_BYTES = 4096
NOT_CHECKED = "not compared with fp32: no device named (--device)"


@dataclass(frozen=True)
class Payoff:
    """The quantized artifact compared with fp32. ``larger``: its file. ``ratio``: its latency
    divided by that of fp32, median and 95 % interval; None if not measured, and ``why_not`` is the
    reason. ``float_ms``: the latency of fp32.
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
    """Whether the quantized file takes more pages. Differences within a page cost nothing."""
    return -(-quantized_bytes // PAGE_BYTES) > -(-float_bytes // PAGE_BYTES)


def compare(
    device: MeasuringDevice,
    quantized: Artifact,
    floating: Artifact,
    inputs: list[bytes],
    progress: Progress,
) -> Payoff:
    """Time both artifacts in turns. A failure only makes the latency ratio unknown."""
    larger = is_larger(len(quantized.data), len(floating.data))
    pair = Timed(quantized, inputs), Timed(floating, inputs)
    latency = device.compare_latency(*pair, progress)
    if latency.ratio is None:
        return Payoff(larger, why_not=f"not compared with fp32: {latency.why_not}")
    return Payoff(larger, latency.ratio, float_ms=latency.second_ms)
