"""The number of threads with the lowest latency, for ``--threads auto``."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.errors import DeviceError, RuntimeFailure, StoreError
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.result import BuildResult
from edgekit.target import Target

# More threads take cores from the rest of the application: they must be faster by this share.
LEAST_GAIN = 0.03


def fastest(target: Target, result: BuildResult, context: BuildContext) -> Target:
    """The target with the number of threads that suits the artifact; as it is if that is unknown.

    Measured on the device of the context if there is one, else predicted.
    """
    latency_ms: dict[int, float] = {}
    for threads in candidates(target.cores):
        there = context.with_threads(threads)
        meter = Meter(target.replaced(threads=threads), there, there.device)
        try:
            cost = meter.time(meter.sized(result))
        except (RuntimeFailure, StoreError, DeviceError) as error:
            context.progress.note(f"threads {target.threads}: {error.message}")
            return target
        if cost.latency is None:
            context.progress.note(f"threads {target.threads}, as the target says: {cost.why_not}")
            return target
        latency_ms[threads] = cost.latency.value
    count = fewest(latency_ms)
    tried = ", ".join(f"{threads}: {value:.3g} ms" for threads, value in latency_ms.items())
    context.progress.note(f"threads {count} chosen ({tried})")
    return target.replaced(threads=count)


def candidates(cores: int) -> tuple[int, ...]:
    """Powers of two up to the cores, and all of them.

    >>> candidates(6)
    (1, 2, 4, 6)
    """
    powers = [2**power for power in range(cores.bit_length()) if 2**power <= cores]
    return tuple(sorted({*powers, cores}))


def fewest(latency_ms: Mapping[int, float]) -> int:
    """The fewest threads whose latency is within LEAST_GAIN of the lowest.

    >>> fewest({1: 8.0, 2: 4.1, 4: 4.0})
    2
    """
    limit_ms = min(latency_ms.values()) * (1 + LEAST_GAIN)
    return min(threads for threads, value in latency_ms.items() if value <= limit_ms)
