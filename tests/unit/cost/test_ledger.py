"""The memory ledger, and the liveness of a graph's values: small cases, computed by hand."""

from __future__ import annotations

import pytest

from edgekit.cost import memory
from edgekit.cost.ledger import ledger
from edgekit.cost.sizes import (
    DelegateMemory,
    ProgramMemory,
    ProgramPoint,
    RunnerMemory,
    Step,
    live_points,
)
from edgekit.documents.memory import MemoryLedger

MB = 1_000_000
RUNNER = RunnerMemory(
    start_mb=5, run_mb=0.5, library_start_mb=0.5, library_run_mb=0.25, kernel_mb=0.25, node_mb=0.01
)


def live(steps: list[Step], sizes: dict[int, int]) -> list[int]:
    return [point.live_bytes for point in live_points(steps, sizes)]


def test_a_chain_holds_two_values_at_a_time() -> None:
    steps = [Step("a", (0,), (1,)), Step("b", (1,), (2,)), Step("c", (2,), (3,))]
    # 0 and 3 are the graph's input and output: they live elsewhere
    assert live(steps, {1: 10, 2: 4}) == [10, 14, 4]


def test_a_skip_connection_lives_until_it_is_added() -> None:
    steps = [
        Step("a", (0,), (1,)),
        Step("b", (1,), (2,)),
        Step("c", (2,), (3,)),
        Step("add", (1, 3), (4,)),
    ]
    assert live(steps, {1: 10, 2: 7, 3: 5, 4: 10}) == [10, 17, 22, 25]


def test_an_elementwise_output_takes_the_place_of_an_input_that_ends() -> None:
    steps = [Step("a", (0,), (1,)), Step("clamp", (1,), (2,), reuses_input=True)]
    assert live(steps, {1: 10, 2: 10}) == [10, 10]
    used_later = [*steps, Step("add", (1, 2), (3,))]
    assert live(used_later, {1: 10, 2: 10}) == [10, 20, 20]
    other_size = [Step("a", (0,), (1,)), Step("convert", (1,), (2,), reuses_input=True)]
    assert live(other_size, {1: 10, 2: 40}) == [10, 50]


def test_scratch_memory_counts_only_while_its_operator_runs() -> None:
    steps = [Step("a", (0,), (1,)), Step("b", (1,), (2,), scratch_bytes=3)]
    assert live(steps, {1: 10, 2: 4}) == [10, 17]


def test_a_value_that_nothing_reads_ends_at_once() -> None:
    assert live([Step("a", (0,), (1, 2)), Step("b", (1,), (3,))], {1: 1, 2: 8}) == [9, 1]


def delegate(weights: int, packed: int, tables: int, *live_bytes: int) -> DelegateMemory:
    return DelegateMemory(
        instruction=0,
        weight_bytes=weights * MB,
        packed_bytes={"Conv2d": packed * MB},
        table_bytes=tables * MB,
        points=tuple(ProgramPoint("Conv2d", size * MB) for size in live_bytes),
    )


def program(*delegates: DelegateMemory, **values: int) -> ProgramMemory:
    fields = dict.fromkeys(
        ("program_bytes", "constant_bytes", "planned_bytes", "input_bytes",
         "kernels"), 0,
    )  # fmt: skip
    return ProgramMemory(**{**fields, "libraries": 3, **values}, runner=RUNNER, delegates=delegates)


def part(found: MemoryLedger, name: str) -> tuple[float, float]:
    return next((one.load_mb, one.run_mb) for one in found.parts if one.name == name)


def test_totals_are_the_sums_of_the_parts() -> None:
    found = ledger(program(delegate(4, 5, 1, 2, 3), planned_bytes=MB, input_bytes=MB))
    assert found.load_mb == pytest.approx(sum(one.load_mb for one in found.parts))
    assert found.run_mb == pytest.approx(sum(one.run_mb for one in found.parts))
    assert found.peak_mb == max(found.load_mb, found.run_mb)
    assert found.interval[0] < found.peak_mb < found.interval[1]
    assert part(found, "planned arena") == (0, 1)
    assert part(found, "input buffers") == (0, 1)


def test_loading_peaks_where_stored_and_packed_weights_of_a_delegate_exist_at_once() -> None:
    found = ledger(program(delegate(8, 8, 0), delegate(2, 2, 0)))
    assert part(found, "weights as stored") == (8, 0)
    assert part(found, "packed weights") == (8, 10)
    late = ledger(program(delegate(2, 2, 0), delegate(8, 8, 0)))
    assert part(late, "weights as stored") == (8, 0)
    assert part(late, "packed weights") == (10, 10)


def test_a_workspace_that_grows_exists_twice_for_a_moment() -> None:
    growing = ledger(program(delegate(0, 0, 1, 4), delegate(0, 0, 1, 5)))
    assert part(growing, "live activations") == (0, 9)
    shrinking = ledger(program(delegate(0, 0, 1, 5), delegate(0, 0, 1, 4)))
    assert part(shrinking, "live activations") == (0, 5)
    assert part(shrinking, "kernel tables") == (0, 2)


def test_the_highest_program_points_come_first() -> None:
    found = ledger(program(delegate(0, 0, 0, 1, 6, 2, 3)))
    assert [(point.index, point.live_mb) for point in found.activations] == [(1, 6), (3, 3), (2, 2)]


def test_kernels_outside_delegates_take_memory_of_their_own() -> None:
    without = ledger(program(delegate(0, 0, 0)))
    with_kernels = ledger(program(delegate(0, 0, 0), libraries=4, kernels=10))
    constants = RUNNER
    added = constants.library_start_mb + constants.library_run_mb + 10 * constants.kernel_mb
    assert with_kernels.run_mb - without.run_mb == pytest.approx(added)


def test_an_empty_program_has_a_ledger() -> None:
    assert ledger(program()).activations == ()


def test_another_architecture_s_figure_is_that_of_its_ledger() -> None:
    target = ledger(program(delegate(1, 1, 0)))
    figure = memory.predicted([10.0, 10.2], target)
    assert (figure.value, figure.interval) == (target.peak_mb, target.interval)
    assert figure.source == "predicted"


def test_without_a_ledger_it_is_the_host_s_peak_and_a_shift() -> None:
    figure = memory.predicted([10.0, 10.2], None)
    assert figure.value == pytest.approx(10.2 + memory.SHIFT_MB)
    low, high = figure.interval
    assert low < 10.0 + memory.SHIFT_MB < figure.value < high
