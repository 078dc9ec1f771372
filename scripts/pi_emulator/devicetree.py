"""One change to a flattened device tree: the name of the board at its root.

The format is chapter 5 of the Devicetree Specification (v17 of the blob).
"""

from __future__ import annotations

import struct

MAGIC = 0xD00DFEED
PROPERTY = 3
HEADER = struct.Struct(">10I")


def with_model(blob: bytes, model: str) -> bytes:
    """The same tree with ``model`` as its root's model. Raises ValueError: it is no such tree."""
    magic, _, tree_at, names_at, reserved_at, *versions, names_size, tree_size = HEADER.unpack_from(
        blob
    )
    if magic != MAGIC:
        raise ValueError("not a device tree")
    names = blob[names_at : names_at + names_size]
    tree = _replace(blob[tree_at : tree_at + tree_size], names, model.encode() + b"\0")
    reserved = blob[reserved_at : blob.index(bytes(16), reserved_at) + 16]
    reserved_at = HEADER.size
    tree_at = reserved_at + len(reserved)
    names_at = tree_at + len(tree)
    header = HEADER.pack(
        MAGIC, names_at + len(names), tree_at, names_at, reserved_at, *versions,
        len(names), len(tree),
    )  # fmt: skip
    return header + reserved + tree + names


def _replace(tree: bytes, names: bytes, value: bytes) -> bytes:
    """A root's properties come first: token, size, offset of the name, padded value."""
    at = 8  # the token that opens the root, and its empty name
    while struct.unpack_from(">I", tree, at)[0] == PROPERTY:
        size, name_at = struct.unpack_from(">2I", tree, at + 4)
        end = at + 12 + _padded(size)
        if names[name_at : names.index(b"\0", name_at)] == b"model":
            prop = struct.pack(">3I", PROPERTY, len(value), name_at)
            return tree[:at] + prop + value.ljust(_padded(len(value)), b"\0") + tree[end:]
        at = end
    raise ValueError("its root has no model")


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4
