"""The order of a signature's inputs and outputs.

The converter sorts them by name: args_10 before args_2. The runner and applications give them by
place, so they get back the model's own order.
"""

from __future__ import annotations

from edgekit.errors import RuntimeFailure


def in_order(data: bytes) -> bytes:
    """The file with the inputs and outputs of its signatures in the order of their numbers."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
    changed = False
    for signature in model.signatureDefs or []:
        for side in (signature.inputs, signature.outputs):
            ordered = sorted(side, key=lambda one: _number(one.name))
            changed = changed or [one.name for one in ordered] != [one.name for one in side]
            side[:] = ordered
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else data


def _number(name: bytes) -> int:
    """The number at the end of args_7 or output_7."""
    digits = name.decode().rpartition("_")[2]
    if not digits.isdigit():
        raise RuntimeFailure(f"LiteRT's converter named an input {name.decode()}, without a number")
    return int(digits)
