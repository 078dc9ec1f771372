"""The sizes of XNNPACK's nodes, computed by hand."""

from __future__ import annotations

import struct
from typing import Any

from edgekit.runtimes.executorch.memory import Node, Value, flatbuffer_bytes
from edgekit.runtimes.xnnpack.packing import TILES

FLOAT, HALF, INT8 = "xnn_datatype_fp32", "xnn_datatype_fp16", "xnn_datatype_qcint8"


def value(number: int, dims: list[int], kind: str = FLOAT, constant: int = 0) -> Value:
    tensor: dict[str, Any] = {"id_out": number, "dims": dims, "datatype": kind}
    return Value({"xvalue_union": {**tensor, "constant_buffer_idx": constant}})


def node(name: str, values: list[Value], **fields: int) -> Node:
    entry = {"xnode_union_type": f"XNN{name}", "xnode_union": fields}
    return Node(entry, {one.number: one for one in values}, TILES["x86_64"])


def conv(
    side: int, groups: int, inputs: int, outputs: int, kind: str, name: str, result: str = FLOAT
) -> Node:
    filters = value(2, [outputs * groups, side, side, inputs], kind, constant=1)
    return node(
        name, [value(1, [1, 8, 8, 4]), filters, value(4, [1, 8, 8, 20], result)],
        input1_id=1, filter_id=2, bias_id=3, output_id=4, kernel_height=side, kernel_width=side,
        subsampling_height=1, subsampling_width=1, groups=groups, group_input_channels=inputs,
        group_output_channels=outputs,
    )  # fmt: skip


def test_channels_are_padded_to_the_kernel_s_tile() -> None:
    # 20 channels in tiles of 16 are 32; each has 9 * 4 weights and a bias
    assert conv(3, 1, 4, 20, FLOAT, "Conv2d").packed_bytes == 32 * (9 * 4 * 4 + 4)
    # in int8, 4 input channels are padded to 8; bias and scale take 8 bytes
    assert conv(3, 1, 4, 20, INT8, "Conv2d").packed_bytes == 32 * (9 * 8 + 8)


def test_weights_of_half_precision_are_packed_in_two_bytes() -> None:
    for stored in (HALF, FLOAT):  # XNNPACK converts the latter
        packed = conv(3, 1, 4, 20, stored, "Conv2d", HALF).packed_bytes
        assert packed == 32 * (9 * 4 * 2 + 2)


def test_a_convolution_has_a_pointer_for_each_output_pixel_and_tap() -> None:
    assert conv(3, 1, 4, 20, FLOAT, "Conv2d").table_bytes == 8 * 8 * 9 * 8
    assert conv(1, 1, 4, 20, FLOAT, "Conv2d").table_bytes == 0


def test_a_depthwise_convolution_shares_its_pointers() -> None:
    depthwise = conv(3, 20, 1, 1, FLOAT, "DepthwiseConv2d")
    assert depthwise.packed_bytes == 32 * (9 * 4 + 4)
    assert depthwise.table_bytes == 8 * (9 + 7 * 3) * 8


def test_a_large_depthwise_kernel_is_packed_as_a_grouped_convolution() -> None:
    assert conv(7, 20, 1, 1, INT8, "DepthwiseConv2d").packed_bytes == 20 * 16 * (49 * 8 + 8)


def test_weights_that_are_no_constants_are_not_packed() -> None:
    values = [value(1, [1, 4]), value(2, [8, 4]), value(3, [1, 8])]
    layer = node("FullyConnected", values, input1_id=1, filter_id=2, output_id=3)
    assert layer.packed_bytes == 0


def test_a_product_packs_its_second_operand() -> None:
    values = [value(1, [2, 3, 4]), value(2, [2, 4, 5]), value(3, [2, 3, 5])]
    product = node("BatchMatrixMultiply", values, input1_id=1, input2_id=2, output_id=3)
    assert product.step.inputs == (1, 2)
    assert product.step.scratch_bytes == 2 * 4 * 5 * 4


def test_constants_and_external_values_take_no_workspace() -> None:
    external = Value({"xvalue_union": {"id_out": 1, "dims": [4], "datatype": FLOAT, "flags": 1}})
    assert not external.is_internal
    assert not value(1, [4], constant=1).is_internal
    assert value(1, [4]).is_internal


def test_the_flatbuffer_s_size_is_in_the_extended_header() -> None:
    data = b"\0\0\0\0ET12eh00" + struct.pack("<IQQ", 24, 100, 128) + b"\0" * 500
    assert flatbuffer_bytes(data) == 100
    assert flatbuffer_bytes(b"\0" * 50) == 50
