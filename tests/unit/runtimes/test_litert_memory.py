"""The sizes of a .tflite in memory: small graphs, computed by hand."""

from __future__ import annotations

from edgekit.cost.ledger import ledger
from edgekit.program import Call, Kind, Program, Quantization, TensorSpec
from edgekit.runtimes.litert.flatbuffer import Graph, Node, Tensor
from edgekit.runtimes.litert.memory import memory_sizes, packed_bytes, table_bytes
from edgekit.runtimes.xnnpack.packing import TILES

X86 = TILES["x86_64"]
STEPS = Quantization(scale=0.1, zero_point=0, dtype="int8")


def value(*shape: int, dtype: str = "int8") -> Tensor:
    return Tensor("value", dtype, shape, 0, None)


def weight(*shape: int, dtype: str = "int8") -> Tensor:
    count = 1
    for size in shape:
        count *= size
    return Tensor("weight", dtype, shape, count * (1 if dtype == "int8" else 4), None)


def graph(*tensors: Tensor, nodes: tuple[Node, ...] = ()) -> Graph:
    return Graph(tensors, nodes, (0,), (len(tensors) - 1,))


def test_a_convolution_packs_rows_of_16_channels() -> None:
    net = graph(value(1, 8, 8, 3), weight(20, 3, 3, 3), value(1, 6, 6, 20))
    node = Node("CONV_2D", (0, 1), (2,))
    # 20 channels become 32; 3 input channels become 8; a bias and a scale for each
    assert packed_bytes(net, node, X86) == 32 * (9 * 8 + 8)
    assert table_bytes(net, node) == 36 * 9 * 8
    floating = graph(value(1, 8, 8, 3), weight(20, 3, 3, 3, dtype="float32"), value(1, 6, 6, 20))
    assert packed_bytes(floating, node, X86) == 32 * (9 * 3 * 4 + 4)


def test_a_convolution_of_one_pixel_has_no_table() -> None:
    net = graph(value(1, 8, 8, 16), weight(16, 1, 1, 16), value(1, 8, 8, 16))
    assert table_bytes(net, Node("CONV_2D", (0, 1), (2,))) == 0
    assert table_bytes(net, Node("CONV_2D", (0, 1), (2,), stride=(2, 2))) == 64 * 8


def test_groups_are_packed_each_alone() -> None:
    net = graph(value(1, 8, 8, 32), weight(32, 1, 1, 16), value(1, 8, 8, 32))
    assert packed_bytes(net, Node("CONV_2D", (0, 1), (2,)), X86) == 2 * 16 * (16 + 8)


def test_a_depthwise_convolution() -> None:
    net = graph(value(1, 8, 8, 20), weight(1, 3, 3, 20), value(1, 8, 8, 20))
    node = Node("DEPTHWISE_CONV_2D", (0, 1), (2,))
    assert packed_bytes(net, node, X86) == 32 * (9 + 8)
    large = graph(value(1, 8, 8, 20), weight(1, 7, 7, 20), value(1, 8, 8, 20))
    assert packed_bytes(large, node, X86) == 20 * 16 * (49 * 8 + 8)  # a grouped convolution


def test_products_of_matrices() -> None:
    linear = graph(value(1, 64), weight(10, 64), value(1, 10))
    assert packed_bytes(linear, Node("FULLY_CONNECTED", (0, 1), (2,)), X86) == 16 * (64 + 8)
    product = graph(value(1, 64), weight(64, 10), value(1, 10))
    assert packed_bytes(product, Node("BATCH_MATMUL", (0, 1), (2,)), X86) == 16 * (64 + 8)
    whole = graph(value(1, 64, dtype="int64"), Tensor("w", "int64", (64, 10), 5120, None), value(1))
    assert packed_bytes(whole, Node("BATCH_MATMUL", (0, 1), (2,)), X86) > 0


def test_what_crosses_parts_is_in_the_arena_and_the_rest_in_the_delegate() -> None:
    """relu, relu | a kernel | relu: two tensors cross, one is the delegate's."""
    tensors = tuple(value(size) for size in (100, 10, 20, 30, 40))
    kinds = ("RELU", "RELU", "CUMSUM", "RELU")
    nodes = tuple(Node(kind, (n,), (n + 1,)) for n, kind in enumerate(kinds))
    program = Program(
        inputs=(TensorSpec(name="x", dtype="int8", shape=(100,)),),
        outputs=(TensorSpec(name="y", dtype="int8", shape=(40,)),),
        delegates=("XNNPACK", "XNNPACK"),
        kinds=(Kind("RELU", True), Kind("CUMSUM", False)),
        layers=(),
        calls=(
            Call(1 << 20, True, ((0, None), (0, None))),
            Call(2, False, ((1, None),)),
            Call((1 << 20) + 1, True, ((0, None),)),
        ),
        libraries=("libLiteRt.so",),
        planned_bytes=0,
    )
    sizes = memory_sizes(5000, graph(*tensors, nodes=nodes), program, "x86_64")
    assert sizes.program_bytes == 5000
    assert sizes.input_bytes == 100
    assert sizes.planned_bytes == 20 + 30 + 40  # both crossing tensors live at the kernel
    assert [delegate.peak.live_bytes for delegate in sizes.delegates] == [10, 0]
    assert sizes.kernels == 1


def test_weights_stored_in_float16_are_packed_in_float32_and_are_no_activations() -> None:
    stored = Tensor("w", "float16", (20, 3, 3, 3), 2 * 540, None)
    image, unpacked, result = value(1, 8, 8, 3), value(20, 3, 3, 3), value(1, 6, 6, 20)
    tensors = [one._replace(dtype="float32") for one in (image, unpacked, result)]
    nodes = (Node("DEQUANTIZE", (1,), (2,)), Node("CONV_2D", (0, 2), (3,)))
    net = Graph((tensors[0], stored, *tensors[1:]), nodes, (0,), (3,))
    program = Program(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 8, 8, 3)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 6, 6, 20)),),
        delegates=("XNNPACK",),
        kinds=(Kind("DEQUANTIZE", False), Kind("CONV_2D", False)),
        layers=(),
        calls=(Call(1 << 20, True, ((0, None), (1, None))),),
        libraries=(),
        planned_bytes=0,
        housekeeping=("DEQUANTIZE",),
    )
    sizes = memory_sizes(10_000, net, program, "x86_64")
    (delegate,) = sizes.delegates
    # while it loads, the delegate may hold them unpacked
    assert sizes.doubtful_bytes == 4 * 540
    found = ledger(sizes)
    assert found.interval[1] - found.peak_mb > found.peak_mb - found.interval[0]
    assert delegate.packed_bytes == {"CONV_2D": 32 * (9 * 3 * 4 + 4)}
    assert all(point.live_bytes == 0 for point in delegate.points)
