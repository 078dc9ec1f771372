"""Frames of the runner's serving protocol (docs/runner.md), written without edgekit's client."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<4sIQ")


def frame(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(b"EKF1", kind, len(payload)) + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The kinds and payloads of frames one after another."""
    found = []
    while data:
        magic, kind, length = HEADER.unpack_from(data)
        assert magic == b"EKF1"
        found.append((kind, data[16 : 16 + length]))
        data = data[16 + length :]
    return found
