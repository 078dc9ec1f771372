"""The solver against all possible choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest

from edgekit.search.solver import solve
from edgekit.search.space import LOSS, Block, Bound, Choice, Part, Space, Widths, at_most


def random_space(seed: int, groups: int = 4, options: int = 3, blocks: int = 2) -> Space:
    draw = np.random.default_rng(seed)
    widths = tuple(range(8, 8 * options + 1, 8))
    parts = [Part((), None, {"latency_ms": np.array(0.3)})]
    for index in range(groups):
        pair = (f"g{index}", f"g{(index + 1) % groups}")
        cost = draw.uniform(0.1, 1) * np.multiply.outer(widths, widths) / widths[-1] ** 2
        block = f"b{index % blocks}" if blocks and index % 2 else None
        parts.append(Part(pair, block, {"latency_ms": cost, "size_mb": cost / 3}))
        parts.append(Part(pair[:1], None, {f"live_{index}": np.array(widths) / widths[-1]}))
    losses = [(*sorted(draw.exponential(1, options - 1), reverse=True), 0.0) for _ in range(groups)]
    return Space(
        tuple(Widths(f"g{index}", widths, row) for index, row in enumerate(losses)),
        tuple(Block(f"b{index}", draw.exponential(1)) for index in range(blocks)),
        tuple(parts),
        {"latency_ms": 0.1},
        0.25,
    )


def choices(space: Space) -> Iterator[Choice]:
    names = [group.group for group in space.groups]
    for widths in product(*(group.widths for group in space.groups)):
        for flags in product((False, True), repeat=len(space.blocks)):
            dropped = {b.name for b, flag in zip(space.blocks, flags, strict=True) if flag}
            yield Choice(dict(zip(names, widths, strict=True)), frozenset(dropped))


def fits(space: Space, choice: Choice, bounds: Sequence[Bound]) -> bool:
    return all(bound.holds(space, choice) for bound in bounds)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("blocks", [0, 2])
def test_no_other_choice_within_the_limits_loses_less(seed: int, blocks: int) -> None:
    space = random_space(seed, blocks=blocks)
    whole = space.cost("latency_ms", space.whole)
    size_mb = space.cost("size_mb", space.whole)
    both = Bound({"size_mb": 1.0, "live_1": 0.5}, 0.8 * size_mb + 0.35)
    limits = (*at_most(latency_ms=0.6 * whole, size_mb=0.85 * size_mb, live_1=0.7), both)
    found = solve(space, limits)
    assert found is not None and fits(space, found, limits)
    best = min(space.loss_of(choice) for choice in choices(space) if fits(space, choice, limits))
    assert space.loss_of(found) == pytest.approx(best, abs=1e-3)


def test_the_least_of_a_resource_under_a_limit_of_the_loss() -> None:
    space = random_space(1)
    found = solve(space, at_most(loss=1.5), minimize="latency_ms")
    assert found is not None and space.loss_of(found) <= 1.5 + 1e-9
    best = min(
        space.cost("latency_ms", choice) for choice in choices(space)
        if space.loss_of(choice) <= 1.5
    )  # fmt: skip
    assert space.cost("latency_ms", found) == pytest.approx(best, abs=1e-3)


def test_without_need_nothing_is_removed_and_the_impossible_is_none() -> None:
    space = random_space(2)
    assert solve(space, at_most(latency_ms=1e3)) == space.whole
    assert solve(space, at_most(latency_ms=0.2)) is None
    assert solve(space, [Bound({LOSS: 1.0}, 0.1)]) is None, "the input size alone loses more"


def test_excluded_choices_are_not_found_again() -> None:
    space = random_space(3)
    limits = at_most(latency_ms=0.7 * space.cost("latency_ms", space.whole))
    first = solve(space, limits)
    assert first is not None
    second = solve(space, limits, other_than=(first,))
    assert second is not None and second != first
    assert space.loss_of(second) >= space.loss_of(first) - 1e-6
