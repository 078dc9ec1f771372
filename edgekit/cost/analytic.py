"""A latency from arithmetic alone, where emulation is not possible. Pure functions.

Multiply-accumulates at a share of the core's peak, the model's weights read once from memory, and a
fixed cost of each operator. Nothing is known of kernels and caches, so the interval is wide.
"""

from __future__ import annotations

from edgekit.cost.cores import CoreModel
from edgekit.cost.latency import Factors, combined_ms
from edgekit.program import Program

# The share of peak arithmetic that a network reaches, and the time that an operator takes beside
# it: assumed, not fitted. The interval is wide because of that.
SHARE_OF_PEAK = 0.45
OPERATOR_US = 15.0
INTERVAL = Factors(0.4, 3.0)


def latency_ms(
    macs: int,
    model_bytes: int,
    program: Program,
    core: CoreModel,
    clock_ghz: float,
    threads: int,
) -> float:
    """``macs``: of one inference. ``model_bytes``: the size of the model's file."""
    int8, floating = program.quantized_operators, program.float_operators
    is_int8 = int8 > floating
    rate = (core.int8_macs if is_int8 else core.float_macs) * SHARE_OF_PEAK * clock_ghz * 1e6
    parallel_ms, serial_ms = macs / rate, program.operator_count * OPERATOR_US / 1e3 / clock_ghz
    memory_ms = model_bytes / (core.dram_gb_s * 1e6)
    return combined_ms(parallel_ms, serial_ms, memory_ms, threads)
