"""Conversions between numpy arrays and the runners' raw bytes in C order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.program import ITEM_SIZE


def decode(data: bytes, dtype: str) -> NDArray[np.generic]:
    """A flat array of ``data``. bfloat16, which numpy lacks, is returned as float32."""
    if dtype == "bfloat16":
        high = np.frombuffer(data, dtype="<u2").astype("<u4")
        return (high << 16).view("<f4")
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))


def expand(data: bytes, byte_count: int) -> bytes:
    """``data`` repeated to ``byte_count`` bytes, as a golden input fills a large tensor."""
    if not data and byte_count:
        raise ValueError("an empty file cannot fill a tensor")
    repeats = -(-byte_count // len(data)) if data else 0
    return (data * repeats)[:byte_count]


def take_every(data: bytes, dtype: str, stride: int) -> bytes:
    """Every ``stride``-th element, as a golden output represents a large tensor."""
    size = ITEM_SIZE[dtype]
    elements = np.frombuffer(data, dtype=np.dtype((np.void, size)))
    return elements[::stride].tobytes()
