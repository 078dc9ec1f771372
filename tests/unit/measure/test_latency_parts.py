"""Rows of a prediction as parts of the latency, and the table of its layers."""

from __future__ import annotations

import pytest

from edgekit.budget import Figure
from edgekit.cost.shapes import OperatorShape, OperatorTimes, TimedOperator
from edgekit.documents.latency import LatencyParts
from edgekit.measure.operators import (
    calibrated_rows,
    latency_parts,
    profiled_rows,
    timed_shapes,
)
from edgekit.program import Call, Kind, Program
from edgekit.report.latency import latency_table
from edgekit.runner.client import ProfileRow

NAMES = ("Conv2d", "Clamp", "Add")
LAYERS = ("stem.0", "stem.1", "")
PROGRAM = Program(
    inputs=(),
    outputs=(),
    delegates=("XnnpackBackend",),
    kinds=tuple(Kind(name, True) for name in NAMES),
    layers=LAYERS,
    calls=(Call(0, True, ((0, 0), (1, 1), (2, 2))),),
    libraries=(),
    planned_bytes=0,
    housekeeping=(),
)
SHAPES = tuple(
    OperatorShape(
        kind=kind,
        precision="int8",
        inputs=(),
        outputs=(),
        delegated=True,
        layer=layer,
        instruction=0,
        index=index,
    )
    for index, (kind, layer) in enumerate(zip(("convolution", "clamp", "add"), LAYERS, strict=True))
)
FIGURE = Figure(value=4.0, source="predicted", interval=(3.0, 5.0))
# The clamp is fused; a transpose is inserted.
EVENTS = (("Transpose (ND, X8) #1", 100.0), ("Convolution (NHWC, QC8) IGEMM #1", 2500.0))
ROWS = tuple(
    ProfileRow(name, us, True, 0, index)
    for index, (name, us) in enumerate([*EVENTS, ("Add (ND) #1", 400.0)])
)


@pytest.fixture
def parts() -> LatencyParts:
    return latency_parts(profiled_rows("executorch", PROGRAM, SHAPES, ROWS), FIGURE, "emulated")


def test_parts_add_up_and_name_kind_and_layer(parts) -> None:
    assert [(one.layer, one.kind, one.latency_ms) for one in parts.operators] == [
        (None, "Transpose (ND, X8) #1", 0.1),
        ("stem.0", "convolution", 2.5),
        ("", "add", 0.4),
    ]
    assert parts.rest_ms == pytest.approx(1.0)
    assert (parts.source, parts.method, parts.interval) == ("predicted", "emulated", (3.0, 5.0))
    assert [one.share for one in parts.operators] == pytest.approx([0.025, 0.625, 0.1])
    assert [one.precision for one in parts.operators] == [None, "int8", "int8"]


def test_without_shapes_the_runtimes_names_stay() -> None:
    rows = list(profiled_rows("executorch", PROGRAM, None, ROWS))
    assert rows[1].kind == "Convolution (NHWC, QC8) IGEMM #1"
    assert rows[1].layer == "stem.0"


def test_parts_of_a_calibration_have_its_interval_and_no_fused_operators() -> None:
    timed = tuple(map(TimedOperator, SHAPES, (2.5, 0.0, 0.4)))
    parts = latency_parts(calibrated_rows(OperatorTimes(timed, 1.1)), FIGURE, "calibrated")
    assert [(one.layer, one.kind, one.precision, one.latency_ms) for one in parts.operators] == [
        ("stem.0", "convolution", "int8", 2.5),
        ("", "add", "int8", 0.4),
    ]
    assert (parts.source, parts.method, parts.interval) == ("predicted", "calibrated", (3.0, 5.0))
    assert parts.rest_ms == pytest.approx(1.1)
    assert "stem.0" in latency_table(parts)


def test_every_operator_of_the_program_gets_its_time() -> None:
    times = timed_shapes("executorch", PROGRAM, SHAPES, ROWS, 4.0)
    assert [one.latency_ms for one in times.operators] == [2.5, 0.0, 0.4]
    assert times.rest_ms == pytest.approx(1.1)


def test_the_table_ranks_layers(parts) -> None:
    lines = [line.split() for line in latency_table(parts).splitlines()]
    assert lines[0][-2:] == ["predicted", "share"]
    assert [line[0] for line in lines[1:]] == ["stem.0", "the", "unknown", "between"]
    assert lines[1][-2:] == ["62.5", "%"]
    assert latency_table(None) == ""
