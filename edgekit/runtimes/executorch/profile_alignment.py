"""Two sequences in the same order, of which each may have what the other lacks: what is what?

Global alignment by dynamic programming (Needleman and Wunsch, J. Mol. Biol. 48, 1970), with all
the cheapest alignments kept instead of one of them: where they differ, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Above, nothing is known: seconds and some hundred bytes a pair would go into it.
MOST_PAIRS = 2_000_000

Table = list[list[int | None]]


def candidates(
    elide: Sequence[int], insert: Sequence[int], match: Callable[[int, int], int | None]
) -> list[set[int | None]]:
    """For each event the items that it stands for in a cheapest alignment; None: for no item.

    ``elide[i]`` is what it costs that item i has no event, ``insert[j]`` that event j has no
    item; ``match(i, j)`` that they are each other's, None where they cannot be. Time and memory
    grow with the product of the lengths: above MOST_PAIRS every event stands for no item.

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
    found: list[set[int | None]] = [set() for _ in events]
    for i in range(len(elide) + 1):
        for j in events:
            if forward[i][j] + insert[j] + backward[i][j + 1] == least:
                found[j].add(None)
            cost = table[i][j] if i < len(elide) else None
            if cost is not None and forward[i][j] + cost + backward[i + 1][j + 1] == least:
                found[j].add(i)
    return found


def _costs(elide: Sequence[int], insert: Sequence[int], table: Table) -> list[list[int]]:
    """``costs[i][j]``: the least that the first i items and the first j events can cost."""
    costs = [[0] * (len(insert) + 1) for _ in range(len(elide) + 1)]
    for j, cost in enumerate(insert):
        costs[0][j + 1] = costs[0][j] + cost
    for i, without in enumerate(elide):
        before, row = costs[i], costs[i + 1]
        row[0] = before[0] + without
        for j, extra in enumerate(insert):
            least = min(before[j + 1] + without, row[j] + extra)
            together = table[i][j]
            if together is not None and before[j] + together < least:
                least = before[j] + together
            row[j + 1] = least
    return costs
