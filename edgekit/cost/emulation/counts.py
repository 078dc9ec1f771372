"""What the plugin of QEMU counted in one inference (native/block_counter.c). Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgekit.cost.cores import LINE_BYTES
from edgekit.errors import RuntimeFailure

HEADER = "edgekit-blocks 2"


class Block(NamedTuple):
    """Instructions with one entry, executed ``times`` times. ``words``: their 32-bit codes."""

    address: int
    times: int
    words: tuple[int, ...]

    @property
    def instructions(self) -> int:
        return self.times * len(self.words)


class CacheCount(NamedTuple):
    misses: int
    write_backs: int


class Segment(NamedTuple):
    """The part of an inference that ends with ``mark`` (edgekit/runner/native/markers.h).

    ``caches``: L1 first. ``uses``: numbers of blocks, and how often each was executed.
    """

    mark: int
    loads: int
    stores: int
    caches: tuple[CacheCount, ...]
    uses: tuple[tuple[int, int], ...]

    @property
    def dram_bytes(self) -> int:
        """Lines read from DRAM, and lines written back to it."""
        last = self.caches[-1]
        return (last.misses + last.write_backs) * LINE_BYTES


def joined(parts: Sequence[Segment]) -> Segment:
    """Several segments as one."""
    levels = zip(*(part.caches for part in parts), strict=True)
    return Segment(
        mark=parts[-1].mark,
        loads=sum(part.loads for part in parts),
        stores=sum(part.stores for part in parts),
        caches=tuple(CacheCount(*map(sum, zip(*level, strict=True))) for level in levels),
        uses=tuple(use for part in parts for use in part.uses),
    )


class Counts(NamedTuple):
    """``runs``: how many inferences were marked; ``segments`` are those of the last one.
    ``codes``: address and words of each block.
    """

    runs: int
    codes: tuple[tuple[int, tuple[int, ...]], ...]
    segments: tuple[Segment, ...]

    def blocks(self, segments: Iterable[Segment]) -> list[Block]:
        """All blocks, with the executions in these segments."""
        times: Counter[int] = Counter()
        for segment in segments:
            for number, count in segment.uses:
                times[number] += count
        return [
            Block(address, times[number], words)
            for number, (address, words) in enumerate(self.codes)
        ]


def parse_counts(text: str) -> Counts:
    """Raises RuntimeFailure if the text is not the plugin's complete output."""
    lines = text.splitlines()
    if not lines or lines[0] != HEADER or lines[-1] != "end":
        raise RuntimeFailure("the emulator's counts are incomplete")
    rows: dict[str, list[list[str]]] = {name: [] for name in ("segment", "caches", "uses", "block")}
    for line in lines[1:-1]:
        name, *fields = line.split()
        rows.setdefault(name, []).append(fields)
    try:
        codes = tuple(_code(fields) for fields in rows["block"])
        parts = zip(rows["segment"], rows["caches"], rows["uses"], strict=True)
        segments = tuple(_segment(*part, len(codes)) for part in parts)
        return Counts(int(rows["runs"][0][0]), codes, segments)
    except (KeyError, ValueError, TypeError, IndexError):
        raise RuntimeFailure("the emulator's counts are damaged") from None


def _code(fields: list[str]) -> tuple[int, tuple[int, ...]]:
    address, code = fields
    return int(address, 16), tuple(int(code[i : i + 8], 16) for i in range(0, len(code), 8))


def _segment(fields: list[str], caches: list[str], uses: list[str], blocks: int) -> Segment:
    mark, loads, stores = map(int, fields)
    executed = tuple(zip(map(int, uses[::2]), map(int, uses[1::2]), strict=True))
    if any(not 0 <= number < blocks for number, _ in executed):
        raise ValueError("a segment has a block that does not exist")
    levels = zip(map(int, caches[::2]), map(int, caches[1::2]), strict=True)
    return Segment(mark, loads, stores, tuple(CacheCount(*level) for level in levels), executed)
