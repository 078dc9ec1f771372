"""What is known of a processor core for predicting latency: its caches, memory and LLVM's model.

Caches: Arm's technical reference manuals, and Broadcom's configuration of BCM2837 (Pi 3, Zero 2 W),
BCM2711 (Pi 4) and BCM2712 (Pi 5), as Linux prints them on these boards. The bandwidths were fitted
to published latencies (docs/benchmarks.md, "Latency without a device"); they are what a network
gets beside its arithmetic, below what a copy of memory reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KIB = 1024
LINE_BYTES = 64


class Cache(NamedTuple):
    """One level: its size, and the lines that compete for a place."""

    bytes: int
    ways: int


@dataclass(frozen=True)
class CoreModel:
    """``llvm_cpu``: the core whose schedule in llvm-mca is nearest to this one. ``caches``: L1 data
    cache first, as one core sees them. ``float_macs``, ``int8_macs``: multiply-accumulates in a
    cycle at most.
    """

    title: str
    llvm_cpu: str
    caches: tuple[Cache, ...]
    dram_gb_s: float
    float_macs: int
    int8_macs: int


# By QEMU's names. LLVM's own model of the A53 is two to four times too slow, and those of the A72
# and A76 are that of the A57: the A55 and the Neoverse N1, which is an A76, are nearer.
CORE_MODELS = {
    "cortex-a53": CoreModel(
        "Cortex-A53", "cortex-a55", (Cache(32 * KIB, 4), Cache(512 * KIB, 16)), 2.5, 2, 4
    ),
    "cortex-a72": CoreModel(
        "Cortex-A72", "cortex-a72", (Cache(32 * KIB, 2), Cache(1024 * KIB, 16)), 4.0, 4, 8
    ),
    "cortex-a76": CoreModel(
        "Cortex-A76",
        "neoverse-n1",
        (Cache(64 * KIB, 4), Cache(512 * KIB, 8), Cache(2048 * KIB, 16)),
        12.0,
        8,
        32,
    ),
}
