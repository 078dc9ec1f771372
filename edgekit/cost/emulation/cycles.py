"""Cycles of basic blocks on a core, by LLVM's machine-code analyzer (llvm-mca).

Each block is analyzed as a loop of 100 iterations: its dependences on itself count, those on other
blocks do not. The blocks that together hold 99.9 % of the instructions are analyzed; the others get
their mean cycles per instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from edgekit.cost.emulation.counts import Block
from edgekit.cost.emulation.tools import Llvm
from edgekit.device.local import LocalTransport
from edgekit.errors import RuntimeFailure

ITERATIONS = 100
SHARE = 0.999
TIME_LIMIT_S = 120.0
NOTHING = "nop"
INVALID = re.compile(rb"<stdin>:(\d+):\d+: warning: invalid instruction encoding")


def cycles_of_blocks(blocks: Sequence[Block], llvm: Llvm, llvm_cpu: str) -> list[float]:
    """Cycles of one execution of each block. Raises RuntimeFailure if LLVM's programs fail."""
    chosen = largest(blocks, SHARE)
    if not chosen:
        return [0.0] * len(blocks)
    text = disassemble({word for block in chosen for word in block.words}, llvm)
    listings = [[text[word] for word in block.words] for block in chosen]
    found = dict(zip(chosen, block_cycles(listings, llvm, llvm_cpu), strict=True))
    cycles = sum(block.times * each for block, each in found.items())
    mean = cycles / sum(block.instructions for block in chosen)
    return [found.get(block, mean * len(block.words)) for block in blocks]


def largest(blocks: Sequence[Block], share: float) -> list[Block]:
    """The blocks with the most executed instructions that hold ``share`` of all."""
    left = share * sum(block.instructions for block in blocks)
    chosen = []
    for block in sorted(blocks, key=lambda block: (-block.instructions, block.address)):
        if left <= 0:
            break
        chosen.append(block)
        left -= block.instructions
    return chosen


def disassemble(words: set[int], llvm: Llvm) -> dict[int, str]:
    """Assembly text of each instruction; ``nop`` for what LLVM does not know."""
    order = sorted(words)
    lines, invalid = _disassemble_lines(order, llvm)
    valid = [word for index, word in enumerate(order, 1) if index not in invalid]
    if len(lines) != len(valid):
        raise RuntimeFailure(f"{llvm.mc} decoded {len(lines)} of {len(valid)} instructions")
    return dict.fromkeys(order, NOTHING) | dict(zip(valid, lines, strict=True))


def _disassemble_lines(order: list[int], llvm: Llvm) -> tuple[list[str], set[int]]:
    codes = [word.to_bytes(4, "little") for word in order]
    source = "\n".join(" ".join(f"{byte:#x}" for byte in code) for code in codes)
    command = [llvm.mc, "--disassemble", "-triple=aarch64", "-mattr=+all"]
    out, errors = _run(command, source, (0, 1))
    lines = [line.split("//")[0].strip() for line in out.decode().splitlines()]
    invalid = {int(number) for number in INVALID.findall(errors)}
    return [line for line in lines if line and not line.startswith(".")], invalid


def block_cycles(listings: Sequence[Sequence[str]], llvm: Llvm, llvm_cpu: str) -> list[float]:
    """Cycles of one execution of each listing."""
    source = "".join(
        f"# LLVM-MCA-BEGIN b{index}\n" + "\n".join(listing) + "\n# LLVM-MCA-END\n"
        for index, listing in enumerate(listings)
    )
    command = [
        llvm.mca, "-mtriple=aarch64", f"-mcpu={llvm_cpu}", "-mattr=+all", "-json",
        "-call-latency=1", "-skip-unsupported-instructions=any", f"-iterations={ITERATIONS}",
        "-instruction-info=false", "-resource-pressure=false",
    ]  # fmt: skip
    return parse_cycles(_run(command, source)[0], len(listings))


def parse_cycles(output: bytes, count: int) -> list[float]:
    """Cycles of one iteration of the regions b0, b1, ... Raises RuntimeFailure.

    A region that has only unsupported instructions is absent: it costs nothing.
    """
    try:
        views = {one["Name"]: one["SummaryView"] for one in json.loads(output)["CodeRegions"]}
        cycles = {name: view["TotalCycles"] / view["Iterations"] for name, view in views.items()}
    except (ValueError, KeyError, TypeError):
        raise RuntimeFailure("llvm-mca's answer is not the expected JSON") from None
    return [float(cycles.get(f"b{index}", 0.0)) for index in range(count)]


def _run(command: list[str], source: str, good: tuple[int, ...] = (0,)) -> tuple[bytes, bytes]:
    try:
        done = LocalTransport().run(command, stdin=source.encode(), timeout_s=TIME_LIMIT_S)
    except TimeoutError:
        raise RuntimeFailure(f"{command[0]} took longer than {TIME_LIMIT_S:g} s") from None
    if done.returncode not in good:
        message = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeFailure(f"{command[0]} failed: {message[0] if message else 'no message'}")
    return done.stdout, done.stderr
