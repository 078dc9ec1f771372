"""The C library of a device, from what its programs and file names report. Pure."""

from __future__ import annotations

import re


def glibc_version(text: str) -> tuple[int, int] | None:
    """Parse getconf ("glibc 2.36"), a file name ("libc-2.31.so") or the loader's first line."""
    match = re.search(r"(?:^glibc |libc-|GLIBC |release version )(\d+)\.(\d+)", text, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def userland_bits(long_bit: str, loaders: str) -> int | None:
    """32 or 64, from ``getconf LONG_BIT``, else from the names of glibc's or musl's loaders."""
    if long_bit.strip() in ("32", "64"):
        return int(long_bit)
    names = loaders.split()
    if any(re.search(r"ld-(linux|musl)-(aarch64|x86[-_]64|riscv64)", name) for name in names):
        return 64
    if any(re.search(r"ld-(linux\.so|linux-armhf|linux\.|musl-arm|musl-i386)", n) for n in names):
        return 32
    return None
