"""From cycles and bytes to milliseconds and their interval."""

from __future__ import annotations

import math

import pytest

from edgekit.budget import Figure, Limit, judge, verdict_of
from edgekit.cost.cores import CORE_MODELS
from edgekit.cost.latency import (
    FOUR_THREADS,
    ONE_THREAD,
    InferenceWork,
    OperatorWork,
    Work,
    interval_factors,
    interval_ms,
    latency_by_operator,
    latency_ms,
)
from edgekit.runner.client import ProfileRow

A72 = CORE_MODELS["cortex-a72"]
# 10 ms of cycles at 1.5 GHz, 10 ms of memory at 4 GB/s
WORK = Work(instructions=20_000_000, cycles=15e6, dram_bytes=40_000_000)


def test_one_thread_overlaps_cycles_and_memory_in_part() -> None:
    assert latency_ms(WORK, A72, 1.5, 1) == pytest.approx((2 * 10**1.5) ** (2 / 3))


def test_four_threads_share_the_cycles_and_wait_for_the_memory() -> None:
    assert latency_ms(WORK, A72, 1.5, 4) == pytest.approx(10 / 4 + 10)


def test_serial_cycles_are_not_shared() -> None:
    serial = WORK._replace(serial_cycles=15e6)
    assert latency_ms(serial, A72, 1.5, 4) == pytest.approx(20)


def test_two_and_three_threads_lie_between() -> None:
    values = [latency_ms(WORK, A72, 1.5, threads) for threads in (1, 2, 3, 4, 6)]
    assert values == sorted(values, reverse=True)


def test_a_published_row_is_predicted_within_its_interval() -> None:
    """MobileNetV2 int8 on a Raspberry Pi 5: 4.01 ms (data/pi_latency)."""
    work = Work(instructions=51_272_064, cycles=28_102_360, dram_bytes=9_043_840)
    value = latency_ms(work, CORE_MODELS["cortex-a76"], 2.4, 4)
    low, high = interval_ms(value, interval_factors(4), 4, 0)
    assert value == pytest.approx(3.68, abs=0.01)
    assert low < 4.01 < high


def test_intervals_are_wider_where_nothing_was_published() -> None:
    assert interval_factors(1) == ONE_THREAD
    assert interval_factors(4) == FOUR_THREADS
    for threads in (2, 3, 8):
        low, high = interval_factors(threads)
        assert low < FOUR_THREADS[0] and high > FOUR_THREADS[1]


def test_joining_threads_counts_for_small_models_only() -> None:
    assert interval_ms(1.0, interval_factors(1), 1, 100) == ONE_THREAD
    low, high = interval_ms(1.0, interval_factors(4), 4, 100)
    assert (low, high) == pytest.approx((0.7, 1.7 + 0.5))


@pytest.mark.parametrize(
    ("limit", "status", "verdict"),
    [(7, "ok", "fits"), (6.9, "ok", "fits"), (5, "unknown", "unknown"), (2.9, "missed", "missed")],
)
def test_the_whole_interval_decides(limit: float, status: str, verdict: str) -> None:
    figure = Figure(value=4, source="predicted", interval=(3, 6.9), note="predicted")
    limits = {"latency_ms": Limit(value=limit, asked_by="flag")}
    lines = judge(limits, {"latency_ms": figure}, {})
    assert next(line for line in lines if line.name == "latency_ms").status == status
    assert verdict_of(lines) == verdict


def test_every_core_has_a_last_level_beyond_its_first() -> None:
    for core in CORE_MODELS.values():
        sizes = [cache.bytes for cache in core.caches]
        assert sizes == sorted(sizes) and len(sizes) >= 2
        assert all(math.log2(cache.bytes // 64 // cache.ways) % 1 == 0 for cache in core.caches)


def row(index: int, delegated: bool = True) -> ProfileRow:
    return ProfileRow(f"operator {index}", 0.0, delegated, 0, index)


def test_operators_and_the_rest_add_up_to_the_whole() -> None:
    """One is bound by its cycles, one by memory; between them 1 ms passes."""
    busy = OperatorWork(row(0), Work(4, cycles=12e6, dram_bytes=0))
    waiting = OperatorWork(row(1), Work(4, cycles=1.5e6, dram_bytes=40_000_000))
    whole = Work(9, cycles=15e6, dram_bytes=40_000_000)
    value_ms = latency_ms(whole, A72, 1.5, 1)
    rows = latency_by_operator(InferenceWork(whole, (busy, waiting)), value_ms, A72, 1.5, 1)
    first, second = (one.mean_us / 1000 for one in rows)
    alone = (1 + 10**1.5) ** (2 / 3)  # 1 ms of cycles beside 10 ms of memory
    assert second / first == pytest.approx(alone / 8)
    assert value_ms - first - second == pytest.approx(first / 8)
    assert [one.name for one in rows] == ["operator 0", "operator 1"]


def test_a_kernel_outside_the_delegates_uses_one_thread() -> None:
    parts = [OperatorWork(row(0), Work(1, 8e6, 0)), OperatorWork(row(1, False), Work(1, 8e6, 0))]
    work = InferenceWork(Work(2, 16e6, 0), tuple(parts))
    first, second = latency_by_operator(work, 10.0, A72, 1.5, 4)
    assert second.mean_us == pytest.approx(4 * first.mean_us)
    assert first.mean_us + second.mean_us == pytest.approx(10_000)


def test_unknown_operators_stay_unknown() -> None:
    assert latency_by_operator(InferenceWork(WORK), 10.0, A72, 1.5, 4) == ()
