"""Names of Arm cores by their Main ID Register (MIDR_EL1): implementer and part number.

Sources: Arm's technical reference manuals; util-linux, sys-utils/lscpu-arm.c; GCC's
aarch64-cores.def for the names of ``-mcpu``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ARM, CAVIUM, FUJITSU, HISILICON = 0x41, 0x43, 0x46, 0x48
NVIDIA, QUALCOMM, APPLE, AMPERE = 0x4E, 0x51, 0x61, 0xC0


@dataclass(frozen=True)
class CoreName:
    """``gcc``: the name in GCC and, where it knows the core, in QEMU; None if GCC has none.

    ``little``: a slow, efficient core, which inference avoids if there are others.
    """

    name: str
    gcc: str | None = None
    little: bool = False


def _arm(name: str, little: bool = False) -> CoreName:
    return CoreName(name, name.lower(), little)


CORE_NAMES = {
    (ARM, 0xB76): CoreName("ARM1176"),
    (ARM, 0xC05): _arm("Cortex-A5", little=True),
    (ARM, 0xC07): _arm("Cortex-A7", little=True),
    (ARM, 0xC08): _arm("Cortex-A8"),
    (ARM, 0xC09): _arm("Cortex-A9"),
    (ARM, 0xC0F): _arm("Cortex-A15"),
    (ARM, 0xD02): _arm("Cortex-A34", little=True),
    (ARM, 0xD03): _arm("Cortex-A53", little=True),
    (ARM, 0xD04): _arm("Cortex-A35", little=True),
    (ARM, 0xD05): _arm("Cortex-A55", little=True),
    (ARM, 0xD06): _arm("Cortex-A65", little=True),
    (ARM, 0xD07): _arm("Cortex-A57"),
    (ARM, 0xD08): _arm("Cortex-A72"),
    (ARM, 0xD09): _arm("Cortex-A73"),
    (ARM, 0xD0A): _arm("Cortex-A75"),
    (ARM, 0xD0B): _arm("Cortex-A76"),
    (ARM, 0xD0C): _arm("Neoverse-N1"),
    (ARM, 0xD0D): _arm("Cortex-A77"),
    (ARM, 0xD0E): _arm("Cortex-A76AE"),
    (ARM, 0xD40): _arm("Neoverse-V1"),
    (ARM, 0xD41): _arm("Cortex-A78"),
    (ARM, 0xD42): _arm("Cortex-A78AE"),
    (ARM, 0xD44): _arm("Cortex-X1"),
    (ARM, 0xD46): _arm("Cortex-A510", little=True),
    (ARM, 0xD47): _arm("Cortex-A710"),
    (ARM, 0xD48): _arm("Cortex-X2"),
    (ARM, 0xD49): _arm("Neoverse-N2"),
    (ARM, 0xD4B): _arm("Cortex-A78C"),
    (ARM, 0xD4C): _arm("Cortex-X1C"),
    (ARM, 0xD4D): _arm("Cortex-A715"),
    (ARM, 0xD4E): _arm("Cortex-X3"),
    (ARM, 0xD4F): _arm("Neoverse-V2"),
    (ARM, 0xD80): _arm("Cortex-A520", little=True),
    (ARM, 0xD81): _arm("Cortex-A720"),
    (ARM, 0xD82): _arm("Cortex-X4"),
    (ARM, 0xD84): _arm("Neoverse-V3"),
    (ARM, 0xD85): _arm("Cortex-X925"),
    (ARM, 0xD87): _arm("Cortex-A725"),
    (ARM, 0xD8E): _arm("Neoverse-N3"),
    (CAVIUM, 0x0AF): CoreName("ThunderX2-99xx", "thunderx2t99"),
    (FUJITSU, 0x001): CoreName("A64FX", "a64fx"),
    (HISILICON, 0xD01): CoreName("TaiShan-v110", "tsv110"),
    (NVIDIA, 0x003): CoreName("Denver 2"),
    (NVIDIA, 0x004): CoreName("Carmel"),
    (QUALCOMM, 0x802): CoreName("Kryo 3xx Gold"),
    (QUALCOMM, 0x803): CoreName("Kryo 3xx Silver", little=True),
    (QUALCOMM, 0x804): CoreName("Kryo 4xx Gold"),
    (QUALCOMM, 0x805): CoreName("Kryo 4xx Silver", little=True),
    (APPLE, 0x022): CoreName("Apple Icestorm (M1)", little=True),
    (APPLE, 0x023): CoreName("Apple Firestorm (M1)"),
    (APPLE, 0x032): CoreName("Apple Blizzard (M2)", little=True),
    (APPLE, 0x033): CoreName("Apple Avalanche (M2)"),
    (AMPERE, 0xAC3): CoreName("Ampere-1", "ampere1"),
    (AMPERE, 0xAC4): CoreName("Ampere-1a", "ampere1a"),
}


def core_name(implementer: str | None, part: str) -> CoreName:
    """The core with these fields of /proc/cpuinfo; one that is not in the table has no GCC name."""
    try:
        key = (int(implementer or "", 16), int(part, 16))
    except ValueError:
        return CoreName(f"part {part}")
    if key in CORE_NAMES:
        return CORE_NAMES[key]
    return CoreName(f"part {part}" if key[0] == ARM else f"implementer {implementer} part {part}")


def processors(cpuinfo: str) -> dict[int, CoreName | None]:
    """Number of each processor in /proc/cpuinfo -> its core; None if unknown (x86 included).

    Kernels before 3.8 print one part number for all processors, after the last one.
    """
    blocks = re.split(r"^processor\s*:", cpuinfo, flags=re.MULTILINE)[1:]
    implementers, parts = (
        re.findall(rf"^CPU {field}\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
        for field in ("implementer", "part")
    )
    found: dict[int, CoreName | None] = {}
    for block in blocks:
        number = re.match(r"\s*(\d+)", block)
        if number is None:
            continue
        own = re.search(r"^CPU part\s*:\s*(\S+)", block, re.MULTILINE)
        maker = re.search(r"^CPU implementer\s*:\s*(\S+)", block, re.MULTILINE)
        part = own[1] if own else (parts[-1] if parts else None)
        implementer = maker[1] if maker else (implementers[-1] if implementers else None)
        found[int(number[1])] = core_name(implementer, part) if part else None
    return found


def cpu_name(cpuinfo: str) -> str | None:
    """The processor's name: x86 reports it; Arm reports parts, of which there may be several."""
    names = [core.name for core in processors(cpuinfo).values() if core]
    if names:
        return " + ".join(dict.fromkeys(names))
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else None
