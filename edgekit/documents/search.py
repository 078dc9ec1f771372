"""The record of a search under budgets, in the documents of build and explain."""

from __future__ import annotations

from edgekit.budget import Origin
from edgekit.frozen import Extensible, Omitted


class SearchPoint(Extensible):
    """A smaller model that was tried.

    ``input_size``: height and width; None: the recipe's. ``macs``: its share of the original's
    multiply-accumulates. ``loss``: how far its outputs are from the original's before training, in
    the unit in which the search adds losses up. ``recovered_loss``: of finalists, after a short
    training, in the unit of that training. ``latency_ms``, ``peak_memory_mb``, ``size_mb``:
    None if it was not built for that. ``latency_interval_ms``: the interval of ``latency_ms``.
    ``kept``: it went on to training. ``why``: why or why not.
    """

    input_size: tuple[int, int] | None
    dropped: tuple[str, ...]
    macs: float
    loss: float
    recovered_loss: float | None = None
    latency_ms: float | None = None
    latency_interval_ms: tuple[float, float] | None = None
    peak_memory_mb: float | None = None
    size_mb: float | None = None
    source: Origin | None = None
    accuracy_drop: float | None = None
    kept: bool = False
    why: str = ""


class BoundConstraint(Extensible):
    """A constraint of the build that took choices from the search. ``held``: the groups of channels
    (by their first layer), blocks, input sizes or layers that it concerns.
    """

    constraint: str
    held: tuple[str, ...]


class SearchReport(Extensible):
    """``reason``: why the search started. ``end``: how it ended. ``constraints``: those that bound
    it; JSON has no such key if there are none.
    """

    reason: str
    end: str
    points: tuple[SearchPoint, ...] = ()
    constraints: Omitted[tuple[BoundConstraint, ...]] = ()
