"""Global alignment of two sequences in the same order, each with elements that the other lacks.

Dynamic programming (Needleman and Wunsch, J. Mol. Biol. 48, 1970). All cheapest alignments count:
where they differ, the result is ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# More pairs would take seconds, and some hundred bytes each.
MOST_PAIRS = 2_000_000

Table = list[list[int | None]]


def candidates(
    elide: Sequence[int], insert: Sequence[int], match: Callable[[int, int], int | None]
) -> list[set[int | None]]:
    """For each event, the items that match it in any cheapest alignment; None: no item.

    Costs: ``elide[i]`` of an item without event, ``insert[j]`` of an event without item,
    ``match(i, j)`` of a pair, None if it is impossible. Time and memory grow with the product of
    the lengths; above MOST_PAIRS no event matches any item.

    >>> candidates([1, 1], [1], lambda item, event: 0 if item == 1 else None)
    [{1}]
    """
    items, events = range(len(elide)), range(len(insert))
    if len(items) * len(events) > MOST_PAIRS:
        return [{None} for _ in events]
    table = [[match(i, j) for j in events] for i in items]
    forward = _costs(elide, insert, table)
    mirrored = [row[::-1] for row in table[::-1]]
    backward = [row[::-1] for row in _costs(elide[::-1], insert[::-1], mirrored)[::-1]]
    least = forward[-1][-1]
    matches: list[set[int | None]] = [set() for _ in events]
    for i in range(len(elide) + 1):
        for j in events:
            if forward[i][j] + insert[j] + backward[i][j + 1] == least:
                matches[j].add(None)
            cost = table[i][j] if i < len(elide) else None
            if cost is not None and forward[i][j] + cost + backward[i + 1][j + 1] == least:
                matches[j].add(i)
    return matches


def _costs(elide: Sequence[int], insert: Sequence[int], table: Table) -> list[list[int]]:
    """The least cost ``costs[i][j]`` of aligning the first i items and the first j events."""
    costs = [[0] * (len(insert) + 1) for _ in range(len(elide) + 1)]
    for j, cost in enumerate(insert):
        costs[0][j + 1] = costs[0][j] + cost
    for i, without in enumerate(elide):
        previous, row = costs[i], costs[i + 1]
        row[0] = previous[0] + without
        for j, extra in enumerate(insert):
            least = min(previous[j + 1] + without, row[j] + extra)
            pair = table[i][j]
            if pair is not None and previous[j] + pair < least:
                least = previous[j] + pair
            row[j + 1] = least
    return costs
