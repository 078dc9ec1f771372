"""What the plugin of QEMU counted in one inference (native/block_counter.c). Pure functions."""

from __future__ import annotations

from typing import NamedTuple

from edgekit.cost.cores import LINE_BYTES
from edgekit.errors import RuntimeFailure

HEADER = "edgekit-blocks 1"


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


class Counts(NamedTuple):
    """``caches``: L1 first. ``runs``: how many inferences were marked; the last one counts."""

    runs: int
    loads: int
    stores: int
    caches: tuple[CacheCount, ...]
    blocks: tuple[Block, ...]

    @property
    def instructions(self) -> int:
        return sum(block.instructions for block in self.blocks)

    @property
    def dram_bytes(self) -> int:
        """Lines read from DRAM, and lines written back to it."""
        last = self.caches[-1]
        return (last.misses + last.write_backs) * LINE_BYTES


def parse_counts(text: str) -> Counts:
    """Raises RuntimeFailure if the text is not the plugin's complete output."""
    lines = text.splitlines()
    if not lines or lines[0] != HEADER or lines[-1] != "end":
        raise RuntimeFailure("the emulator's counts are incomplete")
    rows: dict[str, list[list[str]]] = {}
    for line in lines[1:-1]:
        name, *fields = line.split()
        rows.setdefault(name, []).append(fields)
    try:
        runs, (loads, stores) = int(rows["runs"][0][0]), map(int, rows["accesses"][0])
        caches = tuple(CacheCount(*map(int, fields)) for fields in rows["cache"])
        blocks = tuple(_block(fields) for fields in rows.get("block", []))
    except (KeyError, ValueError, TypeError):
        raise RuntimeFailure("the emulator's counts are damaged") from None
    return Counts(runs, loads, stores, caches, blocks)


def _block(fields: list[str]) -> Block:
    address, times, code = fields
    words = tuple(int(code[i : i + 8], 16) for i in range(0, len(code), 8))
    return Block(int(address, 16), int(times), words)
