"""Whose time a profile's events are: the alignment, and what is made of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgekit.documents.measure import REMAINDER
from edgekit.errors import RunnerError
from edgekit.measure.operators import operator_times, runs_of_round
from edgekit.program import Call, Kind, LayerCount, Operator, OutsideOperator, Program
from edgekit.runner.client import ProfileRow, RunReport
from edgekit.runtimes.executorch.describe import LayerMap, _kernel_operators
from edgekit.runtimes.xnnpack.alignment import MOST_PAIRS, candidates
from edgekit.runtimes.xnnpack.events import layers_of_events, locate


def same(items: str, events: str):
    return lambda i, j: 0 if items[i] == events[j] else None


def cheapest(items: str, events: str, elide: list[int], insert: list[int]) -> list[set[int | None]]:
    """The same by trying every alignment: pairs that rise in both sequences."""
    best, found = None, []
    places = [(i, j) for i in range(len(items)) for j in range(len(events))]
    for size in range(min(len(items), len(events)) + 1):
        for pairs in itertools.combinations(places, size):
            rising = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(pairs))
            if not rising or any(items[i] != events[j] for i, j in pairs):
                continue
            paired = {j: i for i, j in pairs}
            cost = sum(elide[i] for i in range(len(items)) if i not in paired.values())
            cost += sum(insert[j] for j in range(len(events)) if j not in paired)
            of = [{paired.get(j)} for j in range(len(events))]
            if best is None or cost < best:
                best, found = cost, of
            elif cost == best:
                found = [a | b for a, b in zip(found, of, strict=True)]
    return found


@given(st.text("abc", max_size=4), st.text("abc", max_size=4), st.data())
def test_candidates_are_those_of_all_cheapest_alignments(items, events, data) -> None:
    def costs(length: int) -> list[int]:
        return data.draw(st.lists(st.integers(1, 3), min_size=length, max_size=length))

    elide, insert = costs(len(items)), costs(len(events))
    expected = cheapest(items, events, elide, insert)
    assert candidates(elide, insert, same(items, events)) == expected


def test_two_long_sequences_are_not_aligned() -> None:
    length = int(MOST_PAIRS**0.5) + 1
    assert candidates([1] * length, [1] * length, lambda i, j: 1 // 0) == [{None}] * length


@pytest.mark.parametrize("length", [3, 20_000])
def test_kernels_that_are_the_graph_s_nodes_one_by_one(length) -> None:
    names = ["aten::add.out", "aten::mul.out", "aten::add.out", *["aten::relu.out"] * length]
    known = LayerMap(kernels=[(name, f"layer{i}") for i, name in enumerate(names)])
    found = _kernel_operators(names, known)
    assert [operator.layer for operator in found] == [layer for _, layer in known.kernels]
    assert [operator.kind.name for operator in found] == names


KINDS = {
    "Conv2d": "Convolution (NHWC, F32) IGEMM", "FullyConnected": "Fully Connected (NC, F32) GEMM",
    "Add": "Add (ND)", "Clamp": "Clamp (NC)", "Convert": "Convert (NC)", "Gelu": "GELU (NC)",
    "Transpose": "Transpose (ND, X32)", "Concatenate2": "Copy (NC, X32)",
}  # fmt: skip


def operators(kinds: list[str]) -> list[Operator]:
    return [Operator(Kind(kind, False), f"layer{i}") for i, kind in enumerate(kinds)]


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=30))
def test_one_event_an_operator(kinds) -> None:
    names = [f"{KINDS[kind]} #{index}" for index, kind in enumerate(kinds)]
    assert layers_of_events(operators(kinds), names) == [f"layer{i}" for i in range(len(kinds))]


@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.booleans()), max_size=20))
def test_what_was_fused_away_never_gives_a_wrong_layer(drawn) -> None:
    kinds = [kind for kind, _ in drawn]
    fused = [kind in ("Clamp", "Convert") and away for kind, away in drawn]
    left = [index for index, gone in enumerate(fused) if not gone]
    layers = layers_of_events(operators(kinds), [f"{KINDS[kinds[index]]} #1" for index in left])
    for index, layer in zip(left, layers, strict=True):
        # bounds behind an addition are the addition's own where their own node may be gone
        assert layer in (f"layer{index}", None)


def test_what_xnnpack_does_to_a_graph() -> None:
    """As seen: a table for GELU between conversions, bounds behind a sum, layout changes."""
    graph = [
        Operator(Kind("Transpose", True), None),
        Operator(Kind("Conv2d", True), "first"),
        Operator(Kind("Clamp", True), "first.act"),
        Operator(Kind("Convert", False), "first"),
        Operator(Kind("Gelu", False), "gelu"),
        Operator(Kind("Convert", True), "gelu"),
        Operator(Kind("Add", True), ""),
        Operator(Kind("Reshape", True), ""),
        Operator(Kind("FullyConnected", True), "head"),
    ]
    events = {
        "Transpose (ND, X8) #1": None,
        "Fully Connected (NC, QS8, QC8W) GEMM #1": "first",
        "Invalid Unary Op #1": "gelu",
        "Add (ND) #1": "",
        "Clamp (NC) #1": "",
        "Transpose (ND, X8) #2": None,
        "Fully Connected (NC, QS8, QC8W) GEMM #2": "head",
    }
    assert layers_of_events(graph, list(events)) == list(events.values())


def test_what_cannot_be_told_apart_is_not_known() -> None:
    """One of two transposes was fused away: which, nobody can say; of one layer, it is that."""
    two = operators(["Conv2d", "Transpose", "Transpose", "Conv2d"])
    names = ["Convolution (NHWC) #1", "Transpose (ND) #1", "Convolution (NHWC) #2"]
    assert layers_of_events(two, names) == ["layer0", None, "layer3"]
    one = [operator._replace(layer="same") for operator in two]
    assert layers_of_events(one, names) == ["same"] * 3


def test_unknown_names_and_no_operators() -> None:
    assert layers_of_events([], ["Something New (ND) #1"]) == [None]
    assert layers_of_events(operators(["Conv2d"]), []) == []
    assert layers_of_events(operators(["Conv2d"]), ["Something New (ND) #1"]) == [None]


PROGRAM = Program(
    inputs=(), outputs=(), delegates=("XnnpackBackend",) * 2, libraries=(), planned_bytes=0,
    kinds=(Kind("Conv2d", True), Kind("Add", False), Kind("aten::add.out", False),
           Kind("Convert", True), Kind("executorch_prim::et_view.default", False)),
    layers=("shared", ""),
    calls=(
        Call(0, True, ((3, None), (0, 0), (1, 0))),
        Call(2, False, ((2, 1),)),
        Call(3, False, ((4, None),)),
        Call(4, True, ((0, 0),)),
    ),
)  # fmt: skip


def row(name: str, instruction: int, mean_us: float = 1.0) -> ProfileRow:
    return ProfileRow(name, mean_us, instruction in (0, 4), instruction, 0)


ROWS = [
    row("Convert (NC) #1", 0), row("Convolution (NHWC, QC8) #1", 0), row("Add (ND) #1", 0),
    row("add.out", 2), row("Convolution (NHWC, QC8) #1", 4), row("new", 9),
]  # fmt: skip


def test_rows_of_several_delegates_and_kernels_between() -> None:
    located = locate(PROGRAM, ROWS)
    assert [where.layer for where in located] == [None, "shared", "shared", "", "shared", None]
    assert located[3].name == "aten::add.out"  # the program knows which of the two it is


def test_counts_of_a_program() -> None:
    assert PROGRAM.quantized_operators == 2
    assert PROGRAM.float_operators == 1
    assert PROGRAM.outside_operators == 1
    summary = PROGRAM.summary()
    assert summary.layers == (LayerCount(layer="shared", quantized=2, floating=1),)
    assert summary.outside == (OutsideOperator(operator="aten::add.out", layer="", count=1),)
    assert Program.model_validate_json(PROGRAM.model_dump_json()) == PROGRAM


@pytest.mark.parametrize("call", [[0, True, [[9, None]]], [0, True, [[0, 2]]], [0, False, []]])
def test_a_call_that_refers_to_nothing(call) -> None:
    data = PROGRAM.model_dump(mode="json") | {"calls": [call]}
    with pytest.raises(ValidationError, match=r"a call of a kernel|does not exist"):
        Program.model_validate(data)


def report(rows: list[ProfileRow], whole_us: float | None) -> RunReport:
    return RunReport("executorch", 1, 1.0, 0, 1.0, (), (), (1.0,), tuple(rows), whole_us)


def test_the_rows_add_up_to_the_whole() -> None:
    rounds = [report(ROWS, 10.0), report([row(r.name, r.instruction, 3.0) for r in ROWS], 20.0)]
    times, whole_ms = operator_times("executorch", PROGRAM, rounds)
    assert whole_ms == 0.015
    assert [time.mean_us for time in times] == [2.0] * 6 + [3.0]
    assert (times[-1].name, times[-1].layer, times[-1].delegated) == (REMAINDER, None, False)
    assert sum(time.mean_us for time in times) == pytest.approx(whole_ms * 1000)


@pytest.mark.parametrize(
    "second",
    [ROWS[:-1], [*ROWS, row("more", 10)], [*ROWS[:-1], row("other", 9)], [*ROWS[1:], ROWS[0]]],
)
def test_rounds_that_are_not_of_the_same_operators(second) -> None:
    with pytest.raises(RunnerError, match="round 2 has other operators than round 1"):
        operator_times("executorch", PROGRAM, [report(ROWS, 10.0), report(second, 10.0)])


def test_a_runner_that_does_not_profile() -> None:
    assert operator_times("executorch", PROGRAM, [report([], None)]) == ((), None)


@pytest.mark.parametrize(
    ("latency_ms", "most", "runs"),
    [(0.01, 20, 1000), (1.0, 20, 50), (100.0, 20, 10), (100.0, 2, 2)],
)
def test_runs_of_a_round(latency_ms, most, runs) -> None:
    timed = RunReport("executorch", 1, 1.0, 0, 1.0, (), (), (latency_ms,))
    assert runs_of_round(timed, most) == runs
