"""Reading what QEMU's plugin and LLVM print."""

from __future__ import annotations

import json

import pytest

from edgekit.cost.emulation.counts import Block, parse_counts
from edgekit.cost.emulation.cycles import largest, parse_cycles
from edgekit.cost.emulation.plugin import plugin_api
from edgekit.device.qemu import Emulator
from edgekit.errors import RuntimeFailure

OUTPUT = """edgekit-blocks 1
runs 2
accesses 30 10
cache 9 4
cache 3 2
block 400080 5 d503201fd65f03c0
block 400100 2 d503201f
end
"""


def test_counts() -> None:
    counts = parse_counts(OUTPUT)
    assert (counts.runs, counts.loads, counts.stores) == (2, 30, 10)
    assert counts.blocks[0] == Block(0x400080, 5, (0xD503201F, 0xD65F03C0))
    assert counts.instructions == 5 * 2 + 2
    assert counts.dram_bytes == (3 + 2) * 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        OUTPUT.removesuffix("end\n"),
        OUTPUT.replace("edgekit-blocks 1", "edgekit-blocks 9"),
        OUTPUT.replace("runs 2\n", ""),
        OUTPUT.replace("cache 9 4", "cache 9"),
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
