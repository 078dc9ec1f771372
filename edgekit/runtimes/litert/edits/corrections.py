"""Corrections of what the converter and the quantizer write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekit.errors import RuntimeFailure


def in_order(data: bytes) -> bytes:
    """The file with the inputs and outputs of its signatures in the order of their numbers.

    The converter sorts them by name: args_10 before args_2. The runner and applications give them
    by place.
    """
    return edited(data, _sort)


def without_returns_to_float(data: bytes) -> bytes:
    """The file in which no integer operator reads what was converted to float for an output.

    The quantizer gives an output that other operators also read to them as float.
    """
    return edited(data, _read_stored)


def edited(data: bytes, edit: Callable[[Any], bool]) -> bytes:
    """The file after ``edit``, which returns whether it changed the model; else the same bytes."""
    from ai_edge_litert.tools import flatbuffer_utils

    # with the constants that the quantizer stores behind the flatbuffer
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if edit(model) else data


def _sort(model: Any) -> bool:
    changed = False
    for signature in model.signatureDefs or []:
        for side in (signature.inputs, signature.outputs):
            ordered = sorted(side, key=lambda one: _number(one.name))
            changed = changed or [one.name for one in ordered] != [one.name for one in side]
            side[:] = ordered
    return changed


def _read_stored(model: Any) -> bool:
    from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

    changed = False
    for graph in model.subgraphs:
        operators = [
            (one, model.operatorCodes[one.opcodeIndex].builtinCode) for one in graph.operators
        ]
        stored = {
            one.outputs[0]: one.inputs[0]
            for one, kind in operators
            if kind == BuiltinOperator.DEQUANTIZE
        }
        for one, kind in operators:
            is_integer = graph.tensors[one.outputs[0]].type == TensorType.INT8
            if kind == BuiltinOperator.QUANTIZE or not is_integer:
                continue
            inputs = [stored.get(number, number) for number in one.inputs]
            changed = changed or inputs != list(one.inputs)
            one.inputs = inputs
    return changed


def _number(name: bytes) -> int:
    """The number at the end of args_7 or output_7."""
    digits = name.decode().rpartition("_")[2]
    if not digits.isdigit():
        raise RuntimeFailure(
            f"LiteRT's converter named an input {name.decode()}, without a number",
            "build the model with --runtime executorch",
        )
    return int(digits)
