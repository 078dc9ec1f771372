"""Reading what QEMU's plugin and LLVM print."""

from __future__ import annotations

import json

import pytest

from edgekit.cost.emulation.counts import Block, parse_counts
from edgekit.cost.emulation.cycles import largest, parse_cycles
from edgekit.cost.emulation.plugin import plugin_api
from edgekit.device.qemu import Emulator
from edgekit.errors import RuntimeFailure

OUTPUT = """edgekit-blocks 2
runs 2
block 400080 d503201fd65f03c0
segment 9 30 10
caches 9 4 3 2
uses 0 5
block 400100 d503201f
segment 12 1 2
caches 1 0 1 0
uses 1 2 0 1
end
"""


def test_counts_of_segments() -> None:
    counts = parse_counts(OUTPUT)
    assert counts.runs == 2
    first, second = counts.segments
    assert (first.mark, first.loads, first.stores) == (9, 30, 10)
    assert [cache.misses for cache in first.caches] == [9, 3]
    assert first.dram_bytes == (3 + 2) * 64
    assert second.uses == ((1, 2), (0, 1))


def test_blocks_add_up_over_segments() -> None:
    counts = parse_counts(OUTPUT)
    words = (0xD503201F, 0xD65F03C0)
    assert counts.blocks(counts.segments) == [
        Block(0x400080, 6, words),
        Block(0x400100, 2, words[:1]),
    ]
    assert [block.times for block in counts.blocks(counts.segments[:1])] == [5, 0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        OUTPUT.removesuffix("end\n"),
        OUTPUT.replace("edgekit-blocks 2", "edgekit-blocks 9"),
        OUTPUT.replace("runs 2\n", ""),
        OUTPUT.replace("caches 9 4 3 2", "caches 9 4 3"),
        OUTPUT.replace("uses 0 5\n", ""),
        OUTPUT.replace("uses 1 2 0 1", "uses 7 2"),
        OUTPUT.replace("d503201fd65f03c0", "wrong"),
    ],
)
def test_incomplete_or_damaged_counts_are_an_error(text: str) -> None:
    with pytest.raises(RuntimeFailure):
        parse_counts(text)


def test_the_largest_blocks_hold_the_share() -> None:
    blocks = [Block(1, 1, (0,)), Block(2, 90, (0,)), Block(3, 1, (0,) * 9)]
    assert [block.address for block in largest(blocks, 0.95)] == [2, 3]
    assert [block.address for block in largest(blocks, 1.0)] == [2, 3, 1]
    assert largest([], 0.999) == []


def region(name: str, cycles: int) -> dict[str, object]:
    return {"Name": name, "SummaryView": {"TotalCycles": cycles, "Iterations": 100}}


def test_cycles_of_regions_by_name() -> None:
    output = json.dumps({"CodeRegions": [region("b2", 250), region("b0", 100)]}).encode()
    assert parse_cycles(output, 3) == [1.0, 0.0, 2.5]


@pytest.mark.parametrize("output", [b"", b"{}", b'{"CodeRegions": [{"Name": "b0"}]}', b"[1]"])
def test_another_answer_of_llvm_is_an_error(output: bytes) -> None:
    with pytest.raises(RuntimeFailure):
        parse_cycles(output, 1)


@pytest.mark.parametrize(
    ("version", "api"),
    [("7.2.22", 1), ("8.2.2", 1), ("9.0.0", 2), ("9.1.0", 3), ("10.0.2", 3)],
)
def test_the_plugin_interface_follows_the_version(version: str, api: int) -> None:
    assert plugin_api(Emulator("qemu-aarch64", version, frozenset())) == api
